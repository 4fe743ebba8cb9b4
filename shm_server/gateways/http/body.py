"""What a request says: its body, within limits, and the fields of its JSON object."""

import asyncio
import json
import zlib
from collections.abc import Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

# A picture of a camera has a few megabytes.
MAX_BODY_BYTES = 16 << 20
# Of a body that is refused: a client that still sends would see its connection break before it sees the answer.
MAX_DROPPED_BYTES = 64 << 20
# Of all bodies together that are being received: what five hundred clients that send slowly can make us hold.
MAX_HELD_BYTES = 512 << 20
# Without a byte of it, and for all of it.
SILENCE_SECONDS = 10.0
BODY_SECONDS = 120.0

_WINDOW = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
ENCODINGS = "gzip, deflate"


class Held:
    """Bytes of bodies that are in memory."""

    bytes = 0


async def read(request: Request, most: int = MAX_BODY_BYTES) -> bytes:
    """The body, unpacked. HTTPException 408, 413, 415, 400 or 503 for what is none; ClientDisconnect."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "") and encoding not in _WINDOW:
        await refuse(request, 415, f"Content-Encoding {encoding:.40}: send {ENCODINGS} or none", encodings=True)
    pieces: list[bytes] = []
    size = 0

    def keep(piece: bytes) -> bool:
        nonlocal size
        size += len(piece)
        Held.bytes += len(piece)
        pieces.append(piece)
        return size <= most and Held.bytes <= MAX_HELD_BYTES

    try:
        whole = await _receive(request, keep)
        if not whole:
            pieces.clear()
            if size <= most:
                await refuse(request, 503, "too many large bodies at a time", {"retry-after": "1"})
            await refuse(request, 413, f"a body of more than {most} bytes")
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return body if encoding in ("identity", "") else _unpacked(body, encoding, most)
    finally:
        Held.bytes -= size


async def refuse(
    request: Request, status: int, text: str, headers: dict[str, str] | None = None, *, encodings: bool = False
) -> None:
    """Raises HTTPException, after the rest of the body has been read and dropped. What is not read within limits, or
    has been announced only (100-continue), ends the connection behind the answer.
    """
    headers = dict(headers or {})
    if encodings:
        headers["accept-encoding"] = ENCODINGS
    left = MAX_DROPPED_BYTES

    def drop(piece: bytes) -> bool:
        nonlocal left
        left -= len(piece)
        return left > 0

    announced = "expect" in request.headers
    try:
        if announced or not await _receive(request, drop):
            headers["connection"] = "close"
    except HTTPException:  # too slow
        headers["connection"] = "close"
    raise HTTPException(status, text, headers)


async def _receive(request: Request, take: Callable[[bytes], bool]) -> bool:
    """Hand each piece of the body to `take`; False: it wanted no more."""
    if getattr(request.state, "received", False):
        return True
    now = asyncio.get_running_loop().time
    end = now() + BODY_SECONDS
    try:
        async with asyncio.timeout(SILENCE_SECONDS) as patience:
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                more = message.get("more_body", False)
                if not more:
                    request.state.received = True
                if not take(message.get("body", b"")):
                    return False
                if not more:
                    return True
                patience.reschedule(min(end, now() + SILENCE_SECONDS))
    except TimeoutError:
        text = f"the body did not come: {SILENCE_SECONDS:g} s without a byte, or {BODY_SECONDS:g} s in all"
        raise HTTPException(408, text, {"connection": "close"}) from None


def _unpacked(body: bytes, encoding: str, most: int) -> bytes:
    """At most `most` bytes, however small a bomb is."""
    unpacking = zlib.decompressobj(_WINDOW[encoding])
    try:
        unpacked = unpacking.decompress(body, most + 1)
    except zlib.error as error:
        raise HTTPException(400, f"the body is no {encoding}: {error}") from None
    if len(unpacked) > most:
        raise HTTPException(413, f"a body of more than {most} bytes, unpacked")
    if not unpacking.eof or unpacking.unused_data:
        raise HTTPException(400, f"the body is no whole {encoding}")
    return unpacked


async def fields(request: Request, most: int = MAX_BODY_BYTES) -> dict[str, Any]:
    """The request's JSON object. HTTPException 400 for what is none, 415 for another content type."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        await refuse(request, 415, f"{kind or 'no content type'}: send application/json")
    return parsed(await read(request, most))


def parsed(body: bytes) -> dict[str, Any]:
    """A JSON object. HTTPException 400."""
    try:
        value = json.loads(body.decode(), parse_constant=_no_number)
    except RecursionError:
        raise HTTPException(400, "expected a JSON object, got one that is too deep") from None
    except ValueError as error:  # no JSON, no UTF-8
        raise HTTPException(400, f"expected a JSON object: {error}") from None
    if not isinstance(value, dict):
        raise HTTPException(400, f"expected a JSON object, got {type(value).__name__}")
    return value


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def of(fields: dict[str, Any], name: str, kind: type, default: Any = None) -> Any:
    """A field of the request's JSON object."""
    value = fields.get(name, default)
    if not isinstance(value, kind):
        got = "none" if name not in fields else type(value).__name__
        raise HTTPException(400, f'the body must be a JSON object with a "{name}" of type {kind.__name__}, got {got}')
    return value
