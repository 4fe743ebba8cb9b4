"""One replica of a model, or a gateway: its process, and the next one when that one dies.

replica = Replica(load, "the process of iris", Backoff(), leave=BATCH_SECONDS)
replica.wait_ready()                    # the first has its model, or ModelError
replica.send(message, socket)
replica.move()                          # another serves from now on: it ends when it has answered what it has
replica.stop()

One thread has all of a worker's life, from its start to its end, and then the next one's.
"""

import collections
import contextlib
import functools
import logging
import os
import queue
import socket
import threading
import time

from shm_server import wire
from shm_server.door.worker_process import ANSWER_SECONDS, STOP_SECONDS, WorkerProcess
from shm_server.generators import ModelError, NoGenerator, Unavailable
from shm_server.runtime.describe import describe
from shm_server.worker.counters import GAUGES

log = logging.getLogger(__name__)

# How long a process whose model has moved may go on with what it has: a batch, or whole replies. One that hangs is
# killed then, and its callers ask again.
BATCH_SECONDS = 30.0
REPLY_SECONDS = 600.0

# How many may load at a time: else a folder of a hundred models has them all share the cores, and what memory loading
# takes, until the last is ready. Only a replica's first worker waits for its turn: who was there comes back at once.
LOADING = threading.Semaphore(max(4, len(os.sched_getaffinity(0))))


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


class Replica:
    """Has a worker, from now until `stop` or `move`. What is asked of it comes from any thread.

    first    what each worker is told first, and `passed` with it
    called   what the process is, in sentences
    leave    how many seconds one that has moved may take

    A worker that ends without being told to is started again; meanwhile who asks for it is told that. Only when the
    first one does not load there is no second: `wait_ready` says why.
    """

    def __init__(
        self,
        first: wire.Load | wire.Open,
        called: str,
        backoff: Backoff,
        *,
        leave: float,
        answer_within: float = ANSWER_SECONDS,
        passed: socket.socket | None = None,
    ) -> None:
        self.called = called
        self.model: dict[str, object] = {}
        """Its metadata; empty until the first worker is ready."""
        self._process = functools.partial(WorkerProcess, first, called, answer_within, passed)
        self._backoff, self._leave = backoff, leave
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
        self._told: type[wire.Message] | None = None  # how to end
        self._place = contextlib.ExitStack()  # among those that load
        self._thread = threading.Thread(target=self._run, name="replica", daemon=True)
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
    def answers(self) -> bool:
        """Is there one, and does its model get through its batches? See WorkerProcess."""
        worker = self._serving
        return worker is not None and worker.answers

    @property
    def ended(self) -> bool:
        """Is there no worker any more, and will there be none?"""
        return not self._thread.is_alive()

    @property
    def pid(self) -> int | None:
        """The worker's process; None between two of them."""
        worker = self._worker
        return worker.pid if worker else None

    def send(self, message: wire.Message, passed: socket.socket) -> None:
        """Unavailable when there is no worker, or it takes nothing."""
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

    def move(self) -> None:
        """Have the worker tell its clients that another serves them, answer what it has, and end; do not wait for it.

        Nothing may be sent to it any more. One that still loads is killed.
        """
        self._tell(wire.Move())
        if worker := self._worker:
            timer = threading.Timer(self._leave, self._give_up, [worker])
            timer.daemon = True
            timer.start()

    def ask_to_stop(self) -> None:
        """Have the worker refuse what comes, finish for some seconds what is in flight, and end; kill one that loads.

        `stop` waits for that.
        """
        self._tell(wire.Stop())

    def stop(self) -> None:
        """`ask_to_stop`, and wait until it has ended; kill it when it does not."""
        self.ask_to_stop()
        self._thread.join(STOP_SECONDS)
        if self._thread.is_alive():
            log.error("%s did not stop within %g s: killed", self.called, STOP_SECONDS)
            if worker := self._worker:
                worker.kill()
            self._thread.join()

    def join(self) -> None:
        """Wait until it has ended, after `move`."""
        self._thread.join()

    def _tell(self, last: wire.Move | wire.Stop) -> None:
        self._stopping = True
        self._stopped.set()
        if self._told is type(last):  # who stops asks first, and then waits
            return
        self._told = type(last)
        worker = self._worker
        if worker and worker is self._serving:
            with contextlib.suppress(OSError):  # it is stuck, or gone
                worker.send(last, wait=True)
        elif worker:
            worker.kill()

    def _give_up(self, worker: WorkerProcess) -> None:
        if self._worker is worker:
            log.error("%s has moved and does not end: %d is killed", self.called, worker.pid)
            worker.kill()

    # -- the thread

    def _run(self) -> None:
        """One worker after the other."""
        if self._take_place():
            with self._place:
                self._follow()
        self._first.put(ModelError("the server is stopping"))  # should anybody still wait

    def _take_place(self) -> bool:
        """Wait for the turn to load; False: it is to stop."""
        while not self._stopping:
            if LOADING.acquire(timeout=0.1):  # a stop wakes nobody who waits for a semaphore
                self._place.callback(LOADING.release)
                return True
        return False

    def _follow(self) -> None:
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

    def _have_one(self) -> tuple[ModelError, float]:
        """A worker from its start to its end: why it ended, and how many seconds it served."""
        try:
            worker = self._worker = self._process()
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
                self._serving = worker
                if self._loaded:
                    log.info("%s is back, as %d", self.called, worker.pid)
                else:
                    self._loaded = True
                    self._place.close()
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
