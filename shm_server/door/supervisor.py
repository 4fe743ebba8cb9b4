"""Supervision of a worker: start it, pass it its clients, see it end, start it again, stop it.

    prompts = Supervisor(Protocol.STREAM, {"engine": "tiny"}, spin_us=100.0, max_sessions=256)
    prompts.wait_ready()
    Server(None, path, generator=prompts).run()
    prompts.stop()

One thread has all of a worker's life, from its start to its end, and then the next one's.
"""

import collections
import contextlib
import logging
import queue
import socket
import sys
import threading
import time
from collections.abc import Iterator

from shm_server import wire
from shm_server.door.worker_process import STOP_SECONDS, WorkerProcess
from shm_server.generators import ModelError, NoGenerator, Sampling, Unavailable
from shm_server.layout import Protocol, Reason
from shm_server.runtime import logs, process
from shm_server.runtime.describe import describe
from shm_server.session.doorbell import Refused
from shm_server.worker import remote
from shm_server.worker.counters import GAUGES

log = logging.getLogger(__name__)


class Backoff:
    """Seconds to wait before a worker is started again: `first`, twice as many after each end, `most` at most.

    A worker that has served for `calm` seconds begins anew: what ended it is something else.
    """

    def __init__(self, first: float = 0.1, most: float = 30.0, calm: float = 30.0) -> None:
        self._first, self._most, self._calm = first, most, calm
        self._next = first

    def after(self, served: float) -> float:
        """What to wait after a worker that served so many seconds, 0 for one that did not load."""
        if served >= self._calm:
            self._next = self._first
        seconds, self._next = self._next, min(2 * self._next, self._most)
        return seconds


class Supervisor:
    """Has a worker, from now until `stop`. What is asked of it comes from any thread.

    protocol    of the model
    options     what the worker loads, see worker.py
    name        under which it is served; None: what the model calls itself
    called      what the process is, in sentences
    spin_us     as for the server
    max_sessions, allow_other_users   as for the server
    idle        leave the core to whoever else wants it, see `worker.give_way`
    backoff     how long to wait before a worker is started again

    A worker that ends without being told to is started again, with the same options; meanwhile who asks for it is told
    that. Only when the first one does not load there is no second: `wait_ready` says why.
    """

    def __init__(
        self,
        protocol: Protocol,
        options: dict[str, object],
        *,
        spin_us: float,
        max_sessions: int,
        name: str | None = None,
        called: str = "the generator's process",
        allow_other_users: bool = False,
        idle: bool = False,
        backoff: Backoff | None = None,
    ) -> None:
        process.open_standard_descriptors()
        self.protocol, self.called = protocol, called
        self.name, self.model = name or "", {}  # until the first worker is ready
        serving = {"max_sessions": max_sessions, "allow_other_users": allow_other_users}
        serving |= {"spin_us": spin_us, "idle": idle}
        path = [str(folder) for folder in sys.path]
        self._load = wire.Load(protocol.name, options, serving, logs.settings(), path)
        self._backoff = backoff or Backoff()
        self._worker: WorkerProcess | None = None  # from its start to its end
        self._serving: WorkerProcess | None = None  # the same, while it is ready
        self._away = f"{called} is loading"  # why there is none that serves
        self._starts = self._crashes = 0
        self._dead: collections.Counter[str] = collections.Counter()  # counters of those that have ended
        self._counting = threading.Lock()  # a worker's counters are in `_dead` or its own, at any time in one
        self._asking = threading.Lock()
        # Two that may be used in a signal handler whatever the main thread holds: it waits for the one, and never for
        # the other.
        self._first: queue.SimpleQueue[ModelError | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._loaded = self._stopping = False
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._thread.start()

    def wait_ready(self) -> None:
        """Wait until the first worker has its model and is warm; once. ModelError with its own words if it cannot."""
        error = self._first.get()
        if error:
            raise error

    @property
    def alive(self) -> bool:
        """Is there a worker that serves?"""
        return self._serving is not None

    @property
    def pid(self) -> int | None:
        """The worker's process; None between two of them."""
        worker = self._worker
        return worker.pid if worker else None

    def send(self, client: socket.socket, hello: bytes) -> None:
        """Pass a client on. Refused when there is no worker, or it takes nothing."""
        try:
            self._pass(wire.Client(hello), client)
        except Unavailable as error:
            raise Refused(Reason.STARTING, str(error)) from error

    def generate(self, prompt: str, sampling: Sampling) -> Iterator[str]:
        """The reply to `prompt` in pieces; see `remote.ask`."""
        return remote.ask(self._pass, prompt, sampling)

    def _pass(self, message: wire.Message, passed: socket.socket) -> None:
        worker = self._serving
        if worker is None:
            raise Unavailable(self._away)
        try:
            worker.send(message, passed)
        except BlockingIOError as error:
            raise Unavailable(f"{self.called} is so far behind that it takes nothing more for now") from error
        except OSError as error:  # we are about to see its end
            raise Unavailable(f"{self.called} has ended; it is being started again") from error

    def counters(self) -> dict[str, int]:
        """Its counters by name, of this worker and those before it. They do not fall: while it is slow, or there is
        none, they are what was said last.
        """
        worker = self._serving
        if worker and self._asking.acquire(blocking=False):
            try:
                worker.ask_counters()
            finally:
                self._asking.release()
        with self._counting:
            totals = collections.Counter(self._dead)
            if self._worker:
                totals.update(self._worker.counters)
            totals.update(worker_starts=self._starts, worker_crashes=self._crashes)
        return dict(totals)

    def stop(self) -> None:
        """Have the worker finish the prompts in flight and end; kill it when it does not, or is still loading."""
        self._stopping = True
        self._stopped.set()
        worker = self._worker
        if worker and worker is self._serving:
            with contextlib.suppress(OSError):  # it is stuck, or gone
                worker.send(wire.Stop(), wait=True)
        elif worker:
            worker.kill()
        self._thread.join(STOP_SECONDS)
        if self._thread.is_alive():
            log.error("%s did not stop within %g s: killed", self.called, STOP_SECONDS)
            if worker := self._worker:
                worker.kill()
            self._thread.join()

    # -- the thread

    def _run(self) -> None:
        """One worker after the other."""
        while not self._stopping:
            error, served = self._have_one()
            if self._stopping:
                break
            if not self._loaded:
                self._first.put(error)
                return
            seconds = self._backoff.after(served)
            log.error("%s; it is started again in %g s", error, seconds)
            self._stopped.wait(seconds)
        self._first.put(ModelError("the server is stopping"))  # should anybody still wait

    def _have_one(self) -> tuple[ModelError, float]:
        """A worker from its start to its end: why it ended, and how many seconds it served."""
        try:
            worker = self._worker = WorkerProcess(self._load, self.called)
        except (OSError, wire.TooLong) as error:
            return ModelError(f"{self.called} could not be started: {describe(error)}"), 0.0
        self._starts += 1
        if self._stopping:  # which did not see it
            worker.kill()
        failed, begun = None, None
        try:
            for message in worker.messages():
                if isinstance(message, wire.Failed):
                    failed = (NoGenerator if message.misnamed else ModelError)(message.words)
                    continue
                begun = time.monotonic()
                self.model = message.model
                self.name = self.name or str(message.model.get("name"))
                self._serving = worker
                if self._loaded:
                    log.info("%s is back, as %d", self.called, worker.pid)
                else:
                    self._loaded = True
                    self._first.put(None)
        except (wire.Malformed, OSError) as error:  # `messages` has ended it
            failed = ModelError(f"{self.called} was killed, it cannot be understood: {describe(error)}")
        end = f"{self.called} {worker.ending()}"
        # A caller does not read what a library said when it did not load.
        said = end if begun else f"{self.called} did not load, as the server's log says"
        self._away = f"{said}; it is being started again"
        self._serving = None
        with self._counting:
            self._dead.update({name: value for name, value in worker.counters.items() if name not in GAUGES})
            self._crashes += not self._stopping
            self._worker = None
        return failed or ModelError(end), time.monotonic() - begun if begun else 0.0
