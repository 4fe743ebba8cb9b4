"""ONNX Runtime: `.onnx` files, read from and written to callers' memory in place."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np

from shm_server.models.errors import ModelError, reason
from shm_server.models.graph import Found
from shm_server.models.protocol import Arrays
from shm_server.models.tensor import DATATYPES

FRAMEWORK, EXTRA, OPENS = "onnxruntime", "onnx", (".onnx",)

# ONNX's words for element types, and the numbers of those that NumPy has no dtype for.
_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(bfloat16)": "BF16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
}
_ELEMENTS = {DATATYPES["BF16"]: 16}
# Bindings that are kept: slots that a batch begins at, times its sizes, of the sessions there are at a time.
MAX_BINDINGS = 4096


def open(path: Path, *, threads: int) -> OnnxGraph:
    """See `engines`."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # what goes wrong is raised: a caller could fill a log with it
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # cores are the callers' between two batches
    try:
        return OnnxGraph(ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))
    except ModelError:
        raise
    except Exception as error:  # it has errors of its own for each part of a file
        raise ModelError(f"not a model that ONNX Runtime {ort.__version__} can load: {reason(error)}") from error


class OnnxGraph:
    """A Graph."""

    platform = "onnxruntime_onnx"

    def __init__(self, session):
        self._session = session
        self.inputs = [Found(i.name, _datatype(i), tuple(i.shape)) for i in session.get_inputs()]
        self._outputs = [output.name for output in session.get_outputs()]
        for output in session.get_outputs():
            _datatype(output)
        self._bindings: dict[tuple, object] = {}

    def call(self, inputs: Arrays, outputs: Arrays | None = None) -> Arrays:
        """See `Graph.call`."""
        inputs = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        if outputs and all(array.flags.c_contiguous for array in outputs.values()):
            try:
                self._session.run_with_iobinding(self._kept(inputs, outputs))
                return outputs
            except Exception:
                pass  # of another shape than declared? Its own memory takes any, else this raises again
        binding = self._bind(inputs, {})
        self._session.run_with_iobinding(binding)
        return dict(zip(self._outputs, map(_array, binding.get_outputs()), strict=True))

    def _kept(self, inputs: Arrays, outputs: Arrays):
        """A binding is of addresses and keeps no memory alive, so it serves whatever rows are there later."""
        key = (*_places(inputs), *_places(outputs))
        if key not in self._bindings:
            if len(self._bindings) == MAX_BINDINGS:
                self._bindings.clear()
            self._bindings[key] = self._bind(inputs, outputs)
        return self._bindings[key]

    def _bind(self, inputs: Arrays, outputs: Arrays):
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_input(name, "cpu", 0, _element(array), array.shape, array.ctypes.data)
        for name in self._outputs:
            if name in outputs:
                array = outputs[name]
                binding.bind_output(name, "cpu", 0, _element(array), array.shape, array.ctypes.data)
            else:
                binding.bind_output(name, "cpu")
        return binding


def _places(arrays: Arrays) -> tuple:
    return tuple((name, array.__array_interface__["data"][0], array.shape) for name, array in arrays.items())


def _element(array: np.ndarray) -> object:
    return _ELEMENTS.get(array.dtype, array.dtype.type)


def _array(value) -> np.ndarray:
    """Of a result of ONNX Runtime's own memory; it has bfloat16 as no NumPy array, so the bits are taken."""
    if value.element_type() == _ELEMENTS[DATATYPES["BF16"]]:
        bits = (ctypes.c_uint16 * int(np.prod(value.shape()))).from_address(value.data_ptr())
        return np.frombuffer(bits, DATATYPES["BF16"]).reshape(value.shape()).copy()
    return value.numpy()


def _datatype(found) -> str:
    if found.type not in _DATATYPES:
        raise ModelError(f"tensor {found.name!r}: expected one of {', '.join(DATATYPES)}, got {found.type}")
    return _DATATYPES[found.type]
