"""Asking a server something, from outside: layout.md, "Question and answer".

with ask("/run/user/1000/shm-server.sock", "models") as asked:
    print(asked.answer)
"""

import json
import os
import socket
from collections.abc import Sequence
from types import TracebackType

import numpy as np

from shm_server import layout
from shm_server.layout import FrameKind, Reason
from shm_server.session import doorbell
from shm_server.session.doorbell import Peer, Refused

# For descriptors that come with an answer: more than any has.
MOST_DESCRIPTORS = 16


class Asked:
    """An answer: `answer`, from JSON, the `descriptors` that came with it, and the `socket` that it came from.

    They are the caller's; leaving the context closes the socket and nothing else.
    """

    def __init__(self, sock: socket.socket, answer: object, descriptors: Sequence[int]) -> None:
        self.socket, self.answer, self.descriptors = sock, answer, descriptors

    def __enter__(self) -> "Asked":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.socket.close()


def ask(path: str | os.PathLike, question: str, *, seconds: float | None = None) -> Asked:
    """Ask the server at `path`; wait for `seconds`, or for as long as it takes.

    Raises OSError when nobody listens there or the answer does not come in time, Refused with the server's words,
    PermissionError when the server is neither our user's nor root's, ValueError for what is no answer.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    descriptors: list[int] = []
    try:
        sock.settimeout(seconds)
        sock.connect(os.fspath(path))
        peer = Peer.of(sock)
        if peer.uid not in (os.geteuid(), 0):
            raise PermissionError(f"the server at {os.fspath(path)} is user {peer.uid}'s")
        sock.sendall(doorbell.frame(FrameKind.QUESTION, question.encode()))
        kind, body = _frame(sock, descriptors)
        if kind == FrameKind.REFUSAL:
            raise _refused(body)
        if kind != FrameKind.ANSWER:
            raise ValueError(f"expected an answer, got a frame of kind {kind}")
        return Asked(sock, json.loads(body), descriptors)
    except BaseException:
        sock.close()
        for fd in descriptors:
            os.close(fd)
        raise


def _frame(sock: socket.socket, descriptors: list[int]) -> tuple[int, bytes]:
    head = np.frombuffer(_exactly(sock, layout.frame.itemsize, descriptors), layout.frame, 1)[0]
    if head["magic"] != layout.FRAME_MAGIC or head["body_bytes"] > layout.MAX_FRAME_BODY:
        raise ValueError("what answers is no server of this protocol")
    return int(head["kind"]), _exactly(sock, int(head["body_bytes"]), descriptors)


def _exactly(sock: socket.socket, size: int, descriptors: list[int]) -> bytes:
    data = b""
    while len(data) < size:
        piece, _ = doorbell.receive_piece(sock, size - len(data), descriptors, MOST_DESCRIPTORS)
        if not piece:
            raise ConnectionResetError("the server hung up before its answer was complete")
        data += piece
    return data


def _refused(body: bytes) -> Refused:
    reason, words = doorbell.parse_reason(body)
    if reason not in list(Reason):
        raise ValueError(f"a refusal for unknown reason {reason}")
    return Refused(Reason(reason), words)
