"""The TensorFlow engine: one compiled graph from the slots' bytes to probabilities.

Casting, transposing, scaling and the softmax are part of the graph, the weights are constants in it,
and it takes any number of pictures.

Median of a call of `scores` with the bundled network and one thread, on a 2-core Xeon (Sapphire Rapids,
in a virtual machine, while others used it too): 148 us for 1 picture, 0.68 ms for 8, 2.4 ms for 32, 4.4 ms for 64.

Why it is called the way it is: the fastest call of each, in us, TensorFlow 2.21 on that machine.

    n = 1      8     32
      137    618   2443   this graph through PartitionedCall, as here
      139    575   2216   the same, traced anew for each n
      226    699   2632   this graph called as a Python function
      273    761   2612   the same, weights captured as variables
      194   1007   4309   this graph compiled by XLA for each n, called as a Python function

TensorFlow spends 90 us of Python on binding one tensor to one parameter.  `PartitionedCall`, a public
raw operation that runs a graph, has no parameters to bind.  A graph for each n is worth at most 9%
and would make the first request of an unforeseen size wait for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from shm_server.models.errors import ModelError
from shm_server.models.keras_file import open_model
from shm_server.models.lean import UNUSED, without
from shm_server.models.quiet import quiet_imports

with quiet_imports(), without(*UNUSED, "jax"):
    import tensorflow as tf

# Bytes.  TensorFlow aborts the process when a kernel meets a tensor that is not aligned for AVX-512.
# Slots always are: page-aligned, 3072 = 48 x 64 bytes each.
ALIGNMENT = 64
# Slots that a batch begins at, times its sizes, of the sessions there are at a time.
MAX_ALIASES = 4096


def load(path: Path, *, threads: int) -> TensorFlowClassifier:
    """Loads the `.keras` file at `path`.  Raises ModelError; see `load_classifier`."""
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        # The network is a chain: no two of its operations could run at once.
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError as error:
        raise ModelError("TensorFlow already runs with another number of threads in this process") from error
    return TensorFlowClassifier(path)


def open_graph(path: Path) -> tuple[tf.types.experimental.ConcreteFunction, tuple[str, ...]]:
    """The graph of the model at `path`, from uint8 (n, 3, 32, 32) to probabilities, float32 (n, classes), and its class
    names.  Raises ModelError."""
    opened = open_model(path, "tensorflow", lambda graph: graph)  # it runs as it is
    pixels = tf.TensorSpec((None, 3, 32, 32), tf.uint8)
    graph = tf.function(opened.scores, input_signature=[pixels], autograph=False)
    return graph.get_concrete_function(), opened.class_names


class TensorFlowClassifier:
    """A Classifier.  It reads pixels where they are if ALIGNMENT fits; others it copies."""

    def __init__(self, path: Path):
        self._graph, self.class_names = open_graph(path)
        self._constants = self._graph.captured_inputs  # mostly none: tensors that a layer made when it was loaded
        self.name = f"{path.stem} on TensorFlow"
        self._aliases: dict[tuple[int, tuple[int, ...]], np.ndarray] = {}
        # TensorFlow's modules look names up in Python.
        self._from_dlpack, self._call = tf.experimental.dlpack.from_dlpack, tf.raw_ops.PartitionedCall

    def scores(self, pixels: np.ndarray) -> np.ndarray:
        """See `Classifier.scores`."""
        interface = pixels.__array_interface__
        address, read_only = interface["data"]
        if address % ALIGNMENT or interface["strides"] is not None:
            tensor = tf.constant(pixels)  # copies
        else:
            if read_only:
                pixels = self._alias(address, interface)
            # It aliases the pixels and dies with this call, which waits for the result.
            tensor = self._from_dlpack(pixels.__dlpack__())
        return self._call(args=[tensor, *self._constants], Tout=[tf.float32], f=self._graph)[0].numpy()

    def _alias(self, address: int, interface: dict[str, Any]) -> np.ndarray:
        """The same pixels, writable: DLPack hands out nothing else.  TensorFlow never writes to what it is given.

        An alias is an address and keeps no memory alive, so it serves whatever pixels are at that address later.
        """
        key = address, interface["shape"]
        if key not in self._aliases:
            if len(self._aliases) == MAX_ALIASES:
                self._aliases.clear()
            self._aliases[key] = np.asarray(_At(interface | {"data": (address, False)}))
        return self._aliases[key]


class _At:
    """What NumPy makes an array of that does not own its memory."""

    def __init__(self, interface: dict[str, Any]):
        self.__array_interface__ = interface
