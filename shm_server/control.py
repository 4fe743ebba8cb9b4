"""The control thread: accepts clients, shakes hands, watches for those that go, and stops in good order.

It sleeps in epoll and is not on the way of any request. The data thread is `Dispatcher.run`.
"""

import collections
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Mapping
from importlib.metadata import version
from typing import Protocol

from . import doorbell
from .dispatch import Dispatcher
from .doorbell import Refused
from .layout import FrameKind, LaneKind, Reason
from .session import Session

log = logging.getLogger(__name__)

HELLO_SECONDS = 5.0


class Source(Protocol):
    """Where clients come from: a `listener.Listener`, or a `handoff.Inbox` that another process fills."""

    socket: socket.socket
    """Readable when `accept` has something."""

    def listen(self) -> None: ...

    def accept(self) -> tuple[socket.socket, bytes]:
        """The next client and what it has said so far. BlockingIOError: none; EOFError: there will be none."""
        ...

    def close(self) -> None: ...


class Forward(Protocol):
    """Where clients of a kind of lane that another process serves go."""

    def send(self, client: socket.socket, hello: bytes) -> None:
        """Pass a client on with its hello. Refused when that process is gone."""
        ...


class Control:
    """Serves the clients of `source` with `dispatcher`; `forwards` says who serves other kinds of lanes.

    `run` serves in the calling thread until `stop` is called from a signal handler or another thread.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        source: Source,
        *,
        max_sessions: int,
        allow_other_users: bool = False,
        cpu: int | None = None,
        forwards: Mapping[LaneKind, Forward] | None = None,
    ) -> None:
        self.dispatcher, self.max_sessions, self.cpu = dispatcher, max_sessions, cpu
        self.allow_other_users, self.forwards = allow_other_users, dict(forwards or {})
        dispatcher.on_released = self._released
        self.totals: collections.Counter[str] = collections.Counter()  # counters of sessions that are over
        self.faults = 0
        self._sessions: dict[int, Session] = {}  # by descriptor of the socket
        self._greeting: dict[int, tuple[socket.socket, bytearray, float]] = {}  # said no complete hello yet
        self._done: collections.deque[tuple[Session, str]] = collections.deque()
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._stop_asked = False
        self._failure: BaseException | None = None
        self._source = source

    # -- life

    def run(self) -> None:
        """Serve until `stop`; then drain, say goodbye to every client and remove the socket file."""
        data = threading.Thread(target=self._run_data, name="shm-data", daemon=True)
        data.start()
        self._source.listen()
        self._epoll.register(self._source.socket, select.EPOLLIN)
        try:
            while not self._stop_asked:
                self._turn(timeout=1.0 if self._greeting else -1)
        finally:
            self._epoll.unregister(self._source.socket)
            self._source.close()
            self.dispatcher.stop()
            data.join()
            self._reap(Reason.DRAINING, "the server is stopping")
            for sock, _, _ in self._greeting.values():
                doorbell.send_reason(sock, FrameKind.REFUSAL, Reason.DRAINING, "the server is stopping")
                sock.close()
            self._epoll.close()
            os.close(self._wake)
        if self._failure:
            raise self._failure

    def stop(self) -> None:
        """Make `run` return after draining. Safe in a signal handler and from any thread, also after `run` returned."""
        if not self._stop_asked:
            self._stop_asked = True
            self._poke()

    def counters(self) -> dict[str, int]:
        """Totals since the start, of this and past sessions, by name (see README, "Counters")."""
        totals = collections.Counter(self.totals)
        for session in list(self._sessions.values()):
            totals.update(session.lane.counters())
        totals.update(self.dispatcher.counters())
        totals.update(protocol_faults=self.faults, sessions=len(self._sessions))
        return dict(totals)

    def _run_data(self) -> None:
        try:
            self.dispatcher.run(self.cpu)
        except BaseException as error:  # handed to the control thread, which raises it
            self._failure = error
            self.stop()

    def _poke(self) -> None:
        os.eventfd_write(self._wake, 1)

    # -- the control thread

    def _turn(self, timeout: float) -> None:
        for fd, event in self._epoll.poll(timeout):
            if fd == self._wake:
                os.eventfd_read(self._wake)
                self._reap()
            elif fd == self._source.socket.fileno():
                self._accept()
            elif fd in self._greeting:
                self._greet(fd)
            elif fd in self._sessions and event & (select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR):
                self._epoll.unregister(fd)
                self.dispatcher.remove(self._sessions[fd])
        now = time.monotonic()
        for fd, (sock, _, since) in list(self._greeting.items()):
            if now - since > HELLO_SECONDS:
                log.warning("a client (pid %d) said no hello within %g s", doorbell.Peer.of(sock).pid, HELLO_SECONDS)
                self._hang_up(fd)

    def _accept(self) -> None:
        try:
            sock, received = self._source.accept()
        except BlockingIOError:
            return
        except EOFError:
            self.stop()
            return
        except OSError as error:  # out of descriptors, or the client is gone again
            log.error("accept: %s", error)
            time.sleep(0.01)  # the source stays readable: do not burn a core until a descriptor is free
            return
        sock.setblocking(False)
        self._greeting[sock.fileno()] = (sock, bytearray(received), time.monotonic())
        self._epoll.register(sock, select.EPOLLIN | select.EPOLLRDHUP)
        if received:
            self._greet(sock.fileno())

    def _greet(self, fd: int) -> None:
        sock, received, _ = self._greeting[fd]
        try:
            peer = doorbell.Peer.of(sock)
            doorbell.allowed(peer, self.allow_other_users)
            if not doorbell.receive_hello(sock, received):
                return
            request = self._request(received)
            if request.kind != self.dispatcher.kind:
                self.forwards[request.kind].send(sock, bytes(received))
                self._hang_up(fd)  # the other process has a descriptor of its own
                return
            session = self._open(sock, peer, request)
        except Refused as refusal:
            log.warning("refused a client: %s", refusal)
            doorbell.send_reason(sock, FrameKind.REFUSAL, refusal.reason, str(refusal))
            self._hang_up(fd)
        except OSError as error:
            log.info("a client went away in the handshake: %s", error)
            self._hang_up(fd)
        else:
            del self._greeting[fd]
            self._sessions[fd] = session
            self._epoll.modify(fd, select.EPOLLRDHUP)  # bells are the data thread's; only the end is ours
            self.dispatcher.add(session)
            log.info("%s opened", session)

    def _hang_up(self, fd: int) -> None:
        self._epoll.unregister(fd)
        self._greeting.pop(fd)[0].close()

    def _request(self, hello: bytes) -> doorbell.LaneRequest:
        requests = doorbell.parse_hello(bytes(hello))
        if len(requests) > 1:
            raise Refused(Reason.LANE_UNAVAILABLE, "one lane a session: connect once for each kind")
        (request,) = requests
        if request.kind != self.dispatcher.kind and request.kind not in self.forwards:
            raise Refused(Reason.LANE_UNAVAILABLE, f"this server offers no {request.kind.name.lower()} lane")
        return request

    def _open(self, sock: socket.socket, peer: doorbell.Peer, request: doorbell.LaneRequest) -> Session:
        if len(self._sessions) >= self.max_sessions:
            raise Refused(Reason.TOO_MANY_SESSIONS, f"all {self.max_sessions} sessions are taken")
        spec = self.dispatcher.spec(request)
        try:
            session = Session(sock, peer, spec, sealed=self.allow_other_users)
        except (OSError, ValueError) as error:
            raise Refused(Reason.NO_MEMORY, f"no segment: {error}") from error
        try:
            name = f"shm-server {version('shm-server')}"
            session.welcome(server=name, model=self.dispatcher.name, classes=self.dispatcher.classes)
        except BaseException:
            session.unmap()
            raise
        return session

    def _released(self, session: Session, fault: str) -> None:
        """The data thread is through with the session."""
        self._done.append((session, fault))
        self._poke()

    def _reap(self, reason: Reason | None = None, message: str = "") -> None:
        while self._done:
            session, fault = self._done.popleft()
            fd = session.socket.fileno()
            self.totals.update(session.lane.counters())
            if fault:
                self.faults += 1
                log.warning("%s closed: %s", session, fault)
                session.close(Reason.PROTOCOL, fault)
            else:
                log.info("%s closed", session)
                session.close(reason, message)
            del self._sessions[fd]
