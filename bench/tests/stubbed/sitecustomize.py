"""A model that needs no framework in TensorFlow's place. Python imports it where this folder is in PYTHONPATH.

A benchmark has five processes with one, and some of them are started by others of them.
"""

import importlib.abc
import importlib.machinery
import sys
from types import ModuleType

ENGINE = "shm_server.models.tensorflow"


def load(path, *, threads):
    import numpy as np

    class Patches:
        """Scores a picture by the mean colours of its sixteen patches."""

        name = "patches"
        class_names = tuple(f"class {number}" for number in range(10))

        def __init__(self) -> None:
            self._weights = np.random.default_rng(1).normal(0, 20, (48, 10)).astype(np.float32)

        def scores(self, pixels: np.ndarray) -> np.ndarray:
            n = len(pixels)
            means = pixels.reshape(n, 3, 4, 8, 4, 8).mean(axis=(3, 5), dtype=np.float32).reshape(n, 48) / 255
            logits = means @ self._weights
            powers = np.exp(logits - logits.max(axis=1, keepdims=True))
            return powers / powers.sum(axis=1, keepdims=True)

    return Patches()


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name == ENGINE else None

    def create_module(self, spec):
        return None

    def exec_module(self, module: ModuleType) -> None:
        module.load = load


sys.meta_path.insert(0, Finder())
