"""What a model is: an object that turns a batch of input tensors into a batch of output tensors.

    class Scale:
        name, version, platform, max_batch = "scale", "1", "python", 32
        signature = Signature((Tensor("x", "FP32", (4,)),), (Tensor("y", "FP32", (4,)),))

        def run(self, inputs, outputs):
            numpy.multiply(inputs["x"], 2, out=outputs["y"])

`@shm_server.model` (function.py) makes one of a plain function, or of a class that has `run` alone; `load` makes one of
a file. A model sees arrays, never a transport.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from shm_server.models.errors import ModelError
from shm_server.models.tensor import Signature, check_name

Arrays = Mapping[str, np.ndarray]

DEFAULT_MAX_BATCH = 32


@runtime_checkable
class Model(Protocol):
    """What is served.

    All methods are called from one thread.  A model may have two more:

    `close()` is called once, after the last batch.

    `begin(inputs) -> ticket` and `finish(ticket, outputs)` are `run` in two halves, for a device that computes while
    the next batch is collected.  A model has both or neither.  `begin` returns when the device has what it needs,
    `finish` waits for the result.  Each ticket is finished once, in the order of the tickets, and one at least before
    the second next `begin`.  The inputs stay as they are until `finish` has returned.
    """

    name: str
    version: str
    platform: str
    """On what it runs: 'python', 'onnxruntime_onnx'."""
    signature: Signature
    max_batch: int
    """The largest n of `run`."""

    def run(self, inputs: Arrays, outputs: Arrays) -> None:
        """Computes a batch of n rows, 1 <= n <= max_batch, whatever happened to be pending.

        `inputs` has an array (n, *shape) for each input of the signature, read-only; `outputs` one for each output, to
        be filled whole: what it holds before is of no meaning.  Row i of the outputs is the answer to row i of the
        inputs, and to no other: the rows are different callers'.

        With a symbolic dimension all arrays have the batch's bucket there (see tensor.py).  Behind its own extent a row
        of an input is zero, and what is written behind it to an output goes nowhere.  A model that must know where a
        row ends has an input that says so, an attention mask or a length: extents are not handed over, so that a
        sequence model from a file and one in Python see the same.  Such arrays may have gaps between their rows: not
        all are C-contiguous.

        Raises what it likes: that is this batch's error, and the next batch is computed.

        All arrays are borrowed: they may be overwritten or unmapped as soon as this returns.  The model has dropped
        every reference to them, and to views of them, by then, also those that a framework keeps.
        """
        ...


def check_model(model: Any, where: str) -> Model:
    """`model`, which is one.  Raises ModelError that says what is missing."""
    for attribute, kind in (
        ("name", str),
        ("version", str),
        ("platform", str),
        ("signature", Signature),
        ("max_batch", int),
    ):
        value = getattr(model, attribute, None)
        if not isinstance(value, kind):
            raise ModelError(f"{where}: expected a model with {attribute}, {_a(kind)}, got {value!r:.100}")
    check_name(model.name, f"{where}: a model's name")
    if model.max_batch < 1:
        raise ModelError(f"{where}: expected max_batch from 1 on, got {model.max_batch}")
    if not callable(getattr(model, "run", None)):
        raise ModelError(f"{where}: expected a model with run(inputs, outputs), got {type(model).__name__}")
    if callable(getattr(model, "begin", None)) != callable(getattr(model, "finish", None)):
        raise ModelError(f"{where}: expected both begin and finish or neither, got one of them")
    return model


def _a(kind: type) -> str:
    return f"{'an' if kind is int else 'a'} {kind.__name__}"
