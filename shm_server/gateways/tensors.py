"""The tensors of an inference request, as a caller says them: checked against the model's, and made arrays.

    arrays(model.inputs, model.bound, [Given("x", "FP32", (2, 4), bytes(32))])      # {"x": (2, 4) float32}

In front of a row's shape stands the number of rows, as the Open Inference Protocol has it: what a model has as [4] is
[-1, 4] here. Whatever a caller says is checked before anything is made of its size.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from shm_server.client.arguments import row_shape
from shm_server.client.errors import TensorError, WrongDatatype, WrongShape
from shm_server.client.signature import Tensor

# Rows of one request. They run as many at a time as the gateway's session has free slots.
MAX_ROWS = 1 << 16
# Protobuf and JSON have no numbers of two bytes.
BYTES_ONLY = ("FP16", "BF16")

_NUMBERS = {"BOOL": {bool}, "FP32": {int, float}, "FP64": {int, float}}


class Given(NamedTuple):
    """An input. Nothing in it is checked."""

    name: str
    datatype: str
    shape: Sequence[Any]
    data: bytes | memoryview | list[Any]
    """Little-endian, row by row; or numbers, in one list or in lists as the shape has them."""


def shape_of(tensor: Tensor) -> list[int]:
    """As the protocol says it: -1 for the rows, and for the symbolic dimension."""
    return [-1, *tensor.shape]


def arrays(inputs: Sequence[Tensor], bound: int, given: Sequence[Given]) -> dict[str, np.ndarray]:
    """(n, *shape) of each input, by name; those of bytes are views of them. `bound` is the symbolic dimension's. Raises
    TensorError, WrongDatatype or WrongShape.
    """
    known = {tensor.name: tensor for tensor in inputs}
    taken: dict[str, np.ndarray] = {}
    for each in given:
        if each.name not in known:
            raise TensorError(f"expected the inputs {names(inputs)}, got {each.name!r:.100}")
        if each.name in taken:
            raise TensorError(f"input {each.name!r} stands in the request twice")
        taken[each.name] = _array(each, known[each.name], bound)
    if missing := [tensor for tensor in inputs if tensor.name not in taken]:
        raise TensorError(f"expected the inputs {names(inputs)}, got no {names(missing)}")
    return taken


def names(tensors: Sequence[Tensor]) -> str:
    return ", ".join(repr(tensor.name) for tensor in tensors)


def elements(output: Tensor, inputs: Sequence[Tensor], taken: dict[str, np.ndarray]) -> int:
    """How many numbers an output has for inputs that `arrays` gave."""
    rows = len(next(iter(taken.values())))
    extent = next((taken[tensor.name].shape[1] for tensor in inputs if tensor.symbolic), 0)
    return rows * math.prod(row_shape(output, extent))


def _array(given: Given, tensor: Tensor, bound: int) -> np.ndarray:
    where = f"input {tensor.name!r}"
    if given.datatype != tensor.datatype:
        raise WrongDatatype(f"{where}: expected {tensor.datatype}, got {given.datatype!r:.100}")
    shape = tuple(given.shape)
    if not _fits(shape, tensor, bound):
        rest = ["t", *tensor.shape[1:]] if tensor.symbolic else tensor.shape
        bounds = f"n from 1 to {MAX_ROWS}" + (f", t from 1 to {bound}" if tensor.symbolic else "")
        raise WrongShape(f"{where}: expected the shape [n, {', '.join(map(str, rest))}], {bounds}, got {_list(shape)}")
    if not isinstance(given.data, list):
        return _of_bytes(given.data, tensor, shape, where)
    return _of_numbers(given.data, tensor, shape, where)


def _fits(shape: tuple[Any, ...], tensor: Tensor, bound: int) -> bool:
    if len(shape) != 1 + len(tensor.shape) or any(type(dim) is not int for dim in shape):
        return False
    most = [MAX_ROWS, *(bound if dim == -1 else dim for dim in tensor.shape)]
    least = [1, *(1 if dim == -1 else dim for dim in tensor.shape)]
    return all(low <= dim <= high for low, dim, high in zip(least, shape, most, strict=True))


def _of_bytes(data: bytes | memoryview, tensor: Tensor, shape: tuple[int, ...], where: str) -> np.ndarray:
    expected = math.prod(shape) * tensor.dtype.itemsize
    if len(data) != expected:
        raise WrongShape(f"{where}: expected {expected} bytes for {tensor.datatype} {_list(shape)}, got {len(data)}")
    if tensor.datatype == "BOOL" and (largest := np.frombuffer(data, np.uint8).max()) > 1:
        raise WrongDatatype(f"{where}: expected bytes of 0 and 1 for BOOL, got {largest}")
    return np.frombuffer(data, tensor.dtype).reshape(shape)


def _of_numbers(data: list[Any], tensor: Tensor, shape: tuple[int, ...], where: str) -> np.ndarray:
    if tensor.datatype in BYTES_ONLY:
        raise WrongDatatype(f"{where}: expected binary data, which {tensor.datatype} has only, got numbers")
    values = _flat(data, shape, where)
    if len(values) != math.prod(shape):
        raise WrongShape(f"{where}: expected {math.prod(shape)} numbers for {_list(shape)}, got {len(values)}")
    if others := {*map(type, values)} - _NUMBERS.get(tensor.datatype, {int}):
        kinds = ", ".join(sorted(kind.__name__ for kind in others))
        raise WrongDatatype(f"{where}: expected numbers that are {tensor.datatype}, got {kinds}")
    try:
        with np.errstate(over="ignore"):
            found = np.array(values, tensor.dtype)
    except OverflowError as error:
        raise WrongDatatype(f"{where}: expected numbers that fit {tensor.datatype}: {error}") from None
    if tensor.dtype.kind == "f" and not np.isfinite(found).all():
        raise WrongDatatype(f"{where}: expected numbers that fit {tensor.datatype}, got one beyond its range")
    return found.reshape(shape)


def _flat(data: list[Any], shape: tuple[int, ...], where: str) -> list[Any]:
    """The numbers of lists that are as the shape has them, or that are one list already."""
    if not data or type(data[0]) is not list:
        return data
    level = [data]
    for axis, size in enumerate(shape):
        if any(type(each) is not list or len(each) != size for each in level):
            raise WrongShape(f"{where}: expected one list, or lists of {size} at depth {axis + 1} for {_list(shape)}")
        level = list(itertools.chain.from_iterable(level))
    return level


def _list(shape: Sequence[Any]) -> str:
    return f"{list(shape)!r:.100}"
