"""The JAX engine: the same `.keras` file through Keras on JAX, compiled by XLA for each batch size.

Median of a call of `scores` with the bundled network and one thread, on a 2-core Xeon (Sapphire Rapids,
in a virtual machine, while others used it too): 163 us for 1 picture, 1.1 ms for 8, 4.6 ms for 32, 11 ms for 64.
"""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np

from shm_server.models.keras_file import open_model
from shm_server.models.xla import use_threads


def load(path: Path, *, threads: int) -> JaxClassifier:
    """Loads the `.keras` file at `path`.  Raises ModelError; see `load_classifier`."""
    use_threads(threads)
    return JaxClassifier(path)


class JaxClassifier:
    """A Classifier."""

    def __init__(self, path: Path):
        opened = open_model(path, "jax", jax.jit)
        self._scores = jax.jit(opened.scores)
        self.class_names = opened.class_names
        self.name = f"{path.stem} on JAX"

    def scores(self, pixels: np.ndarray) -> np.ndarray:
        """See `Classifier.scores`."""
        # A copy, 0.3 us a picture: JAX would alias the pixels, but it drops its reference to them only
        # during some later call, and until then their mapping could not be closed.
        # np.asarray waits for the result.
        return np.asarray(self._scores(pixels.copy()))
