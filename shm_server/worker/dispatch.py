"""The data thread: takes batches from every session in turn, has them run, publishes the results.

It alone touches the rings. The control thread hands it sessions to serve and to drop (`add`, `remove`), and gets each
session back (`on_released`) once its rings are no longer looked at. What a batch means is a subclass's business.

Each turn is bounded: at most one batch of each session, then the orders of other threads, then whatever else a
protocol has to do. So a client that always has more waiting delays another by one batch, and a stop not at all.
"""

import collections
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version

from shm_server import _core, layout
from shm_server.layout import Op, Reason
from shm_server.runtime.describe import describe, where
from shm_server.session.doorbell import LaneRequest
from shm_server.session.segment import LaneSpec
from shm_server.session.session import Session

log = logging.getLogger(__name__)

# What welcomes say; read once: an upgrade replaces the files of a server that runs.
SERVER_NAME = f"shm-server {version('shm-server')}"
# Looking a member up in its enum takes 90 ns, a fifteenth of an echo's time; this takes 15.
ECHO = int(Op.ECHO)
# How long a stopping server goes on with what clients still submit before it refuses the rest. What a model has begun
# by then cannot be cut: the stop waits for it.
DRAIN_SECONDS = 5.0
MOVED = "another process serves the model from now on"


class Dispatcher:
    """The lanes of many sessions of one model, served by the thread that calls `run`.

    `limit` is how many requests are taken from a session at a time. `on_released(session, reason, message)` is called
    in the data thread when a session is no longer served: with PROTOCOL and how its client broke it, with another
    reason for what went wrong here, with None when its client or the server ends.
    """

    protocol: layout.Protocol
    name: str  # of the model
    called: str  # in the line that says what was counted
    finite = 0  # a mask of outputs, see `Session`
    echo_only = False  # there is no model behind it

    def __init__(self, *, spin_us: float, limit: int) -> None:
        self.poller = _core.Poller(spin_budget(spin_us))
        self.limit = limit
        self.sessions: dict[_core.Lane, Session] = {}
        self.on_released: Callable[[Session, Reason | None, str], None] = lambda session, reason, message: None
        self._orders: collections.deque[Callable[[], None]] = collections.deque()
        self._stopping = False

    # -- what a protocol is

    def metadata(self) -> Mapping[str, object]:
        """The model's signature, as the welcome has it (layout.md, "Welcome")."""
        raise NotImplementedError

    def spec(self, request: LaneRequest) -> LaneSpec:
        """The lane that a client gets. `doorbell.Refused` when it cannot have it."""
        raise NotImplementedError

    def serve(self, lane: _core.Lane) -> None:
        """Run a drained batch. Called in the data thread; `lane.op` is `run`.

        What it raises is the answer to every request of the batch that has none yet.
        """
        raise NotImplementedError

    def between(self) -> None:
        """What a turn has besides batches. Called in the data thread when `wait` answers None."""
        self._obey()

    def unfinished(self) -> bool:
        """Whether there is work in hand that no ring shows. Called in the data thread of a stopping server."""
        return False

    def close(self) -> None:
        """Let go of the model. Called in the data thread, last of all."""

    def counters(self) -> dict[str, int]:
        """Totals since the start. Any thread."""
        return self.poller.counters() | {"busy_ns": self.busy_ns}

    @property
    def busy_ns(self) -> int:
        """How long the data thread has had what is in hand, a batch or a round of tokens; 0 for nothing. Any thread."""
        return 0 if self._stopping else self.poller.busy_ns

    # -- any thread

    def post(self, order: Callable[[], None]) -> None:
        """Have the data thread call `order` between two batches."""
        self._orders.append(order)
        self.poller.wake()

    def add(self, session: Session) -> None:
        self.post(lambda: self._add(session))

    def remove(self, session: Session) -> None:
        self.post(lambda: self.release(session))

    def stop(self) -> None:
        """Have `run` answer what is in flight, refuse what comes after, release every session and return.

        At any time, also before `run`, and any number of times.
        """
        self.post(self._stop)

    def move(self) -> None:
        """Have `run` answer what has been taken from the rings, release every session with MOVED and return.

        Another worker has the model from now on, and gets what is not taken: the clients submit it there again. So
        nothing is refused, and `server_state` does not change.
        """
        self.post(self._move)

    def abandon(self) -> None:
        """In a forked child: have whoever returns from a model to `run` find nothing to answer, and return."""
        for lane in self.sessions:
            lane.close()
        self.sessions.clear()
        self._stopping = True

    # -- the data thread

    def run(self, cpu: int | None = None) -> None:
        """Serve until `stop`. With `cpu` the calling thread is pinned to that core."""
        if cpu is not None:
            os.sched_setaffinity(threading.get_native_id(), {cpu})
        wait, dispatch, limit = self.wait, self.dispatch, self.limit
        while not self._stopping:
            dispatch(wait(limit))
        self._drain()
        self.close()

    @property
    def wait(self) -> Callable[[int], _core.Lane | None]:
        """wait(limit) is the next lane with a batch, or None when `between` is due. What it raises ends `run`."""
        return self.poller.next

    def dispatch(self, lane: _core.Lane | None) -> None:
        """Run a lane's batch, or end its session when its client broke the protocol; None: do what is due in between.

        Whatever that raises ends here, SystemExit and KeyboardInterrupt too: signals reach the main thread only, so
        here they come from a model.
        """
        try:
            if lane is None:
                self.between()
            elif (op := lane.op) == ECHO:
                lane.complete_echo()
            elif op:
                self.serve(lane)
            else:
                self.release(self.sessions[lane], Reason.PROTOCOL, lane.fault)
        except BaseException as error:
            self._failed(error)

    def release(self, session: Session, reason: Reason | None = None, message: str = "") -> None:
        """Stop serving a session; nothing when that has happened before: who breaks the protocol also hangs up."""
        if self.sessions.pop(session.lane, None) is not None:
            self.poller.remove(session.lane)
            self.on_released(session, reason, message)

    def _failed(self, error: BaseException, lanes: Iterable[_core.Lane] | None = None) -> None:
        """Answer the requests in hand, of all lanes or some, with what was raised."""
        said = describe(error)
        log.error("a batch failed: %s. %s", said, where(error))
        for lane in self.sessions if lanes is None else lanes:
            if lane.count:
                lane.complete_error(cut(said, layout.MESSAGE_BYTES))
        self.poller.wake()  # for the orders behind the one that raised

    def _obey(self) -> None:
        for _ in range(len(self._orders)):  # those that come meanwhile have their turn
            self._orders.popleft()()

    def _add(self, session: Session) -> None:
        try:
            self.poller.add(session.lane)
        except Exception as error:  # the kernel watches no more sockets: that client's answer
            self.on_released(session, Reason.NO_MEMORY, f"its socket cannot be watched: {describe(error)}")
        else:
            self.sessions[session.lane] = session

    def _stop(self) -> None:
        self._stopping = True

    def _move(self) -> None:
        for session in tuple(self.sessions.values()):
            self.release(session, Reason.MOVED, MOVED)
        self._stopping = True

    # -- the end

    def _drain(self) -> None:
        """Go on for a while with what clients submit, refuse the rest at once, let go of every session."""
        for lane in self.sessions:
            lane.announce_draining()
        self.finish(time.monotonic() + DRAIN_SECONDS)
        for lane, session in list(self.sessions.items()):
            lane.draining = True
            lane.drain(layout.MAX_SLOTS)
            self.release(session, Reason.PROTOCOL if lane.fault else None, lane.fault)

    def finish(self, end: float) -> None:
        """Turns, until one finds nothing to do or time.monotonic() reaches `end`."""
        busy = True
        while busy and time.monotonic() < end:
            self.dispatch(None)
            busy = self.unfinished()
            while time.monotonic() < end and (lane := self.poller.sweep(self.limit)) is not None:
                busy = True
                self.dispatch(lane)


def spin_budget(spin_us: float) -> int:
    """Nanoseconds that the poller may spin: negative without end; 0 on a single core, where spinning only
    keeps the other side from running."""
    if len(os.sched_getaffinity(0)) == 1:
        return 0
    return -1 if spin_us == float("inf") else int(spin_us * 1000)


def cut(text: str, room: int) -> bytes:
    """As much of `text` as fits into `room` bytes of UTF-8 without cutting a character."""
    return text.encode()[:room].decode(errors="ignore").encode()
