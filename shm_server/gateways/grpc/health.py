"""gRPC's health protocol: of the server ("", or the service by its name), and of each model by its name."""

from typing import Any

from shm_server.gateways import inference
from shm_server.gateways.grpc import messages
from shm_server.gateways.grpc.inference import protocol as open_inference
from shm_server.gateways.inference import Inference

protocol = messages.read("health")
_STATUS = protocol.HealthCheckResponse.ServingStatus


class Servicer:
    """See inference.Servicer."""

    def __init__(self, service: Inference) -> None:
        self._service = service

    async def Check(self, request: Any) -> Any:
        if request.service in ("", open_inference.service):
            serving = await self._service.ready()
        else:
            serving = not inference.not_ready(await self._service.find(request.service))
        return protocol.HealthCheckResponse(status=_STATUS.SERVING if serving else _STATUS.NOT_SERVING)
