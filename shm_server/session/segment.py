"""One client's shared memory: laid out, allotted, filled and nameless before the client hears of it."""

import fcntl
import math
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import posix_ipc

from shm_server import _core, layout

SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@dataclass(frozen=True)
class TensorSpec:
    """What an input's or an output's rows are to be: see "Tensors" in layout.md."""

    datatype: layout.Datatype
    dtype: np.dtype
    """NumPy's, of the same size."""
    dims: tuple[int, ...]
    """Without that of the batch; a scalar has none. A symbolic dimension is the first one, here as its bound."""
    symbolic: bool = False

    @property
    def valid_bytes(self) -> int:
        """Of a row at its bound, without what it is padded with."""
        return math.prod(self.dims) * layout.DATATYPE_BYTES[self.datatype]

    @property
    def row_bytes(self) -> int:
        return -(-self.valid_bytes // layout.ROW_ALIGNMENT) * layout.ROW_ALIGNMENT


@dataclass(frozen=True)
class LaneSpec:
    """What a lane is to be: see "The lane" in layout.md."""

    protocol: layout.Protocol
    slot_count: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        return (*self.inputs, *self.outputs)

    @property
    def ring_entries(self) -> int:
        """Entries of either ring: the next power of two, so that a position is masked, not divided."""
        return 1 << (self.slot_count - 1).bit_length()

    @property
    def completion_entries(self) -> int:
        """Entries of the completion ring: a prompt has a `more` in it beside its final completion."""
        return self.ring_entries * (2 if self.protocol == layout.Protocol.STREAM else 1)


def pages(size: int) -> int:
    """`size` in bytes, rounded up to whole pages."""
    return -(-size // layout.PAGE_BYTES) * layout.PAGE_BYTES


class Plan:
    """A lane laid out: `lane`, of `layout.lane`; `tensors`, (n,) of `layout.tensor`; the segment's `size` in bytes."""

    def __init__(self, spec: LaneSpec) -> None:
        self.spec, self.size = spec, layout.PAGE_BYTES
        self.lane, self.tensors = np.zeros((), layout.lane), np.zeros(len(spec.tensors), layout.tensor)
        lane, count = self.lane, spec.slot_count
        lane["protocol"], lane["slot_count"] = spec.protocol, count
        lane["submission_entries"], lane["completion_entries"] = spec.ring_entries, spec.completion_entries
        lane["input_count"], lane["output_count"] = len(spec.inputs), len(spec.outputs)
        lane["submissions_offset"] = self._next(spec.ring_entries * layout.ENTRY_BYTES)
        lane["completions_offset"] = self._next(spec.completion_entries * layout.ENTRY_BYTES)
        lane["messages_offset"] = self._next(count * layout.MESSAGE_BYTES)
        for row, tensor in zip(self.tensors, spec.tensors, strict=True):
            row["offset"], row["row_bytes"] = self._next(count * tensor.row_bytes), tensor.row_bytes
            dims = tensor.dims or (1,)
            row["datatype"], row["rank"], row["symbolic"] = tensor.datatype, len(dims), tensor.symbolic
            row["dims"][: len(dims)] = dims
        if spec.protocol == layout.Protocol.STREAM:
            lane["controls_offset"] = self._next(count * layout.control.itemsize)
            lane["progress_offset"] = self._next(count * layout.progress.itemsize)

    def _next(self, size: int) -> int:
        """Where the next area, of `size` bytes, begins."""
        begin = self.size
        self.size += pages(size)
        return begin


def write_header(memory, plan: Plan, epoch: int) -> None:
    """Fill the header page of `memory`, a zeroed writable buffer of `plan.size` bytes."""
    header = np.frombuffer(memory, layout.header, 1)[0]
    header["layout_major"], header["layout_minor"] = layout.LAYOUT_MAJOR, layout.LAYOUT_MINOR
    header["header_bytes"], header["segment_bytes"] = layout.PAGE_BYTES, plan.size
    header["epoch"] = epoch
    np.frombuffer(memory, layout.lane, 1, layout.LANE_OFFSET)[0] = plan.lane
    np.frombuffer(memory, layout.tensor, len(plan.tensors), layout.TENSORS_OFFSET)[:] = plan.tensors
    header["magic"] = layout.SEGMENT_MAGIC


def allot(size: int, sealed: bool) -> int:
    """A descriptor of `size` zeroed bytes of shared memory that no name leads to.

    Every page is allotted here, so that a full /dev/shm is an OSError now and not a SIGBUS at some later store.
    With `sealed` it is a memfd that no peer can shrink or grow; otherwise POSIX shared memory, unlinked at once.
    """
    if sealed:
        fd = os.memfd_create("shm-server", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    else:
        name = f"/shm-server-{os.getpid()}-{secrets.token_hex(8)}"
        fd = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=0o600).fd
        posix_ipc.unlink_shared_memory(name)
    try:
        os.posix_fallocate(fd, 0, size)
        if sealed:
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


class Segment:
    """A mapped segment. `fd` is for the client and is closed by `close_fd`; the mapping stays until `close`."""

    def __init__(self, spec: LaneSpec, *, sealed: bool = False) -> None:
        self.plan = Plan(spec)
        self.size = self.plan.size
        if self.size > layout.MAX_SEGMENT_BYTES:
            raise ValueError(f"a segment of {self.size} bytes; the layout allows {layout.MAX_SEGMENT_BYTES}")
        self.epoch = secrets.randbits(64) or 1
        self.fd = allot(self.size, sealed)
        try:
            self.memory = _core.Mapping(self.fd, self.size)
        except BaseException:
            self.close_fd()
            raise
        write_header(self.memory, self.plan, self.epoch)

    def inputs(self) -> list[np.ndarray]:
        """The slots' rows of each input in place, read-only: (slot_count, *dims). Drop them before `close`."""
        spec = self.plan.spec
        return self._rows(memoryview(self.memory).toreadonly(), spec.inputs, self.plan.tensors[: len(spec.inputs)])

    def outputs(self) -> list[np.ndarray]:
        """The slots' rows of each output in place, writable: (slot_count, *dims). Drop them before `close`."""
        spec = self.plan.spec
        return self._rows(memoryview(self.memory), spec.outputs, self.plan.tensors[len(spec.inputs) :])

    def _rows(self, memory: memoryview, specs: Sequence[TensorSpec], rows: np.ndarray) -> list[np.ndarray]:
        views = []
        for spec, row in zip(specs, rows, strict=True):
            count = self.plan.spec.slot_count
            # `frombuffer` holds on to the mapping, which np.ndarray would not.
            area = np.frombuffer(memory, np.uint8, count * spec.row_bytes, int(row["offset"]))
            strides = (spec.row_bytes, *np.empty(spec.dims, spec.dtype).strides)
            views.append(np.ndarray((count, *spec.dims), spec.dtype, area, 0, strides))
        return views

    def close_fd(self) -> None:
        """Close the descriptor: the client has its own by now."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def close(self, *, collapse: bool = True) -> None:
        """Unmap. BufferError when a view is still alive: it would dangle.

        With `collapse` the pages are given back first: a client that keeps the descriptor or the mapping keeps no
        memory. What it writes there later is allotted anew and charged to itself, like any memory that it makes.
        """
        self.close_fd()
        try:
            if collapse:
                self.memory.collapse()
        finally:
            self.memory.close()
