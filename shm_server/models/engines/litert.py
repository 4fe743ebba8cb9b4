"""LiteRT: `.tflite` files; quantized tensors are carried as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from shm_server.models.errors import ModelError, reason
from shm_server.models.graph import Found, datatype_named
from shm_server.models.protocol import Arrays

FRAMEWORK, EXTRA, OPENS = "ai_edge_litert", "litert", (".tflite",)


def open(path: Path, *, threads: int) -> LiteRtGraph:
    """See `engines`."""
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_path=str(path), num_threads=threads or None)
        interpreter.allocate_tensors()
    except Exception as error:  # ValueError and RuntimeError, by what is wrong
        raise ModelError(f"not a model that LiteRT can load: {reason(error)}") from error
    return LiteRtGraph(interpreter)


class LiteRtGraph:
    """A Graph.  It copies what it is given, and allots its memory anew when the batch size changes."""

    platform = "litert_tflite"

    def __init__(self, interpreter: Any):
        self._interpreter = interpreter
        inputs, outputs = (
            _named(interpreter, side, details)
            for side, details in (
                ("inputs", interpreter.get_input_details()),
                ("outputs", interpreter.get_output_details()),
            )
        )
        self.inputs = [
            Found(name, datatype_named(np.dtype(details["dtype"]).name, name), _shape(details))
            for name, details in inputs.items()
        ]
        self._inputs = {name: details["index"] for name, details in inputs.items()}
        self._outputs = {name: details["index"] for name, details in outputs.items()}
        self._shapes: list[tuple[int, ...]] = []

    def call(self, inputs: Arrays, outputs: Arrays | None = None) -> Arrays:
        """See `Graph.call`."""
        shapes = [inputs[name].shape for name in self._inputs]
        if shapes != self._shapes:
            self._shapes = []  # unless all of it succeeds
            for index, shape in zip(self._inputs.values(), shapes, strict=True):
                self._interpreter.resize_tensor_input(index, shape, strict=True)
            self._interpreter.allocate_tensors()
            self._shapes = shapes
        for name, index in self._inputs.items():
            self._interpreter.set_tensor(index, np.ascontiguousarray(inputs[name]))
        self._interpreter.invoke()
        return {name: self._interpreter.get_tensor(index) for name, index in self._outputs.items()}


def _named(interpreter: Any, side: str, details: list[dict]) -> dict[str, dict]:
    """The tensors under the names of the file's one signature, or their own where it has none."""
    signatures = list(interpreter.get_signature_list())
    if len(signatures) != 1:
        return {entry["name"]: entry for entry in details}
    runner = interpreter.get_signature_runner(signatures[0])
    return runner.get_input_details() if side == "inputs" else runner.get_output_details()


def _shape(details: dict) -> tuple[int | None, ...]:
    # A file from before shape signatures has an empty one.
    sizes = details["shape_signature"] if len(details["shape_signature"]) else details["shape"]
    return tuple(None if size < 0 else int(size) for size in sizes)
