"""One worker's or gateway's process, as the server has it: start it, send to it, hear what it says until it ends.

worker = WorkerProcess(load, "the process of iris")
for message in worker.messages():       # until its process has ended
    ...
worker.ending()                         # "was ended by SIGKILL"
"""

import contextlib
import logging
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

from shm_server import wire
from shm_server.runtime import forked, process

log = logging.getLogger(__name__)

PROGRAM = "import sys; from {} import main; raise SystemExit(main(int(sys.argv[1])))"
# A worker's control thread answers at once, but it may wait for a core. A scrape does not wait for longer.
COUNTERS_SECONDS = 0.5
# A worker that serves is asked for its counters so often, whoever wants them: what they say of its model is health.
ASK_SECONDS = 1.0
# A model that has had a batch for so long does not answer, as far as anybody can tell: what compiles, compiled before.
ANSWER_SECONDS = 10.0
# Seconds that a stopping server waits for the prompts in flight; their own limit is dispatch.DRAIN_SECONDS.
STOP_SECONDS = 15.0


class WorkerProcess:
    """One worker's process, as the server sees it; OSError when it cannot be started.

    first   what it is told first, and `passed` with it
    called  what it is, in sentences
    answer_within   how many seconds a batch may take, or the answer to a question, before it counts as not answering
    """

    def __init__(
        self,
        first: wire.Load | wire.Open,
        called: str,
        answer_within: float = ANSWER_SECONDS,
        passed: socket.socket | None = None,
    ) -> None:
        self.called, self._answer_within = called, answer_within
        self.answers = True
        """Does its model get through its batches, as far as it was heard of?"""
        self.counters: dict[str, int] = {}
        """When it last said them."""
        self._pipe, theirs = wire.pair()
        self._process: subprocess.Popen | None = None
        try:
            with theirs, _signals_blocked():
                # Only to say stop is waited for: what is passed on is sent without.
                self._pipe.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(STOP_SECONDS), 0))
                wire.send(self._pipe, first, passed)
                command = [sys.executable, "-c", PROGRAM.format(first.program), str(theirs.fileno())]
                self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
            # Its end is known by this and not by the pipe's, which a child that it has forked may hold open.
            self._life = os.pidfd_open(self._process.pid)
        except BaseException:
            if self._process:
                self._process.kill()
                self._process.wait()
            self._pipe.close()
            raise
        self._sending = threading.Lock()  # nobody sends to a descriptor that is another's by now
        self._asked = False  # for its counters, and it has not said them
        self._waiting_since: float | None = None  # for them; before it was asked where the pipe was full
        self._answered = threading.Event()
        forked.close_in_child(self._abandon)

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: wire.Message, passed: socket.socket | None = None, *, wait: bool = False) -> None:
        """OSError when it is gone; BlockingIOError when it is so far behind that the pipe is full. Any thread."""
        with self._sending:
            wire.send(self._pipe, message, passed, 0 if wait else socket.MSG_DONTWAIT)

    def ask_counters(self) -> None:
        """Have `counters` be those of now, unless that takes too long. One thread at a time."""
        if self._ask():
            self._answered.wait(COUNTERS_SECONDS)

    def _ask(self) -> bool:
        """Have it say its counters; False where it can not be asked."""
        if self._asked:  # its answer is late, and says what is so when it comes
            return True
        self._answered.clear()
        self._waiting_since = self._waiting_since or time.monotonic()
        with contextlib.suppress(OSError):  # it is gone, or the pipe is full
            self._asked = True
            self.send(wire.AskCounters())
            return True
        self._asked = False
        return False

    def _judge(self) -> None:
        """See to `answers`."""
        since, seconds = self._waiting_since, self.counters.get("busy_ns", 0) / 1e9
        if since is not None:  # a model that keeps the GIL has its control thread say nothing either
            seconds = max(seconds, time.monotonic() - since)
        answers = seconds < self._answer_within
        if answers and not self.answers:
            log.info("%s answers again", self.called)
        elif self.answers and not answers:
            log.warning("%s is not answering: it has been busy for %.1f s", self.called, seconds)
        self.answers = answers

    def kill(self) -> None:
        self._process.kill()

    def messages(self) -> Iterator[wire.Message]:
        """What it says, as it comes, until its process has ended, which is collected then. Raises Malformed."""
        poll = select.poll()
        for each in (self._pipe, self._life):
            poll.register(each, select.POLLIN)
        try:
            serves, limit = False, None
            while (events := dict(poll.poll(limit))) or serves:
                if not events:
                    self._ask()
                    self._judge()
                    continue
                if self._pipe.fileno() not in events:
                    return
                try:
                    message, _ = wire.receive(self._pipe, wire.Ready, wire.Failed, wire.Counters)
                except EOFError:
                    poll.unregister(self._pipe)
                    # a worker closes it to finish, or in good order, and goes
                    serves, limit = False, STOP_SECONDS * 1000
                    continue
                if isinstance(message, wire.Counters):
                    self.counters = message.values
                    self._asked, self._waiting_since = False, None
                    self._answered.set()
                    self._judge()
                else:
                    serves = isinstance(message, wire.Ready)
                    limit = ASK_SECONDS * 1000 if serves else None
                    yield message
            log.error("%s hung up and did not end within %g s: killed", self.called, STOP_SECONDS)
        finally:
            self._end()

    def ending(self) -> str:
        """How its process ended, once `messages` has."""
        code = self._process.returncode
        if code >= 0:
            return f"ended with code {code}"
        with contextlib.suppress(ValueError):  # a real-time signal, which has no name
            return f"was ended by {signal.Signals(-code).name}"
        return f"was ended by signal {-code}"

    def _end(self) -> None:
        self._process.kill()  # unless it has ended
        self._process.wait()
        with self._sending:
            self._pipe.close()
        life, self._life = self._life, -1
        os.close(life)
        self._answered.set()

    def _abandon(self) -> None:
        """In a forked child: the worker is its parent's."""
        self._pipe.close()
        os.close(self._life)


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """A process started meanwhile has them blocked until it says what they are to do; ours get theirs afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, process.SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
