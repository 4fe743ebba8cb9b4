"""The stream lane: text in, text out as it is generated.

The prompts of all sessions take turns at one generator (`Turns`), in the data thread, which alone touches the rings.
Between two tokens it looks at them.
"""

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

import numpy as np

from shm_server import _core, layout
from shm_server.generators import Generator, InvalidRequest, Sampling, status_of
from shm_server.generators.turns import DEFAULT_PLACES, Job, Turns
from shm_server.layout import CompletionFlag, Datatype, Reason, Status
from shm_server.runtime.describe import describe, message, where
from shm_server.session.doorbell import LaneRequest
from shm_server.session.segment import LaneSpec, TensorSpec
from shm_server.session.session import Session
from shm_server.worker.dispatch import MOVED, Dispatcher, cut

log = logging.getLogger(__name__)

# Prompts of one client at a time, in line or in flight.
DEFAULT_SLOTS = 16
# About 4,000 tokens of English in, and twice that out: what small models have room for.
DEFAULT_PROMPT_BYTES = 16 << 10
DEFAULT_REPLY_BYTES = 32 << 10

# Prompts of a session in line; the rest of them wait in its ring, where they cost nothing. So what a session can have
# us hold, look at between two tokens, and give up at once when it hangs up, is bounded.
MAX_WAITING = 64
# Prompts that are asked between two tokens whether they are still wanted, beside those in flight.
LOOKS = 256

# Prompts in flight of a generator that waits for an endpoint. Each is a thread and a connection.
CONCURRENT_PLACES = 64
# Such a generator may say nothing for long. So often it is looked whether a prompt is still wanted.
LOOK_SECONDS = 0.05


class Reply:
    """The reply of a slot of a session's lane. Data thread only."""

    def __init__(self, session: Session, slot: int, deadline: int) -> None:
        self.session, self._slot, self._deadline = session, slot, deadline

    def append(self, piece: str) -> bool:
        """Let the caller have more text. False: it did not all fit, and no more will."""
        lane, data = self.session.lane, piece.encode()
        room = lane.room(self._slot)
        fits = len(data) <= room
        lane.append(self._slot, data if fits else cut(piece, room))
        return fits

    def interrupted(self) -> Status | None:
        """Why the prompt is to end before its generator does, or None."""
        if self.session.lane.cancelled(self._slot):
            return Status.CANCELLED
        if self._deadline and time.monotonic_ns() >= self._deadline:
            return Status.DEADLINE_EXCEEDED
        return None

    def finish(self, status: Status, message: str, *, truncated: bool, started_ns: int | None) -> None:
        """The last call: how it ended, and when its turn came (CLOCK_MONOTONIC), None for never."""
        flags = CompletionFlag.TRUNCATED if truncated else 0
        text = cut(message, layout.MESSAGE_BYTES)
        self.session.lane.finish_prompt(self._slot, status, flags, text, started_ns or 0)


class PromptDispatcher(Dispatcher):
    """Runs `generator` on the prompts that the sessions submit, a few at once, the others in line."""

    protocol, called = layout.Protocol.STREAM, "prompts"

    def __init__(self, generator: Generator, *, spin_us: float) -> None:
        super().__init__(spin_us=spin_us, limit=1)  # a prompt of 16 KiB takes 15 ms to read: one a session and turn
        self.name = generator.name
        self._concurrent = generator.concurrent
        places = CONCURRENT_PLACES if generator.concurrent else DEFAULT_PLACES
        self._turns = Turns(generator, places=places, wake=self.poller.wake)
        self._jobs: dict[Job, Reply] = {}
        self._looked_at: deque[Job] = deque()  # the jobs, and some that have ended, longest not looked at first
        self._paused: set[Session] = set()  # from whom nothing is taken for now
        self._busy = threading.Event()  # there are jobs
        self._moving = False
        if generator.concurrent:
            threading.Thread(target=self._look, name="prompt-look", daemon=True).start()

    def spec(self, request: LaneRequest) -> LaneSpec:
        prompt_bytes = request.input_extent or DEFAULT_PROMPT_BYTES
        reply_bytes = max(request.output_extent or DEFAULT_REPLY_BYTES, prompt_bytes)
        return LaneSpec(
            self.protocol, request.slot_count or DEFAULT_SLOTS, (_text(prompt_bytes),), (_text(reply_bytes),)
        )

    def metadata(self) -> Mapping[str, object]:
        text = {"datatype": "UINT8", "shape": [-1]}
        said = {"name": self.name, "version": "1", "platform": "generator"}
        return said | {"inputs": [{"name": "prompt"} | text], "outputs": [{"name": "text"} | text]}

    def counters(self) -> dict[str, int]:
        turns = {"prompts_in_flight": self._turns.in_flight, "prompts_waiting": self._turns.waiting}
        return super().counters() | turns

    # -- the data thread

    @property
    def wait(self) -> Callable[[int], _core.Lane | None]:
        return self._wait

    def _wait(self, limit: int) -> _core.Lane | None:
        """The next lane with a batch. None when it is time for a round of tokens, or when there are orders."""
        if self._jobs and not self._concurrent:
            return self.poller.sweep(limit)  # a round after each pass over the sessions
        return self.poller.next(limit)  # which the threads that receive tokens wake

    def serve(self, lane: _core.Lane) -> None:
        session = self.sessions[lane]
        for slot, data, *sampling, deadline in lane.begin_prompts():
            self.begin(lambda d=data, s=sampling: _asked(d, *s), Reply(session, slot, deadline), session)
        if self._turns.waiting_of(session) >= MAX_WAITING:
            lane.paused = True
            self._paused.add(session)

    def begin(self, asked: Callable[[], tuple[str, Sampling]], reply: Reply, owner: Session) -> None:
        """Put what `asked` returns in its owner's line. What that raises is the reply."""
        try:
            job = self._turns.add(*asked(), owner)
        except BaseException as error:
            _fail(reply, error, started_ns=None)
            return
        self._jobs[job] = reply
        self._looked_at.append(job)
        self._busy.set()

    def between(self) -> None:
        """The orders, then one token for each prompt in flight, then a look at whether prompts are still wanted."""
        super().between()
        for job, piece in self._turns.round():
            self._handle(job, self._deliver, piece)
        for job in (*self._turns.flight, *itertools.islice(self._looked_at, LOOKS)):
            self._handle(job, self._ask)
        self._rotate()
        if self._moving:
            self._let_go()
            return
        for session in tuple(self._paused):
            if self._turns.waiting_of(session) < MAX_WAITING:
                self._paused.discard(session)
                session.lane.paused = False

    def _handle(self, job: Job, do: Callable[..., None], *args: object) -> None:
        """What goes wrong with a prompt is that prompt's end."""
        if job not in self._jobs:
            return
        try:
            do(job, *args)
        except BaseException as error:
            if job not in self._jobs:  # it had ended, and could not be said
                log.error("the end of a reply was lost: %s. %s", describe(error), where(error))
                return
            reply = self._leave(job)
            self._turns.cancel(job)
            _fail(reply, error, started_ns=job.started_ns)

    def _deliver(self, job: Job, piece: str | None) -> None:
        reply = self._jobs[job]
        if piece is not None:
            if not reply.append(piece):
                self._cancel(job, Status.OK, truncated=True)
            return
        self._leave(job)
        if job.error is None:
            reply.finish(Status.OK, "", truncated=False, started_ns=job.started_ns)
        else:
            _fail(reply, job.error, started_ns=job.started_ns)

    def _ask(self, job: Job) -> None:
        if (status := self._jobs[job].interrupted()) is not None:
            self._cancel(job, status)

    def _rotate(self) -> None:
        """Let those that were looked at come last; forget those that have ended."""
        for _ in range(min(LOOKS, len(self._looked_at))):
            job = self._looked_at.popleft()
            if job in self._jobs:
                self._looked_at.append(job)

    def _cancel(self, job: Job, status: Status, *, truncated: bool = False) -> None:
        reply = self._leave(job)
        self._turns.cancel(job)
        reply.finish(status, "", truncated=truncated, started_ns=job.started_ns)

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

    def _move(self) -> None:
        """Nothing more is taken; a session goes when its prompts in hand have ended, however long they are."""
        self._moving = True
        for lane in self.sessions:
            lane.paused = True
        self._let_go()

    def _let_go(self) -> None:
        asking = {job.owner for job in self._jobs}
        for session in tuple(self.sessions.values()):
            if session not in asking:
                self.release(session, Reason.MOVED, MOVED)
        self._stopping = self._stopping or not self._jobs

    def release(self, session: Session, reason: Reason | None = None, message: str = "") -> None:
        self._paused.discard(session)
        for job in [job for job in self._jobs if job.owner is session]:
            self._leave(job)  # nobody reads it any more
            self._turns.cancel(job)
        super().release(session, reason, message)

    def unfinished(self) -> bool:
        if self._jobs and self._concurrent:
            time.sleep(0.001)  # until there is more from the endpoints
        return bool(self._jobs)

    def finish(self, end: float) -> None:
        super().finish(end)
        for job in tuple(self._jobs):
            self._handle(job, self._cancel, Status.DRAINING)


def _text(size: int) -> TensorSpec:
    return TensorSpec(Datatype.UINT8, np.dtype(np.uint8), (size,), symbolic=True)


def _asked(
    data: bytes, steps: int, temperature: float | None, top_k: int | None, seed: int | None
) -> tuple[str, Sampling]:
    """What a submission says. Raises InvalidRequest."""
    try:
        prompt = data.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the prompt is no UTF-8: {error.reason} at byte {error.start}") from None
    return prompt, Sampling(steps=steps, temperature=temperature, top_k=top_k, seed=seed)


def _fail(reply: Reply, error: BaseException, *, started_ns: int | None) -> None:
    """Finish with what a generator raised: its own errors have a status each, the text so far stands."""
    status = status_of(error)
    if status == Status.MODEL_ERROR:
        said = describe(error)
        log.error("a prompt failed: %s. %s", said, where(error))
    else:
        said = message(error)
    reply.finish(status, said, truncated=False, started_ns=started_ns)
