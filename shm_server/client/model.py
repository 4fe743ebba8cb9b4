"""A model of the server's, called by threads.

iris = client.model("iris")
y = iris(x)                                    # one input, one output
out = tokens(ids=ids, mask=mask)               # several: by name, and a dict of outputs
Y = iris(X)                                    # (n, *shape): n calls, in n slots
with iris.reserve() as call:                   # no copy
    call["x"][:] = x
    call.run()
    print(call["y"])                           # valid until the next run, or the end of the block
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from shm_server.client import arguments
from shm_server.client.arguments import Rows
from shm_server.client.deadlines import deadline_ns, seconds
from shm_server.client.errors import WrongShape, WrongSignature
from shm_server.client.lease import Call
from shm_server.client.link import MOST_MOVES, Link, sent_on
from shm_server.client.session import LOST, LOST_LATE, Session, span
from shm_server.client.signature import Signature, Tensor
from shm_server.layout import Op

ECHO, RUN = int(Op.ECHO), int(Op.RUN)


class Interface:
    """What a model takes and gives, as it was when it was asked for."""

    def __init__(self, signature: Signature, bound: int) -> None:
        self.signature, self.bound = signature, bound

    @property
    def name(self) -> str:
        return self.signature.name

    @property
    def version(self) -> str:
        return self.signature.version

    @property
    def platform(self) -> str:
        return self.signature.platform

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return self.signature.inputs

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return self.signature.outputs

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.signature}>"

    def same(self, session: Session) -> None:
        """WrongSignature unless the session's model takes and gives the same."""
        now = session.signature
        if (now.inputs, now.outputs) != (self.inputs, self.outputs) or session.bound < self.bound:
            bounds = f" with a bound of {self.bound}", f" with a bound of {session.bound}"
            said = bounds if self.bound else ("", "")
            raise WrongSignature(f"expected {self.signature}{said[0]}, the server has {now}{said[1]} now")

    def empty(self, rows: Rows) -> list[np.ndarray]:
        """Room for the outputs of a batch."""
        shapes = [arguments.row_shape(tensor, rows.extent) for tensor in self.outputs]
        return [np.empty((rows.count, *shape), each.dtype) for each, shape in zip(self.outputs, shapes, strict=True)]

    def given(self, outputs: list[np.ndarray]) -> Any:
        """The one output, or all of them by name."""
        if len(outputs) == 1:
            return outputs[0]
        return {tensor.name: output for tensor, output in zip(self.outputs, outputs, strict=True)}


class Model(Interface):
    """One of the server's models, in a session of its own that is made again when it has ended. Any thread may call it,
    and the calls of all of them form batches. It ends with its client.
    """

    def __init__(self, link: Link, session: Session) -> None:
        super().__init__(session.signature, session.bound)
        self._link = link
        self._known = session  # the last one, whose tensors are the same
        first = self.inputs[0]
        self._shape = first.shape if len(self.inputs) == 1 and not first.symbolic else None
        self._dtype = first.dtype

    def __call__(self, *args: Any, timeout: float | None = None, **inputs: Any) -> Any:
        """Run the model on copies of the inputs: one of them, or each by its name. The outputs, copies too: the array
        of the one that there is, or a dict of arrays by name.

        An input is an array of the input's dtype, (*shape), or a batch of rows, (n, *shape), and the outputs are like
        it. The symbolic dimension, where there is one, is as large as the inputs make it. `timeout` is in seconds.

        Raises TensorError before anything is sent, DeadlineExceeded, ModelError, ServerGone, or another ClientError.
        """
        return self.given(self._run(self._take(args, inputs), timeout))

    def run(self, inputs: Mapping[str, Any], *, timeout: float | None = None) -> dict[str, np.ndarray]:
        """Like a call, by names whatever they are, and with a dict of outputs however many there are."""
        outputs = self._run(arguments.take(self.inputs, self.bound, (), inputs), timeout)
        return {tensor.name: output for tensor, output in zip(self.outputs, outputs, strict=True)}

    def echo(self, *args: Any, timeout: float | None = None, **inputs: Any) -> int:
        """Send one call's inputs all the way but the model: the checksum of their bytes, as the server read them."""
        arrays, count, extent = self._take(args, inputs)
        if count is not None:
            raise WrongShape("an echo takes one row, got a batch")
        return self._call(ECHO, arrays, extent, 0 if timeout is None else deadline_ns(timeout))[1]

    def reserve(self, *, timeout: float | None = None) -> Call:
        """Lease a slot: memory in the segment for one call's tensors. Waits for a free one up to `timeout` seconds."""
        return self.lease(deadline_ns(timeout))

    def lease(self, deadline: int) -> Call:
        """`reserve`, with a deadline in ns."""
        for _ in range(MOST_MOVES):
            session = self.session(deadline)
            slots = session.lane.claim(1, deadline)
            if type(slots) is list:
                return Call(self, session, slots[0])
            if error := session.not_sent(slots):
                raise error
        raise sent_on(session)

    @property
    def dials(self) -> int:
        """Sessions that there have been: one more than it came back."""
        return self._link.dials

    def session(self, deadline: int = 0) -> Session:
        """The one for a new call; `deadline` in ns, 0 for none."""
        session = self._link.session(seconds(deadline))
        if session is not self._known:
            self.same(session)
            self._known = session
        return session

    def _take(self, args: tuple[Any, ...], inputs: dict[str, Any]) -> tuple[tuple[np.ndarray, ...], int | None, int]:
        """As `arguments.take`, which costs a microsecond; most calls are an array of the right kind and need less."""
        if len(args) == 1 and not inputs:
            x = args[0]
            if type(x) is np.ndarray and x.shape == self._shape and x.dtype == self._dtype:
                return args, None, 0
        return arguments.take(self.inputs, self.bound, args, inputs)

    def _run(self, rows: tuple[tuple[np.ndarray, ...], int | None, int], timeout: float | None) -> list[np.ndarray]:
        arrays, count, extent = rows
        deadline = deadline_ns(timeout)
        if count is not None:
            return self._batch(Rows(*rows), deadline)
        session, slot = self._call(RUN, arrays, extent, deadline)
        try:
            outputs = [session.output(i, slot, extent) for i in range(len(self.outputs))]
            session.intact()
        finally:
            session.lane.release(slot)
        return outputs

    def _call(self, op: int, arrays: tuple[np.ndarray, ...], extent: int, deadline: int) -> tuple[Session, int]:
        """The slot of a call that is done well, which the caller releases; or an echo's checksum."""
        session, moves = self._known, 0
        while True:
            try:
                answer = session.lane.call(op, arrays, extent, deadline)
            except ValueError:  # an array with gaps: nothing was sent
                arrays = tuple(map(np.ascontiguousarray, arrays))
                answer = session.lane.call(op, arrays, extent, deadline)
            if type(answer) is int and answer >= 0:
                return session, answer
            if type(answer) is not int:
                slot = answer[0]
                error = session.failed(slot)
                session.lane.release(slot)
            else:
                error = session.lost(answer) if answer in (LOST, LOST_LATE) else session.not_sent(answer)
            if error:
                raise error
            if (moves := moves + 1) == MOST_MOVES:
                raise sent_on(session)
            session = self.session(deadline)

    def _batch(self, rows: Rows, deadline: int) -> list[np.ndarray]:
        """As many rows at a time as slots are free, each time with one wait."""
        outputs = self.empty(rows)
        todo, moves = list(range(rows.count)), 0
        while todo:
            session = self.session(deadline)
            # Only the first slot is waited for: nobody holds slots while he waits for more of them.
            slots = session.lane.claim(len(todo), deadline)
            if type(slots) is list:
                chunk, todo = todo[: len(slots)], todo[len(slots) :]
                again = self._chunk(session, slots, rows, chunk, outputs, deadline)
            elif error := session.not_sent(slots):
                raise error
            else:
                again, todo = todo, []
            moves += bool(again)
            todo = again + todo
            if moves == MOST_MOVES:
                raise sent_on(session)
        return outputs

    def _chunk(
        self, session: Session, slots: list[int], rows: Rows, chunk: list[int], outputs: list[np.ndarray], deadline: int
    ) -> list[int]:
        """Run the rows of `chunk` in these slots, which are given back. Those that are to be run in the next
        session.
        """
        lane = session.lane
        try:
            write(session, slots, rows, chunk)
            if not lane.submit(slots, RUN, rows.extent, deadline):
                return chunk
            answer = lane.wait(slots, deadline)
            if answer and (error := session.lost(answer)):
                raise error
            return collect(session, list(zip(slots, chunk, strict=True)), rows, outputs)
        finally:
            for slot in slots:
                lane.abandon(slot)


def write(session: Session, slots: list[int], rows: Rows, chunk: list[int]) -> None:
    """Copy the inputs of a chunk's rows to slots."""
    to, of = span(slots), span(chunk)
    for into, tensor, array in zip(session.inputs, session.signature.inputs, rows.arrays, strict=True):
        if tensor.symbolic:
            into[to, : rows.extent] = array[of]
        else:
            into[to] = array[of]


def collect(session: Session, ran: list[tuple[int, int]], rows: Rows, outputs: list[np.ndarray]) -> list[int]:
    """Copy what the slots' calls gave to the rows, of (slot, row) each. The rows that are to be run in the next
    session; raises the ClientError of the first call that failed.
    """
    done, again = [], []
    for slot, row in ran:
        result = session.lane.result(slot)
        if result is None:  # the session ended, and has moved
            again.append(row)
        elif result[0]:
            error = session.failed(slot)
            if rows.count != 1:
                error.args = (f"row {row} of {rows.count}: {error}",)
            raise error
        else:
            done.append((slot, row))
    if done and outputs:
        of, to = (span(numbers) for numbers in zip(*done, strict=True))
        for i, (tensor, output) in enumerate(zip(session.signature.outputs, outputs, strict=True)):
            there = session.outputs[i].view(np.uint8) if i in session.flags else session.outputs[i]
            there = there[of, : rows.extent] if tensor.symbolic else there[of]
            output[to] = there != 0 if i in session.flags else there
        session.intact()
    return again
