"""What an engine makes of a file, and the signature that is read from it.

    graph = onnxruntime.open(Path("minilm.onnx"), threads=1)    # a Graph
    signature = signature_of(graph, card)

A file says the shapes of its inputs, often with dimensions left open, and seldom the whole shape of its outputs.  So
outputs are looked at: the graph runs on zeros, once or twice, and what stays is a number, what follows the symbolic
dimension is symbolic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from shm_server.models.card_toml import Card
from shm_server.models.errors import ModelError, reason
from shm_server.models.tensor import DATATYPES, Signature, Tensor, datatype_of


class Found(NamedTuple):
    """An input as a file has it."""

    name: str
    datatype: str
    shape: tuple[int | str | None, ...]
    """With the batch dimension.  An open dimension is its name, or None where the file has no name for it."""


def datatype_named(dtype: str, name: str) -> str:
    """The datatype of an input whose dtype NumPy calls `dtype`.  Raises ModelError for one that can not be carried."""
    for datatype, known in DATATYPES.items():
        if known.name == dtype:
            return datatype
    raise ModelError(f"input {name!r}: expected one of {', '.join(DATATYPES)}, got {dtype}")


class Graph(Protocol):
    """A file in an engine."""

    platform: str
    inputs: Sequence[Found]

    def call(
        self, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray] | None = None
    ) -> Mapping[str, np.ndarray]:
        """Computes; arrays as those of `Model.run`.  Returns an array for each output, in the file's order.

        They are the engine's own, and may be overwritten by its next call.  An engine that can write to a caller's
        memory writes to `outputs` where they are given, and returns those very arrays.
        """
        ...


def fixed_batch(graph: Graph) -> bool:
    """Whether the file takes one row at a time, in one of its inputs at least.

    Raises ModelError where its first dimensions are no batch.
    """
    sizes = []
    for found in graph.inputs:
        if not found.shape:
            raise ModelError(f"input {found.name!r}: expected the batch as its first dimension, got a scalar")
        size = found.shape[0]
        if isinstance(size, int) and size != 1:
            raise ModelError(
                f"input {found.name!r}: expected an open batch, or one of 1, as its first dimension, got shape "
                f"{_shown(found.shape)}: export it with a dynamic batch"
            )
        sizes.append(size)
    return 1 in sizes


def signature_of(graph: Graph, card: Card) -> Signature:
    """What the graph takes and gives, with what its card adds.  The datatypes of inputs are the file's: what callers
    send, where a card has it otherwise, is `FileModel`'s.

    Raises ModelError: a card that contradicts the file, an open dimension without a bound, an output without the batch.
    """
    _check_names("inputs", card.inputs, [found.name for found in graph.inputs])
    symbol = next(iter(card.bounds), None)
    shapes = {found.name: _row(found, card, symbol) for found in graph.inputs}
    inputs = tuple(Tensor(found.name, found.datatype, shapes[found.name]) for found in graph.inputs)
    bound = card.bounds.get(symbol)
    # It checks the inputs and their bounds; the output is a stand-in.
    Signature(inputs, (Tensor("output", "FP32", ()),), card.bounds)
    rows = 1 if fixed_batch(graph) else 2
    # Two extents tell a dimension that follows the symbolic one from a number.
    extents = [bound] if bound is None or bound == 1 else [bound, bound // 2]
    runs = [_shapes(graph, inputs, rows, extent) for extent in extents]
    _check_names("outputs", card.labels, list(runs[0]))
    outputs = []
    for name, (datatype, first) in runs[0].items():
        last = runs[-1][name][1]
        if len(first) != len(last):
            raise ModelError(f"output {name!r}: expected as many dimensions for any {symbol!r}, got {first} and {last}")
        shape = tuple(_dimension(name, sizes, extents, symbol) for sizes in zip(first, last, strict=True))
        outputs.append(Tensor(name, datatype, shape, card.labels.get(name, ())))
    return Signature(inputs, tuple(outputs), card.bounds)


def _row(found: Found, card: Card, symbol: str | None) -> tuple[int | str, ...]:
    """The shape of a row of an input: the file's, where it is open the card's."""
    row, said = found.shape[1:], card.inputs[found.name].shape if found.name in card.inputs else None
    if said is not None:
        pairs = zip(row, said, strict=False)
        if len(said) != len(row) or any(isinstance(have, int) and have != want for have, want in pairs):
            raise ModelError(f"input {found.name!r}: {card.path} says shape {_shown(said)}, the file has {_shown(row)}")
        return said
    if row.count(None) > 1:
        raise ModelError(_open(found, "tokens", card))
    for dimension in row:
        if not isinstance(dimension, int) and dimension not in (None, symbol):
            raise ModelError(_open(found, dimension, card))
        if dimension is None and symbol is None:
            raise ModelError(_open(found, "tokens", card))
    return tuple(symbol if dimension is None else dimension for dimension in row)


def _open(found: Found, name: str, card: Card) -> str:
    bounds = ", ".join(card.bounds) or "none"
    return (
        f"input {found.name!r}: expected a bound for its open dimension, got bounds for {bounds}: the file has "
        f"{_shown(found.shape)}; say [bounds] {name} = 128, or [inputs.{found.name}] shape, in "
        f"{card.path or 'model.toml beside the file'}"
    )


def _shapes(
    graph: Graph, inputs: Sequence[Tensor], rows: int, extent: int | None
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Datatype and shape of a row of each output."""
    zeros = {t.name: np.zeros((rows, *(extent if isinstance(d, str) else d for d in t.shape)), t.dtype) for t in inputs}
    given = " and ".join(f"{name} {array.shape}" for name, array in zeros.items())
    try:
        results = {name: np.asarray(result) for name, result in graph.call(zeros).items()}
    except Exception as error:  # whatever a framework raises
        raise ModelError(f"fails on zeros, {given}: {reason(error)}") from error
    for name, result in results.items():
        if result.shape[:1] != (rows,):
            raise ModelError(f"output {name!r}: expected {rows} rows for {given}, got shape {result.shape}")
        if result.dtype not in DATATYPES.values():
            raise ModelError(f"output {name!r}: expected one of {', '.join(DATATYPES)}, got {result.dtype}")
    return {name: (datatype_of(result.dtype), result.shape[1:]) for name, result in results.items()}


def _dimension(name: str, sizes: tuple[int, ...], extents: list[int | None], symbol: str | None) -> int | str:
    if len(set(sizes)) == 1:
        return sizes[0]
    if list(sizes) == extents:
        return symbol
    raise ModelError(
        f"output {name!r}: expected a dimension that is fixed or as long as {symbol!r}, got {sizes[0]} and {sizes[1]} "
        f"for {extents[0]} and {extents[1]}"
    )


def _check_names(side: str, said: Mapping, there: list[str]) -> None:
    for name in said:
        if name not in there:
            raise ModelError(f"{side}.{name} in its card: expected one of {', '.join(there)}")


def _shown(shape: Sequence[int | str | None]) -> str:
    return f"[{', '.join('?' if dimension is None else str(dimension) for dimension in shape)}]"
