"""JAX: `.keras` files through Keras on JAX, compiled by XLA for each batch size."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shm_server.models.keras_network import KerasNetwork
from shm_server.models.protocol import Arrays

FRAMEWORK, EXTRA, OPENS = "jax", "jax", (".keras",)


def open(path: Path, *, threads: int) -> JaxGraph:
    """See `engines`."""
    from shm_server.models.xla import use_threads

    use_threads(threads)
    return JaxGraph(KerasNetwork(path, "jax"))


class JaxGraph:
    """A Graph.  It copies what it is given: JAX would keep a reference to it beyond the call."""

    platform = "jax_keras"

    def __init__(self, network: KerasNetwork):
        import jax

        self.inputs = network.inputs
        self._network, self._compiled = network, jax.jit(network)

    def call(self, inputs: Arrays, outputs: Arrays | None = None) -> Arrays:
        """See `Graph.call`."""
        results = self._compiled(*(inputs[found.name].copy() for found in self.inputs))
        # np.asarray waits for the result.
        return {name: np.asarray(result) for name, result in zip(self._network.outputs, results, strict=True)}
