"""The call lane: fixed tensors in, fixed tensors out; all that is pending as one batch."""

import logging
import mmap
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from shm_server import _core, layout
from shm_server.layout import Datatype, Reason
from shm_server.models.checking import check_scores
from shm_server.models.errors import ModelError
from shm_server.models.metadata import Metadata
from shm_server.models.protocol import Arrays, Model
from shm_server.models.tensor import FLOATS, Signature, Tensor
from shm_server.runtime.describe import describe, where
from shm_server.session.doorbell import LaneRequest, Refused, welcome_metadata
from shm_server.session.segment import LaneSpec, Plan, TensorSpec
from shm_server.session.session import Session
from shm_server.worker.counters import BATCHES
from shm_server.worker.dispatch import SERVER_NAME, Dispatcher

log = logging.getLogger(__name__)

DEFAULT_MAX_BATCH = 32
# Two batches: one in the model, one being filled.
DEFAULT_SLOTS = 2 * DEFAULT_MAX_BATCH
# What a session's rows take where the client asks for no number of slots: large rows get fewer.
DEFAULT_ROWS_BYTES = 64 << 20
RUN = int(layout.Op.RUN)  # see dispatch.ECHO
# That a session keeps: 64 slots have 384 places for a batch of up to 32.
MAX_VIEWS = 1024


def buckets(max_batch: int) -> list[int]:
    """The batch sizes that a model is compiled for: the powers of two up to `max_batch`."""
    return [1 << i for i in range(max_batch.bit_length())]


class CallDispatcher(Dispatcher):
    """Runs `model` on what the sessions submit; with `echo_only` it is a name and a signature, and a run is an error.

    `max_batch` is a power of two, and never more than the model's own; a batch of n rows runs in the next power of two.
    `name` and `version` are those under which it is served, unless they are the model's own. Raises ValueError, and
    ModelError for a model that no session could be opened for.
    """

    protocol = layout.Protocol.CALL

    def __init__(
        self,
        model: Model,
        *,
        spin_us: float,
        max_batch: int,
        slots: int,
        name: str | None = None,
        version: str | None = None,
        echo_only: bool = False,
    ) -> None:
        if max_batch < 1 or max_batch & (max_batch - 1):
            raise ValueError(f"max_batch must be a power of two, not {max_batch}")
        if not 1 <= slots <= layout.MAX_SLOTS:
            raise ValueError(f"slots must be 1 to {layout.MAX_SLOTS}, not {slots}")
        max_batch = min(max_batch, 1 << (model.max_batch.bit_length() - 1))
        super().__init__(spin_us=spin_us, limit=max_batch)
        self.model, self.slots, self.echo_only = model, slots, echo_only
        self.name = self.called = name or model.name
        self.version = version or model.version
        self.signature = signature = model.signature
        self._check_fits()
        self._names = [tensor.name for tensor in signature.inputs], [tensor.name for tensor in signature.outputs]
        self._inputs = [Rows(signature, tensor, max_batch) for tensor in signature.inputs]
        self._outputs = [Rows(signature, tensor, max_batch) for tensor in signature.outputs]
        self.finite = sum(
            1 << i for i, tensor in enumerate(signature.outputs) if tensor.labels and tensor.datatype == "FP32"
        )
        # Scores in other floats are not looked at by the core, a row at a time: there NaN is the whole batch's error.
        self._promised = any(t.labels and t.datatype in FLOATS and t.datatype != "FP32" for t in signature.outputs)
        self.batches = dict.fromkeys(buckets(max_batch), 0)  # how many batches ran in a bucket of that size
        self.views = self.gathers = 0

    def _check_fits(self) -> None:
        """ModelError for a welcome, or a segment of one slot, that is larger than the layout allows."""
        try:
            welcome_metadata(SERVER_NAME, self.metadata())
        except ValueError as error:
            raise ModelError(f"{self.name}: {error}") from error
        size = Plan(self.spec(LaneRequest(self.protocol, slot_count=1))).size
        if size > layout.MAX_SEGMENT_BYTES:
            bound = f", {self.signature.symbol} at {self.signature.bound}" if self.signature.symbol else ""
            raise ModelError(
                f"{self.name}: expected a segment of at most {layout.MAX_SEGMENT_BYTES} bytes, "
                f"got {size} for one row of each tensor{bound}"
            )

    def metadata(self) -> Mapping[str, object]:
        said = Metadata(self.name, self.version, self.model.platform, self.signature).to_json()
        for tensor in (*said["inputs"], *said["outputs"]):
            tensor["shape"] = tensor["shape"] or [1]  # as the table has it
        return said

    def warm_up(self) -> None:
        """Run zeros in every size that a batch may run in, so that no request pays for compilation.

        Twice each: the first compiles, the second still allocates. Of a symbolic dimension each bucket alone, and the
        largest in every size.
        """
        extents = self.signature.buckets()
        for size, extent in [*((1, extent) for extent in extents), *((size, extents[-1]) for size in self.batches)]:
            for _ in range(2):
                self.model.run(
                    self._views(self._names[0], self._inputs, size, extent, read_only=True),
                    self._views(self._names[1], self._outputs, size, extent),
                )

    def spec(self, request: LaneRequest) -> LaneSpec:
        signature = self.signature
        if request.input_extent > (signature.bound or 0):
            raise Refused(
                Reason.MALFORMED,
                f"an extent of {request.input_extent}; {self.name} takes "
                + (f"{signature.symbol} up to {signature.bound}" if signature.symbol else "no extent"),
            )
        bound = request.input_extent or signature.bound
        inputs = tuple(tensor_spec(signature, tensor, bound) for tensor in signature.inputs)
        outputs = tuple(tensor_spec(signature, tensor, bound) for tensor in signature.outputs)
        row_bytes = sum(tensor.row_bytes for tensor in (*inputs, *outputs))
        slots = request.slot_count or max(1, min(self.slots, DEFAULT_ROWS_BYTES // row_bytes))
        return LaneSpec(self.protocol, slots, inputs, outputs)

    def counters(self) -> dict[str, int]:
        sizes = {f"{BATCHES}{size}": count for size, count in self.batches.items()}
        return super().counters() | {"views": self.views, "gathers": self.gathers} | sizes

    def serve(self, lane: _core.Lane) -> None:
        """Run the lane's batch, and what other sessions have pending, as one; never wait for more."""
        lanes, total = [lane], lane.count
        # The rest of one pass over the sessions: each adds its rows, or has its echoes answered, once.
        while total < self.limit and (other := self.poller.sweep(self.limit - total)) is not None:
            if other.op == RUN:
                lanes.append(other)
                total += other.count
            else:
                self.dispatch(other)
        bucket = 1 << (total - 1).bit_length()
        self.batches[bucket] += 1
        if self.echo_only:
            raise RuntimeError("this server has no model: it was started with --engine none")
        batch = None
        if self.signature.symbol is None and len(lanes) == 1 and lane.contiguous:
            batch = self._in_place(lane, bucket)
        self._compute(batch or self._gathered(lanes, total, bucket))

    def _compute(self, batch: "Batch") -> None:
        self.model.run(batch.inputs, batch.outputs)
        self._answer(batch)

    def _answer(self, batch: "Batch") -> None:
        """Answer a batch whose outputs are there; its requests are in the lanes' hands."""
        if self._promised:
            check_scores(self.model, {name: rows[: batch.count] for name, rows in batch.outputs.items()})
        for number, each in enumerate(batch.own):
            row, row_bytes = 0, each.row_bytes(batch.extent)
            for lane in batch.lanes:
                lane.scatter(number, each.memory, row, row_bytes, batch.by_slot)
                row += lane.count
        for lane in batch.lanes:
            lane.complete_calls(batch.count)

    def _in_place(self, lane: _core.Lane, bucket: int) -> "Batch | None":
        """Slots that lie side by side, where they are; None unless there are as many behind them as the bucket has."""
        session, first, count = self.sessions[lane], lane.lowest, lane.count
        views = session.views.get((first, bucket)) or self._neighbours(session, first, bucket)
        if views is None:
            return None
        self.views += 1
        inputs, outputs = views
        if bucket == count:
            return Batch([lane], count, None, inputs, outputs)
        # The rows beyond the batch are neighbouring slots: their inputs may be read, their outputs are somebody else's.
        own = self._outputs
        return Batch([lane], count, None, inputs, self._views(self._names[1], own, bucket, None), own, by_slot=True)

    def _neighbours(self, session: Session, first: int, bucket: int) -> tuple[Arrays, Arrays] | None:
        """The inputs and outputs of so many slots from `first` on, in place; None where there are not as many. They are
        kept: to make them anew takes 2 us.
        """
        if first + bucket > len(session.inputs[0]):
            return None
        if len(session.views) == MAX_VIEWS:
            session.views.clear()
        rows = slice(first, first + bucket)
        sides = zip(self._names, (session.inputs, session.outputs), strict=True)
        # Read-only, the dicts too: a model that took something out of one would take it from the calls to come.
        views = tuple(
            MappingProxyType({name: view[rows] for name, view in zip(names, arrays, strict=True)})
            for names, arrays in sides
        )
        session.views[first, bucket] = views
        return views

    def _gathered(self, lanes: list[_core.Lane], total: int, bucket: int) -> "Batch":
        """Rows from all over as one batch in memory of our own."""
        self.gathers += 1
        extent = self.signature.bucket(max(1, *(lane.extent for lane in lanes))) if self.signature.symbol else None
        for number, each in enumerate(self._inputs):
            row, row_bytes = 0, each.row_bytes(extent)
            for lane in lanes:
                lane.gather(number, each.memory, row, row_bytes)
                row += lane.count
        inputs = self._views(self._names[0], self._inputs, bucket, extent, read_only=True)
        outputs = self._views(self._names[1], self._outputs, bucket, extent)
        return Batch(lanes, total, extent, inputs, outputs, self._outputs)

    def close(self) -> None:
        if hasattr(self.model, "close"):
            try:
                self.model.close()
            except BaseException as error:  # everybody has been answered
                log.error("the model was not closed: %s. %s", describe(error), where(error))

    @staticmethod
    def _views(
        names: list[str], tensors: list["Rows"], bucket: int, extent: int | None, *, read_only: bool = False
    ) -> dict[str, np.ndarray]:
        return {name: each.view(bucket, extent, read_only=read_only) for name, each in zip(names, tensors, strict=True)}


class Batch:
    """Requests that are run together.

    lanes    whose hands they are in
    count    how many; the arrays have a bucket of rows
    extent   of the symbolic dimension, None where there is none
    own      the memory of `outputs`, from which they are copied to the slots; empty where those are the slots
    by_slot  the rows of `own` are in the order of the slots, not of the requests
    """

    __slots__ = ("by_slot", "count", "extent", "inputs", "lanes", "outputs", "own")

    def __init__(
        self,
        lanes: list[_core.Lane],
        count: int,
        extent: int | None,
        inputs: Arrays,
        outputs: Arrays,
        own: "Sequence[Rows]" = (),
        *,
        by_slot: bool = False,
    ) -> None:
        self.lanes, self.count, self.extent, self.inputs, self.outputs = lanes, count, extent, inputs, outputs
        self.own, self.by_slot = own, by_slot


class Rows:
    """Memory for a batch of one tensor, rows back to back without padding."""

    def __init__(self, signature: Signature, tensor: Tensor, max_batch: int) -> None:
        self.signature, self.tensor = signature, tensor
        # A mapping of its own: frameworks copy what does not begin on a cache line, a page does.
        self.memory = mmap.mmap(-1, max_batch * signature.row_bytes(tensor))
        self._writable = np.frombuffer(self.memory, np.uint8)
        self._read_only = np.frombuffer(memoryview(self.memory).toreadonly(), np.uint8)

    def row_bytes(self, extent: int | None) -> int:
        return self.signature.row_bytes(self.tensor, extent)

    def view(self, count: int, extent: int | None, *, read_only: bool) -> np.ndarray:
        """The first rows, (count, *shape) where the symbolic dimension has `extent`."""
        shape = (count, *self.signature.shape(self.tensor, extent))
        return np.ndarray(shape, self.tensor.dtype, self._read_only if read_only else self._writable)


def tensor_spec(signature: Signature, tensor: Tensor, bound: int | None) -> TensorSpec:
    """The rows of a tensor whose symbolic dimension has that bound."""
    dims = signature.shape(tensor, bound)
    return TensorSpec(Datatype[tensor.datatype], tensor.dtype, dims, bool(tensor.symbols))
