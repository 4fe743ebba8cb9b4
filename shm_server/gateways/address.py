"""Where a gateway listens: PORT or HOST:PORT, [::1]:PORT for IPv6, unix:PATH for a Unix socket.

    sock = bind(parse("127.0.0.1:8000"))     # held while a model loads: one that is in use is said at once
    listen(sock)                             # clients can connect

A port without a host is of 127.0.0.1, so that only this machine can connect.
"""

import errno
import os
import re
import socket
from typing import NamedTuple

from shm_server.door.listener import SocketInUse

LOOPBACK = "127.0.0.1"
UNIX = "unix:"
# As many may wait as the kernel lets: a gateway that is started again finds them.
BACKLOG = 2048


class Tcp(NamedTuple):
    """A port of this machine."""

    port: int
    """0 is any that is free."""
    host: str = LOOPBACK

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def of(cls, sock: socket.socket) -> "Tcp":
        host, port = sock.getsockname()[:2]
        return cls(port, host)


class Unix(NamedTuple):
    """A path, which `Listener` claims."""

    path: str

    def __str__(self) -> str:
        return f"{UNIX}{self.path}"


def parse(text: str) -> Tcp | Unix:
    """ValueError for what is no address."""
    if text.startswith(UNIX) and len(text) > len(UNIX):
        return Unix(text.removeprefix(UNIX))
    found = re.fullmatch(r"(?:(?:\[(?P<six>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^\s:/\[\]]+)):)?(?P<port>\d{1,5})", text)
    if not found or not 1 <= int(found["port"]) <= 65535:
        raise ValueError(
            f"{text!r:.80}: expected PORT or HOST:PORT with a port of 1 to 65535, [::1]:PORT, or unix:PATH"
        )
    return Tcp(int(found["port"]), found["six"] or found["host"] or LOOPBACK)


def bind(at: Tcp) -> socket.socket:
    """A socket that does not listen yet. Raises SocketInUse, or another OSError; each names the address."""
    try:
        family, kind, _, _, place = socket.getaddrinfo(*at[::-1], type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except socket.gaierror as error:
        raise OSError(errno.EADDRNOTAVAIL, f"{at}: {error.strerror}") from None
    sock = socket.socket(family, kind)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # servers write head and body one by one
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # 0.0.0.0 is another server's to have
        sock.bind(place)
    except OSError as error:
        sock.close()
        raise _explained(error, at) from error
    return sock


def resolved(at: Tcp) -> Tcp:
    """The same with its host in numbers, as a bound socket says it."""
    host, port = socket.getaddrinfo(*at[::-1], type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][4][:2]
    return Tcp(port, host)


def listen(sock: socket.socket) -> None:
    """Let clients in. Raises SocketInUse when somebody else bound the same port and listened first, or OSError."""
    try:
        sock.listen(BACKLOG)
    except OSError as error:
        raise _explained(error, Tcp.of(sock)) from error


def _explained(error: OSError, at: Tcp) -> Exception:
    if error.errno == errno.EADDRINUSE:
        return SocketInUse(f"{at} is in use by another server")
    return OSError(error.errno, f"{at}: {os.strerror(error.errno)}")
