"""The Open Inference Protocol over HTTP, as KServe and Triton have it; see app.py for its paths."""

import contextlib
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shm_server.client.aio import AsyncClient
from shm_server.client.signature import ModelInfo
from shm_server.gateways import inference
from shm_server.gateways.http import binary, body
from shm_server.gateways.http.answers import said
from shm_server.gateways.inference import MAX_BYTES, Inference, NotSupported

# What is asked of the repository is a line.
MAX_ASKED_BYTES = 1 << 20


def routes(client: AsyncClient) -> list[Route]:
    here = OpenInference(Inference(client))
    of_model = [("", here.metadata, "GET"), ("/ready", here.model_ready, "GET"), ("/config", here.config, "GET")]
    of_model.append(("/infer", here.infer, "POST"))
    return [
        Route("/v2", here.server),
        Route("/v2/health/live", here.live),
        Route("/v2/health/ready", here.ready),
        Route("/v2/repository/index", here.index, methods=["POST"]),
        Route("/v2/repository/models/{model}/load", here.load, methods=["POST"]),
        Route("/v2/repository/models/{model}/unload", here.unload, methods=["POST"]),
        *(
            Route(f"/v2/models/{{model}}{version}{path}", handler, methods=[method])
            for version in ("", "/versions/{version}")
            for path, handler, method in of_model
        ),
    ]


class OpenInference:
    """The handlers, over `service`."""

    def __init__(self, service: Inference) -> None:
        self._service = service

    # -- health and metadata

    async def server(self, _: Request) -> Response:
        return said(inference.server_metadata())

    async def live(self, _: Request) -> Response:
        return said({"live": True})

    async def ready(self, _: Request) -> Response:
        ready = await self._service.ready()
        return said({"ready": ready}, 200 if ready else 503)

    async def model_ready(self, request: Request) -> Response:
        model = await self._find(request)
        why = inference.not_ready(model)
        form = {"name": model.name, "ready": not why}
        return said(form | {"error": f"model {model.name!r}: {why}"}, 503) if why else said(form)

    async def metadata(self, request: Request) -> Response:
        return said(inference.metadata(await self._find(request)))

    async def config(self, request: Request) -> Response:
        return said(inference.config(await self._find(request)))

    async def _find(self, request: Request) -> ModelInfo:
        return await self._service.find(*_wanted(request))

    # -- tensors

    async def infer(self, request: Request) -> Response:
        data = await body.read(request, MAX_BYTES)
        asked = binary.parse(data, request.headers.get(binary.LENGTH))
        model = await self._service.open(*_wanted(request))
        call = inference.check(model, asked.call)
        binary.check_json(asked, call.outputs)
        with contextlib.ExitStack() as held:
            held.enter_context(self._service.holding(len(data) + call.size))
            answer = await self._service.infer(model, call)
            return binary.Sent(*await binary.said(answer, asked), held.pop_all().close)

    # -- the repository

    async def index(self, request: Request) -> Response:
        asked = await _asked(request)
        ready = body.of(asked, "ready", bool, False)
        return said(inference.index(await self._service.models(), ready=ready))

    async def load(self, request: Request) -> Response:
        if body.of(await _asked(request), "parameters", dict, {}):
            raise NotSupported(inference.NO_LOAD_PARAMETERS)
        await self._service.load(request.path_params["model"])
        return said({})

    async def unload(self, request: Request) -> Response:
        await _asked(request)
        await self._find(request)
        raise NotSupported(inference.NO_UNLOAD)


def _wanted(request: Request) -> tuple[str, str]:
    return request.path_params["model"], request.path_params.get("version", "")


async def _asked(request: Request) -> dict[str, Any]:
    """The JSON object of a request, which may have none."""
    data = await body.read(request, MAX_ASKED_BYTES)
    return body.parsed(data) if data.strip() else {}
