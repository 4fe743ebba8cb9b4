"""What lets callers in: grpcio listens only at sockets that it has made itself, and ours is that of the server's
process, which keeps it while a gateway is started again and hands it over to another server. So each connection that
comes in there is joined to one with grpcio, which listens where nobody else looks.
"""

import asyncio
import contextlib
import socket
from collections.abc import Coroutine

CHUNK_BYTES = 256 << 10
# For what a caller has not read when his connection ends.
LINGER_SECONDS = 5.0


class Front:
    """Joins those who connect to `sock` to the Unix socket at `path`, until the loop ends."""

    def __init__(self, sock: socket.socket, path: str) -> None:
        self._sock, self._path = sock, path

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._join, sock=self._sock, limit=CHUNK_BYTES)

    def close(self) -> None:
        """Let in nobody more."""
        self._server.close()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, to = await asyncio.open_unix_connection(self._path, limit=CHUNK_BYTES)
            try:
                await _either(_pump(reader, to), _pump(there, writer))
            finally:
                to.transport.abort()
            writer.close()  # what grpcio said last goes out
            async with asyncio.timeout(LINGER_SECONDS):
                await writer.wait_closed()
        except (OSError, asyncio.CancelledError):  # a TimeoutError is one
            pass
        finally:
            writer.transport.abort()


async def _either(*ways: Coroutine[None, None, None]) -> None:
    """Until one of the two has ended: HTTP/2 closes both at a time."""
    tasks = [asyncio.create_task(way) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
