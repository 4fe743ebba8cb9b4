"""A client in plain Python, for tests: it can follow the protocol and break it, one field at a time.

Slow, and without a fence (x86 forgives that here: a system call stands between its stores and the server's looks).
"""

import contextlib
import mmap
import os
import socket
import time

import numpy as np

from shm_server import layout
from shm_server.layout import FrameKind, LaneKind, Op


def hello(*, major=layout.LAYOUT_MAJOR, kinds=(LaneKind.IMAGE,), slots=0, count=None, needed=0, **sizes) -> bytes:
    head, body = np.zeros((), layout.hello), np.zeros(len(kinds), layout.lane_request)
    head["layout_major"], head["lane_count"], head["features_needed"] = (
        major,
        len(kinds) if count is None else count,
        needed,
    )
    body["kind"], body["slot_count"] = kinds, slots
    for name, value in sizes.items():  # slot_bytes, reply_bytes
        body[name] = value
    return framed(FrameKind.HELLO, head.tobytes() + body.tobytes())


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
    """One connection with one lane. `submit` fields can be overridden with whatever breaks the protocol."""

    def __init__(self, path, *, slots: int = 0, kind: LaneKind = LaneKind.IMAGE, **sizes: int) -> None:
        self.sock = connect(path)
        self.sock.sendall(hello(kinds=(kind,), slots=slots, **sizes))
        kind, body, fds = read_frame(self.sock)
        assert kind == FrameKind.WELCOME, (kind, body)
        self.welcome = np.frombuffer(body, layout.welcome, 1)[0]
        self.metadata = body[layout.welcome.itemsize :].decode()
        (self.fd,) = fds
        self.memory = mmap.mmap(self.fd, int(self.welcome["segment_bytes"]))
        self.header = np.frombuffer(self.memory, layout.header, 1)[0]
        self.lane = np.frombuffer(self.memory, layout.lane, 1, layout.LANES_OFFSET)[0].copy()
        at, slots = self.lane, int(self.lane["slot_count"])
        self.submissions = self._view(layout.submission, "submissions_offset", int(at["submission_entries"]))
        self.completions = self._view(layout.completion, "completions_offset", int(at["completion_entries"]))
        self.slots = self._view(np.uint8, "slots_offset", slots * int(at["slot_bytes"])).reshape(slots, -1)
        self.replies = self._view(np.uint8, "replies_offset", slots * int(at["reply_bytes"])).reshape(slots, -1)
        if kind == LaneKind.PROMPT:
            self.controls = self._view(layout.control, "controls_offset", slots)
            self.progress = self._view(layout.progress, "progress_offset", slots)
        self.tail = self.head = 0

    def _view(self, dtype, offset: str, count: int) -> np.ndarray:
        return np.frombuffer(self.memory, dtype, count, int(self.lane[offset]))

    def submit(self, slot: int, op: int = Op.ECHO, **fields) -> int:
        """Publish a submission and ring; its request id is its position."""
        entries = len(self.submissions)
        entry = self.submissions[self.tail % entries]
        values = {"request_id": self.tail, "deadline": 0, "slot": slot, "op": op, "flags": 0}
        values |= {"length": layout.IMAGE_BYTES, "submitted": 0, "turn": layout.turn(self.tail, entries)} | fields
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
        """The next completion, copied. TimeoutError, or EOFError when the session ends first."""
        entries, end = len(self.completions), time.monotonic() + seconds
        entry = self.completions[self.head % entries]
        while entry["turn"] != layout.turn(self.head, entries):
            if time.monotonic() > end:
                raise TimeoutError(f"no completion at {self.head}")
            time.sleep(0.0002)
        self.head += 1
        return entry.copy()

    def close(self) -> None:
        """Hang up and give the memory back."""
        self.header = self.submissions = self.completions = self.slots = self.replies = None
        self.controls = self.progress = None
        self.sock.close()
        self.memory.close()
        os.close(self.fd)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_) -> None:
        self.close()
