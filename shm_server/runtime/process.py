"""What the outside says to this process: closed descriptors, signals, being process 1.

The command imports this before anything else, so it imports little itself.
"""

import contextlib
import os
import pwd
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

from shm_server.runtime.describe import message

STOPPING = (signal.SIGTERM, signal.SIGINT)
# All that are ours; SIGHUP has models loaded again, or is the end of a terminal.
SIGNALS = (*STOPPING, signal.SIGHUP)
# How long the main thread may be in C, where it handles no signal, before another thread obeys in its place.
PATIENCE_SECONDS = 3.0
# How long a stop may take as a whole. Each part has a limit of its own, but for a model that does not return.
STOP_SECONDS = 60.0

_replaced: dict[int, object] = {}  # the handlers that ours stand in for
_watched = False  # is there a thread that sees signals too


def open_standard_descriptors() -> None:
    """Open /dev/null where stdin, stdout or stderr is closed: a socket must not get its number, and log lines."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            os.set_inheritable(number, True)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (for the life of the process)


def name_a_home() -> None:
    """Where neither HOME nor the user database has a home, say so in a way that libraries understand.

    Some fail otherwise, others make a folder of the name ~ where we stand.
    """
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ.setdefault("HOME", "/nonexistent")
        os.environ.setdefault("LOGNAME", str(os.getuid()))


def serve_as_process_1() -> None:
    """As the first process of a container: go on in a child, and be what process 1 has to be for it.

    That is, pass signals on and collect every orphan that ends, without taking a model's children from its `waitpid`.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until both have their handlers
    child = os.fork()
    if not child:
        return

    def pass_on(number: int, _: object) -> None:
        with contextlib.suppress(ProcessLookupError):  # it ends by itself
            os.kill(child, number)

    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


class Stop:
    """SIGTERM and SIGINT, from `install` on: the first stops the process in good order, the others do nothing.

    Before `serving`, `clean_up` is called and the process ends at once, with code 0: it was asked to. From then on the
    callable that `serving` got does what is to be done.

    SIGHUP is one of them when the terminal that the process was started from is gone. Otherwise it asks for what
    `reloading` got, once there is that, in a thread of its own. It stays ignored where it was (nohup).
    """

    def __init__(self) -> None:
        self.asked = 0
        self._has_terminal = _has_terminal()
        self._hung_up = threading.Event()  # a SIGHUP was no end, and is not obeyed yet
        self.clean_up: Callable[[], None] = lambda: None
        self._serving: Callable[[], None] | None = None
        self._held = 0
        self._lock = threading.RLock()  # the main thread's, or of the thread that obeys in its place
        self._obeyed = threading.Event()

    def install(self) -> None:
        """Take the signals. Call it in the main thread."""
        read, _ = _noted_signals()
        _take({number: lambda number, _: self._obey(number) for number in SIGNALS})
        threading.Thread(target=self._watch, args=(read,), name="signals", daemon=True).start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def give_back(self) -> None:
        """For a command that is no server: signals do again what they did."""
        _forget()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Obey after this: what it makes can be cleaned up only as a whole."""
        with self._lock:
            self._held += 1
            try:
                yield
            finally:
                self._held -= 1
                if self.asked and not self._held and self._serving is None:
                    self._leave()

    def serving(self, stop: Callable[[], None]) -> None:
        """From now on a signal calls `stop`, in the main thread or another."""
        self._serving = stop

    def reloading(self, reload: Callable[[], None]) -> None:
        """From now on SIGHUP calls `reload`, once more for those that came meanwhile; one that came before counts."""

        def obey() -> None:
            while self._hung_up.wait():
                self._hung_up.clear()
                reload()

        threading.Thread(target=obey, name="reload", daemon=True).start()

    def leaving(self) -> None:
        """From now on a signal does nothing: the process is on its way out."""
        self._serving = lambda: None

    def left(self) -> None:
        """Python restores handlers at its end; those that are ignored stay so, and the exit code is ours."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _ends(self, number: int) -> bool:
        """Does this signal ask for the end?"""
        return number in STOPPING or (number == signal.SIGHUP and self._has_terminal and not _has_terminal())

    def _obey(self, number: int) -> None:
        if not self._ends(number):
            return  # the thread that watches has seen it, too
        with self._lock:
            if self.asked:
                return
            self.asked = number
            self._obeyed.set()
            if self._serving:
                self._serving()
            elif not self._held:
                self._leave()

    def _leave(self) -> None:
        try:
            self.clean_up()
            _log(f"{signal.Signals(self.asked).name} before the server was ready: ended")
        finally:
            os._exit(0)

    def _watch(self, read: int) -> None:
        """The thread that sees signals too (signal.set_wakeup_fd)."""
        while not self._ends(number := os.read(read, 1)[0]):
            if number == signal.SIGHUP:
                self._hung_up.set()
        if not self._obeyed.wait(PATIENCE_SECONDS):
            self._obey(number)
        time.sleep(STOP_SECONDS)
        with contextlib.suppress(Exception):
            self.clean_up()
        _log(f"the server did not stop within {STOP_SECONDS:g} s of {signal.Signals(number).name}: killed")
        os._exit(1)


@contextlib.contextmanager
def stopped_by_signals(stop: Callable[[], None], wake: Callable[[], None]) -> Iterator[None]:
    """Meanwhile a signal calls `stop`, any number of times and from any thread; for a server that a program runs in its
    main thread.

    A handler that the program has installed stays; `wake` has the main thread come to it.
    """
    ours: dict[int, Callable] = {}
    if is_main_thread():
        defaults = (signal.SIG_DFL, signal.default_int_handler)
        ours = {number: lambda *_: stop() for number in SIGNALS if signal.getsignal(number) in defaults}
    _take(ours)
    try:
        with _also_seen_by_a_thread(stop, wake) if is_main_thread() else contextlib.nullcontext():
            yield
    finally:
        _give_back(tuple(ours))


@contextlib.contextmanager
def _also_seen_by_a_thread(stop: Callable[[], None], wake: Callable[[], None]) -> Iterator[None]:
    """Python's handlers run in the main thread, between two of its instructions. A signal that comes after it has
    looked for one, and before it sleeps in the kernel, would wait for as long as it sleeps.
    """
    others = signal.set_wakeup_fd(-1)
    if others >= 0:  # the program has a loop that signals wake
        signal.set_wakeup_fd(others)
        yield
        return
    read, write = _noted_signals()

    def watch() -> None:
        while number := os.read(read, 1)[0]:
            if number in _replaced:
                stop()
            else:
                wake()

    watching = threading.Thread(target=watch, name="signals", daemon=True)
    watching.start()
    try:
        yield
    finally:
        _note_no_signals()
        if watching.is_alive():  # it is not in a model's child, which comes back here too
            os.write(write, bytes(1))  # no signal: the end. The file has none while such a child holds it open
            watching.join()
        os.close(read)
        os.close(write)


def _noted_signals() -> tuple[int, int]:
    """A pipe into which the number of each signal is written when it comes, whatever the main thread does."""
    global _watched
    read, write = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    _watched = True
    return read, write


def _note_no_signals() -> None:
    global _watched
    if _watched:
        signal.set_wakeup_fd(-1)
        _watched = False


def _take(handlers: dict[int, Callable]) -> None:
    for number, handler in handlers.items():
        before = signal.getsignal(number)
        if number != signal.SIGHUP or before is not signal.SIG_IGN:
            _replaced[number] = before
            signal.signal(number, handler)


def _give_back(numbers: tuple[int, ...]) -> None:
    for number in numbers:
        if number in _replaced:
            signal.signal(number, _replaced.pop(number) or signal.SIG_DFL)


def _forget() -> None:
    """Signals do again what they did."""
    _note_no_signals()
    _give_back(tuple(_replaced))


def _has_terminal() -> bool:
    """Is there a terminal that controls this process? When that one closes, there is none any more."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def words(error: BaseException) -> str:
    """What went wrong, for the user of a command: without Python's decoration."""
    if isinstance(error, OSError) and error.strerror:
        return ": ".join(filter(None, (str(error.filename or ""), error.strerror)))
    return message(error)


def _log(text: str) -> None:
    logs = sys.modules.get("shm_server.runtime.logs")
    if logs and logs.configured():  # it is not in the first moments
        import logging

        logging.getLogger(__name__).warning("%s", text)
        logs.flush()


def _before_fork() -> None:
    """A child that is terminated ends, and the server goes on: its signals wait until its handlers are its own."""
    if _replaced:
        _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _after_fork() -> None:
    mask = _forking.__dict__.pop("mask", None)
    if mask is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _in_child() -> None:
    _forget()
    _after_fork()


_forking = threading.local()
os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
