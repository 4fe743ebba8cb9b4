"""A Model of a file: an engine's graph, and what its card adds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from shm_server.models.card_toml import Card, Input
from shm_server.models.checking import fill
from shm_server.models.errors import ModelError
from shm_server.models.graph import Graph, fixed_batch, signature_of
from shm_server.models.protocol import DEFAULT_MAX_BATCH, Arrays
from shm_server.models.tensor import FLOATS, Signature, Tensor


class FileModel:
    """A Model.  What callers send is scaled as the card says; a file made for one row gets one at a time."""

    def __init__(self, graph: Graph, card: Card, *, name: str, version: str):
        self.name, self.version, self.platform = name, version, graph.platform
        self.max_batch = card.max_batch or DEFAULT_MAX_BATCH
        self._graph = graph
        self._by_row = fixed_batch(graph)
        taken = signature_of(graph, card)
        self._scales = {
            tensor.name: _Scale(tensor, card.inputs[tensor.name], taken)
            for tensor in taken.inputs
            if tensor.name in card.inputs and _scaled(tensor, card.inputs[tensor.name])
        }
        sent = (
            replace(tensor, datatype=self._scales[tensor.name].datatype) if tensor.name in self._scales else tensor
            for tensor in taken.inputs
        )
        self.signature = Signature(tuple(sent), taken.outputs, taken.bounds)

    def run(self, inputs: Arrays, outputs: Arrays) -> None:
        """See `Model.run`."""
        inputs = {name: self._scales[name](rows) if name in self._scales else rows for name, rows in inputs.items()}
        if not self._by_row:
            self._call(inputs, outputs)
            return
        for row in range(len(next(iter(inputs.values())))):
            one = slice(row, row + 1)
            self._call(
                {name: rows[one] for name, rows in inputs.items()}, {name: rows[one] for name, rows in outputs.items()}
            )

    def _call(self, inputs: Arrays, outputs: Arrays) -> None:
        fill(self.signature.outputs, self._graph.call(inputs, outputs), outputs)


class _Scale:
    """From what callers send to what the file takes: scale * value + offset, computed in float32."""

    def __init__(self, tensor: Tensor, said: Input, signature: Signature):
        self.datatype, self._dtype = said.datatype or tensor.datatype, tensor.dtype
        if tensor.datatype not in FLOATS:
            raise ModelError(
                f"input {tensor.name!r}: expected a file that takes floats to scale for, got {tensor.datatype}"
            )
        self._scale, self._offset = (
            np.float32(default) if value is None else value for value, default in ((said.scale, 1), (said.offset, 0))
        )
        shape = signature.shape(tensor)
        for key, value in (("scale", self._scale), ("offset", self._offset)):
            try:
                np.broadcast_to(value, shape)
            except ValueError as error:
                raise ModelError(
                    f"input {tensor.name!r}: expected a {key} that broadcasts to {shape}, got shape {value.shape}"
                ) from error

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        scaled = np.multiply(rows, self._scale, dtype=np.float32)
        scaled += self._offset
        return scaled.astype(self._dtype, copy=False)


def _scaled(tensor: Tensor, said: Input) -> bool:
    return said.scale is not None or said.offset is not None or said.datatype not in (None, tensor.datatype)
