"""OpenVINO: `.onnx` files, and `.keras` files, which TensorFlow reads."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import numpy as np

from shm_server.models.errors import ModelError, reason
from shm_server.models.graph import Found, datatype_named
from shm_server.models.protocol import Arrays

FRAMEWORK, EXTRA, OPENS = "openvino", "openvino", (".onnx", ".keras")
# It compiles for each combination of shapes, about 0.1 s each for a small network: those that are kept.
MAX_COMPILED = 64


def open(path: Path, *, threads: int) -> OpenVinoGraph:
    """See `engines`."""
    # Importing OpenVINO sends usage data to its makers unless this module is missing, which it may be.
    sys.modules.setdefault("openvino_telemetry", None)
    import openvino as ov

    core = ov.Core()
    if path.suffix == ".keras":
        from shm_server.models.engines.tensorflow import trace

        traced = trace(path)
        inputs, outputs = list(traced.inputs), list(traced.outputs)
        try:
            graph = ov.convert_model(traced.graph)
        except Exception as error:  # it has errors of its own for each part of a conversion
            raise ModelError(f"OpenVINO can not run it: {reason(error)}") from error
    else:
        try:
            graph = core.read_model(path)
        except Exception as error:
            raise ModelError(f"not a model that OpenVINO {ov.__version__} can load: {reason(error)}") from error
        inputs = [_found(node) for node in graph.inputs]
        outputs = [node.any_name for node in graph.outputs]
    return OpenVinoGraph(core, graph, inputs, outputs, f"openvino_{path.suffix[1:]}", threads)


class OpenVinoGraph:
    """A Graph.  It copies what it is given."""

    def __init__(self, core: Any, graph: Any, inputs: list[Found], outputs: list[str], platform: str, threads: int):
        for name, node in zip(
            [*(found.name for found in inputs), *outputs], [*graph.inputs, *graph.outputs], strict=True
        ):
            if node.get_element_type().get_type_name() == "bf16":  # it would pass the bits off as float16
                raise ModelError(f"tensor {name!r}: OpenVINO has no arrays of BF16: use another engine")
        self.platform, self.inputs = platform, inputs
        self._core, self._graph, self._outputs = core, graph, outputs
        self._options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 on processors that have it
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
        }
        self._request = functools.lru_cache(MAX_COMPILED)(self._compile)

    def call(self, inputs: Arrays, outputs: Arrays | None = None) -> Arrays:
        """See `Graph.call`."""
        arrays = [inputs[found.name] for found in self.inputs]
        request, taken = self._request(tuple(array.shape for array in arrays))
        for place, array in zip(taken, arrays, strict=True):
            place[...] = array
        request.infer()
        return {name: request.get_output_tensor(index).data for index, name in enumerate(self._outputs)}

    def _compile(self, shapes: tuple[tuple[int, ...], ...]) -> tuple[Any, list[np.ndarray]]:
        """A request for inputs of these shapes, with views of its inputs."""
        graph = self._graph.clone()
        graph.reshape({index: list(shape) for index, shape in enumerate(shapes)})
        request = self._core.compile_model(graph, "CPU", self._options).create_infer_request()
        return request, [request.get_input_tensor(index).data for index in range(len(shapes))]


def _found(node: Any) -> Found:
    partial = node.get_partial_shape()
    if partial.rank.is_dynamic:
        raise ModelError(f"input {node.any_name!r}: expected a shape, got one of any rank")
    # OpenVINO drops ONNX's names of dimensions.
    shape = tuple(None if size.is_dynamic else size.get_length() for size in partial)
    return Found(node.any_name, datatype_named(node.get_element_type().to_dtype().name, node.any_name), shape)
