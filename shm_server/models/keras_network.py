"""A `.keras` file as a function of flat lists of tensors: what the engines that read it have in common."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shm_server.models.errors import ModelError, reason
from shm_server.models.graph import Found, datatype_named
from shm_server.models.keras_file import import_keras


class KerasNetwork:
    """The network at `path` on `backend`; `outputs` has the names once it has been called.

    Raises ModelError for a file that Keras can not load, or that does not say what it takes.
    """

    def __init__(self, path: Path, backend: str):
        keras = import_keras(backend)
        try:
            with warnings.catch_warnings(action="ignore"):
                self._model = keras.models.load_model(path, compile=False)
        except Exception as error:  # Keras lets through whatever zip, JSON, HDF5 and layers raise
            raise ModelError(f"not a model that Keras {keras.__version__} can load: {reason(error)}") from error
        if not getattr(self._model, "inputs", None):
            raise ModelError(
                "expected a model that declares its inputs, got a class that does not: export a SavedModel of it"
            )
        self.inputs = [
            Found(_name(tensor), datatype_named(str(tensor.dtype), _name(tensor)), tuple(tensor.shape))
            for tensor in self._model.inputs
        ]
        self.outputs: list[str] = []
        self._trainable, self._others = (
            [keras.ops.convert_to_numpy(variable) for variable in variables]
            for variables in (self._model.trainable_variables, self._model.non_trainable_variables)
        )
        # A class of somebody's own may have no mode of training.
        training = "training" in inspect.signature(self._model.call).parameters
        self._options = {"training": False} if training else {}

    def __call__(self, *tensors: Any) -> list[Any]:
        """From a tensor for each input to one for each output.  The weights are constants in it, so that it can be
        compiled."""
        from keras import tree

        struct = getattr(self._model, "input", None)  # a Sequential has none
        inputs = tensors[0] if struct is None else tree.pack_sequence_as(struct, list(tensors))
        given, _ = self._model.stateless_call(self._trainable, self._others, inputs, **self._options)
        if isinstance(given, dict):
            if any(isinstance(value, (dict, list, tuple)) for value in given.values()):
                raise ModelError(
                    f"expected a dict of tensors as outputs, got one of more: {', '.join(map(str, given))}"
                )
            self.outputs = list(given)
            return list(given.values())
        given = tree.flatten(given)
        self.outputs = self._output_names(len(given))
        return given

    def _output_names(self, count: int) -> Sequence[str]:
        """Those of the layers that they come from, which two may share."""
        names = [_name(tensor) for tensor in self._model.outputs]
        return [name if names.count(name) == 1 else f"{name}_{index}" for index, name in enumerate(names)][:count]


def _name(tensor: Any) -> str:
    return tensor._keras_history.operation.name
