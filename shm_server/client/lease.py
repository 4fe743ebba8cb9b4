"""A slot, leased: memory in the segment for one call's tensors, which nobody copies."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from shm_server.client import arguments
from shm_server.client.deadlines import deadline_ns
from shm_server.client.errors import Moved, SlotReleased, TensorError, WrongShape
from shm_server.client.link import MOST_MOVES
from shm_server.client.session import LOST_LATE, Session
from shm_server.layout import Op

if TYPE_CHECKING:
    from shm_server.client.model import Model
    from shm_server.client.signature import Tensor


class Timing(NamedTuple):
    """How a call spent its time."""

    batch: int
    """How many calls were run together with this one, itself counted."""
    queue_ns: int
    """From the call until the server took it."""
    model_ns: int
    """From there until it had the result."""


class Call:
    """The lease of a slot. It may be used for several calls, by one thread at a time; `release` ends it, and so does
    the block of a `with`. So does a call that is given up in flight, since the server may be reading the inputs still.

        with model.reserve() as call:
            call["x"][:] = x           # where the model reads it
            call.run()
            use(call["y"])             # where the model wrote it

    A view that is kept longer stays memory, of whatever calls come later.
    """

    def __init__(self, model: Model, session: Session, slot: int) -> None:
        self._model, self._session, self._slot = model, session, slot
        self._extent = model.bound
        self._using = threading.Lock()
        self._held = True
        self.timing = Timing(0, 0, 0)
        """Of the last call that succeeded."""

    # -- tensors

    def __getitem__(self, name: str) -> np.ndarray:
        """The input or output of that name in place, (*shape), of a symbolic dimension as much as `extent` says. An
        input may be written, and holds whatever was there before; an output is read-only, and what the model wrote
        after `run`. One of BOOL is a copy, since a server may write any bytes.

        Valid until the next run, or the end of the lease. TensorError for a name that there is not, SlotReleased.
        """
        self._check_held()
        for tensors, areas in (
            (self._model.inputs, self._session.inputs),
            (self._model.outputs, self._session.outputs),
        ):
            for tensor, rows in zip(tensors, areas, strict=True):
                if tensor.name == name:
                    return self._view(tensor, rows, output=areas is self._session.outputs)
        raise TensorError(f"no tensor {name!r} in {self._model.signature}")

    def _view(self, tensor: Tensor, rows: np.ndarray, *, output: bool) -> np.ndarray:
        view = rows[self._slot, : self._extent] if tensor.symbolic else rows[self._slot]
        if output and tensor.datatype == "BOOL":
            return view.view(np.uint8) != 0
        view.flags.writeable = not output
        return view

    def __setitem__(self, name: str, value: Any) -> None:
        """Copy an input to its place; the extent becomes that of `value`. Raises TensorError."""
        self._check_held()
        for i, tensor in enumerate(self._model.inputs):
            if tensor.name == name:
                rows = arguments.take((tensor,), self._model.bound, (value,), {})
                if rows.count is not None:
                    raise WrongShape(f"{tensor}: expected one row, got a batch of {rows.count}")
                if tensor.symbolic:
                    self._extent = rows.extent
                self._view(tensor, self._session.inputs[i], output=False)[...] = rows.arrays[0]
                return
        raise TensorError(f"no input {name!r} in {self._model.signature}")

    @property
    def extent(self) -> int:
        """Of the model's symbolic dimension, in the calls from now on: 1 to its bound, which is what a new lease has; 0
        where there is none. Views that were taken before show the extent of then."""
        return self._extent

    @extent.setter
    def extent(self, extent: int) -> None:
        self._check_held()
        bound = self._model.bound
        if not bound or not 1 <= extent <= bound:
            wanted = f"expected 1 to {bound}" if bound else "where no dimension is symbolic"
            raise WrongShape(f"an extent of {extent}, {wanted}")
        self._extent = extent

    # -- calls

    def run(self, *, timeout: float | None = None) -> None:
        """Run the model on the inputs that are there. Raises what a call of the model raises."""
        self._do(Op.RUN, deadline_ns(timeout))

    def echo(self, *, timeout: float | None = None) -> int:
        """The checksum of the inputs that are there, as the server read them."""
        return self._do(Op.ECHO, deadline_ns(timeout))

    def _do(self, op: int, deadline: int, moves: int = 0) -> int:
        """The completion's checksum. `moves` is how often the call was sent on."""
        if not self._using.acquire(blocking=False):
            raise SlotReleased("the slot is in use by another thread's call")
        try:
            self._check_held()
            return self._submit(op, deadline, moves)
        finally:
            self._using.release()
            if not self._held:  # released meanwhile, or given up
                self.release()

    def _submit(self, op: int, deadline: int, moves: int) -> int:
        session, slot = self._session, self._slot
        if not session.lane.submit([slot], op, self._extent, deadline):
            return self._ferry(op, deadline, moves, sent=False)
        try:
            answer = session.lane.wait([slot], deadline)
        except BaseException:
            self._held = False
            raise
        if answer == LOST_LATE:
            self._held = False  # quarantined
            raise session.lost(answer)
        if answer:
            return self._ferry(op, deadline, moves, sent=True)
        status, _, _, batch, checksum, queue_ns, model_ns, _ = session.lane.result(slot)
        if status:
            raise session.failed(slot)
        session.intact()
        self.timing = Timing(batch, queue_ns, model_ns)
        return checksum

    def _ferry(self, op: int, deadline: int, moves: int, *, sent: bool) -> int:
        """Make the call, which a session that has moved did not run, in the next one: the inputs are copied there, and
        the outputs back. The memory of this one is ours as long as the lease is."""
        failure = self._session.failure()
        if not isinstance(failure, Moved) or moves == MOST_MOVES:
            failure.not_run = failure.not_run or not sent
            raise failure
        with self._model.lease(deadline) as other:  # which sees to it that the model is the same
            other._extent = self._extent
            for mine, theirs in zip(self._session.inputs, other._session.inputs, strict=True):
                theirs[other._slot] = mine[self._slot]
            checksum = other._do(op, deadline, moves + 1)
            for mine, theirs in zip(self._session.outputs, other._session.outputs, strict=True):
                mine[self._slot] = theirs[other._slot]
            other._session.intact()
            self.timing = other.timing
        return checksum

    # -- the end

    def release(self) -> None:
        """End the lease. Releasing twice does nothing; during another thread's call, the slot is given back when that
        is over.
        """
        self._held = False
        if self._using.acquire(blocking=False):
            try:
                session, self._session = self._session, None
                if session is not None:
                    session.lane.abandon(self._slot)
            finally:
                self._using.release()

    def _check_held(self) -> None:
        if not self._held:
            raise SlotReleased("the slot's lease is over")

    def __enter__(self) -> Call:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        session = self._session
        self.release()
        if kind is None and session is not None and session.lane.broken:
            session.intact()  # what was read there may have been zeros

    def __del__(self) -> None:
        self.release()
