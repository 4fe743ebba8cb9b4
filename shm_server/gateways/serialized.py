"""One loaded model under several transports: the lock between them."""

import threading

import numpy as np

from shm_server.models import Classifier


class Serialized:
    """`classifier`, for transports that call it from threads of their own. It is a Classifier itself.

    A Classifier is called from one thread at a time. The shared-memory transport has one data thread and needs no
    lock; the Unix-socket protocol and HTTP have a thread a connection. So whoever starts more than one transport wraps
    the model once, and neither models nor transports know of each other. Without contention the lock costs 0.1 us.
    """

    def __init__(self, classifier: Classifier) -> None:
        self.name, self.class_names = classifier.name, classifier.class_names
        self._scores, self._lock = classifier.scores, threading.Lock()

    def scores(self, pixels: np.ndarray) -> np.ndarray:
        """See `Classifier.scores`."""
        with self._lock:
            return self._scores(pixels)
