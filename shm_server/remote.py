"""Prompts from another process of this server, the one that speaks HTTP: one socket a prompt.

`ask` is the asking end: it makes a seqpacket pair, whose other end the generator's process gets with the prompt
(handoff.py). `SocketReply` is the answering one. A packet is JSON: {"text": PIECE}, and last
{"status": NUMBER, "message": TEXT}.
"""

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict

from . import forked, handoff
from .generators import InvalidRequest, ModelError, Sampling, Unavailable, check_prompt
from .layout import Status
from .prompt_lane import STATUSES

# Characters a packet. In JSON each is at most 12 bytes; a packet has to fit the socket's buffer, 208 KiB by default.
MAX_TEXT = 8 << 10
MAX_PACKET = 128 << 10
# A caller that reads nothing for so long loses the rest of its reply.
SLOW_SECONDS = 30.0
ERRORS = {status: error for error, status in STATUSES.items()}


def ask(send: Callable[[socket.socket, bytes], None], prompt: str, sampling: Sampling) -> Iterator[str]:
    """The pieces of the reply to `prompt`; closing the iterator cancels the rest.

    `send(socket, message)` passes a socket to the generator's process. Raises GeneratorError or ModelError:
    InvalidRequest for an empty prompt at once, the others while iterating, after the pieces that did come.
    """
    check_prompt(prompt)
    message = json.dumps({"prompt": prompt} | asdict(sampling), ensure_ascii=False).encode()
    if len(message) > handoff.MAX_MESSAGE:
        raise InvalidRequest(f"the prompt has {len(prompt.encode())} bytes, too many")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    forked.close_in_child(ours.close)
    with theirs:
        try:
            send(theirs, message)
        except OSError as error:
            ours.close()
            raise Unavailable(f"the generator's process does not answer: {error}") from error
    return _pieces(ours)


def asked(message: bytes) -> tuple[str, Sampling]:
    """What came with a socket from `ask`. Raises InvalidRequest, and anything for what is no such message."""
    fields = json.loads(message)
    return fields.pop("prompt"), Sampling(**fields)


def _pieces(sock: socket.socket) -> Iterator[str]:
    with sock:
        while packet := sock.recv(MAX_PACKET):
            said = json.loads(packet)
            if "text" in said:
                yield said["text"]
                continue
            status = Status(said["status"])
            if status in ERRORS:
                raise ERRORS[status](said["message"])
            if status == Status.DRAINING:
                raise Unavailable("the server is stopping")
            if status != Status.OK:
                raise ModelError(said["message"])
            return
    raise Unavailable("the generator's process ended")


class SocketReply:
    """The answering end: a `prompt_lane.Reply`. Text that the caller does not read yet is kept."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket, self._kept, self._gone = sock, "", False
        sock.setblocking(False)

    def append(self, piece: str) -> bool:
        self._kept += piece
        self._send_kept()
        return True

    def interrupted(self) -> Status | None:
        try:
            self._gone = self._gone or not self._socket.recv(1)  # a caller says nothing: it hung up
        except BlockingIOError:
            pass
        except ConnectionResetError:  # it hung up and left text unread
            self._gone = True
        return Status.CANCELLED if self._gone else None

    def finish(self, status: Status, message: str, *, truncated: bool, started_ns: int | None) -> None:
        last = json.dumps({"status": status, "message": message}).encode()
        self._send_kept()
        if not self._kept and self._send(last):
            self._socket.close()
        else:  # a slow reader keeps nobody from their tokens
            threading.Thread(target=self._send_rest, args=(last,), name="prompt-rest", daemon=True).start()

    def _send_kept(self) -> None:
        while self._kept and self._send(_text(self._kept)):
            self._kept = self._kept[MAX_TEXT:]

    def _send(self, packet: bytes) -> bool:
        try:
            self._socket.send(packet, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        except OSError:  # it hung up
            self._gone = True
        return not self._gone

    def _send_rest(self, last: bytes) -> None:
        self._socket.settimeout(SLOW_SECONDS)
        with self._socket, contextlib.suppress(OSError):  # it hung up, or reads nothing
            while self._kept:
                self._socket.send(_text(self._kept), socket.MSG_NOSIGNAL)
                self._kept = self._kept[MAX_TEXT:]
            self._socket.send(last, socket.MSG_NOSIGNAL)


def _text(kept: str) -> bytes:
    return json.dumps({"text": kept[:MAX_TEXT]}).encode()
