"""A lane in anonymous memory with both sides in one hand: the core's Lane, and a client that does whatever is asked."""

import mmap
import os
import socket

import numpy as np

from shm_server import _core, layout
from shm_server.layout import LaneKind, Op
from shm_server.segment import LaneSpec, plan, write_header


def memory_of(*specs: LaneSpec) -> tuple[mmap.mmap, np.ndarray]:
    table, size = plan(specs)
    memory = mmap.mmap(-1, size)
    write_header(memory, table, size, epoch=1)
    return memory, table


def image_spec(slots: int = 4, reply: int = 256) -> LaneSpec:
    return LaneSpec(LaneKind.IMAGE, slots, layout.IMAGE_BYTES, reply)


def prompt_spec(slots: int = 2, request: int = 192, reply: int = 512) -> LaneSpec:
    return LaneSpec(LaneKind.PROMPT, slots, request, reply)


class HeapLane:
    """`lane` is the server's side. With `doorbell` the two sides have a socket each; `client` is the client's.

    With `fd`, a descriptor of shared memory, the lane is in a guarded mapping of it.
    """

    def __init__(self, spec: LaneSpec | None = None, *, doorbell: bool = False, fd: int = -1) -> None:
        self.spec = spec or image_spec()
        self.memory, table = memory_of(self.spec)
        if fd >= 0:
            size = len(self.memory)
            os.ftruncate(fd, size)
            self.memory = _core.Mapping(fd, size)
            write_header(self.memory, table, size, epoch=1)
        self.at = table[0]
        self.client = self.server = None
        if doorbell:
            self.client, self.server = socket.socketpair()
            self.client.setblocking(False)
        self.lane = _core.Lane(self.memory, 0, self.server.fileno() if doorbell else -1)
        self.header = np.frombuffer(self.memory, layout.header, 1)[0]
        self.submissions = self._view(layout.submission, "submissions_offset", "submission_entries")
        self.completions = self._view(layout.completion, "completions_offset", "completion_entries")
        slots = int(self.at["slot_count"])
        self.slots = self._bytes("slots_offset", self.spec.slot_bytes).reshape(slots, -1)
        self.replies = self._bytes("replies_offset", self.spec.reply_bytes).reshape(slots, -1)
        self.controls = self.progress = None
        if self.spec.kind == LaneKind.PROMPT:
            self.controls = self._view(layout.control, "controls_offset", "slot_count")
            self.progress = self._view(layout.progress, "progress_offset", "slot_count")
        self.tail = self.head = 0

    def _view(self, dtype, offset: str, count: str) -> np.ndarray:
        return np.frombuffer(self.memory, dtype, int(self.at[count]), int(self.at[offset]))

    def _bytes(self, offset: str, each: int) -> np.ndarray:
        return np.frombuffer(self.memory, np.uint8, each * int(self.at["slot_count"]), int(self.at[offset]))

    def submit(self, slot: int, op: int = Op.ECHO, **fields) -> int:
        """Publish a submission; its request id is its position. Fields may be whatever breaks the protocol."""
        entries = len(self.submissions)
        entry = self.submissions[self.tail % entries]
        values = {"request_id": self.tail, "slot": slot, "op": op, "length": self.spec.slot_bytes}
        values |= {"turn": layout.turn(self.tail, entries)} | fields
        for name in entry.dtype.names[::-1]:  # turn is the first, and comes last
            entry[name] = values.get(name, 0)
        self.tail += 1
        return self.tail - 1

    def taken(self) -> list[np.void]:
        """The completions that have come since the last time, copied."""
        found, entries = [], len(self.completions)
        while (entry := self.completions[self.head % entries])["turn"] == layout.turn(self.head, entries):
            found.append(entry.copy())
            self.head += 1
        return found

    def rung(self) -> bytes:
        """The bells in the client's socket."""
        try:
            return self.client.recv(4096)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        self.lane.close()
        self.header = self.submissions = self.completions = self.slots = self.replies = None
        self.controls = self.progress = None
        for sock in (self.client, self.server):
            if sock:
                sock.close()
        self.memory.close()  # BufferError if the core still held it
