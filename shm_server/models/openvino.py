"""The OpenVINO engine: TensorFlow's graph of the model, run by Intel's CPU runtime.

TensorFlow is needed to read the model, not to run it.  A graph from Keras' own OpenVINO backend would
not need it but takes twice as long: it keeps a transposition on either side of most layers.

Median of a call of `scores` with the bundled network and one thread, on a 2-core Xeon (Sapphire Rapids,
in a virtual machine, while others used it too): 73 us for 1 picture, 0.49 ms for 8, 2.1 ms for 32, 4.2 ms for 64.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from shm_server.models.errors import ModelError, reason
from shm_server.models.tensorflow import open_graph

# Importing OpenVINO sends usage data to its makers unless this module is missing, which it may be.
sys.modules.setdefault("openvino_telemetry", None)
import openvino as ov  # noqa: E402


def load(path: Path, *, threads: int) -> OpenVinoClassifier:
    """Loads the `.keras` file at `path`.  Raises ModelError; see `load_classifier`."""
    return OpenVinoClassifier(path, threads)


class OpenVinoClassifier:
    """A Classifier.  It compiles for each batch size at its first call with it, about 0.1 s."""

    def __init__(self, path: Path, threads: int):
        graph, self.class_names = open_graph(path)
        self.name = f"{path.stem} on OpenVINO"
        try:
            self._graph = ov.convert_model(graph)
        except Exception as error:  # it has errors of its own for each part of a conversion
            raise ModelError(f"{path}: OpenVINO can not run it: {reason(error)}") from error
        self._core = ov.Core()
        self._options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16 on processors that have it
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
        }
        self._requests: dict[int, tuple[ov.InferRequest, np.ndarray, np.ndarray]] = {}

    def scores(self, pixels: np.ndarray) -> np.ndarray:
        """See `Classifier.scores`."""
        size = len(pixels)
        if size not in self._requests:
            self._requests[size] = self._compile(size)
        request, inputs, outputs = self._requests[size]
        # Copying costs less than handing over a view with ov.Tensor(pixels, shared_memory=True).
        inputs[...] = pixels
        request.infer()
        return outputs.copy()

    def _compile(self, size: int) -> tuple[ov.InferRequest, np.ndarray, np.ndarray]:
        """A request for `size` pictures with views of its input and its output."""
        graph = self._graph.clone()
        graph.reshape([size, 3, 32, 32])
        request = self._core.compile_model(graph, "CPU", self._options).create_infer_request()
        return request, request.get_input_tensor().data, request.get_output_tensor(0).data
