"""A server in a thread, for tests of clients: it can follow the protocol and break it, one session as it is told, the
next another way.

    with FakeServer(path, lying, served) as fake:        # the first session lies, all others are served
        ...

A behaviour is a function of the session's socket, on which the hello has been read; what it raises, the end of the
block raises.
"""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable

import numpy as np
from client import framed, read_frame

from shm_server import _core, layout
from shm_server.layout import Datatype, FrameKind, Op, Protocol, Reason
from shm_server.session import doorbell
from shm_server.session.segment import LaneSpec, Segment, TensorSpec

F4 = np.dtype(np.float32)
U1 = np.dtype(np.uint8)
IRIS = {
    "name": "iris",
    "version": "1",
    "platform": "fake",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [4]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [3]}],
}
PROMPTS = IRIS | {
    "inputs": [{"name": "prompt", "datatype": "UINT8", "shape": [-1]}],
    "outputs": [{"name": "text", "datatype": "UINT8", "shape": [-1]}],
}


def iris_spec(slots: int = 4) -> LaneSpec:
    return LaneSpec(
        Protocol.CALL, slots, (TensorSpec(Datatype.FP32, F4, (4,)),), (TensorSpec(Datatype.FP32, F4, (3,)),)
    )


def prompt_spec(slots: int = 2) -> LaneSpec:
    texts = [(TensorSpec(Datatype.UINT8, U1, (size,), symbolic=True),) for size in (128, 256)]
    return LaneSpec(Protocol.STREAM, slots, *texts)


class FakeServer:
    """Listens at `path` from construction to the end of its block. Session n has behaviour n, all later ones the
    last.
    """

    def __init__(self, path, *behaviours: Callable[[socket.socket], None]) -> None:
        self.path, self.sessions, self._ending = str(path), 0, False
        self._behaviours, self._errors, self._threads = behaviours, [], []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(self.path)
        self._socket.listen(64)
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            sock, _ = self._socket.accept()
            if self._ending:  # the end of the block connects once more
                sock.close()
                return
            behave = self._behaviours[min(self.sessions, len(self._behaviours) - 1)]
            self.sessions += 1
            thread = threading.Thread(target=self._serve, args=(behave, sock), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, behave: Callable, sock: socket.socket) -> None:
        try:
            with sock:
                assert read_frame(sock)[0] in (FrameKind.HELLO, FrameKind.QUESTION)
                behave(sock)
        except BaseException as error:
            self._errors.append(error)

    def wait_for_end(self, number: int) -> None:
        """Wait until a session, counted from 0, is over: whatever it says is at the client."""
        self._threads[number].join()

    def __enter__(self) -> "FakeServer":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._ending = True
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(self.path)
        self._accepting.join()
        self._socket.close()
        for thread in self._threads:
            thread.join()
        if kind is None and self._errors:
            raise self._errors[0]


class FakeSession:
    """One session's memory and both rings. `lie(segment)` may change the header before the client sees it."""

    def __init__(self, sock: socket.socket, spec: LaneSpec | None = None, model: dict = IRIS, lie=None) -> None:
        self.sock, self.spec = sock, spec or iris_spec()
        self.segment = Segment(self.spec)
        self.memory, lane = self.segment.memory, self.segment.plan.lane
        self.lane = _core.Lane(self.memory, sock.fileno())  # before the lies
        self.completions = np.frombuffer(
            self.memory, layout.completion, int(lane["completion_entries"]), int(lane["completions_offset"])
        )
        self.submissions = np.frombuffer(
            self.memory, layout.submission, int(lane["submission_entries"]), int(lane["submissions_offset"])
        )
        self.head = self.tail = 0
        if lie:
            lie(self.segment)
        doorbell.send_welcome(sock, self.segment.fd, self.segment.size, self.segment.epoch, server="fake", model=model)

    def submission(self) -> np.void | None:
        """The next one, copied; None: the client hung up first."""
        entries = len(self.submissions)
        entry = self.submissions[self.head % entries]
        while entry["turn"] != layout.turn(self.head, entries):
            if hung_up(self.sock):
                return None
            time.sleep(0.0002)
        self.head += 1
        return entry.copy()

    def complete(self, got: np.void, **fields) -> None:
        """Answer a submission; fields may be whatever breaks the protocol."""
        entries = len(self.completions)
        entry = self.completions[self.tail % entries]
        values = {
            "request_id": got["request_id"],
            "slot": got["slot"],
            "batch": 1,
            "turn": layout.turn(self.tail, entries),
        }
        values |= fields
        turn = values.pop("turn")
        for name, value in values.items():
            entry[name] = value
        entry["turn"] = turn
        self.tail += 1
        self.ring()

    def ring(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.send(bytes([layout.BELL]), socket.MSG_NOSIGNAL)

    def goodbye(self, reason: Reason, message: str = "") -> None:
        doorbell.send_reason(self.sock, FrameKind.GOODBYE, reason, message)


def hung_up(sock: socket.socket) -> bool:
    """Has the client hung up? Its bells are read."""
    try:
        return sock.recv(4096, socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def until_hung_up(sock: socket.socket) -> None:
    while not hung_up(sock):
        time.sleep(0.0005)


def served(sock: socket.socket) -> None:
    """Row sums in three sizes, until the client hangs up."""
    serve(FakeSession(sock))


def serve(session: FakeSession) -> None:
    lane, inputs = session.lane, session.segment.inputs()
    while not hung_up(session.sock):
        if not lane.drain(32):
            time.sleep(0.0002)
        elif lane.op == Op.ECHO:
            lane.complete_echo()
        else:
            rows = np.zeros((lane.count, 4), np.float32)
            lane.gather(0, rows, 0, rows[:1].nbytes)
            sums = rows.sum(axis=1)[:, None] * np.float32([1, 2, 3])
            lane.scatter(0, np.ascontiguousarray(sums), 0, sums[:1].nbytes, False)
            lane.complete_calls(lane.count)
    del inputs


def refuse(reason: Reason, message: str = "") -> Callable[[socket.socket], None]:
    return lambda sock: doorbell.send_reason(sock, FrameKind.REFUSAL, reason, message)


def welcome(metadata: bytes, **fields) -> bytes:
    """A welcome whose head says what `fields` say."""
    head = np.zeros((), layout.welcome)
    values = {"layout_major": layout.LAYOUT_MAJOR, "metadata_bytes": len(metadata), "segment_bytes": 4096, "epoch": 1}
    for name, value in (values | fields).items():
        head[name] = value
    return framed(FrameKind.WELCOME, head.tobytes() + metadata)


def metadata(model: object) -> bytes:
    return json.dumps({"server": "fake", "model": model}).encode()
