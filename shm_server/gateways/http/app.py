"""What is answered over HTTP:

    POST /echo      {"prompt": TEXT}                         -> {"echo_prompt": TEXT}
    POST /classify  a picture, or 3072 bytes of pixels       -> {"label": NAME, "score": P, "scores": {NAME: P, ...}}
    POST /prompt    {"prompt": TEXT, "sampling_steps": 128}  -> {"response": TEXT}
    GET  /livez                                              -> {"status": "ok"}: this process answers
    GET  /readyz                                             -> {"status": "ready", "parts": {NAME: STATE, ...}}, or
                                                                "not ready", and status 503, unless each is "up"
    GET  /healthz                                            -> the same with the default model: {"status": "ok",
                                                                "model": NAME, "classes": [NAME, ...], "parts": ...}
    *    /v2/...                                                the Open Inference Protocol, see docs/open-inference.md

A part is "up", "down" or "not answering". A prompt may also have "temperature", "top_k" and "seed" (see
generators.Sampling). With "stream": true the answer is a line of JSON for each piece of text as it is generated,
{"response": PIECE}, and a last one, {"done": true} or {"error": TEXT}; who accepts text/event-stream gets the same as
events. A reply of more than 256 KiB is cut, and says "truncated": true.

Pixels are 1024 bytes red, 1024 green, 1024 blue, each row by row from the top. Every error of these paths is
{"error": TEXT}. What goes wrong with a model or a generator has the code of its status in layout.md. The other codes
are HTTP's own: 400 malformed, 408 too slow, 413 too large, 415 another content type or encoding, 503 for what is not
there now.

In OpenAI's shape, errors too, openai.py answers

    POST /v1/chat/completions    {"model": NAME, "messages": [{"role": "user", "content": TEXT}, ...]}
    POST /v1/completions         {"model": NAME, "prompt": TEXT}
    GET  /v1/models              and /v1/models/NAME
"""

from typing import Any

from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, Router

from shm_server.client.aio import AsyncClient
from shm_server.client.errors import ClientError
from shm_server.gateways.http import answers, inference, openai
from shm_server.gateways.http.openai import OpenAI
from shm_server.gateways.http.plain import Plain
from shm_server.generators import InvalidRequest


def application(client: AsyncClient) -> Any:
    """The ASGI application; its calls are `client`'s."""
    plain = Plain(client)
    like_openai = OpenAI(client, plain.stream)
    routes = [
        Route("/echo", plain.echo, methods=["POST"]),
        Route("/classify", plain.classify, methods=["POST"]),
        Route("/prompt", plain.prompt, methods=["POST"]),
        Route("/livez", plain.livez),
        Route("/readyz", plain.readyz),
        Route("/healthz", plain.healthz),
        Route("/v1/chat/completions", like_openai.chat, methods=["POST"]),
        Route("/v1/completions", like_openai.completion, methods=["POST"]),
        Route("/v1/models", like_openai.models),
        Route("/v1/models/{name:path}", like_openai.model),
        *inference.routes(client),
    ]
    known = dict.fromkeys((HTTPException, ClientError, InvalidRequest), failed)
    app = ExceptionMiddleware(Router(routes), handlers=known)

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        begun = False

        async def say(message: Any) -> None:
            nonlocal begun
            begun = True
            await send(message)

        scope["app"] = app  # with which Starlette's router raises what it has no route for
        try:
            await app(scope, receive, say)
        except ClientDisconnect:  # nobody is there to be told
            pass
        except Exception as error:  # a bug of ours
            response = await failed(Request(scope), error)
            if begun:  # what has come is no whole answer: the connection says so
                raise
            await response(scope, receive, send)

    return answer


async def failed(request: Request, error: Exception) -> Response:
    """An error, as whoever asks on that path expects it."""
    return await (openai if request.url.path.startswith(openai.PATHS) else answers).failed(request, error)
