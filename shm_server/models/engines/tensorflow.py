"""TensorFlow: `.keras` files and SavedModels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from shm_server.models.errors import ModelError, reason
from shm_server.models.graph import Found, datatype_named
from shm_server.models.keras_network import KerasNetwork
from shm_server.models.lean import UNUSED, without
from shm_server.models.protocol import Arrays
from shm_server.models.quiet import quiet_imports

FRAMEWORK, EXTRA, OPENS = "tensorflow", "tensorflow", (".keras", "SavedModel")
SIGNATURE = "serving_default"


class Traced(NamedTuple):
    """A file as one graph of TensorFlow, from a list of tensors to a list of tensors."""

    graph: Any
    inputs: Sequence[Found]
    outputs: Sequence[str]
    keeps: Any
    """What owns the variables that the graph reads."""


def open(path: Path, *, threads: int) -> TensorFlowGraph:
    """See `engines`."""
    tf = import_tensorflow()
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError as error:
        raise ModelError("TensorFlow already runs with another number of threads in this process") from error
    kind = "savedmodel" if path.is_dir() else "keras"
    return TensorFlowGraph(trace(path), f"tensorflow_{kind}")


def import_tensorflow() -> Any:
    with quiet_imports(), without(*UNUSED, "jax"):
        import tensorflow
    return tensorflow


def trace(path: Path) -> Traced:
    """Raises ModelError."""
    tf = import_tensorflow()
    if path.is_dir():
        return _trace_saved_model(tf, path)
    network = KerasNetwork(path, "tensorflow")
    graph = _graph(tf, network, network.inputs)
    return Traced(graph, network.inputs, network.outputs, network)


class TensorFlowGraph:
    """A Graph.  It copies what it is given."""

    def __init__(self, traced: Traced, platform: str):
        self.platform, self.inputs = platform, traced.inputs
        self._traced = traced
        self._constants = traced.graph.captured_inputs
        self._dtypes = [output.dtype for output in traced.graph.outputs]
        tf = import_tensorflow()
        # A raw operation has no parameters to bind: 90 us of Python less than calling the graph.
        self._constant, self._run = tf.constant, tf.raw_ops.StatefulPartitionedCall

    def call(self, inputs: Arrays, outputs: Arrays | None = None) -> Arrays:
        """See `Graph.call`."""
        tensors = [self._constant(inputs[found.name]) for found in self.inputs]
        results = self._run(args=[*tensors, *self._constants], Tout=self._dtypes, f=self._traced.graph)
        return {name: result.numpy() for name, result in zip(self._traced.outputs, results, strict=True)}


def _graph(tf: Any, function: Callable, inputs: Sequence[Found]) -> Any:
    specs = [
        tf.TensorSpec(
            [size if isinstance(size, int) else None for size in found.shape],
            tf.as_dtype(_DTYPES.get(found.datatype, found.datatype.lower())),
        )
        for found in inputs
    ]
    try:
        return tf.function(function, input_signature=specs, autograph=False).get_concrete_function()
    except Exception as error:  # whatever layers raise
        raise ModelError(f"TensorFlow can not compile it: {reason(error)}") from error


_DTYPES = {"FP16": "float16", "BF16": "bfloat16", "FP32": "float32", "FP64": "float64"}


def _trace_saved_model(tf: Any, path: Path) -> Traced:
    try:
        loaded = tf.saved_model.load(str(path))
        signatures = loaded.signatures
    except Exception as error:  # whatever protobuf, files and TensorFlow raise
        raise ModelError(f"not a SavedModel that TensorFlow {tf.__version__} can load: {reason(error)}") from error
    if SIGNATURE not in signatures:
        raise ModelError(f"expected a signature {SIGNATURE!r}, got {', '.join(signatures) or 'none'}")
    signature = signatures[SIGNATURE]
    specs = signature.structured_input_signature[1]
    # As the file has them: the graph's own order, not that of a dict.
    inputs = []
    for name, spec in sorted(specs.items()):
        if spec.shape.rank is None:
            raise ModelError(f"input {name!r}: expected a shape, got one of any rank")
        inputs.append(Found(name, datatype_named(spec.dtype.name, name), tuple(spec.shape.as_list())))
    names = sorted(signature.structured_outputs)

    def flat(*tensors: Any) -> list[Any]:
        given = signature(**{found.name: tensor for found, tensor in zip(inputs, tensors, strict=True)})
        return [given[name] for name in names]

    return Traced(_graph(tf, flat, inputs), inputs, names, loaded)
