"""The prompt lane: text in, text out as it is generated.

The prompts of all sessions, and those that come over HTTP (remote.py), take turns at one generator (`Turns`), in the
data thread, which alone touches the rings. Between two tokens it looks at them.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol

from . import _core, layout
from .dispatch import Dispatcher, cut
from .doorbell import LaneRequest
from .generators import (
    Broken,
    Generator,
    InvalidRequest,
    RateLimited,
    Sampling,
    TimedOut,
    Unauthorized,
    Unavailable,
)
from .generators.turns import DEFAULT_PLACES, Job, Turns
from .layout import CompletionFlag, LaneKind, Status
from .segment import LaneSpec, pages
from .session import Session

log = logging.getLogger(__name__)

# Prompts of one client at a time, in line or in flight.
DEFAULT_SLOTS = 16
# About 4,000 tokens of English in, and twice that out: what small models have room for.
DEFAULT_SLOT_BYTES = 16 << 10
DEFAULT_REPLY_BYTES = 32 << 10

# Prompts in flight of a generator that waits for an endpoint. Each is a thread and a connection.
CONCURRENT_PLACES = 64
# Such a generator may say nothing for long. So often it is looked whether a prompt is still wanted.
LOOK_SECONDS = 0.05

STATUSES = {
    InvalidRequest: Status.INVALID,
    Unavailable: Status.UNAVAILABLE,
    Unauthorized: Status.UNAUTHORIZED,
    RateLimited: Status.RATE_LIMITED,
    TimedOut: Status.TIMED_OUT,
    Broken: Status.BROKEN,
}


class Reply(Protocol):
    """Where the text of one prompt goes. Data thread only."""

    def append(self, piece: str) -> bool:
        """Let the caller have more text. False: it did not all fit, and no more will."""
        ...

    def interrupted(self) -> Status | None:
        """Why the prompt is to end before its generator does, or None."""
        ...

    def finish(self, status: Status, message: str, *, truncated: bool, waited: float) -> None:
        """The last call: how it ended, and how many seconds it stood in line."""
        ...


class SlotReply:
    """The reply of a slot of a session's lane."""

    def __init__(self, session: Session, slot: int, deadline: int) -> None:
        self.session, self._slot, self._deadline = session, slot, deadline

    def append(self, piece: str) -> bool:
        lane, data = self.session.lane, piece.encode()
        room = lane.room(self._slot)
        fits = len(data) <= room
        lane.append(self._slot, data if fits else cut(piece, room))
        return fits

    def interrupted(self) -> Status | None:
        if self.session.lane.cancelled(self._slot):
            return Status.CANCELLED
        if self._deadline and time.monotonic_ns() >= self._deadline:
            return Status.DEADLINE_EXCEEDED
        return None

    def finish(self, status: Status, message: str, *, truncated: bool, waited: float) -> None:
        flags = CompletionFlag.TRUNCATED if truncated else 0
        text = cut(message, layout.MESSAGE_BYTES)
        self.session.lane.finish_prompt(self._slot, status, flags, text, int(waited * 1e9))


class PromptDispatcher(Dispatcher):
    """Runs `generator` on the prompts that the sessions submit, a few at once, the others in line."""

    kind = LaneKind.PROMPT

    def __init__(self, generator: Generator, *, spin_us: float) -> None:
        super().__init__(spin_us=spin_us, limit=DEFAULT_SLOTS)
        self.name = generator.name
        self._concurrent = generator.concurrent
        places = CONCURRENT_PLACES if generator.concurrent else DEFAULT_PLACES
        self._turns = Turns(generator, places=places, wake=self.poller.wake)
        self._jobs: dict[Job, Reply] = {}
        self._busy = threading.Event()  # there are jobs
        if generator.concurrent:
            threading.Thread(target=self._look, name="prompt-look", daemon=True).start()

    def spec(self, request: LaneRequest) -> LaneSpec:
        slot_bytes = -(-(request.slot_bytes or DEFAULT_SLOT_BYTES) // 64) * 64
        reply_bytes = max(request.reply_bytes or DEFAULT_REPLY_BYTES, slot_bytes + layout.MESSAGE_BYTES)
        return LaneSpec(LaneKind.PROMPT, request.slot_count or DEFAULT_SLOTS, slot_bytes, pages(reply_bytes))

    def counters(self) -> dict[str, int]:
        turns = {"prompts_in_flight": self._turns.in_flight, "prompts_waiting": self._turns.waiting}
        return super().counters() | turns

    # -- the data thread

    @property
    def wait(self) -> Callable[[int], _core.Lane | None]:
        return self._wait

    def _wait(self, limit: int) -> _core.Lane | None:
        """The next lane with a batch. None after a round of tokens, or when there are orders to look at."""
        if not self._jobs:
            return self.poller.next(limit)
        lane = self.poller.next(limit) if self._concurrent else self.poller.take(limit)
        if lane is None:
            self._round()
        return lane

    def serve(self, lane: _core.Lane) -> None:
        session = self.sessions[lane]
        for slot, data, steps, temperature, top_k, seed, deadline in lane.begin_prompts():
            reply = SlotReply(session, slot, deadline)
            try:
                prompt = data.decode()
                sampling = Sampling(steps=steps, temperature=temperature, top_k=top_k, seed=seed)
            except UnicodeDecodeError as error:
                message = f"the prompt is no UTF-8: {error.reason} at byte {error.start}"
                reply.finish(Status.INVALID, message, truncated=False, waited=0)
            except InvalidRequest as error:
                reply.finish(Status.INVALID, str(error), truncated=False, waited=0)
            else:
                self.begin(prompt, sampling, reply)

    def begin(self, prompt: str, sampling: Sampling, reply: Reply) -> None:
        """Put a prompt in line."""
        try:
            job = self._turns.add(prompt, sampling)
        except Exception as error:
            _fail(reply, error, waited=0)
            return
        self._jobs[job] = reply
        self._busy.set()

    def _round(self) -> None:
        """One token for each prompt in flight; a look at whether those, and those in line, are still wanted."""
        for job, piece in self._turns.round():
            reply = self._jobs[job]
            if piece is None:
                self._leave(job)
                if job.error is None:
                    reply.finish(Status.OK, "", truncated=False, waited=job.queue_seconds)
                else:
                    _fail(reply, job.error, waited=job.queue_seconds)
            elif not reply.append(piece):
                self._cancel(job, Status.OK, truncated=True)
        for job, reply in list(self._jobs.items()):
            if (status := reply.interrupted()) is not None:
                self._cancel(job, status)

    def _cancel(self, job: Job, status: Status, *, truncated: bool = False) -> None:
        reply = self._leave(job)
        self._turns.cancel(job)
        reply.finish(status, "", truncated=truncated, waited=job.queue_seconds)

    def _leave(self, job: Job) -> Reply:
        reply = self._jobs.pop(job)
        if not self._jobs:
            self._busy.clear()
        return reply

    def _look(self) -> None:
        """A thread: have the data thread go a round now and then while there are jobs."""
        while True:
            self._busy.wait()
            time.sleep(LOOK_SECONDS)
            self.poller.wake()

    # -- ends

    def release(self, session: Session, fault: str) -> None:
        for job, reply in list(self._jobs.items()):
            if isinstance(reply, SlotReply) and reply.session is session:
                self._leave(job)  # nobody reads it any more
                self._turns.cancel(job)
        super().release(session, fault)

    def finish(self, end: float) -> None:
        super().finish(end)
        while self._jobs and time.monotonic() < end:
            self._round()
            if self._concurrent:
                time.sleep(0.001)
        for job in list(self._jobs):
            self._cancel(job, Status.DRAINING)


def _fail(reply: Reply, error: Exception, *, waited: float) -> None:
    """Finish with what a generator raised: its own errors have a status each, the text so far stands."""
    status = STATUSES.get(type(error))
    if status is None:
        log.error("the generator failed", exc_info=error)
        reply.finish(Status.MODEL_ERROR, f"{type(error).__name__}: {error}", truncated=False, waited=waited)
    else:
        reply.finish(status, str(error), truncated=False, waited=waited)
