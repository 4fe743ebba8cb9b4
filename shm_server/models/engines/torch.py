"""PyTorch: programs exported by `torch.export`, `.pt2` files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shm_server.models.errors import ModelError, reason
from shm_server.models.graph import Found, datatype_named
from shm_server.models.protocol import Arrays
from shm_server.models.tensor import DATATYPES

FRAMEWORK, EXTRA, OPENS = "torch", "torch", (".pt2",)


def open(path: Path, *, threads: int) -> TorchGraph:
    """See `engines`."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    try:
        return TorchGraph(torch.export.load(path))
    except ModelError:
        raise
    except Exception as error:  # whatever zip, JSON and operators of somebody's own raise
        raise ModelError(f"not a program that PyTorch {torch.__version__} can load: {reason(error)}") from error


class TorchGraph:
    """A Graph.  It copies what it is given: PyTorch takes no read-only memory."""

    platform = "torch_pt2"

    def __init__(self, program: Any):
        import torch

        self._torch = torch
        self._program = program.module()
        self._spec = program.call_spec.in_spec
        values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
        self.inputs = [
            Found(
                name,
                datatype_named(str(values[name].dtype).removeprefix("torch."), name),
                # An open dimension has a name such as s77, which differs from export to export.
                tuple(size if isinstance(size, int) else None for size in values[name].shape),
            )
            for name in program.graph_signature.user_inputs
        ]

    def call(self, inputs: Arrays, outputs: Arrays | None = None) -> Arrays:
        """See `Graph.call`."""
        tensors = [self._tensor(inputs[found.name]) for found in self.inputs]
        args, kwargs = self._torch.utils._pytree.tree_unflatten(tensors, self._spec)
        with self._torch.inference_mode():
            given = self._program(*args, **kwargs)
        if isinstance(given, Mapping):
            return {name: self._array(value) for name, value in given.items()}
        if not isinstance(given, (tuple, list)):
            return {"output": self._array(given)}
        return {f"output_{index}": self._array(value) for index, value in enumerate(given)}

    def _tensor(self, array: np.ndarray) -> Any:
        """NumPy's bfloat16 is not PyTorch's: its bits go through int16."""
        if array.dtype == DATATYPES["BF16"]:
            return self._torch.from_numpy(array.copy().view(np.int16)).view(self._torch.bfloat16)
        return self._torch.from_numpy(array.copy())

    def _array(self, tensor: Any) -> np.ndarray:
        tensor = tensor.contiguous()
        if tensor.dtype == self._torch.bfloat16:
            return tensor.view(self._torch.int16).numpy().view(DATATYPES["BF16"])
        return tensor.numpy()
