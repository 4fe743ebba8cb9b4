"""A client in plain Python, for tests: it can follow the protocol and break it, one field at a time.

Slow, and without a fence (x86 forgives that here: a system call stands between its stores and the server's looks).
"""

import contextlib
import json
import mmap
import os
import socket
import time

import numpy as np

from shm_server import layout
from shm_server.layout import Datatype, FrameKind, Op, Protocol, Status

# NumPy's name of a datatype is that of layout.md, but for these.
DTYPES = {each: each.name.lower().replace("fp", "float") for each in Datatype if each != Datatype.BF16}

# Of an image as the bundled network takes it.
IMAGE_BYTES = 3 * 32 * 32


def hello(*, major=layout.LAYOUT_MAJOR, protocol=Protocol.CALL, model=b"", slots=0, needed=0, **fields) -> bytes:
    """`fields` are those of the head: input_extent, output_extent, model_bytes."""
    head = np.zeros((), layout.hello)
    head["layout_major"], head["protocol"], head["features_needed"] = major, protocol, needed
    head["slot_count"], head["model_bytes"] = slots, len(model)
    for name, value in fields.items():
        head[name] = value
    return framed(FrameKind.HELLO, head.tobytes() + model)


def framed(kind: int, body: bytes, *, magic=layout.FRAME_MAGIC, size=None) -> bytes:
    head = np.zeros((), layout.frame)
    head["magic"], head["kind"], head["body_bytes"] = magic, kind, len(body) if size is None else size
    return head.tobytes() + body


def read_exactly(sock: socket.socket, size: int) -> tuple[bytes, list[int]]:
    data, fds = b"", []
    while len(data) < size:
        piece, more, _, _ = socket.recv_fds(sock, size - len(data), 1)
        if not piece:
            raise EOFError(f"end of file after {len(data)} of {size} bytes")
        data += piece
        fds += more
    return data, fds


def read_frame(sock: socket.socket) -> tuple[int, bytes, list[int]]:
    """The next frame's kind and body, and the descriptors that came with it; bells before it are skipped."""
    while (first := read_exactly(sock, 1))[0] == bytes([layout.BELL]):
        pass
    rest, fds = read_exactly(sock, layout.frame.itemsize - 1)
    head = np.frombuffer(first[0] + rest, layout.frame, 1)[0]
    assert head["magic"] == layout.FRAME_MAGIC
    body, more = read_exactly(sock, int(head["body_bytes"]))
    return int(head["kind"]), body, first[1] + fds + more


def read_reason(sock: socket.socket) -> tuple[int, layout.Reason, str]:
    """A refusal or goodbye: kind, reason, message."""
    kind, body, _ = read_frame(sock)
    head = np.frombuffer(body, layout.reason_body, 1)[0]
    return kind, layout.Reason(head["reason"]), body[layout.reason_body.itemsize :].decode()


def hung_up(sock: socket.socket) -> bool:
    """Has the server closed the socket? A reset is an end too: it left bells of ours unread."""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def connect(path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(str(path))  # without a time-out: then it would fail where the queue of clients is full
    sock.settimeout(60)
    return sock


class Client:
    """One session. `submit` fields can be overridden with whatever breaks the protocol.

    `inputs`, `outputs` and `messages` are the slots' rows as bytes, (slots, row_bytes); `slots` and `replies`
    are those of the first input and output. `signature` is the model's, `metadata` all that the welcome said, as JSON.
    """

    def __init__(self, path, *, protocol: Protocol = Protocol.CALL, **asked) -> None:
        if isinstance(path, socket.socket):  # whose lane was asked for in another way
            self.sock = path
        else:
            self.sock = connect(path)
            self.sock.sendall(hello(protocol=protocol, **asked))
        kind, body, fds = read_frame(self.sock)
        assert kind == FrameKind.WELCOME, (kind, body)
        self.welcome = np.frombuffer(body, layout.welcome, 1)[0]
        self.metadata = body[layout.welcome.itemsize :].decode()
        self.signature = json.loads(self.metadata)["model"]
        (self.fd,) = fds
        self.memory = mmap.mmap(self.fd, int(self.welcome["segment_bytes"]))
        self.header = np.frombuffer(self.memory, layout.header, 1)[0]
        self.lane = np.frombuffer(self.memory, layout.lane, 1, layout.LANE_OFFSET)[0].copy()
        at, slots = self.lane, int(self.lane["slot_count"])
        inputs, outputs = int(at["input_count"]), int(at["output_count"])
        self.tensors = np.frombuffer(self.memory, layout.tensor, inputs + outputs, layout.TENSORS_OFFSET).copy()
        self.submissions = self._view(layout.submission, "submissions_offset", int(at["submission_entries"]))
        self.completions = self._view(layout.completion, "completions_offset", int(at["completion_entries"]))
        self.messages = self._rows(int(at["messages_offset"]), layout.MESSAGE_BYTES)
        rows = [self._rows(int(row["offset"]), int(row["row_bytes"])) for row in self.tensors]
        self.inputs, self.outputs = rows[:inputs], rows[inputs:]
        self.slots, self.replies = self.inputs[0], self.outputs[0]
        if protocol == Protocol.STREAM:
            self.controls = self._view(layout.control, "controls_offset", slots)
            self.progress = self._view(layout.progress, "progress_offset", slots)
        self.tail = self.head = 0

    def _view(self, dtype, offset: str, count: int) -> np.ndarray:
        return np.frombuffer(self.memory, dtype, count, int(self.lane[offset]))

    def _rows(self, offset: int, size: int) -> np.ndarray:
        slots = int(self.lane["slot_count"])
        return np.frombuffer(self.memory, np.uint8, slots * size, offset).reshape(slots, size)

    def submit(self, slot: int, op: int = Op.ECHO, **fields) -> int:
        """Publish a submission and ring; its request id is its position."""
        entries = len(self.submissions)
        entry = self.submissions[self.tail % entries]
        values = {"request_id": self.tail, "deadline": 0, "slot": slot, "op": op, "flags": 0, "extent": 0}
        values |= {"submitted": 0, "turn": layout.turn(self.tail, entries)} | fields
        turn = values.pop("turn")
        for name, value in values.items():
            entry[name] = value
        entry["turn"] = turn
        self.tail += 1
        self.ring()
        return self.tail - 1

    def ring(self) -> None:
        """Ring whether or not the server sleeps: harmless, and no fence is needed.

        A server that was awake may have seen what is wrong and hung up already: then its reason waits to be read.
        """
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.sock.send(bytes([layout.BELL]))

    def wait(self, seconds: float = 60.0) -> np.ndarray:
        """The next completion, copied. TimeoutError when none comes, also when the session has ended."""
        entries, end = len(self.completions), time.monotonic() + seconds
        entry = self.completions[self.head % entries]
        while entry["turn"] != layout.turn(self.head, entries):
            if time.monotonic() > end:
                raise TimeoutError(f"no completion at {self.head}")
            time.sleep(0.0002)
        self.head += 1
        return entry.copy()

    @property
    def answered(self) -> bool:
        """Is there another completion?"""
        entries = len(self.completions)
        return self.completions[self.head % entries]["turn"] == layout.turn(self.head, entries)

    def array(self, number: int) -> np.ndarray:
        """The slots' rows of a tensor, the inputs first, as what it is: (slots, *dims)."""
        row = self.tensors[number]
        dtype = np.dtype(DTYPES[Datatype(row["datatype"])])
        dims = [int(dim) for dim in row["dims"][: row["rank"]]]
        rows = (*self.inputs, *self.outputs)[number]
        return rows[:, : int(np.prod(dims)) * dtype.itemsize].view(dtype).reshape(len(rows), *dims)

    def scores(self, slot: int) -> np.ndarray:
        """The first output of a slot, of FP32."""
        return self.replies[slot, : 4 * int(self.tensors[len(self.inputs)]["dims"][0])].view(np.float32)

    def label(self, done: np.ndarray) -> int:
        """The best class of an answer."""
        return int(self.scores(done["slot"]).argmax())

    def message(self, done: np.ndarray) -> str:
        return bytes(self.messages[done["slot"], : done["message_bytes"]]).decode()

    def close(self) -> None:
        """Hang up and give the memory back."""
        self.header = self.submissions = self.completions = self.slots = self.replies = self.messages = None
        self.inputs = self.outputs = ()
        self.controls = self.progress = None
        self.sock.close()
        with contextlib.suppress(BufferError):  # a test has a view still: the memory goes with it
            self.memory.close()
        os.close(self.fd)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_) -> None:
        self.close()


class Prompts(Client):
    """A client of the prompt lane; one prompt a slot at a time."""

    def __init__(self, server, **sizes: int) -> None:
        super().__init__(getattr(server, "socket", server), protocol=Protocol.STREAM, **sizes)

    def prompt(self, text: str | bytes, *, slot: int = 0, **fields) -> int:
        data = text.encode() if isinstance(text, str) else text
        self.controls[slot]["acknowledged"] = self.controls[slot]["cancel"] = 0
        self.slots[slot, : len(data)] = np.frombuffer(data, np.uint8)
        return self.submit(slot, Op.RUN, **({"extent": len(data), "sampling_steps": 8} | fields))

    def final(self) -> tuple[Status, str, str]:
        """How the next prompt to end did, its text, and an error's message; every `more` before it is taken."""
        while (done := self.wait())["status"] == Status.MORE:
            self.controls[done["slot"]]["acknowledged"] += 1
        text = bytes(self.replies[done["slot"], : done["extent"]]).decode()
        self.done = done
        return Status(done["status"]), text, self.message(done)

    def ask(self, text: str | bytes, **fields) -> tuple[Status, str, str]:
        self.prompt(text, **fields)
        return self.final()
