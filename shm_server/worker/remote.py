"""Prompts from another process of this server, the one that speaks HTTP: one wire a prompt.

`ask` is the asking end: it makes a wire whose other end the worker gets with the prompt (wire.py). `SocketReply` is the
answering one: it says the reply as it comes, a Text a piece, and then End.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict

from shm_server import wire
from shm_server.generators import ERRORS, InvalidRequest, ModelError, Sampling, Unavailable, check_prompt
from shm_server.layout import Status
from shm_server.runtime import forked

# Characters a packet: in JSON each is at most 6 bytes.
MAX_TEXT = wire.MAX_PACKET // 8
# A caller that reads nothing for so long loses the rest of its reply.
SLOW_SECONDS = 30.0


def ask(send: Callable[[wire.Prompt, socket.socket], None], prompt: str, sampling: Sampling) -> Iterator[str]:
    """The pieces of the reply to `prompt`; closing the iterator cancels the rest.

    `send(message, socket)` passes both to the worker. Raises GeneratorError or ModelError: InvalidRequest for an empty
    prompt and what `send` raises at once, the others while iterating, after the pieces that did come.
    """
    check_prompt(prompt)
    ours, theirs = wire.pair()
    forked.close_in_child(ours.close)
    with theirs:
        try:
            send(wire.Prompt(prompt, asdict(sampling)), theirs)
        except BaseException as error:
            ours.close()
            if isinstance(error, wire.TooLong):
                raise InvalidRequest(f"the prompt has {len(prompt.encode())} bytes, too many") from error
            raise
    return _pieces(ours)


def _pieces(sock: socket.socket) -> Iterator[str]:
    with sock:
        while True:
            try:
                said, _ = wire.receive(sock, wire.Text, wire.End)
            except EOFError:
                raise Unavailable("the generator's process ended") from None
            if isinstance(said, wire.End):
                break
            yield said.piece
    status = Status(said.status)
    if status in ERRORS:
        raise ERRORS[status](said.message)
    if status == Status.DRAINING:
        raise Unavailable("the server is stopping")
    if status != Status.OK:
        raise ModelError(said.message)


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
        last = wire.End(int(status), message)
        self._send_kept()
        if not self._kept and self._send(last):
            self._socket.close()
        else:  # a slow reader keeps nobody from their tokens
            threading.Thread(target=self._send_rest, args=(last,), name="prompt-rest", daemon=True).start()

    def _send_kept(self) -> None:
        while self._kept and self._send(_text(self._kept)):
            self._kept = self._kept[MAX_TEXT:]

    def _send(self, message: wire.Message) -> bool:
        try:
            wire.send(self._socket, message)
        except BlockingIOError:
            return False
        except OSError:  # it hung up
            self._gone = True
        return not self._gone

    def _send_rest(self, last: wire.End) -> None:
        self._socket.settimeout(SLOW_SECONDS)
        with self._socket, contextlib.suppress(OSError):  # it hung up, or reads nothing
            while self._kept:
                wire.send(self._socket, _text(self._kept))
                self._kept = self._kept[MAX_TEXT:]
            wire.send(self._socket, last)


def _text(kept: str) -> wire.Text:
    return wire.Text(kept[:MAX_TEXT])
