"""A lane in anonymous memory with both sides in one hand: the core's Lane, and a client that does whatever is asked."""

import mmap
import os
import socket

import numpy as np

from shm_server import _core, layout
from shm_server.layout import Datatype, Op, Protocol
from shm_server.session.segment import LaneSpec, Plan, TensorSpec, write_header


def memory_of(spec: LaneSpec) -> tuple[mmap.mmap, Plan]:
    plan = Plan(spec)
    memory = mmap.mmap(-1, plan.size)
    write_header(memory, plan, epoch=1)
    return memory, plan


def tensor(datatype: str, *dims: int, symbolic: bool = False) -> TensorSpec:
    size = layout.DATATYPE_BYTES[Datatype[datatype]]
    return TensorSpec(Datatype[datatype], np.dtype(f"<{'f' if datatype == 'FP32' else 'u'}{size}"), dims, symbolic)


def call_spec(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], slots: int = 4) -> LaneSpec:
    return LaneSpec(Protocol.CALL, slots, inputs, outputs)


def image_spec(slots: int = 4, classes: int = 3) -> LaneSpec:
    return call_spec((tensor("UINT8", 3, 32, 32),), (tensor("FP32", classes),), slots)


def tokens_spec(slots: int = 4, bound: int = 16) -> LaneSpec:
    """Two sequences in, a sequence of vectors and one number out."""
    ids, mask = tensor("UINT32", bound, symbolic=True), tensor("UINT8", bound, symbolic=True)
    return call_spec((ids, mask), (tensor("FP32", bound, 3, symbolic=True), tensor("FP32", 1)), slots)


def prompt_spec(slots: int = 2, prompt: int = 192, reply: int = 256) -> LaneSpec:
    texts = (tensor("UINT8", prompt, symbolic=True),), (tensor("UINT8", reply, symbolic=True),)
    return LaneSpec(Protocol.STREAM, slots, *texts)


class HeapLane:
    """`lane` is the server's side. With `doorbell` the two sides have a socket each; `client` is the client's.

    `inputs`, `outputs` and `messages` are the slots' rows as bytes, (slots, row_bytes); `slots` and `replies`
    are those of the first input and output. With `fd`, a descriptor of shared memory, the lane is in a guarded mapping
    of it.
    """

    def __init__(self, spec: LaneSpec | None = None, *, doorbell: bool = False, fd: int = -1, finite: int = 0) -> None:
        self.spec = spec or image_spec()
        self.memory, plan = memory_of(self.spec)
        if fd >= 0:
            os.ftruncate(fd, plan.size)
            self.memory = _core.Mapping(fd, plan.size)
            write_header(self.memory, plan, epoch=1)
        self.at = plan.lane
        self.client = self.server = None
        if doorbell:
            self.client, self.server = socket.socketpair()
            self.client.setblocking(False)
        self.lane = _core.Lane(self.memory, self.server.fileno() if doorbell else -1, finite)
        self.header = np.frombuffer(self.memory, layout.header, 1)[0]
        self.submissions = self._view(layout.submission, "submissions_offset", "submission_entries")
        self.completions = self._view(layout.completion, "completions_offset", "completion_entries")
        self.messages = self._bytes(int(self.at["messages_offset"]), layout.MESSAGE_BYTES)
        rows = [self._bytes(int(row["offset"]), int(row["row_bytes"])) for row in plan.tensors]
        self.inputs, self.outputs = rows[: len(self.spec.inputs)], rows[len(self.spec.inputs) :]
        self.slots, self.replies = self.inputs[0], self.outputs[0]
        self.controls = self.progress = None
        if self.spec.protocol == Protocol.STREAM:
            self.controls = self._view(layout.control, "controls_offset", "slot_count")
            self.progress = self._view(layout.progress, "progress_offset", "slot_count")
        self.tail = self.head = 0

    def _view(self, dtype, offset: str, count: str) -> np.ndarray:
        return np.frombuffer(self.memory, dtype, int(self.at[count]), int(self.at[offset]))

    def _bytes(self, offset: int, each: int) -> np.ndarray:
        slots = int(self.at["slot_count"])
        return np.frombuffer(self.memory, np.uint8, each * slots, offset).reshape(slots, each)

    def submit(self, slot: int, op: int = Op.ECHO, **fields) -> int:
        """Publish a submission; its request id is its position. Fields may be whatever breaks the protocol."""
        entries = len(self.submissions)
        entry = self.submissions[self.tail % entries]
        values = {"request_id": self.tail, "slot": slot, "op": op}
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

    def answer(self, *rows: np.ndarray, row: int = 0, by_slot: bool = False, batch: int | None = None) -> None:
        """Complete the batch that was drained with rows for each output, (n, *dims) each."""
        for output, values in enumerate(rows):
            self.lane.scatter(output, values, row, values[:1].nbytes, by_slot)
        self.lane.complete_calls(self.lane.count if batch is None else batch)

    def rung(self) -> bytes:
        """The bells in the client's socket."""
        try:
            return self.client.recv(4096)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        self.lane.close()
        self.header = self.submissions = self.completions = self.slots = self.replies = self.messages = None
        self.inputs = self.outputs = ()
        self.controls = self.progress = None
        for sock in (self.client, self.server):
            if sock:
                sock.close()
        self.memory.close()  # BufferError if the core still held it
