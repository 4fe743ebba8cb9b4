"""OpenAI's shape of a prompt, over the `stream` models: what speaks to OpenAI or Ollama speaks to a generator here.

    POST /v1/chat/completions    "messages"                 see openai_request.py for what is taken and what is refused
    POST /v1/completions         "prompt"
    GET  /v1/models              the models that answer prompts
    GET  /v1/models/NAME         one of them, or 404

With "stream": true the answer is Server-Sent Events, a chunk for each piece of text as it is generated, and at last
`data: [DONE]`. An error is {"error": {"message", "type", "param", "code"}}, with the status that it has on our own
paths; one that comes after the first piece is an event, and no [DONE] follows.

Where the lanes know less than OpenAI's answers say:

    usage            tokens are not counted here: it is null, and stream_options.include_usage adds no chunk
    finish_reason    "length" where the reply was longer than its slot. A generator that has used up its max_tokens does
                     not say so, and its reply ends with "stop"
    created          of a model: 0

Whom a key belongs to is not asked: `Authorization` is not looked at.
"""

import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from shm_server.client.aio import AsyncClient, AsyncStream
from shm_server.client.errors import ClientError, NoSuchModel
from shm_server.client.signature import ModelInfo
from shm_server.gateways.http import body, openai_request
from shm_server.gateways.http.answers import EVENTS, Stream, described, event, said
from shm_server.gateways.http.openai_request import Asked, Refused
from shm_server.generators import Sampling

PATHS = "/v1/"
# The server's process says at once which models it has, unless it is not there.
MODELS_SECONDS = 5.0
NOT_FOUND = "model_not_found"
DONE = "data: [DONE]\n\n"


class OpenAI:
    """The handlers. `stream` sends a prompt, as Plain.stream does."""

    def __init__(self, client: AsyncClient, stream: Callable[[str, Sampling, str], AsyncStream]) -> None:
        self._client, self._stream = client, stream
        self._names: set[str] = set()  # that there were when last asked: a prompt costs no question

    async def models(self, _: Request) -> Response:
        return said({"object": "list", "data": [_model(model.name) for model in await self._models()]})

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in {model.name for model in await self._models()}:
            raise _unknown(name)
        return said(_model(name))

    async def chat(self, request: Request) -> Response:
        return await self._answer(openai_request.chat(await body.fields(request)), Chat)

    async def completion(self, request: Request) -> Response:
        return await self._answer(openai_request.completion(await body.fields(request)), Completion)

    async def _answer(self, asked: Asked, form: "type[Chat | Completion]") -> Response:
        await self._find(asked.model)
        pieces = self._stream(asked.prompt, asked.sampling, asked.model)
        texts, reply = until(asked.stops, pieces), form(asked.model)
        if not asked.streams:
            text = "".join([text async for text in texts])
            return said(reply.whole(text, _reason(pieces)))
        first = await anext(texts, None)  # what fails before it has a status of its own
        return Stream(_events(first, texts, pieces, reply), EVENTS)

    async def _find(self, name: str) -> None:
        """Refuse a name that no model has. It goes into no connection: a client would keep each that it was given."""
        if name not in self._names:
            self._names = {model.name for model in await self._models()}
        if name not in self._names:
            raise _unknown(name)

    async def _models(self) -> list[ModelInfo]:
        return [model for model in await self._client.models(timeout=MODELS_SECONDS) if model.protocol == "stream"]


# -- what is said


class Chat:
    """A reply to messages: `whole`, or in chunks."""

    def __init__(self, model: str) -> None:
        self._head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        self._first = {"role": "assistant"}

    def whole(self, text: str, reason: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        return {"object": "chat.completion", **self._head, "choices": [choice], "usage": None}

    def chunk(self, text: str, reason: str | None = None) -> dict[str, Any]:
        delta = self._first | ({"content": text} if text else {})
        self._first = {}
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {"object": "chat.completion.chunk", **self._head, "choices": [choice]}


class Completion:
    """A text that goes on: `whole`, or in chunks."""

    def __init__(self, model: str) -> None:
        self._head = {"id": f"cmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}

    def whole(self, text: str, reason: str) -> dict[str, Any]:
        return self.chunk(text, reason) | {"usage": None}

    def chunk(self, text: str, reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
        return {"object": "text_completion", **self._head, "choices": [choice]}


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "shm-server"}


def _reason(pieces: AsyncStream) -> str:
    return "length" if pieces.truncated else "stop"


async def _events(
    first: str | None, texts: AsyncIterator[str], pieces: AsyncStream, reply: Chat | Completion
) -> AsyncIterator[str]:
    async with contextlib.aclosing(texts):
        try:
            if first is not None:
                yield event(reply.chunk(first))
            async for text in texts:
                yield event(reply.chunk(text))
            yield event(reply.chunk("", _reason(pieces)))
            yield DONE
        except ClientError as error:
            yield event(_described(error)[1])


# -- where a reply ends


async def until(stops: tuple[str, ...], pieces: AsyncStream) -> AsyncIterator[str]:
    """The text of `pieces` before the first of `stops`, which cancels the rest; wherever one piece ends and the next
    begins. Closes `pieces`.
    """
    async with pieces:
        held = ""
        try:
            async for piece in pieces:
                text, held, ends = cut(held + piece, stops)
                if text:
                    yield text
                if ends:
                    return
        except ClientError:
            if held:  # text that came before an error stands
                yield held
            raise
        if held:
            yield held


def cut(text: str, stops: tuple[str, ...]) -> tuple[str, str, bool]:
    """What of a reply's text can be shown, what may be the beginning of a stop, and whether there is a stop. Of several
    the one that is complete first counts, so that it does not matter in what pieces the text comes.
    """
    found = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    if found:
        return text[: min(found)[1]], "", True
    longest = max(map(len, stops), default=0)
    for at in range(max(len(text) - longest + 1, 0), len(text)):
        if any(stop.startswith(text[at:]) for stop in stops):
            return text[:at], text[at:], False
    return text, "", False


# -- errors


async def failed(request: Request, error: Exception) -> Response:
    """An exception handler of Starlette's, for PATHS."""
    status, content = _described(error)
    return said(content, status, getattr(error, "headers", None))


def _described(error: Exception) -> tuple[int, dict[str, Any]]:
    status, text = described(error)
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    param, code = getattr(error, "param", None), getattr(error, "code", None)
    if isinstance(error, NoSuchModel):  # it has gone since it was found
        param, code = "model", NOT_FOUND
    return status, {"error": {"message": text, "type": kind, "param": param, "code": code}}


def _unknown(name: str) -> Refused:
    return Refused("model", f"there is no model {name!r:.100} that answers prompts", NOT_FOUND, 404)
