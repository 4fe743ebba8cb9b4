"""One client's shared memory: laid out, allotted, filled and nameless before the client hears of it."""

import fcntl
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import posix_ipc

from . import _core, layout

SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@dataclass(frozen=True)
class LaneSpec:
    """What a lane is to be: see "Lane table entry" in layout.md."""

    kind: layout.LaneKind
    slot_count: int
    slot_bytes: int
    reply_bytes: int

    @property
    def ring_entries(self) -> int:
        """Entries of either ring: the next power of two, so that a position is masked, not divided."""
        return 1 << (self.slot_count - 1).bit_length()

    @property
    def completion_entries(self) -> int:
        """Entries of the completion ring: a prompt has a `more` in it beside its final completion."""
        return self.ring_entries * (2 if self.kind == layout.LaneKind.PROMPT else 1)

    @property
    def areas(self) -> list[tuple[str, int]]:
        """What the lane table points to, with sizes in bytes, in the segment's order."""
        areas = [
            ("submissions_offset", self.ring_entries * layout.ENTRY_BYTES),
            ("completions_offset", self.completion_entries * layout.ENTRY_BYTES),
            ("slots_offset", self.slot_count * self.slot_bytes),
            ("replies_offset", self.slot_count * self.reply_bytes),
        ]
        if self.kind == layout.LaneKind.PROMPT:
            areas.append(("controls_offset", self.slot_count * layout.control.itemsize))
            areas.append(("progress_offset", self.slot_count * layout.progress.itemsize))
        return areas


def pages(size: int) -> int:
    """`size` in bytes, rounded up to whole pages."""
    return -(-size // layout.PAGE_BYTES) * layout.PAGE_BYTES


def plan(specs: Sequence[LaneSpec]) -> tuple[np.ndarray, int]:
    """Lay the lanes out one after the other: the lane table, (n,) of `layout.lane`, and the segment's size in bytes."""
    table = np.zeros(len(specs), layout.lane)
    end = layout.PAGE_BYTES
    for row, spec in zip(table, specs, strict=True):
        row["kind"], row["slot_count"] = spec.kind, spec.slot_count
        row["slot_bytes"], row["reply_bytes"] = spec.slot_bytes, spec.reply_bytes
        row["submission_entries"], row["completion_entries"] = spec.ring_entries, spec.completion_entries
        for field, size in spec.areas:
            row[field] = end
            end += pages(size)
    return table, end


def write_header(memory, table: np.ndarray, size: int, epoch: int) -> None:
    """Fill the header page of `memory`, a zeroed writable buffer of `size` bytes."""
    header = np.frombuffer(memory, layout.header, 1)[0]
    header["layout_major"], header["layout_minor"] = layout.LAYOUT_MAJOR, layout.LAYOUT_MINOR
    header["header_bytes"], header["segment_bytes"] = layout.PAGE_BYTES, size
    header["epoch"], header["lane_count"] = epoch, len(table)
    np.frombuffer(memory, layout.lane, len(table), layout.LANES_OFFSET)[:] = table
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

    def __init__(self, specs: Sequence[LaneSpec], *, sealed: bool = False) -> None:
        self.table, self.size = plan(specs)
        if self.size > layout.MAX_SEGMENT_BYTES:
            raise ValueError(f"a segment of {self.size} bytes; the layout allows {layout.MAX_SEGMENT_BYTES}")
        self.epoch = secrets.randbits(64) or 1
        self.fd = allot(self.size, sealed)
        try:
            self.memory = _core.Mapping(self.fd, self.size)
        except BaseException:
            self.close_fd()
            raise
        write_header(self.memory, self.table, self.size, self.epoch)

    def images(self, lane: int) -> np.ndarray:
        """The slots of image lane `lane` in place, read-only: uint8 (slot_count, 3, 32, 32). Drop it before `close`."""
        row = self.table[lane]
        count, read_only = int(row["slot_count"]), memoryview(self.memory).toreadonly()
        flat = np.frombuffer(read_only, np.uint8, count * layout.IMAGE_BYTES, int(row["slots_offset"]))
        return flat.reshape(count, 3, 32, 32)

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
