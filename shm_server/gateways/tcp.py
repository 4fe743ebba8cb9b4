"""A TCP port of this machine, held while a model loads: one that is in use is said at once."""

import errno
import os
import socket

from shm_server.door.listener import SocketInUse


def bind(port: int, host: str = "127.0.0.1") -> socket.socket:
    """A socket that does not listen yet; 0 is any free port. Raises SocketInUse, or another OSError."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # servers write head and body one by one
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise _explained(error, host, port) from error
    return sock


def listen(sock: socket.socket, backlog: int) -> None:
    """Let clients in. Raises SocketInUse when somebody else bound the same port and listened first, or OSError."""
    try:
        sock.listen(backlog)
    except OSError as error:
        raise _explained(error, *sock.getsockname()) from error


def _explained(error: OSError, host: str, port: int) -> Exception:
    if error.errno == errno.EADDRINUSE:
        return SocketInUse(f"{host}:{port} is in use by another server")
    return OSError(error.errno, f"{host}:{port}: {os.strerror(error.errno)}")
