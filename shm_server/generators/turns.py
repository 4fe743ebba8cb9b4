"""Many prompts at once, fairly: each in flight gets one step in turn, the others wait in line.

    turns = Turns(generator, places=4)
    job = turns.add(prompt, sampling)                  # at any time; never blocks
    while not turns.idle:
        for job, piece in turns.round():               # piece: new text of the job; None: it has ended
            ...
    turns.cancel(job)                                  # at any time, also inside the loop

One thread calls all of it. For a generator that computes, `round` does the computing. For a concurrent one it hands out
what the threads of its generations have received, and `wake` tells, from those threads, that there is something.

Why turns and not batches: each prompt's reply depends on nothing but itself, to the last bit, and a prompt that comes
or goes costs the others nothing.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from shm_server.generators import Generation, Generator
from shm_server.generators.sampling import Sampling

# A place is a cache of keys and values in memory and a share of the speed for everybody: with four the last token
# comes four times later than alone. A concurrent generator's places are its threads.
DEFAULT_PLACES = 4


class Job:
    """A prompt from `Turns.add` to its end. To be read only."""

    def __init__(self, generation: Generation):
        self.generation = generation
        self.error: Exception | None = None
        """Why it ended, when it failed: a GeneratorError, or whatever else the generator raised, which is a bug."""
        self.cancelled = False
        self.added = time.monotonic()
        self.started: float | None = None

    @property
    def queue_seconds(self) -> float:
        """How long it waited in line, or has been waiting."""
        return (self.started if self.started is not None else time.monotonic()) - self.added


class Turns:
    """The prompts of one generator that wait or are in flight."""

    def __init__(self, generator: Generator, *, places: int = DEFAULT_PLACES, wake: Callable[[], None] | None = None):
        """At most `places` are in flight; `wake` must not block."""
        if places < 1:
            raise ValueError(f"places is {places}, must be 1 or more")
        self._generator = generator
        self._places = places
        self._wake = wake or (lambda: None)
        self._line: deque[Job] = deque()
        self._flight: list[Job] = []
        self._received: queue.SimpleQueue[tuple[Job, str | None]] = queue.SimpleQueue()
        self._names = itertools.count(1)

    @property
    def waiting(self) -> int:
        """How many wait in line."""
        return len(self._line)

    @property
    def in_flight(self) -> int:
        """How many have a place."""
        return len(self._flight)

    @property
    def idle(self) -> bool:
        """Whether there is nothing left to do or to wait for."""
        return not self._line and not self._flight

    def add(self, prompt: str, sampling: Sampling) -> Job:
        """Puts a prompt at the end of the line. Raises what `Generator.start` does."""
        job = Job(self._generator.start(prompt, sampling))
        self._line.append(job)
        self._admit()
        return job

    def cancel(self, job: Job) -> None:
        """Ends `job` and frees what it holds; no round tells of it any more. Harmless when it has ended."""
        job.cancelled = True
        self._leave(job)

    def round(self) -> Iterator[tuple[Job, str | None]]:
        """One step for each prompt in flight, told as soon as it is done: the job and its new text.

        None as text ends the job: job.generation.finished says why, or job.error. Steps without text are not told. Jobs
        may be added and cancelled meanwhile; those added wait for the next round.
        """
        if self._generator.concurrent:
            yield from self._hand_out()
            return
        for job in tuple(self._flight):
            if job.cancelled:
                continue
            piece, done = _step(job)
            if done:
                self._leave(job)
            if piece:
                yield job, piece
            if done and not job.cancelled:
                yield job, None

    def _hand_out(self) -> Iterator[tuple[Job, str | None]]:
        for _ in range(self._received.qsize()):
            job, piece = self._received.get()
            if job.cancelled:
                continue
            if piece is None:
                self._leave(job)
            yield job, piece

    def _admit(self) -> None:
        while self._line and len(self._flight) < self._places:
            job = self._line.popleft()
            job.started = time.monotonic()
            self._flight.append(job)
            if self._generator.concurrent:
                name = f"prompt-{next(self._names)}"
                threading.Thread(target=self._receive, args=(job,), name=name, daemon=True).start()

    def _leave(self, job: Job) -> None:
        for jobs in (self._line, self._flight):
            if job in jobs:
                jobs.remove(job)
        job.generation.close()
        self._admit()

    def _receive(self, job: Job) -> None:
        """The thread of a concurrent generator's job."""
        done = False
        while not done and not job.cancelled:
            piece, done = _step(job)
            if piece:
                self._received.put((job, piece))
            if done:
                self._received.put((job, None))
            if piece or done:
                self._wake()


def _step(job: Job) -> tuple[str, bool]:
    """The text of one step of `job` and whether it was the last."""
    try:
        piece = job.generation.step()
    except Exception as error:  # its call has failed, the server has not
        job.error = error
        return "", True
    return piece or "", piece is None or job.generation.finished is not None
