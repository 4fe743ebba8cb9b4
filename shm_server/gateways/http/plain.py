"""The paths of our own, see app.py: echoes, pictures, prompts, health."""

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from shm_server.client.aio import AsyncClient, AsyncStream
from shm_server.client.errors import ClientError
from shm_server.gateways import pictures
from shm_server.gateways.http import answers, body
from shm_server.gateways.http.answers import Stream, said
from shm_server.gateways.images import (
    CONTENT_TYPES,
    NAMES,
    ImageError,
    ImageTooLarge,
    looks_like_image,
    pixels_from_image,
)
from shm_server.gateways.pictures import IMAGE_BYTES, Classifier
from shm_server.generators import Sampling
from shm_server.generators.sampling import check_prompt

# No type at all, or what `curl --data-binary` says unless told otherwise, tells nothing: the bytes do.
ANY_TYPE = ("", "application/octet-stream", "application/x-www-form-urlencoded")
# Prompts of all callers in line at a time, as many as a server takes of a session; whoever comes then waits for a slot.
# With what a slot takes, some 16,000 tokens in and 64,000 out, they are 20 MiB.
LANE = {"slots": 64, "prompt_bytes": 64 << 10, "reply_bytes": 256 << 10}
# The server's process answers at once, unless it is not there.
HEALTH_SECONDS = 5.0
UP = "up"


class Plain:
    """The handlers, which share `client`."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._decoding = ThreadPoolExecutor(os.cpu_count(), "pictures")  # of files: milliseconds each
        self._seen = Classifier("none", "", "", ())

    # -- calls

    async def echo(self, request: Request) -> Response:
        return said({"echo_prompt": body.of(await body.fields(request), "prompt", str)})

    async def classify(self, request: Request) -> Response:
        pixels = await self._pixels(request)
        model = await self._client.model()
        ours = pictures.classifier(model.signature)
        scores = (await model.run({ours.pixels: pixels}))[ours.scores]
        best = int(scores.argmax())
        named = dict(zip(ours.classes, scores.tolist(), strict=True))
        return said({"label": ours.classes[best], "score": float(scores[best]), "scores": named})

    async def _pixels(self, request: Request) -> np.ndarray:
        """The picture in the request's body, read-only: uint8 (3, 32, 32)."""
        declared = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        picture = declared in CONTENT_TYPES
        if not picture and declared not in ANY_TYPE:
            expected = f"send one of {', '.join(CONTENT_TYPES)}, or application/octet-stream"
            await body.refuse(request, 415, f"{declared}: {expected}")
        data = await body.read(request)
        raw = len(data) == IMAGE_BYTES and (declared == "application/octet-stream" or not looks_like_image(data))
        if raw and not picture:
            return np.frombuffer(data, np.uint8).reshape(pictures.SHAPE)
        if not picture and not looks_like_image(data):
            raise HTTPException(400, f"{len(data)} bytes that are none of {NAMES}; raw pixels must be {IMAGE_BYTES}")
        try:
            decoded = asyncio.get_running_loop().run_in_executor(self._decoding, pixels_from_image, data)
            return (await decoded)[0]
        except ImageTooLarge as error:
            raise HTTPException(413, str(error)) from error
        except ImageError as error:
            raise HTTPException(400, str(error)) from error

    # -- prompts

    async def prompt(self, request: Request) -> Response:
        asked = await body.fields(request)
        text, streams = body.of(asked, "prompt", str), body.of(asked, "stream", bool, False)
        pieces = self.stream(text, sampling(asked))
        if not streams:
            async with pieces:
                text = "".join([piece async for piece in pieces])
            return said({"response": text} | _cut(pieces))
        if answers.wants_events(request):
            return await streamed(pieces, answers.event, answers.EVENTS)
        return await streamed(pieces, answers.line, answers.LINES)

    def stream(self, text: str, how: Sampling, model: str = "") -> AsyncStream:
        check_prompt(text)
        said = {"steps": how.steps, "temperature": how.temperature, "top_k": how.top_k, "seed": how.seed}
        return self._client.stream(text, model=model, **LANE, **said)

    # -- health

    async def livez(self, _: Request) -> Response:
        return said({"status": "ok"})

    async def readyz(self, _: Request) -> Response:
        parts = await self.parts()
        ready = all(state == UP for state in parts.values())
        return said({"status": "ready" if ready else "not ready", "parts": parts}, 200 if ready else 503)

    async def healthz(self, _: Request) -> Response:
        parts = await self.parts()
        up = all(state == UP for state in parts.values())
        try:
            async with asyncio.timeout(HEALTH_SECONDS):
                self._seen = pictures.classifier((await self._client.model()).signature)
        except (ClientError, TimeoutError):  # it is not there for now, as the parts say, or there is none
            pass
        said_ = {"status": "ok" if up else "degraded", "model": self._seen.name, "classes": list(self._seen.classes)}
        return said(said_ | {"parts": parts}, 200 if up else 503)

    async def parts(self) -> dict[str, str]:
        """Of the server, each "up", "down" or "not answering". Raises ClientError."""
        return await self._client.health(timeout=HEALTH_SECONDS)


def sampling(asked: dict[str, Any]) -> Sampling:
    """How the reply is to be drawn. InvalidRequest for values that make no sense."""
    names = {"sampling_steps": "steps", "temperature": "temperature", "top_k": "top_k", "seed": "seed"}
    return Sampling(**{ours: whole(asked[theirs]) for theirs, ours in names.items() if theirs in asked})


def whole(value: Any) -> Any:
    """8.0 is the whole number 8, as JSON has one kind of number only; anything else is what it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


async def streamed(pieces: AsyncStream, form: Any, media_type: str) -> Response:
    """What fails before the first piece has a status of its own."""
    try:
        first = await anext(pieces, None)
    except BaseException:
        await pieces.aclose()
        raise
    return Stream(_texts(first, pieces, form), media_type)


def _cut(pieces: AsyncStream) -> dict[str, bool]:
    """What is said where the reply was longer than its slot."""
    return {"truncated": True} if pieces.truncated else {}


async def _texts(first: str | None, pieces: AsyncStream, form: Any) -> AsyncIterator[str]:
    async with pieces:
        try:
            if first is not None:
                yield form({"response": first})
            async for piece in pieces:
                yield form({"response": piece})
            yield form({"done": True} | _cut(pieces))
        except ClientError as error:
            yield form({"error": str(error)})
