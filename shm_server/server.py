"""The server: accepts clients, shakes hands, watches for those that go, and stops in good order.

The calling thread is the control thread; it sleeps in epoll and is not on the way of any request. The data thread is
`Dispatcher.run`.
"""

import collections
import logging
import os
import select
import socket
import threading
import time
from importlib.metadata import version

from . import doorbell, layout
from .dispatch import Dispatcher, reply_bytes, spin_budget
from .doorbell import Refused
from .layout import FrameKind, Reason
from .listener import DEFAULT_SOCKET, Listener
from .models import Classifier
from .session import Session, lanes_for

log = logging.getLogger(__name__)

# A sleeping core of a virtual machine takes 30 to 60 us to wake. A spin of about that long costs at most twice what
# the better of spinning and sleeping costs (Karlin et al., "Empirical Studies of Competitive Spinning", 1991).
DEFAULT_SPIN_US = 100.0
DEFAULT_MAX_BATCH = 32
# Two batches: one in the model, one being filled.
DEFAULT_SLOTS = 2 * DEFAULT_MAX_BATCH
DEFAULT_MAX_SESSIONS = 256
HELLO_SECONDS = 5.0


class Server:
    """Serves `classifier` to every client of the Unix socket at `path`, through shared memory.

    classifier    a `shm_server.models.Classifier`; None serves echo only
    path          of the Unix socket, or a Listener; a stale file is replaced, a live server's is not (SocketInUse)
    spin_us       microseconds to look for work before sleeping; 0 never spins, inf keeps a core for it
    max_batch     images run at once at most, a power of two
    slots         of a session whose client asks for no number
    max_sessions  clients at a time
    allow_other_users   let peers of other users in; their segments are sealed memfds
    cpu           pin the data thread to this core

    `run` serves in the calling thread until `stop` is called from a signal handler or another thread.
    """

    def __init__(
        self,
        classifier: Classifier | None,
        path: str | os.PathLike | Listener = DEFAULT_SOCKET,
        *,
        spin_us: float = DEFAULT_SPIN_US,
        max_batch: int = DEFAULT_MAX_BATCH,
        slots: int = DEFAULT_SLOTS,
        max_sessions: int = DEFAULT_MAX_SESSIONS,
        allow_other_users: bool = False,
        cpu: int | None = None,
    ) -> None:
        if not 1 <= slots <= layout.MAX_SLOTS:
            raise ValueError(f"slots must be 1 to {layout.MAX_SLOTS}, not {slots}")
        self.classifier = classifier
        self.slots, self.max_sessions, self.allow_other_users, self.cpu = slots, max_sessions, allow_other_users, cpu
        self.classes = tuple(classifier.class_names) if classifier else ()
        self.dispatcher = Dispatcher(
            classifier, spin_ns=spin_budget(spin_us), max_batch=max_batch, on_released=self._released
        )
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
        self._listener = path if isinstance(path, Listener) else Listener(path, other_users=allow_other_users)

    # -- life

    def run(self) -> None:
        """Serve until `stop`; then drain, say goodbye to every client and remove the socket file."""
        data = threading.Thread(target=self._run_data, name="shm-data", daemon=True)
        data.start()
        self._listener.listen()
        self._epoll.register(self._listener.socket, select.EPOLLIN)
        log.info("listening on %s", self._listener.path)
        try:
            while not self._stop_asked:
                self._turn(timeout=1.0 if self._greeting else -1)
        finally:
            self._epoll.unregister(self._listener.socket)
            self._listener.close()
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
        """Make `run` return after draining. Safe in a signal handler and from any thread."""
        self._stop_asked = True
        self._poke()

    def counters(self) -> dict[str, int]:
        """Totals since the start, of this and past sessions, by name (see README, "Counters")."""
        totals = collections.Counter(self.totals)
        for session in list(self._sessions.values()):
            totals.update(session.lane.counters())
        dispatcher = self.dispatcher
        totals.update(dispatcher.poller.counters(), views=dispatcher.views, gathers=dispatcher.gathers)
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
            elif fd == self._listener.socket.fileno():
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
            sock, _ = self._listener.socket.accept()
        except BlockingIOError:
            return
        except OSError as error:  # out of descriptors, or the client is gone again
            log.error("accept: %s", error)
            time.sleep(0.01)  # the listener stays readable: do not burn a core until a descriptor is free
            return
        sock.setblocking(False)
        self._greeting[sock.fileno()] = (sock, bytearray(), time.monotonic())
        self._epoll.register(sock, select.EPOLLIN | select.EPOLLRDHUP)

    def _greet(self, fd: int) -> None:
        sock, received, _ = self._greeting[fd]
        try:
            peer = doorbell.Peer.of(sock)
            doorbell.allowed(peer, self.allow_other_users)
            if not doorbell.receive_hello(sock, received):
                return
            session = self._open(sock, peer, bytes(received))
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
            log.info("%s opened, %d slots", session, len(session.images))

    def _hang_up(self, fd: int) -> None:
        self._epoll.unregister(fd)
        self._greeting.pop(fd)[0].close()

    def _open(self, sock: socket.socket, peer: doorbell.Peer, hello: bytes) -> Session:
        if len(self._sessions) >= self.max_sessions:
            raise Refused(Reason.TOO_MANY_SESSIONS, f"all {self.max_sessions} sessions are taken")
        specs = lanes_for(doorbell.parse_hello(hello), slots=self.slots, reply_bytes=reply_bytes(len(self.classes)))
        try:
            session = Session(sock, peer, specs, sealed=self.allow_other_users)
        except (OSError, ValueError) as error:
            raise Refused(Reason.NO_MEMORY, f"no segment: {error}") from error
        try:
            name = self.classifier.name if self.classifier else "none"
            session.welcome(server=f"shm-server {version('shm-server')}", model=name, classes=self.classes)
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
