"""The image lane: echo and classify, all that is pending as one batch."""

import mmap

import numpy as np

from . import _core, layout
from .dispatch import Dispatcher
from .doorbell import LaneRequest
from .layout import LaneKind, Op
from .models import Classifier
from .scores import checked, declared
from .segment import LaneSpec

DEFAULT_MAX_BATCH = 32
# Two batches: one in the model, one being filled.
DEFAULT_SLOTS = 2 * DEFAULT_MAX_BATCH
# What an error's message has room for where few classes need less.
LEAST_REPLY_BYTES = layout.MESSAGE_BYTES
CLASSIFY = int(Op.CLASSIFY)  # see dispatch.ECHO


def buckets(max_batch: int) -> list[int]:
    """The batch sizes that a model is compiled for: the powers of two up to `max_batch`."""
    return [1 << i for i in range(max_batch.bit_length())]


class ImageDispatcher(Dispatcher):
    """Runs `classifier` (or only echoes, with None) on the images that the sessions submit.

    `max_batch` is a power of two; a batch of n images runs in the next power of two.
    """

    kind = LaneKind.IMAGE

    def __init__(self, classifier: Classifier | None, *, spin_us: float, max_batch: int, slots: int) -> None:
        if max_batch < 1 or max_batch & (max_batch - 1):
            raise ValueError(f"max_batch must be a power of two, not {max_batch}")
        if not 1 <= slots <= layout.MAX_SLOTS:
            raise ValueError(f"slots must be 1 to {layout.MAX_SLOTS}, not {slots}")
        self.classes = declared(classifier)
        super().__init__(spin_us=spin_us, limit=max_batch)
        self.classifier, self.slots = classifier, slots
        self.name = classifier.name if classifier else "none"
        self.batches = dict.fromkeys(buckets(max_batch), 0)  # how many batches ran in a bucket of that size
        self.views = self.gathers = 0
        # A mapping of its own: frameworks copy what does not begin on a cache line, a page does.
        self._gathered = mmap.mmap(-1, max_batch * layout.IMAGE_BYTES)
        read_only = memoryview(self._gathered).toreadonly()
        self._pixels = np.frombuffer(read_only, np.uint8).reshape(max_batch, 3, 32, 32)

    def spec(self, request: LaneRequest) -> LaneSpec:
        lines = -(-max(4 * len(self.classes), LEAST_REPLY_BYTES) // layout.LINE_BYTES)
        slots = request.slot_count or self.slots
        return LaneSpec(LaneKind.IMAGE, slots, layout.IMAGE_BYTES, lines * layout.LINE_BYTES)

    def counters(self) -> dict[str, int]:
        return super().counters() | {"views": self.views, "gathers": self.gathers}

    def serve(self, lane: _core.Lane) -> None:
        """Run the lane's batch, and what other sessions have pending, as one; never wait for more."""
        lanes, total = [lane], lane.count
        # The rest of one pass over the sessions: each adds its images, or has its echoes answered, once.
        while total < self.limit and (other := self.poller.sweep(self.limit - total)) is not None:
            if other.op == CLASSIFY:
                lanes.append(other)
                total += other.count
            else:
                self.dispatch(other)
        bucket = 1 << (total - 1).bit_length()
        images = self.sessions[lane].images
        in_place = len(lanes) == 1 and lane.contiguous and lane.lowest + bucket <= len(images)
        if in_place:
            # The rows beyond the batch are neighbouring slots, whose scores nobody looks at.
            pixels = images[lane.lowest : lane.lowest + bucket]
            self.views += 1
        else:
            pixels, row = self._pixels[:bucket], 0
            for each in lanes:
                each.gather(self._gathered, row)
                row += each.count
            self.gathers += 1
        self.batches[bucket] += 1
        if self.classifier is None:
            raise RuntimeError("this server has no model: it was started with --engine none")
        scores, row = checked(self.classifier.scores(pixels), bucket, len(self.classes), total), 0
        for each in lanes:
            count = each.count
            each.complete_scores(scores, row, in_place, total)
            row += count
