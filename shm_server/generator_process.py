"""The process that serves the prompt lane.

A generator keeps a core and the GIL busy for every token; in a process of its own it cannot delay a classification.
It gets its clients from the server's process (handoff.py) and shares nothing else with it: when it dies, its clients
see the end of their sessions, and the image lane goes on.
"""

import argparse
import contextlib
import gc
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

from . import forked, handoff, logs, process, remote
from .control import Control
from .counters import GAUGES
from .describe import message
from .doorbell import Refused
from .generators import Generator, ModelError, Sampling, load_generator
from .layout import Reason
from .models.quiet import quiet_imports
from .prompt_lane import PromptDispatcher

log = logging.getLogger(__name__)

READY = b"ready"
COUNTERS = b"counters"
# The control thread answers at once, but it may wait for a core. A scrape does not wait for longer.
COUNTERS_SECONDS = 0.5
# Seconds that a stopping server waits for the prompts in flight; their own limit is dispatch.DRAIN_SECONDS.
STOP_SECONDS = 15.0


class GeneratorProcess:
    """The server's view of it: start, wait until it is ready, pass clients on, stop.

    options            arguments of `load_generator` by name
    spin_us            as for the server
    max_sessions, allow_other_users   as for the server
    idle               leave the core to whoever else wants it, see `give_way`
    """

    program = ("-c", "from shm_server.generator_process import main; raise SystemExit(main())")

    def __init__(
        self,
        options: dict[str, object],
        *,
        spin_us: float,
        max_sessions: int,
        allow_other_users: bool = False,
        idle: bool = True,
    ) -> None:
        process.open_standard_descriptors()
        self._pipe, theirs = handoff.pair()
        forked.close_in_child(self._pipe.close)
        self._known: dict[str, int] = {}  # its counters, when it last said them
        self._asked: socket.socket | None = None
        self._asking = threading.Lock()
        settings = {"max_sessions": max_sessions, "allow_other_users": allow_other_users}
        settings |= {"spin_us": spin_us, "idle": idle}
        command = [sys.executable, *self.program, str(theirs.fileno())]
        command += map(json.dumps, (logs.settings(), settings))
        self._ready = self._stopping = False
        with theirs, _signals_blocked():
            # Not on the command line, which everybody may read: an endpoint's URL may have a password in it.
            self._pipe.send(json.dumps(options).encode())
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        threading.Thread(target=self._watch, name="generator-watch", daemon=True).start()

    def wait_ready(self) -> None:
        """Wait until it has its model and is warm. ModelError with its own words when it cannot."""
        word = self._pipe.recv(1 << 16)
        if word != READY:
            self._stopping = True
            self._process.wait()
            raise ModelError(word.decode() or f"the generator's process ended with code {self._process.returncode}")
        self._ready = True

    def send(self, client: socket.socket, hello: bytes) -> None:
        """Pass a client on. Refused when the process is gone."""
        try:
            handoff.send(self._pipe, client, hello)
        except OSError as error:
            raise Refused(Reason.INTERNAL, f"the generator's process does not answer: {error}") from error

    def generate(self, prompt: str, sampling: Sampling) -> Iterator[str]:
        """The reply to `prompt` in pieces, from any thread; see `remote.ask`."""
        return remote.ask(lambda sock, message: handoff.send(self._pipe, sock, message), prompt, sampling)

    @property
    def alive(self) -> bool:
        """Does it still serve? From any thread."""
        return self._process.returncode is None  # which the watching thread notes

    def counters(self) -> dict[str, int]:
        """Its counters by name, from any thread. When it is slow, or gone, what it said last: counters do not fall."""
        if not self.alive:
            return {name: value for name, value in self._known.items() if name not in GAUGES}
        if self._asking.acquire(blocking=False):
            try:
                self._ask()
            finally:
                self._asking.release()
        return self._known

    def _ask(self) -> None:
        if self._asked:
            self._answer(0)  # of the last time, late
        if not self._asked:
            self._asked, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs, contextlib.suppress(OSError):  # it is gone, or so far behind that the pipe is full
                handoff.send(self._pipe, theirs, COUNTERS)
        self._answer(COUNTERS_SECONDS)

    def _answer(self, seconds: float) -> None:
        self._asked.settimeout(seconds)
        with contextlib.suppress(BlockingIOError, TimeoutError):
            said = self._asked.recv(1 << 16)
            self._asked.close()
            self._asked = None
            if said:  # else it could not be asked
                self._known = json.loads(said)

    def stop(self) -> None:
        """Have it finish the prompts in flight and end; kill it when it does not, or is still loading."""
        self._stopping = True
        with contextlib.suppress(OSError):  # it is gone
            self._pipe.send(handoff.STOP, socket.MSG_NOSIGNAL)
        if not self._ready:
            self._process.kill()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            log.error("the generator's process did not stop within %g s: killed", STOP_SECONDS)
            self._process.kill()
            self._process.wait()
        self._pipe.close()

    def _watch(self) -> None:
        code = self._process.wait()
        if self._ready and not self._stopping:  # before that `wait_ready` raises it
            log.error("the generator's process ended with code %d; prompts are refused from now on", code)


def give_way() -> None:
    """Have every thread of this process leave its core to whoever else wants it.

    SCHED_IDLE (sched(7)): one that wakes up takes the core at once. Niceness would only make our share smaller; a
    thread that is about to classify still waited for the end of our time slice, up to 8 ms. Where nobody leaves a core
    idle, next to nothing is generated: clients and servers that spin for ever want a core each beside ours.
    """
    seen: set[str] = set()
    while more := set(os.listdir("/proc/self/task")) - seen:  # a new thread inherits it from a seen one
        for thread in more:
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.sched_setscheduler(int(thread), os.SCHED_IDLE, os.sched_param(0))
        seen |= more


def serve(generator: Generator, pipe: socket.socket, settings: dict) -> None:
    """Say that the generator is ready, and serve until the server's process closes its end."""
    log.info("prompts: %s%s", generator.name, f". {generator.note}" if generator.note else "")
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(1e-4)
    dispatcher = PromptDispatcher(generator, spin_us=settings.pop("spin_us"))
    idle = settings.pop("idle")

    def answer(sock: socket.socket, packet: bytes) -> None:
        if packet == COUNTERS:
            with sock, contextlib.suppress(OSError):
                sock.send(json.dumps(control.counters()).encode(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            return
        reply = remote.SocketReply(sock)
        dispatcher.post(lambda: dispatcher.begin(lambda: remote.asked(packet), reply))

    control = Control(dispatcher, handoff.Inbox(pipe, answer, _orphaned), **settings)
    pipe.send(READY)
    if idle:  # not before: the server waits for us, and beside two busy processes we would get no core for a minute
        give_way()
    control.run()
    log.info("prompts: %s", ", ".join(f"{name} {value}" for name, value in control.counters().items() if value))


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """A process started meanwhile has them blocked until it says what they are to do; ours get theirs afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, process.STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _watch_server(pipe: socket.socket, loaded: threading.Event) -> None:
    """The thread that sees the server die while the generator loads; later the control thread does."""
    gone = select.poll()
    gone.register(pipe, 0)  # hanging up is always reported
    gone.poll()
    if not loaded.is_set():
        _orphaned()


def _orphaned() -> None:
    """The server was killed: its clients see the same of us."""
    log.error("the server's process is gone: so is the generator's")
    logs.flush()
    os._exit(1)


def main() -> int:
    for number in process.STOPPING:  # meant for the whole group: we stop when the server says so
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, process.STOPPING)
    parser = argparse.ArgumentParser(description="Started by `shm-server serve`, not by hand.")
    parser.add_argument("fd", type=int)
    for name in ("log", "settings"):
        parser.add_argument(name, type=json.loads)
    args = parser.parse_args()
    logs.configure(**args.log)
    for name in ("absl", "jax", "matplotlib"):  # which accelerators there are not, which fonts there are
        logging.getLogger(name).setLevel(logging.ERROR)
    pipe = socket.socket(fileno=args.fd)
    options = json.loads(pipe.recv(handoff.MAX_MESSAGE))
    loaded = threading.Event()
    threading.Thread(target=_watch_server, args=(pipe, loaded), name="server-watch", daemon=True).start()
    try:
        log.info("loading the generator: %s", options["engine"])
        with quiet_imports():
            generator = load_generator(**options)
    except (ModelError, ValueError, OSError) as error:
        pipe.send(message(error).encode())
        return 1
    loaded.set()
    try:
        serve(generator, pipe, args.settings)
    except BaseException:
        log.exception("the generator's process failed")
        logs.flush()
        os._exit(1)  # now: no thread of a model, or of a client that reads nothing, is waited for
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
