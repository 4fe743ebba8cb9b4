"""The data thread: takes batches from every session in turn, has them run, publishes the results.

It alone touches the rings. The control thread hands it sessions to serve and to drop (`add`, `remove`), and gets each
session back (`on_released`) once its rings are no longer looked at. What a batch means is a subclass's business.
"""

import collections
import os
import threading
import time
from collections.abc import Callable

from . import _core
from .doorbell import LaneRequest
from .layout import LaneKind, Op
from .segment import LaneSpec
from .session import Session

# Looking a member up in its enum takes 90 ns, a fifteenth of an echo's time; this takes 15.
ECHO = int(Op.ECHO)
# How long a stopping server goes on with what clients still submit before it refuses the rest.
DRAIN_SECONDS = 5.0


class Dispatcher:
    """One kind of lane of many sessions, served by the thread that calls `run`.

    `limit` is how many requests are taken from a session at a time. `on_released(session, fault)` is called in the data
    thread when a session is no longer served: fault is how its client broke the protocol, or "".
    """

    kind: LaneKind
    name: str  # of the model
    classes: tuple[str, ...] = ()

    def __init__(self, *, spin_us: float, limit: int) -> None:
        self.poller = _core.Poller(spin_budget(spin_us))
        self.limit = limit
        self.sessions: dict[_core.Lane, Session] = {}
        self.on_released: Callable[[Session, str], None] = lambda session, fault: None
        self._orders: collections.deque[Callable[[], None]] = collections.deque()
        self._stopping = False

    # -- what a kind of lane is

    def spec(self, request: LaneRequest) -> LaneSpec:
        """The lane that a client gets. `doorbell.Refused` when it cannot have it."""
        raise NotImplementedError

    def serve(self, lane: _core.Lane) -> None:
        """Run a drained batch. Called in the data thread; `lane.op` is one that the lane's kind has, and no echo."""
        raise NotImplementedError

    def counters(self) -> dict[str, int]:
        """Totals since the start. Any thread."""
        return self.poller.counters()

    # -- any thread

    def post(self, order: Callable[[], None]) -> None:
        """Have the data thread call `order` between two batches."""
        self._orders.append(order)
        self.poller.wake()

    def add(self, session: Session) -> None:
        self.post(lambda: self._add(session))

    def remove(self, session: Session) -> None:
        self.post(lambda: self.release(session, ""))

    def stop(self) -> None:
        """Have `run` answer what is in flight, refuse what comes after, release every session and return."""
        self.post(self._stop)

    # -- the data thread

    def run(self, cpu: int | None = None) -> None:
        """Serve until `stop`. With `cpu` the calling thread is pinned to that core."""
        if cpu is not None:
            os.sched_setaffinity(threading.get_native_id(), {cpu})
        wait, dispatch, limit = self.wait, self.dispatch, self.limit
        while not self._stopping:
            lane = wait(limit)
            if lane is not None:
                dispatch(lane)
                continue
            while self._orders:
                self._orders.popleft()()

    @property
    def wait(self) -> Callable[[int], _core.Lane | None]:
        """wait(limit) is the next lane with a batch, or None when there are orders to look at."""
        return self.poller.next

    def dispatch(self, lane: _core.Lane) -> None:
        """Run a lane's batch, or end its session when its client broke the protocol."""
        op = lane.op
        if op == ECHO:
            lane.complete_echo()
        elif op:
            self.serve(lane)
        else:
            self.release(self.sessions[lane], lane.fault)

    def release(self, session: Session, fault: str) -> None:
        """Stop serving a session; nothing when that has happened before: who breaks the protocol also hangs up."""
        if self.sessions.pop(session.lane, None) is not None:
            self.poller.remove(session.lane)
            self.on_released(session, fault)

    def _add(self, session: Session) -> None:
        self.sessions[session.lane] = session
        self.poller.add(session.lane)

    def finish(self, end: float) -> None:
        """Go on with what is in flight until it is done or time.monotonic() reaches `end`."""
        while time.monotonic() < end and (lane := self.poller.take(self.limit)) is not None:
            self.dispatch(lane)

    def _stop(self) -> None:
        for lane in self.sessions:
            lane.announce_draining()
        self.finish(time.monotonic() + DRAIN_SECONDS)
        for lane in self.sessions:
            lane.draining = True
        while (lane := self.poller.take(self.limit)) is not None:
            self.dispatch(lane)
        for session in list(self.sessions.values()):
            self.release(session, "")
        self._stopping = True


def spin_budget(spin_us: float) -> int:
    """Nanoseconds that the poller may spin: negative without end; 0 on a single core, where spinning only
    keeps the other side from running."""
    if len(os.sched_getaffinity(0)) == 1:
        return 0
    return -1 if spin_us == float("inf") else int(spin_us * 1000)


def cut(text: str, room: int) -> bytes:
    """As much of `text` as fits into `room` bytes of UTF-8 without cutting a character."""
    return text.encode()[:room].decode(errors="ignore").encode()
