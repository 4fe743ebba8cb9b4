"""The model of a peer: loaded, warm, and called by one thread at a time."""

from __future__ import annotations

import gc
import sys
import threading

import numpy as np

from shm_server.models import INPUT_SHAPE, load_classifier, warm_up

IMAGE_BYTES = 3 * 32 * 32


class Model:
    """`engine` is one of ENGINES, or "none": echo only. It loads here, in the process that answers."""

    def __init__(self, engine: str) -> None:
        self._classifier, self._lock = None, threading.Lock()
        if engine != "none":
            self._classifier = load_classifier(engine, threads=1)
            warm_up(self._classifier, [1])
        gc.collect()
        gc.freeze()
        sys.setswitchinterval(1e-4)  # as shm-server does

    @property
    def names(self) -> tuple[str, ...]:
        return self._classifier.class_names if self._classifier else ()

    def scores(self, picture: bytes | memoryview) -> np.ndarray:
        """FLOAT32 (classes,) of 3,072 bytes of pixels. ValueError for another length, or where there is no model."""
        if self._classifier is None:
            raise ValueError("there is no model: this peer was started with --engine none")
        if len(picture) != IMAGE_BYTES:
            raise ValueError(f"{len(picture)} bytes of pixels, must be {IMAGE_BYTES}")
        pixels = np.frombuffer(picture, np.uint8).reshape(1, *INPUT_SHAPE)
        with self._lock:
            return self._classifier.scores(pixels)[0]

    def label(self, picture: bytes | memoryview) -> str:
        """The name of the best class; see `scores`."""
        return self.names[self.scores(picture).argmax()]
