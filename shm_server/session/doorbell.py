"""The doorbell's messages: hello, welcome, refusal, goodbye (layout.md, "The doorbell"). Bells themselves are in C."""

import array
import json
import os
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from shm_server import layout
from shm_server.layout import FrameKind, Protocol, Reason
from shm_server.runtime.describe import one_line

# How long the body of a client's first message may be, by its kind.
FIRST_BYTES = {
    FrameKind.HELLO: (layout.hello.itemsize, layout.hello.itemsize + layout.MAX_MODEL_NAME_BYTES),
    FrameKind.QUESTION: (1, layout.MAX_QUESTION_BYTES),
}


_FD = array.array("i")


class Refused(Exception):
    """A client that is turned away, with the reason that it is given."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Peer:
    """Who is at the other end, as the kernel says (SO_PEERCRED)."""

    pid: int
    uid: int

    @classmethod
    def of(cls, sock: socket.socket) -> "Peer":
        pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return cls(pid, uid)


@dataclass(frozen=True)
class LaneRequest:
    """What a hello asks for."""

    protocol: Protocol
    model: str = ""  # the default for the protocol
    slot_count: int = 0  # 0 = the server's default, like the two below
    input_extent: int = 0
    output_extent: int = 0


def frame(kind: FrameKind, body: bytes) -> bytes:
    head = np.zeros((), layout.frame)
    head["magic"], head["kind"], head["body_bytes"] = layout.FRAME_MAGIC, kind, len(body)
    return head.tobytes() + body


def receive_piece(sock: socket.socket, size: int, fds: list[int], most: int) -> tuple[bytes, bool]:
    """At most `size` bytes of a stream, and whether descriptors that came with them were lost: beyond `most`.

    Those that are here are added to `fds`, and no program that is started inherits them.
    """
    # Not socket.recv_fds: that of Python 3.11 drops the flags that it is given.
    room = socket.CMSG_LEN(most * _FD.itemsize)
    piece, rights, flags, _ = sock.recvmsg(size, room, socket.MSG_CMSG_CLOEXEC)
    for _, _, came in rights:
        fds.extend(array.array("i", came[: len(came) // _FD.itemsize * _FD.itemsize]))
    return piece, bool(flags & socket.MSG_CTRUNC)


def parse_reason(body: bytes) -> tuple[int, str]:
    """What a refusal or a goodbye says. A message that claims to be longer than the body is cut. ValueError."""
    if len(body) < layout.reason_body.itemsize:
        raise ValueError(f"a reason of {len(body)} bytes")
    head = np.frombuffer(body, layout.reason_body, 1)[0]
    text = body[layout.reason_body.itemsize :][: int(head["message_bytes"])]
    return int(head["reason"]), one_line(text.decode(errors="replace"))


def first_size(received: bytes) -> int:
    """How many bytes the hello or the question that begins with `received` has; a frame head's size while that is not
    known. Refused when it is neither.
    """
    if len(received) < layout.frame.itemsize:
        return layout.frame.itemsize
    head = np.frombuffer(received, layout.frame, 1)[0]
    if head["magic"] != layout.FRAME_MAGIC or head["kind"] not in FIRST_BYTES:
        raise Refused(Reason.MALFORMED, "the first message is no hello of this protocol")
    least, most = FIRST_BYTES[head["kind"]]
    if not least <= head["body_bytes"] <= most:
        kind = FrameKind(head["kind"]).name.lower()
        raise Refused(Reason.MALFORMED, f"a {kind} of {head['body_bytes']} bytes")
    return layout.frame.itemsize + int(head["body_bytes"])


def receive_first(sock: socket.socket, received: bytearray) -> bool:
    """Read what has come of a hello or a question from a non-blocking socket into `received`; True once it is complete.

    Refused when it cannot become one, ConnectionResetError when the client hangs up first.
    """
    while len(received) < (size := first_size(received)):
        try:
            piece = sock.recv(size - len(received))
        except BlockingIOError:
            return False
        if not piece:
            raise ConnectionResetError("hung up before its hello was complete")
        received += piece
    return True


def asked(message: bytes) -> str | None:
    """The question that a complete first message is; None for a hello."""
    if np.frombuffer(message, layout.frame, 1)[0]["kind"] == FrameKind.HELLO:
        return None
    return bytes(message[layout.frame.itemsize :]).decode(errors="replace")


def send_answer(sock: socket.socket, answer: object) -> None:
    """Send it as JSON. Refused when it does not fit a message, or the socket."""
    body = json.dumps(answer).encode()
    message = frame(FrameKind.ANSWER, body)
    if len(body) > layout.MAX_FRAME_BODY or sock.send(message, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) < len(
        message
    ):
        raise Refused(Reason.INTERNAL, f"an answer of {len(body)} bytes does not fit a message")


def parse_hello(message: bytes) -> LaneRequest:
    """What a complete hello asks for. Refused when it breaks a rule of layout.md."""
    body = message[layout.frame.itemsize :]
    head, name = np.frombuffer(body, layout.hello, 1)[0], body[layout.hello.itemsize :]
    if head["layout_major"] != layout.LAYOUT_MAJOR:
        raise Refused(
            Reason.VERSION, f"the client speaks layout {head['layout_major']}, this server {layout.LAYOUT_MAJOR}"
        )
    if head["features_needed"]:
        raise Refused(Reason.FEATURES, f"the client needs features {head['features_needed']:#x}, this server has none")
    if head["protocol"] not in list(Protocol):
        raise Refused(Reason.MALFORMED, f"unknown protocol {head['protocol']}")
    if head["slot_count"] > layout.MAX_SLOTS:
        raise Refused(Reason.MALFORMED, f"{head['slot_count']} slots; the layout allows {layout.MAX_SLOTS}")
    if head["model_bytes"] != len(name):
        raise Refused(Reason.MALFORMED, f"a model's name of {head['model_bytes']} bytes in {len(name)}")
    protocol = Protocol(head["protocol"])
    extents = int(head["input_extent"]), int(head["output_extent"])
    if protocol == Protocol.CALL and extents[1]:
        raise Refused(Reason.MALFORMED, f"an output extent of {extents[1]}, which a call does not have")
    if protocol == Protocol.STREAM and max(extents) > layout.MAX_TEXT_BYTES:
        raise Refused(Reason.MALFORMED, f"{max(extents)} bytes of text; the layout allows {layout.MAX_TEXT_BYTES}")
    try:
        model = name.decode()
    except UnicodeDecodeError as error:
        raise Refused(Reason.MALFORMED, f"the model's name is no UTF-8: {error.reason}") from None
    return LaneRequest(protocol, model, int(head["slot_count"]), *extents)


def welcome_metadata(server: str, model: Mapping[str, object]) -> bytes:
    """What a welcome says of both, as JSON. ValueError when it does not fit."""
    metadata = json.dumps({"server": server, "model": model}).encode()
    room = layout.MAX_FRAME_BODY - layout.welcome.itemsize
    if len(metadata) > room:
        raise ValueError(
            f"expected a signature that takes at most {room} bytes of a welcome, got {len(metadata)}: "
            "are its outputs to have that many labels?"
        )
    return metadata


def send_welcome(
    sock: socket.socket, fd: int, size: int, epoch: int, *, server: str, model: Mapping[str, object]
) -> None:
    """Hand the segment's descriptor to the client."""
    metadata = welcome_metadata(server, model)
    head = np.zeros((), layout.welcome)
    head["layout_major"], head["layout_minor"] = layout.LAYOUT_MAJOR, layout.LAYOUT_MINOR
    head["metadata_bytes"], head["segment_bytes"], head["epoch"] = len(metadata), size, epoch
    head["clock"] = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    message = frame(FrameKind.WELCOME, head.tobytes() + metadata)
    if socket.send_fds(sock, [message], [fd]) != len(message):
        raise OSError("the welcome did not fit the socket")


def reason_frame(kind: FrameKind, reason: Reason, message: str) -> bytes:
    text = one_line(message).encode()[:1024].decode(errors="ignore").encode()  # whole characters
    head = np.zeros((), layout.reason_body)
    head["reason"], head["message_bytes"] = reason, len(text)
    return frame(kind, head.tobytes() + text)


def send_reason(sock: socket.socket, kind: FrameKind, reason: Reason, message: str) -> None:
    """Say why, as far as the socket takes it: a peer that reads nothing, or is gone, cannot be reached."""
    try:
        sock.send(reason_frame(kind, reason, message), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError:
        return


def allowed(peer: Peer, other_users: bool) -> None:
    """Refused unless the peer is of our user, or others are welcome."""
    if peer.uid != os.geteuid() and not other_users:
        raise Refused(Reason.FORBIDDEN, f"user {peer.uid} may not connect: start the server with --allow-other-users")
