"""Whether a model keeps its word: once at length before it serves, and at each call what costs nothing.

trial(model)                                   # ModelError: raises, another shape, NaN, rows that see each other
fill(signature.outputs, {"y": y}, outputs)     # ModelError: output 'y': expected FP32 (2, 3), got FP64 (2, 4)
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np

from shm_server.models.errors import ModelError
from shm_server.models.protocol import Arrays, Model
from shm_server.models.tensor import FLOATS, Tensor, datatype_of
from shm_server.runtime.describe import describe

log = logging.getLogger(__name__)

SEED = 9
ROWS = 5  # of the larger batch: no power of two, and not what a file was exported with
# How far a row's result may move with the batch around it, of the largest number of that output: other kernels sum in
# another order.  Quantized numbers may fall to the other side of a step.
TOLERANCE = {"FP64": 1e-3, "FP32": 1e-3, "FP16": 2e-2, "BF16": 5e-2}
STEPS = {"INT8": 1, "UINT8": 1}


def fill(tensors: Iterable[Tensor], results: Arrays, outputs: Arrays) -> None:
    """Copies `results` into `outputs`, the views (n, *shape) of those tensors.

    Nothing is cast: a result of another dtype is the model's error, as one of another shape is.  A cast from float64
    would cost more than it seems and hide what the model computes with.

    A result that is the view itself has been written in place.  Raises ModelError.
    """
    for tensor in tensors:
        name, wanted = tensor.name, outputs[tensor.name]
        if name not in results:
            got = ", ".join(map(repr, results)) or "none"
            raise ModelError(f"output {name!r}: expected {tensor.datatype} {wanted.shape}, got outputs {got}")
        result = results[name]
        if result is wanted:
            continue
        if not isinstance(result, np.ndarray):
            result = _as_array(result, name, wanted, tensor)
        if result.dtype != wanted.dtype or result.shape != wanted.shape:
            raise ModelError(
                f"output {name!r}: expected {tensor.datatype} {wanted.shape}, "
                f"got {datatype_of(result.dtype)} {result.shape}"
            )
        wanted[...] = result
    if len(results) > len(outputs):
        extra = ", ".join(repr(name) for name in results if name not in outputs)
        raise ModelError(f"expected outputs {', '.join(map(repr, outputs))}, got {extra} too")


def check_scores(model: Model, outputs: Arrays) -> None:
    """Raises ModelError for NaN in an output with labels, which promises scores."""
    for tensor in model.signature.outputs:
        if tensor.labels:
            _check_nan(tensor, outputs[tensor.name])


def trial(model: Model) -> None:
    """Runs `model` on zeros and on seeded random inputs, alone and in a batch, at each end of a symbolic dimension.

    Random integers wider than 8 bits are 0 and 1: as token ids, masks and counts they are always there.

    Raises ModelError, beginning with the model's name, where it raises, does not fill an output, gives NaN (on zeros
    only where scores are promised: the mean of an empty text is no number), or answers a row otherwise than the same
    row alone.
    """
    rows = min(model.max_batch, ROWS)
    buckets = model.signature.buckets()
    for count, extent in ((1, buckets[-1]), (rows, buckets[0])):
        _run(model, _inputs(model, count, extent, None), count, extent, "zeros", all_numbers=False)
    rng = np.random.default_rng(SEED)
    _run(model, _inputs(model, 1, buckets[-1], rng), 1, buckets[-1], "random inputs", all_numbers=True)
    inputs = _inputs(model, rows, buckets[0], rng)
    together = _run(model, inputs, rows, buckets[0], "random inputs", all_numbers=True)
    if hasattr(model, "begin"):
        _check_halves(model, inputs, together)
    again = _run(model, inputs, rows, buckets[0], "random inputs", all_numbers=True)
    if _differing(model, together, again):
        log.warning(
            "%s answers the same inputs differently: whether its rows see each other can not be told", model.name
        )
        return
    for row in (0, rows - 1):
        alone = {name: values[row : row + 1] for name, values in inputs.items()}
        answer = _run(model, alone, 1, buckets[0], "random inputs", all_numbers=True)
        if name := _differing(model, {name: values[row : row + 1] for name, values in together.items()}, answer):
            raise ModelError(
                f"{model.name}: output {name!r}: a row's result depends on the other rows of its batch: "
                "does it take statistics over them?"
            )
    if len(buckets) > 1 and model.max_batch > 1:
        _check_padding(model, inputs, together, buckets[0], buckets[1])


def _check_halves(model: Model, inputs: Arrays, expected: Arrays) -> None:
    """Two batches on their way at a time, as a worker has them."""
    count, extent = next(iter(inputs.values())).shape[0], model.signature.buckets()[0]
    try:
        for ticket in [model.begin(inputs), model.begin(inputs)]:
            outputs = model.signature.empty(model.signature.outputs, count, extent)
            model.finish(ticket, outputs)
            if name := _differing(model, expected, outputs):
                raise ModelError(f"{model.name}: output {name!r}: begin and finish give another result than run")
    except ModelError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(f"{model.name}: fails in begin or finish: {describe(error)}") from error


def _check_padding(model: Model, inputs: Arrays, expected: Arrays, extent: int, longer: int) -> None:
    """The same rows beside a longer one: zeros stand behind them then."""
    signature, rows = model.signature, len(next(iter(inputs.values())))
    padded = signature.empty(signature.inputs, rows, longer)
    for tensor in signature.inputs:
        padded[tensor.name][_upto(tensor, extent)] = inputs[tensor.name]
    outputs = _run(model, padded, rows, longer, "random inputs", all_numbers=False)
    cut = {tensor.name: outputs[tensor.name][_upto(tensor, extent)] for tensor in signature.outputs}
    if name := _differing(model, expected, cut):
        raise ModelError(
            f"{model.name}: output {name!r}: a row's result depends on the zeros behind it, hence on the longest row "
            "of its batch: give it a mask, or serve it with max_batch = 1"
        )


def _upto(tensor: Tensor, extent: int) -> tuple[slice, ...]:
    return (slice(None), *(slice(extent if isinstance(dimension, str) else None) for dimension in tensor.shape))


def _inputs(model: Model, count: int, extent: int | None, rng: np.random.Generator | None) -> Arrays:
    arrays = model.signature.empty(model.signature.inputs, count, extent)
    for tensor in model.signature.inputs:
        array = arrays[tensor.name]
        if rng is not None:
            array[...] = _random(tensor, array.shape, rng)
            if tensor.datatype not in FLOATS and array.ndim > 1:
                array.reshape(count, -1)[:, 0] |= array.dtype.type(1)  # no mask is empty
        array.flags.writeable = False
    return arrays


def _random(tensor: Tensor, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if tensor.datatype in FLOATS:
        return rng.random(shape, np.float32)
    low, high = {"INT8": (-128, 128), "UINT8": (0, 256)}.get(tensor.datatype, (0, 2))
    return rng.integers(low, high, shape)


def _run(model: Model, inputs: Arrays, count: int, extent: int | None, on: str, *, all_numbers: bool) -> Arrays:
    outputs = model.signature.empty(model.signature.outputs, count, extent)
    for tensor in model.signature.outputs:
        if tensor.datatype in FLOATS:
            outputs[tensor.name].fill(np.nan)  # for what is not filled
    try:
        model.run(inputs, outputs)
        for tensor in model.signature.outputs:
            if all_numbers or tensor.labels:
                _check_nan(tensor, outputs[tensor.name])
    except ModelError as error:
        raise ModelError(f"{model.name}: on {on}, batch {count}: {error}") from error
    except (Exception, SystemExit) as error:  # whatever a framework or somebody's function raises
        raise ModelError(f"{model.name}: fails on {on}, batch {count}: {describe(error)}") from error
    return outputs


def _check_nan(tensor: Tensor, values: np.ndarray) -> None:
    if tensor.datatype in FLOATS and np.isnan(values).any():
        row = int(np.isnan(values).reshape(len(values), -1).any(axis=1).argmax())
        raise ModelError(f"output {tensor.name!r}: expected numbers, got NaN in row {row}")


def _differing(model: Model, expected: Arrays, got: Arrays) -> str | None:
    """The first output that is not the same twice."""
    for tensor in model.signature.outputs:
        one, other = (values[tensor.name].astype(np.float64) for values in (expected, got))
        allowed = STEPS.get(tensor.datatype, 0)
        if tensor.datatype in FLOATS:
            finite = one[np.isfinite(one)]
            allowed = TOLERANCE[tensor.datatype] * max(1e-3, np.abs(finite).max(initial=0))
        with np.errstate(invalid="ignore"):  # infinity less infinity
            if not ((np.abs(one - other) <= allowed) | (one == other)).all():
                return tensor.name
    return None


def _as_array(result: Any, name: str, wanted: np.ndarray, tensor: Tensor) -> np.ndarray:
    """A framework's array, without a copy where it can be had; nothing of Python's own, whose dtype would be
    guessed."""
    if not hasattr(result, "__array__"):
        raise ModelError(f"output {name!r}: expected {tensor.datatype} {wanted.shape}, got {type(result).__name__}")
    return np.asarray(result)
