"""The first messages of a connection, the client's side of them: hello and welcome, or a question and its answer.

    sock, welcome = dial(Address(path), LaneRequest(Protocol.CALL, "iris"))      # welcome.fd is the caller's
    models = ask(Address(path), "models")

A server may say anything, or nothing: all of it takes `patience` seconds at most, and no message more than
`max_frame_body` bytes.
"""

import contextlib
import json
import os
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from shm_server import layout
from shm_server.client import errors
from shm_server.client.errors import ClientError, DeadlineExceeded, ForeignServer, ProtocolError, ServerGone
from shm_server.layout import FrameKind, Reason
from shm_server.runtime.describe import one_line
from shm_server.session.doorbell import LaneRequest, Peer, frame, parse_reason, receive_piece

PATIENCE = 10.0
# Our clock is read in this process, the server's in another: some microseconds may lie between them in either
# direction.
CLOCK_SLACK_NS = 1_000_000
MOST_DESCRIPTORS = 8  # of which one is expected; the kernel drops what is more

REFUSALS = {
    Reason.VERSION: errors.Incompatible,
    Reason.FEATURES: errors.Incompatible,
    Reason.NO_SUCH_MODEL: errors.NoSuchModel,
    Reason.STARTING: errors.Starting,
}


@dataclass(frozen=True)
class Address:
    """Where a server listens, and who may."""

    path: str
    trusted: frozenset[int] | None = frozenset()
    """Ids of users besides our own and root, whose servers are trusted; None: anybody's."""
    patience: float = PATIENCE
    """Seconds that a handshake may take."""

    def __str__(self) -> str:
        return f"shm-server at {self.path}"


@dataclass(frozen=True)
class Welcome:
    """The server's yes, checked as far as the message alone can be."""

    fd: int
    """Of the segment; the caller's."""
    size: int
    """Of the segment, in bytes."""
    epoch: int
    ahead_ns: int
    """The server's clock less ours: 0 unless it lives in another time namespace."""
    server: str
    model: Any
    """The signature, as JSON has it."""


def dial(address: Address, request: LaneRequest, deadline: float | None = None) -> tuple[socket.socket, Welcome]:
    """Ask for a lane. The socket is the caller's. `deadline` is of `time.monotonic`. Raises ClientError, not_run."""

    def shake(sock: socket.socket, until: float) -> tuple[socket.socket, Welcome]:
        fds: list[int] = []
        try:
            before = time.monotonic_ns()
            body = _exchange(sock, frame(FrameKind.HELLO, _hello(request)), FrameKind.WELCOME, until, fds)
            welcome = _welcome(body, fds, before, time.monotonic_ns())
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        return sock, welcome

    return _connect(address, deadline, shake, close=False)


def ask(address: Address, question: str, deadline: float | None = None) -> Any:
    """Ask something instead of opening a session; the answer, as JSON has it. Raises ClientError, not_run."""

    def talk(sock: socket.socket, until: float) -> Any:
        body = _exchange(sock, frame(FrameKind.QUESTION, question.encode()), FrameKind.ANSWER, until, [])
        return _json(body, "answer")

    return _connect(address, deadline, talk, close=True)


def reason_of(body: bytes) -> tuple[int, str]:
    """See `parse_reason`."""
    try:
        return parse_reason(body)
    except ValueError as error:
        raise ProtocolError.of("frame", str(error)) from None


def reason_name(reason: int) -> str:
    return Reason(reason).name.lower().replace("_", " ") if reason in list(Reason) else f"reason {reason}"


def receive(sock: socket.socket, size: int, until: float, fds: list[int]) -> bytes:
    """`size` bytes by the time `until`, of `time.monotonic`; descriptors are added to `fds`. EOFError, TimeoutError."""
    data = bytearray()
    while len(data) < size:
        sock.settimeout(max(0.0, until - time.monotonic()) or 1e-9)  # 0 would not wait, and say it in another way
        piece, lost = receive_piece(sock, size - len(data), fds, MOST_DESCRIPTORS)
        if lost:
            raise ProtocolError.of("frame", f"more than {MOST_DESCRIPTORS} descriptors")
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)


def receive_frame(sock: socket.socket, until: float, fds: list[int], begun: bytes = b"") -> tuple[int, bytes]:
    """One message, of which `begun` was read before: its kind and its body, and not a byte more unless it was begun."""
    size = layout.frame.itemsize
    head = begun[:size] + receive(sock, max(0, size - len(begun)), until, fds)
    said = np.frombuffer(head, layout.frame, 1)[0]
    magic, length = int(said["magic"]), int(said["body_bytes"])
    if magic != layout.FRAME_MAGIC:
        raise ProtocolError.of("magic", f"a message begins with {magic:#x}, not {layout.FRAME_MAGIC:#x}")
    if length > layout.MAX_FRAME_BODY:
        raise ProtocolError.of("frame", f"a message of {length} bytes, {layout.MAX_FRAME_BODY} are allowed")
    body = begun[size:][:length]
    return int(said["kind"]), body + receive(sock, length - len(body), until, fds)


def _connect(address: Address, deadline: float | None, talk: Callable, *, close: bool) -> Any:
    patient = time.monotonic() + address.patience
    until = patient if deadline is None else min(deadline, patient)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _reach(sock, address, until)
        _check_owner(sock, address)
        answer = talk(sock, until)
    except TimeoutError:
        sock.close()
        if until == deadline:
            raise DeadlineExceeded(f"{address} has not answered in time", not_run=True) from None
        text = f"{address} accepted, and has said nothing for {address.patience:g} s"
        raise ServerGone(text, not_run=True) from None
    except (EOFError, ConnectionError):
        sock.close()
        raise ServerGone(f"{address} hung up instead of answering", not_run=True) from None
    except ClientError as error:
        sock.close()
        error.not_run = True
        raise
    except BaseException:
        sock.close()
        raise
    if close:
        sock.close()
    return answer


def _reach(sock: socket.socket, address: Address, until: float) -> None:
    """Connect. ServerGone where nobody listens; another OSError that says what to do."""
    left = max(1e-6, until - time.monotonic())
    # A blocking connect waits for a place in a full queue, as long as this says; one with a time-out fails at once.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(left), int(left % 1 * 1e6)))
    try:
        sock.connect(address.path)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        text = f"there is no {address}: {error.strerror}: is `shm-server serve` running?"
        raise ServerGone(text, not_run=True) from None
    except BlockingIOError:
        raise TimeoutError from None
    except PermissionError as error:
        text = f"connect to {address}: {error.strerror}: the socket, or a folder on the way to it, is another user's"
        raise ForeignServer(text) from None
    except OSError as error:
        raise ServerGone(f"connect to {address}: {error}") from None


def _check_owner(sock: socket.socket, address: Address) -> None:
    """Before the first byte is sent: whoever comes first can listen at a path in /tmp."""
    if address.trusted is None:
        return
    user = Peer.of(sock).uid
    if user not in {0, os.geteuid(), *address.trusted}:
        error = ForeignServer(
            f"{address} runs as user {user}, neither as this one ({os.geteuid()}) nor as root: whoever it is would see "
            "your data; if it is meant to serve others (--allow-other-users), name its user as trusted"
        )
        error.user = user
        raise error


def _exchange(sock: socket.socket, message: bytes, wanted: FrameKind, until: float, fds: list[int]) -> bytes:
    sock.settimeout(max(1e-9, until - time.monotonic()))
    with contextlib.suppress(BrokenPipeError):  # it may have said why before it closed
        sock.sendall(message)
    kind, body = receive_frame(sock, until, fds)
    if kind == FrameKind.REFUSAL:
        raise _refusal(*reason_of(body))
    if kind != wanted:
        raise ProtocolError.of("frame", f"a message of kind {kind}, expected {wanted.name.lower()}")
    return body


def _refusal(reason: int, message: str) -> ClientError:
    text = f"shm-server refused: {message or reason_name(reason)}"
    if reason == Reason.DRAINING:
        return errors.Draining(text)
    if reason == Reason.MOVED:  # another server has taken over, at the same path
        return errors.Moved(text)
    error = REFUSALS.get(reason, errors.Refused)(text)
    error.reason = reason
    return error


def _hello(request: LaneRequest) -> bytes:
    name = request.model.encode()
    head = np.zeros((), layout.hello)
    head["layout_major"], head["layout_minor"] = layout.LAYOUT_MAJOR, layout.LAYOUT_MINOR
    head["protocol"], head["slot_count"], head["model_bytes"] = request.protocol, request.slot_count, len(name)
    head["input_extent"], head["output_extent"] = request.input_extent, request.output_extent
    return head.tobytes() + name


def _welcome(body: bytes, fds: list[int], before: int, after: int) -> Welcome:
    if len(body) < layout.welcome.itemsize:
        raise ProtocolError.of("frame", f"a welcome of {len(body)} bytes")
    head, metadata = np.frombuffer(body, layout.welcome, 1)[0], body[layout.welcome.itemsize :]
    major, length, size = (int(head[name]) for name in ("layout_major", "metadata_bytes", "segment_bytes"))
    epoch, clock = int(head["epoch"]), int(head["clock"])
    if major != layout.LAYOUT_MAJOR:
        text = f"the server speaks layout major {major}, this client {layout.LAYOUT_MAJOR}"
        raise ProtocolError.of("version", text)
    if length > len(metadata):
        raise ProtocolError.of("frame", f"metadata of {length} bytes in a body with room for {len(metadata)}")
    if not layout.PAGE_BYTES <= size <= layout.MAX_SEGMENT_BYTES:
        raise ProtocolError.of("geometry", f"a segment of {size} bytes, {layout.MAX_SEGMENT_BYTES} are allowed")
    if clock >= 1 << 63:
        raise ProtocolError.of("clock", f"a clock that reads {clock} ns")
    if len(fds) != 1:
        raise ProtocolError.of("frame", f"a welcome with {len(fds)} descriptors, expected one")
    said = _json(metadata[:length], "metadata")
    if not isinstance(said, dict):
        raise ProtocolError.of("metadata", f"expected an object, got {said!r:.100}")
    one_clock = not clock or before - CLOCK_SLACK_NS <= clock <= after + CLOCK_SLACK_NS
    ahead = 0 if one_clock else clock - (before + after) // 2
    return Welcome(fds[0], size, epoch, ahead, one_line(str(said.get("server", ""))), said.get("model"))


def _json(body: bytes, what: str) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProtocolError.of(what, f"{len(body)} bytes that are no JSON: {error}") from None
