"""One server takes over from another, which runs: an upgrade of the software costs no call.

    the new one                                          the old one
      | ---- question `takeover` ----------------------> |   of our own user
      | <--- answer: its addresses, and the sockets ---- |   goes on serving
      |      loads its models                            |
      | ---- one byte: it lets clients in, from now on-> |   lets in nobody more, tells its clients that their models
      |                                                  |   have moved, answers what it has, and ends

Both have the same sockets meanwhile: a client that connects is let in by the one or the other. Whoever goes before
the byte changes nothing for the other: the old one serves on, and the new one says that there is nothing to take over.
"""

import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping

from shm_server.door.listener import Listener
from shm_server.layout import FrameKind, Reason
from shm_server.runtime.describe import describe
from shm_server.session import doorbell
from shm_server.session.doorbell import Peer, Refused
from shm_server.session.question import Asked, ask

log = logging.getLogger(__name__)

ANSWER_SECONDS = 30.0
SERVING = b"\x01"

Addresses = Mapping[str, Listener | socket.socket]
"""Where a server lets clients in, by the flag's name: `socket`, `uds`, `http`, `metrics`."""


class Handover:
    """The old server's side: a `control.Task`. `hand_over` is called, once, when the new server lets clients in; the
    files at the addresses are the new one's then.
    """

    def __init__(self, addresses: Addresses, hand_over: Callable[[], None]) -> None:
        self._addresses, self._hand_over = addresses, hand_over
        self._one = threading.Lock()  # that takes over at a time

    def converse(self, sock: socket.socket, _: str) -> None:
        if not self._one.acquire(blocking=False):
            raise Refused(Reason.STARTING, "another server is taking over from this one")
        try:
            pid = Peer.of(sock).pid
            said, fds = {}, []
            for name, each in self._addresses.items():
                ours = each.descriptors() if isinstance(each, Listener) else (each.fileno(),)
                said[name] = {"at": _place(each), "descriptors": len(ours)}
                fds += ours
            message = doorbell.frame(FrameKind.ANSWER, json.dumps(said).encode())
            sock.setblocking(True)
            if socket.send_fds(sock, [message], fds) != len(message):
                raise OSError("the answer did not fit the socket")
            log.info("%d loads its models, to take over", pid)
            if sock.recv(1) == SERVING:
                log.info("%d serves from now on", pid)
                for each in self._addresses.values():
                    if isinstance(each, Listener):
                        each.give_up()
                self._hand_over()
            else:
                log.warning("%d did not take over: this server goes on", pid)
        finally:
            self._one.release()


class Takeover:
    """The new server's side: what there is to take over at `path`, and from whom.

    Raises OSError when nobody listens there, Refused, or ValueError.
    """

    def __init__(self, path: str) -> None:
        self._asked: Asked = ask(path, "takeover", seconds=ANSWER_SECONDS)
        self.pid = Peer.of(self._asked.socket).pid
        fds = list(self._asked.descriptors)
        self._offered: dict[tuple[str, str], list[int]] = {}
        try:
            for name, said in dict(self._asked.answer).items():
                count = said["descriptors"]
                self._offered[name, str(said["at"])] = [fds.pop(0) for _ in range(count)]
        except (TypeError, KeyError, IndexError, AttributeError, ValueError) as error:
            self.close()
            raise ValueError(f"what is to be taken over was not understood: {describe(error)}") from error

    def listener(self, name: str, path: str, *, other_users: bool) -> Listener | None:
        """The one that the other server has of that name at that path, which is ours now too; None for none."""
        fds = self._taken(name, os.path.abspath(path), 2)
        return fds and Listener.adopt(path, socket.socket(fileno=fds[0]), fds[1], other_users=other_users)

    def port(self, name: str, at: str) -> socket.socket | None:
        """The socket that the other server has of that name at HOST:PORT, which is ours now too; None for none."""
        fds = self._taken(name, at, 1)
        return fds and socket.socket(fileno=fds[0])

    def _taken(self, name: str, at: str, count: int) -> list[int] | None:
        """So many descriptors, which are the caller's; None where others are offered, or none."""
        return self._offered.pop((name, at)) if len(self._offered.get((name, at), ())) == count else None

    def confirm(self) -> None:
        """Say that we let clients in. ConnectionError when the other server has ended meanwhile."""
        try:
            self._asked.socket.sendall(SERVING)
            log.info("took over from %d", self.pid)
        except OSError as error:
            raise ConnectionError(f"the server that was to be taken over from, {self.pid}, has ended") from error
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the conversation and of what was offered and not taken."""
        for fds in self._offered.values():
            for fd in fds:
                os.close(fd)
        self._offered.clear()
        self._asked.socket.close()


def _place(each: Listener | socket.socket) -> str:
    if isinstance(each, Listener):
        return os.path.abspath(each.path)
    host, port = each.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
