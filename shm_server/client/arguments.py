"""What a caller gives, made what a model takes: checked before anything is sent, and never converted in silence.

    rows = arguments.take(model.inputs, model.bound, (x,), {})      # rows.arrays, rows.count, rows.extent

An array has the datatype that the input has. What Python itself has, numbers and lists of them, becomes it where
nothing is lost in kind: whole numbers that fit, floats for floats.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from shm_server.client.errors import TensorError, WrongDatatype, WrongShape
from shm_server.client.signature import Tensor
from shm_server.models.tensor import datatype_of

PLAIN = (bool, int, float, list, tuple)


class Rows(NamedTuple):
    """The inputs of one call, or of a batch of calls."""

    arrays: tuple[np.ndarray, ...]
    """In the signature's order, (*shape) each, or (count, *shape)."""
    count: int | None
    """How many calls the leading dimension says; None: one call, without that dimension."""
    extent: int
    """Of the symbolic dimension; 0 where there is none."""


def take(inputs: Sequence[Tensor], bound: int, positional: Sequence[Any], named: Mapping[str, Any]) -> Rows:
    """Raises TensorError, WrongDatatype or WrongShape."""
    if positional and (len(positional) > 1 or len(inputs) > 1 or named):
        raise TensorError(f"expected one argument, or one by name for each of {_names(inputs)}")
    if not positional and (len(named) != len(inputs) or any(tensor.name not in named for tensor in inputs)):
        raise TensorError(f"expected the inputs {_names(inputs)}, got {', '.join(map(repr, named)) or 'none'}")
    values = positional or [named[tensor.name] for tensor in inputs]
    arrays = tuple([array(value, tensor) for value, tensor in zip(values, inputs, strict=True)])
    if len(arrays) == 1 and not inputs[0].symbolic and arrays[0].shape == inputs[0].shape:  # most calls
        return Rows(arrays, None, 0)
    return _fit(inputs, bound, arrays)


def array(value: Any, tensor: Tensor) -> np.ndarray:
    """`value` as an array of the tensor's datatype, itself where it is one. Raises WrongDatatype or WrongShape."""
    dtype = tensor.dtype
    if isinstance(value, PLAIN) and not isinstance(value, np.generic):  # whose float64 is a float
        return _of_plain(value, tensor)
    found = value if isinstance(value, np.ndarray) else np.asarray(value)
    if found.dtype != dtype:
        raise WrongDatatype(f"{tensor}: expected {dtype.name}, got {found.dtype.name}; convert it, as by .astype()")
    return found


def row_shape(tensor: Tensor, extent: int) -> tuple[int, ...]:
    """Of a row whose symbolic dimension, where it has one, is `extent`."""
    return (extent, *tensor.shape[1:]) if tensor.symbolic else tensor.shape


def _of_plain(value: Any, tensor: Tensor) -> np.ndarray:
    dtype = tensor.dtype
    try:
        found = np.asarray(value)
    except (ValueError, OverflowError) as error:  # rows of different lengths; a number of more than 64 bits
        raise WrongShape(f"{tensor}: {error}") from None
    kind = found.dtype.kind
    wanted = "f" if tensor.datatype == "BF16" else dtype.kind  # whose own kind is void
    if kind not in {"b": "b", "i": "biu", "u": "biu", "f": "biuf"}[wanted] and found.size:
        raise WrongDatatype(f"{tensor}: expected {datatype_of(dtype)}, got {found.dtype.name} in {_short(value)}")
    if wanted in "iu" and found.size and kind != "b":
        limits = np.iinfo(dtype)
        if found.min() < limits.min or found.max() > limits.max:
            raise WrongDatatype(f"{tensor}: expected {limits.min} to {limits.max}, got {_short(value)}")
    with np.errstate(over="ignore"):
        made = found.astype(dtype)
    if wanted == "f" and kind == "f" and (np.isinf(made.astype(np.float64)) & np.isfinite(found)).any():
        raise WrongDatatype(f"{tensor}: expected numbers that fit, got {_short(value)}")
    return made


def _fit(inputs: Sequence[Tensor], bound: int, arrays: tuple[np.ndarray, ...]) -> Rows:
    count = extent = None
    fitted = []
    for tensor, found in zip(inputs, arrays, strict=True):
        if found.shape == () and tensor.shape == (1,):  # a scalar
            found = found.reshape(1)
        batch = found.ndim == len(tensor.shape) + 1
        dims = found.shape[1:] if batch else found.shape
        first = len(dims) == len(tensor.shape) and tensor.symbolic
        if dims[1:] != tensor.shape[1:] or len(dims) != len(tensor.shape) or not (first or dims == tensor.shape):
            rows = ", ".join(map(str, tensor.shape))
            raise WrongShape(f"{tensor}: expected {tensor.shape}, or a batch (n, {rows}), got {found.shape}")
        if first:
            if not 1 <= dims[0] <= bound:
                raise WrongShape(f"{tensor}: expected 1 to {bound} where the shape says -1, got {dims[0]}")
            if extent not in (None, dims[0]):
                raise WrongShape(f"{tensor}: expected {extent} where the shape says -1, as before, got {dims[0]}")
            extent = dims[0]
        number = len(found) if batch else None
        if fitted and number != count:
            words = ["one row" if n is None else f"a batch of {n}" for n in (count, number)]
            raise WrongShape(f"{tensor}: expected {words[0]}, as before, got {words[1]}")
        count = number
        fitted.append(found)
    return Rows(tuple(fitted), count, extent or 0)


def _names(tensors: Sequence[Tensor]) -> str:
    return ", ".join(repr(tensor.name) for tensor in tensors)


def _short(value: Any) -> str:
    return f"{value!r:.60}"
