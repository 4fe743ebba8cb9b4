"""The data thread: takes batches from every session in turn, runs them, publishes the results.

It alone touches the rings. The control thread hands it sessions to serve and to drop (`post`), and gets each
session back (`on_released`) once the rings of it are no longer looked at.
"""

import collections
import logging
import os
import threading
import time
from collections.abc import Callable

import numpy as np

from . import _core, layout
from .layout import Op
from .models import Classifier
from .session import Session

log = logging.getLogger(__name__)

# How long a stopping server goes on with what clients still submit before it refuses the rest.
DRAIN_SECONDS = 5.0


def buckets(max_batch: int) -> list[int]:
    """The batch sizes that a model is compiled for: the powers of two up to `max_batch`."""
    return [1 << i for i in range(max_batch.bit_length())]


class Dispatcher:
    """Runs `classifier` (or only echoes, with None) on whatever the sessions submit.

    `max_batch` is a power of two; a batch of n images runs in the next power of two. `on_released(session, fault)` is
    called in the data thread when a session is no longer served: fault is how its client broke the protocol, or "".
    """

    def __init__(
        self,
        classifier: Classifier | None,
        *,
        spin_ns: int,
        max_batch: int,
        on_released: Callable[[Session, str], None],
    ) -> None:
        if max_batch < 1 or max_batch & (max_batch - 1):
            raise ValueError(f"max_batch must be a power of two, not {max_batch}")
        self.poller = _core.Poller(spin_ns)
        self.classifier, self.max_batch, self.on_released = classifier, max_batch, on_released
        self.sessions: dict[_core.Lane, Session] = {}
        self.batches = dict.fromkeys(buckets(max_batch), 0)  # images run in a bucket of that size: how many batches
        self.views = self.gathers = 0
        self._orders: collections.deque[Callable[[], None]] = collections.deque()
        self._gathered = np.zeros((max_batch, 3, 32, 32), np.uint8)
        self._stopping = False

    # -- any thread

    def post(self, order: Callable[[], None]) -> None:
        """Have the data thread call `order` between two batches."""
        self._orders.append(order)
        self.poller.wake()

    def add(self, session: Session) -> None:
        self.post(lambda: self._add(session))

    def remove(self, session: Session) -> None:
        self.post(lambda: self._release(session, ""))

    def stop(self) -> None:
        """Have `run` answer what is in flight, refuse what comes after, release every session and return."""
        self.post(self._stop)

    # -- the data thread

    def run(self, cpu: int | None = None) -> None:
        """Serve until `stop`. With `cpu` the calling thread is pinned to that core."""
        if cpu is not None:
            os.sched_setaffinity(threading.get_native_id(), {cpu})
        wait, limit = self.poller.next, self.max_batch
        while not self._stopping:
            lane = wait(limit)
            if lane is None:
                while self._orders:
                    self._orders.popleft()()
            else:
                self._serve(lane)

    def _serve(self, lane: _core.Lane) -> None:
        op = lane.op
        if op == Op.ECHO:
            lane.complete_echo()
        elif op == Op.CLASSIFY:
            self._classify(lane)
        else:  # the client broke the protocol
            self._release(self.sessions[lane], lane.fault)

    def _classify(self, lane: _core.Lane) -> None:
        """Run the lane's batch, and what other sessions have pending, as one; never wait for more."""
        lanes, total = [lane], lane.count
        while total < self.max_batch and (other := self.poller.take(self.max_batch - total)) is not None:
            if other.op == Op.CLASSIFY:
                lanes.append(other)
                total += other.count
            else:
                self._serve(other)
        bucket = 1 << (total - 1).bit_length()
        images = self.sessions[lane].images
        in_place = len(lanes) == 1 and lane.contiguous and lane.lowest + bucket <= len(images)
        if in_place:
            # The rows beyond the batch are neighbouring slots, whose scores nobody looks at.
            pixels = images[lane.lowest : lane.lowest + bucket]
            self.views += 1
        else:
            pixels, row = self._gathered[:bucket], 0
            for each in lanes:
                each.gather(self._gathered, row)
                row += each.count
            self.gathers += 1
        self.batches[bucket] += 1
        try:
            if self.classifier is None:
                raise RuntimeError("this server has no model: it was started with --engine none")
            scores = self.classifier.scores(pixels)
            row = 0
            for each in lanes:
                count = each.count
                each.complete_scores(scores, row, in_place, total)
                row += count
        except Exception as error:  # whatever a model raises is that batch's answer, and the server goes on
            log.exception("the model failed on a batch of %d", total)
            for each in lanes:
                if each.count:
                    each.complete_error(self._explain(error, self.sessions[each]))

    def _explain(self, error: Exception, session: Session) -> bytes:
        room = int(session.segment.table[0]["reply_bytes"])
        text = f"{type(error).__name__}: {error}".encode()[:room]
        return text.decode(errors="ignore").encode()  # not cut within a character

    def _add(self, session: Session) -> None:
        self.sessions[session.lane] = session
        self.poller.add(session.lane)

    def _release(self, session: Session, fault: str) -> None:
        if self.sessions.pop(session.lane, None) is None:
            return  # released before: a client that broke the protocol also hung up
        self.poller.remove(session.lane)
        self.on_released(session, fault)

    def _stop(self) -> None:
        for lane in self.sessions:
            lane.announce_draining()
        end = time.monotonic() + DRAIN_SECONDS
        while (lane := self.poller.take(self.max_batch)) is not None and time.monotonic() < end:
            self._serve(lane)
        for lane in self.sessions:
            lane.draining = True
        while (lane := self.poller.take(self.max_batch)) is not None:
            self._serve(lane)
        for session in list(self.sessions.values()):
            self._release(session, "")
        self._stopping = True


def spin_budget(spin_us: float) -> int:
    """Nanoseconds that the poller may spin: negative without end; 0 on a single core, where spinning only
    keeps the other side from running."""
    if len(os.sched_getaffinity(0)) == 1:
        return 0
    return -1 if spin_us == float("inf") else int(spin_us * 1000)


def reply_bytes(classes: int) -> int:
    """Bytes of an image lane's reply: the score of every class, and never less than an error's message needs."""
    return -(-max(4 * classes, 256) // layout.LINE_BYTES) * layout.LINE_BYTES
