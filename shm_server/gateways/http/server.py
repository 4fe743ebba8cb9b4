"""uvicorn as this gateway has it: on a socket that the server's process holds, until that says stop."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import Iterator

import uvicorn
import uvloop

from shm_server.client.aio import AsyncClient
from shm_server.gateways.address import BACKLOG
from shm_server.gateways.http import protocol
from shm_server.gateways.http.app import application
from shm_server.gateways.main import Door

# uvicorn's default is 5 s: clients that pause would pay for a new connection each time.
KEEP_ALIVE_SECONDS = 75
# What is in flight when the server stops has so long; the server's process waits for 15 s before it kills us.
DRAIN_SECONDS = 5


class Server(uvicorn.Server):
    """It takes no signals: the server's process says when to stop."""

    def __init__(self, config: uvicorn.Config, door: Door) -> None:
        super().__init__(config)
        self._door = door
        door.counters = self.counters
        door.on_stop = self._stop

    def counters(self) -> dict[str, int]:
        return {"http_requests": self.server_state.total_requests}

    def _stop(self, patient: bool) -> None:
        if not patient:
            self.config.timeout_graceful_shutdown = DRAIN_SECONDS
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._door.ready()

    async def main_loop(self) -> None:
        sweeping = asyncio.create_task(self._sweep())
        await super().main_loop()
        sweeping.cancel()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(1)
            protocol.sweep(self.server_state.connections)


def serve(door: Door, sock: socket.socket, *, socket: str) -> None:
    """Serve on `sock` what the server at the path `socket` has, until the door says stop."""
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # a line a start and a stop is the server's to say
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(door, sock, socket))


async def _serve(door: Door, sock: socket.socket, path: str) -> None:
    async with AsyncClient(path) as client:
        config = uvicorn.Config(
            application(client),
            http=protocol.Protocol,
            ws="none",
            lifespan="off",
            loop="none",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=True,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=None,
            backlog=BACKLOG,
        )
        await Server(config, door).serve([sock])
