"""A connection, as uvicorn's httptools protocol has it, with an end to everything that a client could draw out.

uvicorn waits for ever for the rest of a head or of a body that nobody wants, takes heads of any size, and lets an
application run whose caller has hung up. Here

    a head      has HEAD_SECONDS from its first byte, and MAX_HEAD_BYTES
    a body      that is dropped, because its request has been answered, has DROP_SECONDS and MAX_DROPPED_BYTES
    a caller    who hangs up cancels the task that works for him

What an application reads of a body is its own to bound: see body.py. A connection between two requests, or before the
first, is closed after uvicorn's `timeout_keep_alive`.
"""

import asyncio
import json
import time
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from shm_server.gateways.http.answers import said

HEAD_SECONDS = 10.0
DROP_SECONDS = 30.0
MAX_HEAD_BYTES = 64 << 10
MAX_DROPPED_BYTES = 64 << 20


class Protocol(HttpToolsProtocol):
    """For uvicorn's `http`; `sweep` has to be called."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._task: asyncio.Task | None = None
        self._running: Any = None  # the cycle that it works for
        self._since: float | None = None  # when the head began that is being received, or the body that is dropped
        self._head = True
        self._bytes = 0  # of it
        self._ended = False  # did a request end in what has just come?
        self._over = False  # nothing that comes is looked at any more
        super().connection_made(transport)
        self._wait_for_a_request()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        if self._task is not None and not self._task.done():
            self._running.disconnected = True  # uvicorn tells the last of those that came in a row
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        if self._since is not None:
            self._bytes += len(data)
            if self._head and self._bytes > MAX_HEAD_BYTES:
                self.refuse(431, f"a head of more than {MAX_HEAD_BYTES} bytes")
                return
            if not self._head and self._bytes > MAX_DROPPED_BYTES:
                self.end()
                return
        begun, self._ended = self._since is not None, False
        super().data_received(data)
        if self._since is not None and not begun and not self._ended:  # else something before it is in `data` too
            self._bytes = len(data)
        if self._since is None and (self.cycle is None or self.cycle.response_complete) and not self._over:
            self._wait_for_a_request()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._since, self._head, self._bytes = time.monotonic(), True, 0

    def on_headers_complete(self) -> None:
        self._since = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._since, self._ended = None, True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.more_body and self.cycle.response_complete and not self.transport.is_closing():
            self._since, self._head, self._bytes = time.monotonic(), False, 0

    def late(self, now: float) -> bool:
        """Has what it is receiving taken too long? Nothing is held against it while we do not read."""
        if self._since is None or self.flow.read_paused:
            return False
        return now - self._since > (HEAD_SECONDS if self._head else DROP_SECONDS)

    def refuse(self, status: int, text: str) -> None:
        """Answer what has not become a request, and hang up."""
        busy = self.cycle is not None and not self.cycle.response_complete  # with the answer before
        if not busy and not self.transport.is_closing():
            body = json.dumps({"error": text}).encode()
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
            self.transport.write(STATUS_LINE[status] + head + body)
        self.end()

    def end(self) -> None:
        self._over, self._since = True, None
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        self.refuse(400, msg)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        async def until_hung_up(scope: Any, receive: Any, send: Any) -> None:
            try:
                await app(scope, receive, send)
            except asyncio.CancelledError:
                if not self.transport.is_closing() and not cycle.response_started:  # it took too long for a stop
                    stopping = said({"error": "the server is stopping"}, 503, {"connection": "close"})
                    await stopping(scope, receive, send)

        self._running = cycle
        self._task = task = self.loop.create_task(cycle.run_asgi(until_hung_up))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def _wait_for_a_request(self) -> None:
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)


def sweep(connections: set[Protocol]) -> None:
    """Hang up on those that are late; called about once a second."""
    now = time.monotonic()
    for each in [each for each in connections if each.late(now)]:
        if each._head:
            each.refuse(408, f"no whole head within {HEAD_SECONDS:g} s")
        else:
            each.end()
