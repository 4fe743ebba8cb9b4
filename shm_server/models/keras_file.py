"""Opens a `.keras` file for an engine and checks that it is a model this package can serve."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from shm_server.models.card import class_names, read_card
from shm_server.models.errors import ModelError, reason
from shm_server.models.lean import UNUSED, without
from shm_server.models.picture_trial import Trial
from shm_server.models.quiet import quiet_imports
from shm_server.models.signature import signature_of


def import_keras(backend: str) -> ModuleType:
    """Imports Keras with `backend`.  Keras has one backend a process, chosen by its first import."""
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = backend
    others = ["jax"] if backend == "tensorflow" else []
    with quiet_imports(), without(*UNUSED, *others):
        import keras
    if keras.backend.backend() != backend:
        raise ModelError(
            f"Keras already runs on {keras.backend.backend()} in this process, this engine needs it on {backend}: "
            "use one process for each"
        )
    return keras


class OpenedModel(NamedTuple):
    """A model that can be served."""

    scores: Callable[[Any], Any]
    """From uint8 (n, 3, 32, 32) to probabilities, float32 (n, classes), both tensors of the backend.  An engine
    compiles it: the weights are constants in it, casts, scaling and a softmax are part of it."""
    class_names: tuple[str, ...]


def open_model(path: Path, backend: str, compiled: Callable[[Callable], Callable]) -> OpenedModel:
    """Loads the model at `path`, reads its card, and tries it; `compiled` makes a function on the backend's tensors one
    that is fast enough to be called a few times.

    Raises ModelError when it is unreadable, no model from 32x32 RGB pictures to scores, or its card does not
    fit.
    """
    keras = import_keras(backend)
    try:
        with warnings.catch_warnings(action="ignore"):  # what matters of it is found out below
            model = keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras lets through whatever zip, JSON, HDF5 and layers raise.
        raise ModelError(f"{path}: not a model that Keras {keras.__version__} can load: {reason(error)}") from error
    card = read_card(path)
    try:
        signature = signature_of(model)
        found = Trial(path, signature, card, compiled)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    graph = signature.graph(found.takes)

    def scores(pixels: Any) -> Any:
        outputs = keras.ops.cast(graph(pixels)[0], "float32")
        return keras.ops.softmax(outputs) if found.gives == "logits" else outputs

    return OpenedModel(scores, class_names(path, found.classes))
