"""Passing sockets to the generator's process: a client of shared memory with its hello, or a prompt from HTTP.

A seqpacket pair: a message is one of either, with one descriptor, or STOP, without. The end of file without a STOP
means that the other process died.
"""

import errno
import socket
from collections.abc import Callable

from . import layout

# A hello, or a prompt with its parameters as JSON: a socket's buffer holds it.
MAX_MESSAGE = 128 << 10
STOP = b"stop"
# No program that a generator starts inherits what is passed.
FLAGS = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC


def pair() -> tuple[socket.socket, socket.socket]:
    """The accepting process's end, and the generator's."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(pipe: socket.socket, passed: socket.socket, message: bytes) -> None:
    """Pass a socket on. OSError when the other process is gone, or is so far behind that the pair is full."""
    socket.send_fds(pipe, [message], [passed.fileno()], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


class Inbox:
    """The generator's end: a `control.Source` of clients. Messages that are no hello go to `on_other`.

    `on_death` is called when the other process is gone without a STOP.
    """

    def __init__(
        self, pipe: socket.socket, on_other: Callable[[socket.socket, bytes], None], on_death: Callable[[], None]
    ) -> None:
        self.socket, self._on_other, self._on_death = pipe, on_other, on_death

    def listen(self) -> None:
        """Nothing to do: clients come when they are sent."""

    def accept(self) -> tuple[socket.socket, bytes]:
        """The next client and its hello, or one message more for `on_other`.

        BlockingIOError: there is no client; EOFError: there will be none; another OSError: this one was lost.
        """
        message, fds, _, _ = socket.recv_fds(self.socket, MAX_MESSAGE, 1, FLAGS)
        if not message:
            self._on_death()
        if not message or message == STOP:
            raise EOFError("no client will come any more")
        if not fds:  # the kernel found no room for its descriptor, and closed it
            raise OSError(errno.EMFILE, "a client was lost: this process has as many descriptors open as it may")
        passed = socket.socket(fileno=fds[0])
        if int.from_bytes(message[:4], "little") == layout.FRAME_MAGIC:
            return passed, message
        try:
            self._on_other(passed, message)
        except BaseException:
            passed.close()
            raise
        raise BlockingIOError(errno.EAGAIN, "that was no client")

    def close(self) -> None:
        self.socket.close()
