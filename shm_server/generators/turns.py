"""Many prompts at once, fairly: each in flight gets one step in turn, the others wait in line.

    turns = Turns(generator, places=4)
    job = turns.add(prompt, sampling)                  # at any time; never blocks
    while not turns.idle:
        for job, piece in turns.round():               # piece: new text of the job; None: it has ended
            ...
    turns.cancel(job)                                  # at any time, also inside the loop

One thread calls all of it. For a generator that computes, `round` does the computing. For a concurrent one it hands out
what the threads of its generations have received, and `wake` is called, from those threads, when there is something.

Why turns and not batches: each prompt's reply depends on nothing but itself, to the last bit, and a prompt that comes
or goes costs the others nothing.
"""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator

from shm_server.generators import Generation, Generator
from shm_server.generators.sampling import Sampling
from shm_server.runtime.describe import describe, where

log = logging.getLogger(__name__)

# A place is a cache of keys and values in memory and a share of the speed for everybody: with four the last token
# comes four times later than alone. A concurrent generator's places are its threads.
DEFAULT_PLACES = 4


class Job:
    """A prompt from `Turns.add` to its end. To be read only."""

    def __init__(self, generation: Generation, owner: Hashable):
        self.generation, self.owner = generation, owner
        self.error: BaseException | None = None
        """Why it ended, when it failed: a GeneratorError, or whatever else the generator raised, which is a bug."""
        self.cancelled = False
        self.started_ns: int | None = None
        """When it got its place (CLOCK_MONOTONIC); None while it stands in line."""


class Turns:
    """The prompts of one generator that wait or are in flight."""

    def __init__(self, generator: Generator, *, places: int = DEFAULT_PLACES, wake: Callable[[], None] | None = None):
        """At most `places` are in flight; `wake` must not block."""
        if places < 1:
            raise ValueError(f"places is {places}, must be 1 or more")
        self._generator = generator
        self._places = places
        self._wake = wake or (lambda: None)
        # A line for each owner who waits, the next one first: who has a thousand prompts delays another's by one.
        self._lines: dict[Hashable, deque[Job]] = {}
        self._flight: list[Job] = []
        self._received: queue.SimpleQueue[tuple[Job, str | None]] = queue.SimpleQueue()
        self._names = itertools.count(1)

    @property
    def waiting(self) -> int:
        """How many wait in line. Any thread."""
        return sum(map(len, tuple(self._lines.values())))

    def waiting_of(self, owner: Hashable) -> int:
        """How many of one owner's wait in line."""
        return len(self._lines.get(owner, ()))

    @property
    def flight(self) -> tuple[Job, ...]:
        """Those that have a place. Any thread."""
        return tuple(self._flight)

    @property
    def in_flight(self) -> int:
        """How many have a place. Any thread."""
        return len(self._flight)

    @property
    def idle(self) -> bool:
        """Whether there is nothing left to do or to wait for."""
        return not self._lines and not self._flight

    def add(self, prompt: str, sampling: Sampling, owner: Hashable = None) -> Job:
        """Puts a prompt at the end of its owner's line; owners take turns. Raises what `Generator.start` does."""
        job = Job(self._generator.start(prompt, sampling), owner)
        self._lines.setdefault(owner, deque()).append(job)
        self._admit()
        return job

    def cancel(self, job: Job) -> None:
        """Ends `job` and frees what it holds; no round yields it any more. Harmless when it has ended."""
        job.cancelled = True
        self._leave(job)

    def round(self) -> Iterator[tuple[Job, str | None]]:
        """One step for each prompt in flight, yielded as soon as it is done: the job and its new text.

        None as text ends the job: job.generation.finished says why, or job.error. Steps without text yield nothing.
        Jobs may be added and cancelled meanwhile; those added wait for the next round.
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
        while self._lines and len(self._flight) < self._places:
            owner = next(iter(self._lines))
            line = self._lines.pop(owner)
            job = line.popleft()
            if line:
                self._lines[owner] = line  # behind the others
            job.started_ns = time.monotonic_ns()
            self._flight.append(job)
            if self._generator.concurrent:
                self._begin(job)

    def _begin(self, job: Job) -> None:
        name = f"prompt-{next(self._names)}"
        try:
            threading.Thread(target=self._receive, args=(job,), name=name, daemon=True).start()
        except (RuntimeError, MemoryError) as error:  # out of threads: that prompt's answer
            job.error = error
            self._received.put((job, None))
            self._wake()

    def _leave(self, job: Job) -> None:
        if job in self._flight:
            self._flight.remove(job)
        elif job in (line := self._lines.get(job.owner, ())):
            line.remove(job)
            if not line:
                del self._lines[job.owner]
        _close(job)
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
        return _checked(piece), piece is None or job.generation.finished is not None
    except BaseException as error:  # SystemExit and KeyboardInterrupt too: its call has failed, the server has not
        job.error = error
        return "", True


def _close(job: Job) -> None:
    """Free what `job` holds. Its reply stands, whatever that raises."""
    try:
        job.generation.close()
    except BaseException as error:
        log.error("a generation's close failed: %s. %s", describe(error), where(error))


def _checked(piece: object) -> str:
    if piece is None:
        return ""
    if not isinstance(piece, str):
        raise TypeError(f"a step returned {type(piece).__name__}, must be text or None")
    text = str.__str__(piece)  # of str itself, whatever a subclass makes of its methods
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"a step returned half a surrogate pair at character {error.start}") from None
    return text
