"""What a model takes and gives, as a server says it, checked against the tensors that lie in the segment."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from shm_server import layout
from shm_server.client.errors import ProtocolError
from shm_server.layout import Datatype
from shm_server.models.tensor import DATATYPES

STATES = ("ready", "starting", "not answering")
HEALTH = ("up", "down", "not answering")


@dataclass(frozen=True)
class Tensor:
    """One input or output."""

    name: str
    datatype: str
    """BOOL, UINT8 to UINT64, INT8 to INT64, FP16, BF16, FP32 or FP64."""
    shape: tuple[int, ...]
    """Of one row; -1, which only the first can be, is the symbolic dimension. A scalar has one dimension of 1."""
    labels: tuple[str, ...] = ()
    """Of an output: a name for each of its elements, or of its last dimension's, or none."""

    @property
    def dtype(self) -> np.dtype:
        """NumPy's; that of BF16 is `ml_dtypes.bfloat16`."""
        return DATATYPES[self.datatype]

    @property
    def symbolic(self) -> bool:
        return self.shape[0] == -1

    def __str__(self) -> str:
        return f"{self.name!r} {self.datatype} {list(self.shape)}"


@dataclass(frozen=True)
class Signature:
    """Who a model is, and its tensors."""

    name: str
    version: str
    platform: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def __str__(self) -> str:
        inputs, outputs = (", ".join(map(str, tensors)) for tensors in (self.inputs, self.outputs))
        return f"{self.name!r} ({inputs}) -> ({outputs})"


@dataclass(frozen=True)
class ModelInfo(Signature):
    """What the server says of a model where no session is opened; without labels."""

    protocol: str
    """call, or stream: one that answers prompts."""
    state: str
    """ready; starting: who wants it now is refused; not answering: it has had a batch for too long."""


def parse(said: Any) -> Signature:
    """From what `json.loads` gave. ProtocolError for what is no signature."""
    texts = [_get(said, key, str, key) for key in ("name", "version", "platform")]
    inputs, outputs = (
        tuple(_tensor(tensor, f"{side}[{i}]") for i, tensor in enumerate(_get(said, side, list, side)))
        for side in ("inputs", "outputs")
    )
    _expect(inputs and outputs, f"{len(inputs)} inputs and {len(outputs)} outputs, expected at least one of each")
    count = len(inputs) + len(outputs)
    _expect(count <= layout.MAX_TENSORS, f"{count} tensors, expected at most {layout.MAX_TENSORS}")
    names = [tensor.name for tensor in (*inputs, *outputs)]
    twice = next((name for name in names if names.count(name) > 1), None)
    _expect(twice is None, f"two tensors are named {twice!r}")
    return Signature(*texts, inputs, outputs)


def parse_models(said: Any) -> list[ModelInfo]:
    """The answer to the question `models`. ProtocolError for what is none."""
    _expect(isinstance(said, list), f"expected a list of models, got {said!r:.100}")
    models = []
    for each in said:
        signature = parse(each)
        _expect(signature.name, "a model without a name")
        for key, words in (("protocol", ("call", "stream")), ("state", STATES)):
            word = _get(each, key, str, f"{signature.name!r}: {key}")
            _expect(word in words, f"{signature.name!r}: {key} {word!r:.100}, expected {' or '.join(words)}")
        models.append(ModelInfo(**vars(signature), protocol=each["protocol"], state=each["state"]))
    return models


def parse_health(said: Any) -> dict[str, str]:
    """The answer to the question `health`. ProtocolError for what is none."""
    parts = _get(said, "parts", dict, "parts")
    for name, state in parts.items():
        _expect(state in HEALTH, f"parts[{name!r:.100}]: {state!r:.100}, expected {' or '.join(HEALTH)}")
    return parts


def check(signature: Signature, inputs: np.ndarray, outputs: np.ndarray) -> None:
    """ProtocolError unless the signature is that of the tensors in the segment, of `layout.tensor` each."""
    for side, said, lies in (("input", signature.inputs, inputs), ("output", signature.outputs, outputs)):
        _expect(len(said) == len(lies), f"{len(said)} {side}s, the segment has {len(lies)}")
        for tensor, row in zip(said, lies, strict=True):
            datatype, symbolic = Datatype(row["datatype"]), bool(row["symbolic"])
            dims = [int(dim) for dim in row["dims"][: row["rank"]]]
            there = [-1, *dims[1:]] if symbolic else dims
            lie = f"the segment has {datatype.name} {there}"
            _expect(tensor.datatype == datatype.name and list(tensor.shape) == there, f"{side} {tensor}, {lie}")
            counts = {tensor.shape[-1], 0 if symbolic else math.prod(dims)} if side == "output" else set()
            labels = len(tensor.labels)
            _expect(not labels or labels in counts, f"{side} {tensor} has {labels} labels")


def _tensor(said: Any, where: str) -> Tensor:
    name, datatype = (_get(said, key, str, f"{where}.{key}") for key in ("name", "datatype"))
    shape = _get(said, "shape", list, f"{where}.shape")
    labels = _get(said, "labels", list, f"{where}.labels") if said.get("labels") is not None else []
    _expect(name, f"{where} has no name")
    _expect(datatype in DATATYPES, f"{where}.datatype: there is no {datatype!r:.100}")
    fits = all(type(dim) is int and (dim >= 1 or (dim == -1 and not i)) for i, dim in enumerate(shape))
    _expect(
        fits and 1 <= len(shape) <= layout.MAX_RANK,
        f"{where}.shape: expected 1 to {layout.MAX_RANK} dimensions from 1 on, the first may be -1, got {shape!r:.100}",
    )
    _expect(all(isinstance(label, str) for label in labels), f"{where}.labels: expected texts, got {labels!r:.100}")
    return Tensor(name, datatype, tuple(shape), tuple(labels))


def _get(said: Any, key: str, kind: type, where: str) -> Any:
    _expect(isinstance(said, dict), f"{where}: expected an object around it, got {said!r:.100}")
    _expect(isinstance(said.get(key), kind), f"{where}: expected {kind.__name__}, got {said.get(key)!r:.100}")
    return said[key]


def _expect(right: object, detail: str) -> None:
    if not right:
        raise ProtocolError.of("signature", detail)
