"""The process of a gateway: see hosted.py. It knows the server's Unix socket and the wire, and nothing else of it."""

import contextlib
import importlib
import logging
import os
import resource
import socket
import sys
import threading
from collections.abc import Callable

from shm_server import wire
from shm_server.runtime import logs
from shm_server.runtime.describe import message

log = logging.getLogger(__name__)

GATEWAYS = {
    "http": "shm_server.gateways.http.server",
    "uds": "shm_server.gateways.uds",
    "grpc": "shm_server.gateways.grpc.server",
}
"""The module of each, which has a function `serve(door, sock, **options)` that returns when it has stopped."""


class Door:
    """Our end of the wire: what the server wants to know, and when it wants us to end.

    counters   called for what the server asks for, in a thread
    on_stop    called once, in that thread: with True when what is in flight may take its time
    """

    def __init__(self, pipe: socket.socket) -> None:
        self._pipe = pipe
        self.counters: Callable[[], dict[str, int]] = dict
        self.on_stop: Callable[[bool], None] = lambda patient: None

    def ready(self) -> None:
        """Say that clients are let in; from now on `on_stop` may be called."""
        wire.send(self._pipe, wire.Ready({}))
        threading.Thread(target=self._listen, name="door", daemon=True).start()

    def last(self) -> None:
        """The last thing that we say."""
        with contextlib.suppress(OSError):  # the server was faster
            wire.send(self._pipe, wire.Counters(self.counters()))

    def failed(self, words: str) -> None:
        wire.send(self._pipe, wire.Failed(words, False))

    def _listen(self) -> None:
        while True:
            try:
                said, _ = wire.receive(self._pipe, wire.AskCounters, wire.Move, wire.Stop)
            except EOFError:
                wire.orphaned()
            if isinstance(said, wire.AskCounters):
                wire.send(self._pipe, wire.Counters(self.counters()))
            else:
                self.on_stop(isinstance(said, wire.Move))


def many_descriptors() -> None:
    """As many as we may have: each caller is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main(fd: int) -> int:
    """Serve what the end `fd` of a wire says; the exit code."""
    pipe, opened, sock = wire.begin(fd, wire.Open)
    many_descriptors()
    sys.setswitchinterval(1e-4)
    door = Door(pipe)
    try:
        serve = importlib.import_module(GATEWAYS[opened.gateway]).serve
    except ImportError as error:
        door.failed(message(error))
        return 1
    try:
        serve(door, sock, **opened.options)
        door.last()
    except BaseException:
        log.exception("the process of %s failed", opened.gateway)
        logs.flush()
        os._exit(1)
    logs.flush()
    os._exit(0)  # no thread of a caller who reads nothing is waited for
