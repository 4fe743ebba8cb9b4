"""The default model of our own lanes as a classifier, for the transports that know pictures only.

They are clients like any other: their pictures are in the batches of everybody's, the model is in a process of its own,
and it may be replaced or die and come back beneath them.
"""

import threading

import numpy as np

from shm_server.client.client import Client
from shm_server.client.errors import WrongSignature
from shm_server.client.model import Model
from shm_server.door.supervisor import Supervisor


class LaneClassifier:
    """A `models.Classifier` that any thread may call. `scores` raises ClientError too.

    path        of the socket that serves the model as its default
    supervisor  of that model, which is ready
    """

    def __init__(self, path: str, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self._client = Client(path)
        self._lock = threading.Lock()
        self._model: Model | None = None  # it is dialled once somebody listens

    @property
    def name(self) -> str:
        return self.supervisor.name

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.supervisor.model["outputs"][0]["labels"])

    @property
    def alive(self) -> bool:
        return self.supervisor.alive

    def scores(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (n, 3, 32, 32) -> float32 (n, classes)."""
        try:
            return self._opened()(pixels)
        except WrongSignature:  # another model took over, with other classes
            with self._lock:
                self._model = None
            return self._opened()(pixels)

    def _opened(self) -> Model:
        model = self._model
        if model is None:
            with self._lock:
                model = self._model = self._model or self._client.model()
        return model

    def close(self) -> None:
        self._client.close()
