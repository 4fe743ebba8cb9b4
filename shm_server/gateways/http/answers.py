"""What is said to a caller: JSON, a stream of it, and the one error that a call ended with."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from shm_server.client.errors import ClientError
from shm_server.gateways.codes import code_of
from shm_server.generators import InvalidRequest
from shm_server.layout import REASON_HTTP_CODE, STATUS_HTTP_CODE
from shm_server.runtime.describe import describe, where

log = logging.getLogger(__name__)

EVENTS, LINES = "text/event-stream", "application/x-ndjson"
# A caller who takes nothing of a stream for so long has gone, as far as we can tell.
WRITE_SECONDS = 60.0


def said(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`content` as JSON. ValueError for a number that JSON has no word for. What is not ASCII is escaped: U+0085 and
    U+2028 would end a line for some readers, and half a surrogate pair is no text.
    """
    return Response(json.dumps(content, allow_nan=False), status, headers, "application/json")


class Stream(Response):
    """Texts as they come, until the caller hangs up or reads nothing any more. `texts` is closed whatever happens."""

    def __init__(self, texts: AsyncIterator[str], media_type: str) -> None:
        self._texts, self.status_code, self.background = texts, 200, None
        self.body = b""
        self.media_type = media_type
        self.raw_headers = [
            (b"content-type", media_type.encode()),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),  # nginx would wait for more
        ]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for text in self._texts:
                await write(send, text.encode(), more=True)
            await write(send, b"", more=False)
        finally:
            await self._texts.aclose()


async def write(send: Any, data: bytes, *, more: bool) -> None:
    """A piece of an answer's body. ClientDisconnect where the caller takes nothing any more."""
    try:
        async with asyncio.timeout(WRITE_SECONDS):
            await send({"type": "http.response.body", "body": data, "more_body": more})
    except TimeoutError:
        raise ClientDisconnect from None


def wants_events(request: Request) -> bool:
    """Server-Sent Events, and not lines of JSON?"""
    return EVENTS in request.headers.get("accept", "")


def event(content: Any) -> str:
    return f"data: {json.dumps(content, allow_nan=False)}\n\n"


def line(content: Any) -> str:
    return json.dumps(content, allow_nan=False) + "\n"


# -- errors


def described(error: Exception) -> tuple[int, str]:
    """The status of an error and what is said of it; what is a bug of ours stands in the log."""
    if isinstance(error, HTTPException):
        return error.status_code, str(error.detail)
    if isinstance(error, InvalidRequest):  # of generators.Sampling
        return 400, str(error)
    if isinstance(error, ClientError):
        return code_of(error, STATUS_HTTP_CODE, REASON_HTTP_CODE), str(error)
    log.error("a request failed: %s. %s", describe(error), where(error))
    return 500, "the gateway failed; its log says why"


async def failed(request: Request, error: Exception) -> Response:
    """An exception handler of Starlette's."""
    status, text = described(error)
    headers = getattr(error, "headers", None)
    if text == HTTPStatus(status).phrase:  # Starlette's own, who found no handler of ours
        text = f"{request.method} {request.url.path!r:.100}: {text.lower()}"
        text += f", {headers['Allow']} is" if headers and "Allow" in headers else ""
    return said({"error": text}, status, headers)
