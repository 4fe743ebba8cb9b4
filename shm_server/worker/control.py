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
from collections.abc import Callable, Sequence
from typing import Protocol

from shm_server import layout
from shm_server.layout import FrameKind, Reason
from shm_server.runtime import forked
from shm_server.runtime.describe import describe, where
from shm_server.session import doorbell
from shm_server.session.doorbell import LaneRequest, Refused
from shm_server.session.session import Session
from shm_server.worker.dispatch import DRAIN_SECONDS, SERVER_NAME, Dispatcher

log = logging.getLogger(__name__)

HELLO_SECONDS = 5.0
# Clients that have said no complete hello yet. Beyond, the oldest makes room: whoever connects and says nothing keeps
# neither descriptors nor room from those who do.
MAX_GREETING = 128


# Clients whose questions take long, at a time.
MAX_TASKS = 8

Task = Callable[[socket.socket, str], None]
"""What answers a question that takes long, in a thread of its own: it gets the client's socket, which is closed
afterwards, and what stands behind the question's first word. Only our own user's clients and root's have it called."""


class Source(Protocol):
    """Where clients come from: a `listener.Listener`, or a `worker.Inbox` that another process fills."""

    socket: socket.socket
    """Readable when `accept` has something."""

    def listen(self) -> None: ...

    def accept(self) -> tuple[socket.socket, LaneRequest | None]:
        """The next client, and what it asks for if that was read. BlockingIOError: none; EOFError: there will be none.

        Another OSError: out of descriptors, or the client is gone again.
        """
        ...

    def close(self) -> None: ...


class Forward(Protocol):
    """Where clients of a model that another process serves go."""

    protocol: layout.Protocol
    name: str

    def send(self, client: socket.socket, request: LaneRequest) -> None:
        """Pass a client on, with what it asks for. Refused when that process takes none."""
        ...


class Control:
    """Serves the clients of `source` with `dispatcher`, or passes them on to one of `forwards`.

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
    ) -> None:
        self.dispatcher, self.max_sessions, self.cpu = dispatcher, max_sessions, cpu
        self.allow_other_users = allow_other_users
        dispatcher.on_released = self._released
        self.questions: dict[str, Callable[[], object]] = {}  # called in the control thread
        self.tasks: dict[str, Task] = {}
        self.when_listening: Callable[[], None] = lambda: None
        """Called in `run` once clients can come."""
        self._at_tasks: set[socket.socket] = set()
        self._orders: collections.deque[Callable[[], None]] = collections.deque()
        self.totals: collections.Counter[str] = collections.Counter()  # counters of sessions that are over
        self.faults = 0
        self._sessions: dict[int, Session] = {}  # by descriptor of the socket
        # Said no complete hello yet: socket, what it said, when it came; the oldest first.
        self._greeting: dict[int, tuple[socket.socket, bytearray, float]] = {}
        self._done: collections.deque[tuple[Session, Reason | None, str]] = collections.deque()
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._closing = threading.Lock()  # of the descriptors; never taken in a signal handler
        self._stop_asked = False
        self._failure: BaseException | None = None
        self._source = source
        self._counting = threading.Lock()  # a session's counters are in `totals` or its own, at any time in one
        forked.close_in_child(self._abandon)

    @property
    def forwards(self) -> Sequence[Forward]:
        """The models that others serve."""
        return ()

    # -- life

    def run(self) -> None:
        """Serve until `stop`; then drain, say goodbye to every client and remove the socket file."""
        data = threading.Thread(target=self._run_data, name="shm-data", daemon=True)
        try:
            data.start()
            if not self._stop_asked:
                self._source.listen()
            self._epoll.register(self._source.socket, select.EPOLLIN)
            self.when_listening()
            while not self._stop_asked:
                self._turn(timeout=1.0 if self._greeting else -1)
        finally:
            self._stop_asked = True
            self._source.close()
            if data.ident is not None:
                self._join(data)
            self._end()
        if self._failure:
            raise self._failure

    def _join(self, data: threading.Thread) -> None:
        self.dispatcher.stop()
        data.join(DRAIN_SECONDS + 1)
        if data.is_alive():
            log.warning("stopping: the model is still busy with its last batch, which cannot be interrupted")
            data.join()

    def _end(self) -> None:
        """Say goodbye to every client, and give everything back. There is no data thread any more."""
        self._reap()
        for session in list(self._sessions.values()):  # of a data thread that failed
            self._close(session, Reason.INTERNAL, "the server failed; its log says why")
        for fd in list(self._greeting):
            self._refuse(fd, Reason.DRAINING, "the server is stopping")
        with self._closing:
            self._epoll.close()
            os.close(self._wake)

    def stop(self) -> None:
        """Make `run` return after draining. Safe in a signal handler and from any thread, before `run` and after it."""
        if not self._stop_asked:
            self._stop_asked = True
            self._poke()

    def wake(self) -> None:
        """Have the thread that runs `run` look at what has come: a signal, say. Any other thread; harmless after it."""
        with self._closing:
            if not self._epoll.closed:
                self._poke()

    def post(self, order: Callable[[], None]) -> None:
        """Have the control thread call `order`. Safe from any thread, while `run` runs."""
        self._orders.append(order)
        self._poke()

    def counters(self) -> dict[str, int]:
        """Totals since the start, of this and past sessions, by name (see README, "Counters")."""
        with self._counting:
            totals = collections.Counter(self.totals)
            for session in list(self._sessions.values()):
                totals.update(session.lane.counters())
        totals.update(self.dispatcher.counters())
        totals.update(protocol_faults=self.faults, sessions=len(self._sessions))
        return dict(totals)

    def _abandon(self) -> None:
        """In a forked child: hold on to no client, and have the thread that forked answer nobody."""
        self._stop_asked = True
        self.dispatcher.abandon()
        for session in self._sessions.values():
            session.socket.close()
        for sock in (*(sock for sock, _, _ in self._greeting.values()), *self._at_tasks):
            sock.close()
        if not self._epoll.closed:  # `run` has not returned
            self._epoll.close()
            os.close(self._wake)

    def _run_data(self) -> None:
        try:
            self.dispatcher.run(self.cpu)
        except BaseException as error:  # handed to the control thread, which raises it
            self._failure = error
        self.stop()  # it may have moved, or failed

    def _poke(self) -> None:
        os.eventfd_write(self._wake, 1)

    # -- the control thread

    def _turn(self, timeout: float) -> None:
        for fd, event in self._epoll.poll(timeout):
            if self._stop_asked:
                return  # within one event, however many there are
            self._handle(fd, event)
        while self._greeting and (fd := self._late()) is not None:
            log.warning("a client said no hello within %g s", HELLO_SECONDS)
            self._hang_up(fd)

    def _handle(self, fd: int, event: int, request: LaneRequest | None = None) -> None:
        """One event of one client. Whatever it raises is that client's answer: only signals end the loop."""
        try:
            if fd == self._wake:
                os.eventfd_read(self._wake)
                self._reap()
                for _ in range(len(self._orders)):
                    self._orders.popleft()()
            elif fd == self._source.socket.fileno():
                self._accept()
            elif fd in self._greeting:
                self._greet(fd, request)
            elif fd in self._sessions and event & (select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR):
                self._epoll.unregister(fd)
                self.dispatcher.remove(self._sessions[fd])
        except Refused as refusal:
            log.warning("refused a client: %s", refusal)
            self._refuse(fd, refusal.reason, str(refusal))
        except Exception as error:
            if isinstance(error, OSError) and fd in self._greeting:
                log.info("a client went away in the handshake: %s", describe(error))
            else:
                log.error("a client was not served: %s. %s", describe(error), where(error))
            if fd in self._greeting:
                self._refuse(fd, Reason.INTERNAL, "the server failed; its log says why")
            elif fd == self._wake:
                self._poke()  # for the rest of what is done

    def _accept(self) -> None:
        try:
            sock, request = self._source.accept()
        except BlockingIOError:
            return
        except EOFError:
            self.stop()
            return
        except OSError as error:
            log.error("accept: %s", describe(error))
            time.sleep(0.01)  # the source may stay readable: do not burn a core until a descriptor is free
            return
        sock.setblocking(False)
        fd = sock.fileno()
        self._epoll.register(fd, select.EPOLLIN | select.EPOLLRDHUP)
        self._greeting[fd] = (sock, bytearray(), time.monotonic())
        if len(self._greeting) > MAX_GREETING:
            log.warning("a client that had said no hello made room: %d others have not either", MAX_GREETING)
            self._hang_up(next(iter(self._greeting)))
        self._handle(fd, select.EPOLLIN, request)  # most have said it by now

    def _greet(self, fd: int, request: LaneRequest | None) -> None:
        sock, received, _ = self._greeting[fd]
        peer = doorbell.Peer.of(sock)
        doorbell.allowed(peer, self.allow_other_users)
        if request is None:
            if not doorbell.receive_first(sock, received):
                return
            if question := doorbell.asked(received):
                self._ask(fd, peer, question)
                return
            request = doorbell.parse_hello(bytes(received))
        if forward := self._route(request):
            forward.send(sock, request)
            self._hang_up(fd)  # the other process has a descriptor of its own
            return
        session = self._open(sock, peer, request)
        self._epoll.modify(fd, select.EPOLLRDHUP)  # bells are the data thread's; only the end is ours
        del self._greeting[fd]
        self._sessions[fd] = session
        self.dispatcher.add(session)
        log.info("%s opened", session)

    def _ask(self, fd: int, peer: doorbell.Peer, question: str) -> None:
        word, _, rest = question.partition(" ")
        if word in self.tasks:
            self._begin(self.tasks[word], fd, peer, rest)
            return
        doorbell.send_answer(self._greeting[fd][0], self._answer(question))
        self._hang_up(fd)

    def _late(self) -> int | None:
        """The oldest client, if it has had its time to say hello."""
        fd, (_, _, since) = next(iter(self._greeting.items()))
        return fd if time.monotonic() - since > HELLO_SECONDS else None

    def _refuse(self, fd: int, reason: Reason, message: str) -> None:
        doorbell.send_reason(self._greeting[fd][0], FrameKind.REFUSAL, reason, message)
        self._hang_up(fd)

    def _hang_up(self, fd: int) -> None:
        self._epoll.unregister(fd)
        self._greeting.pop(fd)[0].close()

    def _answer(self, question: str) -> object:
        """See layout.md, "Question and answer"."""
        if question not in self.questions:
            raise Refused(Reason.MALFORMED, f"unknown question {question!a:.100}")
        return self.questions[question]()

    def _begin(self, task: Task, fd: int, peer: doorbell.Peer, rest: str) -> None:
        if peer.uid not in (os.geteuid(), 0):
            raise Refused(Reason.FORBIDDEN, f"user {peer.uid} may not ask this")
        if len(self._at_tasks) >= MAX_TASKS:
            raise Refused(Reason.TOO_MANY_SESSIONS, f"{MAX_TASKS} others who ask this are not answered yet")
        self._epoll.unregister(fd)
        sock, _, _ = self._greeting.pop(fd)
        self._at_tasks.add(sock)
        threading.Thread(target=self._do, args=(task, sock, rest), name="task", daemon=True).start()

    def _do(self, task: Task, sock: socket.socket, rest: str) -> None:
        """A task from its start to its end. Whatever it raises is its client's answer."""
        try:
            task(sock, rest)
        except Refused as refusal:
            log.warning("refused what was asked: %s", refusal)
            doorbell.send_reason(sock, FrameKind.REFUSAL, refusal.reason, str(refusal))
        except Exception as error:
            if self._stop_asked:  # what the task works with is being closed
                log.info("a question is not answered, the server is stopping: %s", describe(error))
                doorbell.send_reason(sock, FrameKind.REFUSAL, Reason.DRAINING, "the server is stopping")
                return
            log.error("a question was not answered: %s. %s", describe(error), where(error))
            doorbell.send_reason(sock, FrameKind.REFUSAL, Reason.INTERNAL, "the server failed; its log says why")
        finally:
            self._at_tasks.discard(sock)
            sock.close()

    def _route(self, request: LaneRequest) -> Forward | None:
        """Who serves the model that is asked for, or the protocol's default, which is the first; None: we do."""
        served: list[tuple[str, Forward | None]]
        served = [(each.name, each) for each in self.forwards if each.protocol == request.protocol]
        if request.protocol == self.dispatcher.protocol and not (served and self.dispatcher.echo_only):
            served.insert(0, (self.dispatcher.name, None))
        protocol = request.protocol.name.lower()
        if not served:
            raise Refused(Reason.NO_SUCH_MODEL, f"this server has no {protocol} model")
        wanted = request.model or served[0][0]
        for name, forward in served:
            if name == wanted:
                return forward
        names = ", ".join(f"{name!a:.100}" for name, _ in served)
        raise Refused(
            Reason.NO_SUCH_MODEL,
            f"there is no {protocol} model {wanted!a:.100}: there {'is' if len(served) == 1 else 'are'} {names}",
        )

    def _open(self, sock: socket.socket, peer: doorbell.Peer, request: LaneRequest) -> Session:
        if len(self._sessions) >= self.max_sessions:
            raise Refused(Reason.TOO_MANY_SESSIONS, f"all {self.max_sessions} sessions are taken")
        spec = self.dispatcher.spec(request)
        try:
            session = Session(sock, peer, spec, sealed=self.allow_other_users, finite=self.dispatcher.finite)
        except Exception as error:  # of the kernel, of a limit, or of posix_ipc, which has exceptions of its own
            raise Refused(Reason.NO_MEMORY, f"no segment: {describe(error)}") from error
        try:
            session.welcome(server=SERVER_NAME, model=self.dispatcher.metadata())
        except BaseException:
            session.unmap()
            raise
        return session

    def _released(self, session: Session, reason: Reason | None, message: str) -> None:
        """The data thread is through with the session."""
        self._done.append((session, reason, message))
        self._poke()

    def _reap(self) -> None:
        while self._done:
            self._close(*self._done.popleft())

    def _close(self, session: Session, reason: Reason | None, message: str) -> None:
        with self._counting:
            del self._sessions[session.socket.fileno()]
            self.totals.update(session.lane.counters())
        if reason is None:
            log.info("%s closed", session)
            if self._stop_asked:
                reason, message = Reason.DRAINING, "the server is stopping"
        elif reason == Reason.MOVED:
            log.info("%s closed: %s", session, message)
        else:
            self.faults += reason == Reason.PROTOCOL
            log.warning("%s closed: %s", session, message)
        session.close(reason, message)
