"""The doorbell's messages: hello, welcome, refusal, goodbye (layout.md, "The doorbell"). Bells themselves are in C."""

import json
import os
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from . import layout
from .describe import one_line
from .layout import FrameKind, LaneKind, Reason


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
    kind: LaneKind
    slot_count: int  # 0 = the server's default, like the two below
    slot_bytes: int = 0
    reply_bytes: int = 0


def frame(kind: FrameKind, body: bytes) -> bytes:
    head = np.zeros((), layout.frame)
    head["magic"], head["kind"], head["body_bytes"] = layout.FRAME_MAGIC, kind, len(body)
    return head.tobytes() + body


def hello_size(received: bytes) -> int:
    """How many bytes the hello that begins with `received` has; a frame head's size while that is not known."""
    if len(received) < layout.frame.itemsize:
        return layout.frame.itemsize
    head = np.frombuffer(received, layout.frame, 1)[0]
    if head["magic"] != layout.FRAME_MAGIC or head["kind"] != FrameKind.HELLO:
        raise Refused(Reason.MALFORMED, "the first message is no hello of this protocol")
    most = layout.hello.itemsize + layout.MAX_LANES * layout.lane_request.itemsize
    if not layout.hello.itemsize <= head["body_bytes"] <= most:
        raise Refused(Reason.MALFORMED, f"a hello of {head['body_bytes']} bytes")
    return layout.frame.itemsize + int(head["body_bytes"])


def receive_hello(sock: socket.socket, received: bytearray) -> bool:
    """Read what has come of a hello from a non-blocking socket into `received`; True once it is complete.

    Refused when it cannot become one, ConnectionResetError when the client hangs up first.
    """
    while len(received) < (size := hello_size(received)):
        try:
            piece = sock.recv(size - len(received))
        except BlockingIOError:
            return False
        if not piece:
            raise ConnectionResetError("hung up before its hello was complete")
        received += piece
    return True


def parse_hello(message: bytes) -> list[LaneRequest]:
    """The lanes that a complete hello asks for. Refused when it breaks a rule of layout.md."""
    body = message[layout.frame.itemsize :]
    head = np.frombuffer(body, layout.hello, 1)[0]
    if head["layout_major"] != layout.LAYOUT_MAJOR:
        raise Refused(
            Reason.VERSION, f"the client speaks layout {head['layout_major']}, this server {layout.LAYOUT_MAJOR}"
        )
    if head["features_needed"]:
        raise Refused(Reason.FEATURES, f"the client needs features {head['features_needed']:#x}, this server has none")
    count, rest = int(head["lane_count"]), body[layout.hello.itemsize :]
    if not 1 <= count <= layout.MAX_LANES or len(rest) != count * layout.lane_request.itemsize:
        raise Refused(Reason.MALFORMED, f"{count} lanes in {len(rest)} bytes of lane requests")
    lanes = []
    for row in np.frombuffer(rest, layout.lane_request, count):
        if row["kind"] not in list(LaneKind):
            raise Refused(Reason.LANE_UNAVAILABLE, f"unknown kind of lane {row['kind']}")
        if row["slot_count"] > layout.MAX_SLOTS:
            raise Refused(Reason.MALFORMED, f"{row['slot_count']} slots; the layout allows {layout.MAX_SLOTS}")
        sizes = int(row["slot_bytes"]), int(row["reply_bytes"])
        if max(sizes) > layout.MAX_TEXT_BYTES:
            raise Refused(Reason.MALFORMED, f"{max(sizes)} bytes of text; the layout allows {layout.MAX_TEXT_BYTES}")
        lanes.append(LaneRequest(LaneKind(row["kind"]), int(row["slot_count"]), *sizes))
    if len({lane.kind for lane in lanes}) < count:
        raise Refused(Reason.MALFORMED, "a kind of lane is asked for twice")
    return lanes


def send_welcome(
    sock: socket.socket, fd: int, size: int, epoch: int, *, server: str, model: str, classes: Sequence[str]
) -> None:
    """Hand the segment's descriptor to the client."""
    metadata = json.dumps({"server": server, "model": model, "classes": list(classes)}).encode()
    head = np.zeros((), layout.welcome)
    head["layout_major"], head["layout_minor"] = layout.LAYOUT_MAJOR, layout.LAYOUT_MINOR
    head["metadata_bytes"], head["segment_bytes"], head["epoch"] = len(metadata), size, epoch
    head["clock"] = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    message = frame(FrameKind.WELCOME, head.tobytes() + metadata)
    if len(message) > layout.MAX_FRAME_BODY:
        raise Refused(Reason.INTERNAL, "the class names do not fit a welcome")
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
