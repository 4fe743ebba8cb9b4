"""The call lane of a model that computes on a device: the next batch is begun while one is computed.

What is begun is put aside in its lanes, whose hands are free to take the next. It is finished when the next is begun,
or as soon as a pass over the sessions finds nothing to begin: so two are begun at most.
"""

from collections.abc import Callable
from typing import Any

from shm_server import _core
from shm_server.layout import Reason
from shm_server.session.session import Session
from shm_server.worker.call_lane import Batch, CallDispatcher, Rows


class DeviceDispatcher(CallDispatcher):
    """A CallDispatcher for a model that has `begin` and `finish`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        signature, rows = self.signature, self.limit
        # A batch that is begun keeps its rows until it is finished: the next has others.
        self._other = (
            [Rows(signature, tensor, rows) for tensor in signature.inputs],
            [Rows(signature, tensor, rows) for tensor in signature.outputs],
        )
        self._begun: tuple[Batch, object] | None = None
        self._nothing = False  # was there in the last pass

    @property
    def wait(self) -> Callable[[int], _core.Lane | None]:
        return self._wait

    def _wait(self, limit: int) -> _core.Lane | None:
        if not self._begun:
            self._nothing = False
            return self.poller.next(limit)
        lane = self.poller.sweep(limit)  # None at the end of a pass, when orders are due
        if lane is None and self._nothing:
            self._finish_last()
        self._nothing = lane is None
        return lane

    def _compute(self, batch: Batch) -> None:
        """Begin it, then finish the one before."""
        ticket = self.model.begin(batch.inputs)
        for lane in batch.lanes:
            lane.swap()
        (self._inputs, self._outputs), self._other = self._other, (self._inputs, self._outputs)
        before, self._begun = self._begun, (batch, ticket)
        if before:
            self._finish(before)

    def _finish(self, begun: tuple[Batch, object]) -> None:
        """Answer what was begun. What the model raises is the answer to those requests, and to no others."""
        batch, ticket = begun
        exchanged = self._begun[0].lanes if self._begun else ()  # they have it in hand: the next is put aside
        lanes = [lane for lane in batch.lanes if lane not in exchanged]
        for lane in lanes:
            lane.swap()
        try:
            self.model.finish(ticket, batch.outputs)
            self._answer(batch)
        except BaseException as error:
            self._failed(error, batch.lanes)
        for lane in lanes:  # whatever was taken meanwhile is in hand again
            lane.swap()

    def _finish_last(self) -> None:
        last, self._begun = self._begun, None
        if last:
            self._finish(last)

    def between(self) -> None:
        super().between()
        if self._stopping:
            self._finish_last()

    def unfinished(self) -> bool:
        return self._begun is not None

    def release(self, session: Session, reason: Reason | None = None, message: str = "") -> None:
        if self._begun and session.lane in self._begun[0].lanes:
            self._finish_last()  # the device reads the session's memory
        super().release(session, reason, message)

    def abandon(self) -> None:
        self._begun = None
        super().abandon()

    def close(self) -> None:
        self._finish_last()
        super().close()


def dispatcher_of(model: Any, **kwargs: Any) -> CallDispatcher:
    """The dispatcher that fits the model; `kwargs` are CallDispatcher's."""
    return (DeviceDispatcher if hasattr(model, "begin") else CallDispatcher)(model, **kwargs)
