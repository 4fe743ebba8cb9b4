"""What a model takes and gives: tensors in the words of the Open Inference Protocol.

    signature = Signature(
        inputs=(Tensor("ids", "INT64", ("tokens",)), Tensor("mask", "INT64", ("tokens",))),
        outputs=(Tensor("vector", "FP32", (384,)),),
        bounds={"tokens": 128},
    )
    signature.shape(signature.inputs[0])            # (128,): a row at its largest
    signature.shape(signature.inputs[0], 32)        # (32,): a row of a batch that runs at 32 tokens
    signature.row_bytes(signature.inputs[0])        # 1024

A shape is that of one row: the batch dimension stands in no shape.  One dimension of a whole signature may be symbolic:
a name instead of a number, the first dimension of any of its tensors, whose bound stands in `bounds`.

A batch runs at one `bucket` of the symbolic dimension: the smallest power of two from 8 on, at most the bound, that
holds its longest row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np

from shm_server.layout import MAX_RANK, MAX_SEGMENT_BYTES, MAX_TENSORS
from shm_server.models.errors import ModelError

DATATYPES = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
}
FLOATS = ("FP16", "BF16", "FP32", "FP64")
_NAMES = {dtype: name for name, dtype in DATATYPES.items()}

MAX_DIMENSION = (1 << 31) - 1
MAX_NAME_BYTES = 64
SMALLEST_BUCKET = 8


def datatype_of(dtype: np.dtype) -> str:
    """The protocol's word for a NumPy dtype, or NumPy's own where it has none: for errors too."""
    return _NAMES.get(dtype, dtype.name)


@dataclass(frozen=True)
class Tensor:
    """One input or output.  Raises ModelError for what can not be one."""

    name: str
    datatype: str
    """One of DATATYPES."""
    shape: tuple[int | str, ...]
    """Of one row.  A str is the symbolic dimension, which is the first."""
    labels: tuple[str, ...] = ()
    """What the numbers of an output stand for: as many as a row has, or as its last dimension has.  An output with
    labels promises scores: NaN among them is an error of the model."""

    def __post_init__(self) -> None:
        check_name(self.name, "a tensor's name")
        where = f"tensor {self.name!r}"
        if self.datatype not in DATATYPES:
            raise ModelError(f"{where}: expected a datatype of {', '.join(DATATYPES)}, got {self.datatype!r}")
        object.__setattr__(self, "shape", _sequence(self.shape, f"{where}: expected a shape"))
        object.__setattr__(self, "labels", _sequence(self.labels, f"{where}: expected labels"))
        if len(self.shape) > MAX_RANK:
            raise ModelError(f"{where}: expected at most {MAX_RANK} dimensions, got {len(self.shape)}")
        for dimension in self.shape:
            if isinstance(dimension, str):
                check_name(dimension, f"{where}: a dimension's name")
            elif type(dimension) is not int or not 1 <= dimension <= MAX_DIMENSION:
                raise ModelError(f"{where}: expected dimensions from 1 to {MAX_DIMENSION}, got {dimension!r}")
        if any(isinstance(dimension, str) for dimension in self.shape[1:]):
            raise ModelError(f"{where}: expected a symbolic dimension as the first of a row only, got {self.shape}")
        if self.labels:
            self._check_labels(where)

    @property
    def dtype(self) -> np.dtype:
        """NumPy's dtype of `datatype`; that of BF16 is `ml_dtypes.bfloat16`."""
        return DATATYPES[self.datatype]

    @property
    def symbols(self) -> set[str]:
        """The names of its symbolic dimensions: none or one, in a signature."""
        return {dimension for dimension in self.shape if isinstance(dimension, str)}

    def _check_labels(self, where: str) -> None:
        for label in self.labels:
            if not isinstance(label, str) or not label or not label.isprintable():
                raise ModelError(f"{where}: expected printable labels, got {label!r}")
        counts = {self.shape[-1] if self.shape else 1}
        if not self.symbols:
            counts.add(math.prod(self.shape))
        if len(self.labels) not in counts:
            wanted = " or ".join(str(count) for count in sorted(counts, key=str))
            raise ModelError(f"{where}: expected {wanted} labels for shape {self.shape}, got {len(self.labels)}")


@dataclass(frozen=True)
class Signature:
    """What a model takes and gives.  Raises ModelError where the parts do not make one."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    bounds: Mapping[str, int] = field(default_factory=dict)
    """The largest extent of the symbolic dimension, under its name; empty where there is none."""

    def __post_init__(self) -> None:
        for side in ("inputs", "outputs"):
            tensors = _sequence(getattr(self, side), f"expected {side}")
            object.__setattr__(self, side, tensors)
            if not tensors:
                raise ModelError(f"expected {side}, got none")
            if strange := [tensor for tensor in tensors if not isinstance(tensor, Tensor)]:
                raise ModelError(f"{side}: expected tensors, got {strange[0]!r:.100}")
            names = [tensor.name for tensor in tensors]
            for tensor in tensors:
                if names.count(tensor.name) > 1:
                    raise ModelError(f"{side}: expected names that differ, got {tensor.name!r} twice")
                if side == "inputs" and tensor.labels:
                    raise ModelError(f"input {tensor.name!r}: expected no labels, which only outputs have")
        if len(self.inputs) + len(self.outputs) > MAX_TENSORS:
            raise ModelError(
                f"expected at most {MAX_TENSORS} tensors, got {len(self.inputs)} inputs and {len(self.outputs)} outputs"
            )
        names = {tensor.name for tensor in self.inputs}
        if twice := next((tensor.name for tensor in self.outputs if tensor.name in names), None):
            raise ModelError(f"expected names that differ, got {twice!r} as an input and an output")
        self._check_bounds()
        for tensor in (*self.inputs, *self.outputs):
            if self.row_bytes(tensor) > MAX_SEGMENT_BYTES:
                raise ModelError(
                    f"tensor {tensor.name!r}: expected a row of at most {MAX_SEGMENT_BYTES} bytes, "
                    f"got {self.row_bytes(tensor)}: {tensor.datatype} {self.shape(tensor)}"
                )

    def __hash__(self) -> int:
        return hash((self.inputs, self.outputs, *self.bounds.items()))

    @property
    def symbol(self) -> str | None:
        """The name of the symbolic dimension."""
        return next(iter(self.bounds), None)

    @property
    def bound(self) -> int | None:
        """Its largest extent."""
        return next(iter(self.bounds.values()), None)

    def shape(self, tensor: Tensor, extent: int | None = None) -> tuple[int, ...]:
        """The shape of a row of `tensor` where the symbolic dimension has `extent`, or is at its bound."""
        extent = extent or self.bound
        return tuple(extent if isinstance(dimension, str) else dimension for dimension in tensor.shape)

    def row_bytes(self, tensor: Tensor, extent: int | None = None) -> int:
        """The bytes of a row of `tensor` where the symbolic dimension has `extent`, or is at its bound."""
        return math.prod(self.shape(tensor, extent)) * tensor.dtype.itemsize

    def buckets(self) -> tuple[int | None, ...]:
        """Every extent that a batch may run at, (None,) for a signature without a symbolic dimension."""
        if self.bound is None:
            return (None,)
        powers = (SMALLEST_BUCKET << shift for shift in range(MAX_DIMENSION.bit_length()))
        return (*(power for power in powers if power < self.bound), self.bound)

    def bucket(self, extent: int) -> int:
        """The extent that a batch whose longest row has `extent` runs at.  Raises ModelError beyond the bound."""
        for bucket in self.buckets():
            if bucket is not None and extent <= bucket:
                return bucket
        raise ModelError(f"dimension {self.symbol!r}: expected at most {self.bound}, got {extent}")

    def empty(self, tensors: tuple[Tensor, ...], count: int, extent: int | None = None) -> dict[str, np.ndarray]:
        """Zeros for `count` rows of each tensor, in memory of their own."""
        return {tensor.name: np.zeros((count, *self.shape(tensor, extent)), tensor.dtype) for tensor in tensors}

    def _check_bounds(self) -> None:
        if not isinstance(self.bounds, Mapping):
            raise ModelError(f"bounds: expected a mapping such as {{'tokens': 128}}, got {self.bounds!r}")
        object.__setattr__(self, "bounds", dict(self.bounds))
        symbols = set().union(*(tensor.symbols for tensor in (*self.inputs, *self.outputs)))
        if len(symbols) > 1:
            raise ModelError(f"expected one symbolic dimension at most, got {', '.join(sorted(symbols))}")
        if wrong := sorted(
            set().union(*(t.symbols for t in self.outputs)) - set().union(*(t.symbols for t in self.inputs))
        ):
            raise ModelError(f"expected dimension {wrong[0]!r} of an output in an input too, which says how long it is")
        if symbols != set(self.bounds):
            wanted, got = ", ".join(sorted(symbols)) or "none", ", ".join(map(str, self.bounds)) or "none"
            raise ModelError(f"bounds: expected one for each symbolic dimension ({wanted}), got {got}")
        for name, bound in self.bounds.items():
            if type(bound) is not int or not 1 <= bound <= MAX_DIMENSION:
                raise ModelError(f"bounds: expected {name!r} from 1 to {MAX_DIMENSION}, got {bound!r}")


def check_name(name: object, what: str) -> None:
    """Raises ModelError for a name that a peer could not read or a terminal not show."""
    if not isinstance(name, str) or not name or not name.isprintable() or len(name.encode()) > MAX_NAME_BYTES:
        raise ModelError(f"{what}: expected 1 to {MAX_NAME_BYTES} bytes of printable UTF-8, got {name!r:.100}")


def _sequence(values: object, what: str) -> tuple:
    if not isinstance(values, (tuple, list)):
        raise ModelError(f"{what}, a tuple, got {values!r:.100}")
    return tuple(values)
