"""Opens a `.keras` file for an engine and checks that it is a model this package can serve."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from shm_server.models.card import class_names
from shm_server.models.errors import ModelError
from shm_server.models.quiet import quiet_imports

if TYPE_CHECKING:
    import keras

KERAS_INPUT = (None, 32, 32, 3)  # n pictures, rows, columns, RGB; floats in [0, 1]


def import_keras(backend: str) -> ModuleType:
    """Imports Keras with `backend`.  Keras has one backend a process, chosen by its first import."""
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = backend
    with quiet_imports():
        import keras
    if keras.backend.backend() != backend:
        raise ModelError(
            f"Keras already runs on {keras.backend.backend()} in this process, this engine needs it on {backend}: "
            "use one process for each"
        )
    return keras


class OpenedModel(NamedTuple):
    """A model that maps KERAS_INPUT to float32 (n, classes)."""

    model: keras.Model
    gives_logits: bool
    """Otherwise it ends in a softmax of its own."""
    class_names: tuple[str, ...]


def open_model(path: Path, backend: str) -> OpenedModel:
    """Loads the model at `path` and the class names of its card.

    Raises ModelError when it is missing, unreadable, of another shape, or its card does not fit.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such model file")
    keras = import_keras(backend)
    try:
        model = keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras lets through whatever zip, JSON, HDF5 and layers raise.
        # Keras nests its reasons, innermost last, each after a page of configuration.
        innermost = str(error).rpartition("Exception encountered: ")[2].strip() or type(error).__name__
        reason = innermost.splitlines()[0]
        raise ModelError(f"{path}: not a model that Keras {keras.__version__} can load: {reason}") from error
    takes, gives = model.input_shape, model.output_shape
    if takes != KERAS_INPUT:
        raise ModelError(f"{path}: takes input of shape {takes}, must be {KERAS_INPUT}: 32x32 RGB pictures")
    if not (isinstance(gives, tuple) and len(gives) == 2 and isinstance(gives[1], int) and gives[1] > 1):
        raise ModelError(f"{path}: gives output of shape {gives}, must be (None, classes) with 2 classes or more")
    activation = _last_activation(model)
    if activation not in ("linear", "softmax"):
        raise ModelError(f"{path}: ends in {activation}, must end in logits or a softmax")
    return OpenedModel(model, activation == "linear", class_names(path, gives[1]))


def _last_activation(model: keras.Model) -> str:
    """The name of the activation that makes the scores, 'linear' where there is none."""
    import keras

    last = model.layers[-1]
    while isinstance(last, keras.Model):
        last = last.layers[-1]
    if isinstance(last, keras.layers.Softmax):
        return "softmax"
    activation = getattr(last, "activation", keras.activations.linear)
    return getattr(activation, "__name__", type(activation).__name__)
