"""A model's metadata, as the Open Inference Protocol has it and every peer reads it.

    {
      "name": "minilm", "version": "3", "platform": "onnxruntime_onnx",
      "inputs": [{"name": "ids", "datatype": "INT64", "shape": [-1]}],
      "outputs": [{"name": "vector", "datatype": "FP32", "shape": [384]}],
      "parameters": {"dimension": "tokens", "bound": 128}
    }

Shapes are those of one row.  -1 is the symbolic dimension; a signature has at most one, so its name and its bound stand
once, in `parameters`, which a signature without one does not have.  An output has `labels` where it has any.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from shm_server.models.errors import ModelError
from shm_server.models.protocol import Model
from shm_server.models.tensor import Signature, Tensor


class Metadata(NamedTuple):
    """Who a model is, and what it takes and gives."""

    name: str
    version: str
    platform: str
    signature: Signature

    @classmethod
    def of(cls, model: Model) -> Metadata:
        return cls(model.name, model.version, model.platform, model.signature)

    def to_json(self) -> dict[str, Any]:
        """What `json.dumps` takes."""
        signature = self.signature
        said = {
            "name": self.name,
            "version": self.version,
            "platform": self.platform,
            "inputs": [_tensor_to_json(tensor) for tensor in signature.inputs],
            "outputs": [_tensor_to_json(tensor) for tensor in signature.outputs],
        }
        if signature.symbol:
            said["parameters"] = {"dimension": signature.symbol, "bound": signature.bound}
        return said

    @classmethod
    def from_json(cls, said: object) -> Metadata:
        """From what `json.loads` gave.  Raises ModelError that names the place; unknown keys are a newer peer's."""
        texts = [_get(said, key, str, key) for key in ("name", "version", "platform")]
        dimension, bounds = None, {}
        if "parameters" in said:
            parameters = _get(said, "parameters", dict, "parameters")
            if "dimension" in parameters:
                dimension = _get(parameters, "dimension", str, "parameters.dimension")
                bounds = {dimension: _get(parameters, "bound", int, "parameters.bound")}
        sides = [
            tuple(
                _tensor_from_json(tensor, f"{side}[{index}]", dimension)
                for index, tensor in enumerate(_get(said, side, list, side))
            )
            for side in ("inputs", "outputs")
        ]
        return cls(*texts, Signature(*sides, bounds))


def _tensor_to_json(tensor: Tensor) -> dict[str, Any]:
    shape = [-1 if isinstance(dimension, str) else dimension for dimension in tensor.shape]
    said = {"name": tensor.name, "datatype": tensor.datatype, "shape": shape}
    return said | {"labels": list(tensor.labels)} if tensor.labels else said


def _tensor_from_json(said: object, where: str, dimension: str | None) -> Tensor:
    name, datatype = (_get(said, key, str, f"{where}.{key}") for key in ("name", "datatype"))
    shape = _get(said, "shape", list, f"{where}.shape")
    if -1 in shape and dimension is None:
        raise ModelError(f"{where}.shape: expected parameters.dimension beside -1, got none")
    labels = _get(said, "labels", list, f"{where}.labels") if "labels" in said else []
    return Tensor(name, datatype, tuple(dimension if size == -1 else size for size in shape), tuple(labels))


def _get(said: object, key: str, kind: type, where: str) -> Any:
    if not isinstance(said, dict):
        raise ModelError(f"{where}: expected an object around it, got {type(said).__name__}")
    value = said.get(key)
    if not isinstance(value, kind):
        raise ModelError(f"{where}: expected {kind.__name__}, got {value!r:.100}")
    return value
