"""A gateway, as the server has it: another way in, in a process of its own, which is a client of the lanes.

web = Gateway("http", sock, {"socket": "/run/user/1000/shm-server.sock"})
web.start()                     # it lets clients in, and again after it has died
web.stop()                      # it answers what is in flight, for some seconds

What its callers do is no business of the server's process. The socket stays open here: while a gateway that was killed
is started again, who connects waits and is not refused.
"""

import logging
import socket

from shm_server import wire
from shm_server.door.listener import Listener
from shm_server.door.replica import REPLY_SECONDS, Backoff, Replica
from shm_server.gateways import address
from shm_server.runtime import forked, logs

log = logging.getLogger(__name__)


class Gateway:
    """`name` is one of main.GATEWAYS, `options` are its own, `at` is where it listens, bound; not closed by us."""

    def __init__(self, name: str, at: Listener | socket.socket, options: dict[str, object]) -> None:
        self.name, self._at, self._options = name, at, options
        self._replica: Replica | None = None
        self._socket = at.socket if isinstance(at, Listener) else at
        forked.close_in_child(self._abandon)

    def start(self) -> None:
        """Let clients in. Raises SocketInUse, another OSError, or ModelError when its process cannot be had."""
        if isinstance(self._at, Listener):
            self._at.listen()
            self._at.socket.listen(address.BACKLOG)
        else:
            address.listen(self._at)
        first = wire.Open(self.name, self._options, logs.settings())
        called = f"the process of {self.name}"
        self._replica = Replica(first, called, Backoff(), leave=REPLY_SECONDS, passed=self._socket)
        self._replica.wait_ready()
        if not isinstance(self._at, Listener):  # which has said it
            log.info("listening on %s://%s", self.name, address.Tcp.of(self._at))

    def counters(self) -> dict[str, int]:
        """See Replica; of processes that are no workers."""
        found = self._replica.counters() if self._replica else {}
        return {name.replace("worker_", "gateway_"): value for name, value in found.items()}

    def move(self) -> None:
        """Another server has its socket: it lets in nobody more, answers what it has, and ends; `join` waits."""
        if self._replica:
            self._replica.move()

    def join(self) -> None:
        if self._replica:
            self._replica.join()

    def ask_to_stop(self) -> None:
        """See Replica."""
        if self._replica:
            self._replica.ask_to_stop()

    def stop(self) -> None:
        """Let in nobody more, answer for some seconds what is in flight, and end."""
        if self._replica:
            self._replica.stop()

    def _abandon(self) -> None:
        if not isinstance(self._at, Listener):
            forked.let_go(self._socket.getsockname())
