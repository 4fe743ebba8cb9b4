"""The Open Inference Protocol over gRPC. Tensors are answered as raw bytes, however they were given."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from shm_server.client.errors import TensorError
from shm_server.gateways import inference
from shm_server.gateways.grpc import messages
from shm_server.gateways.inference import Call, Inference, NotSupported
from shm_server.gateways.tensors import Given
from shm_server.layout import MAX_TENSORS
from shm_server.models.tensor import DATATYPES, datatype_of

protocol = messages.read("open_inference")

# Which list of a request has the numbers of a datatype.
CONTENTS = {"BOOL": "bool_contents", "INT64": "int64_contents", "UINT64": "uint64_contents"}
CONTENTS |= {"FP32": "fp32_contents", "FP64": "fp64_contents"}
CONTENTS |= dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents")
CONTENTS |= dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents")


class Servicer:
    """The service's methods, by their names, over `service`."""

    def __init__(self, service: Inference) -> None:
        self._service = service

    async def ServerLive(self, _: Any) -> Any:
        return protocol.ServerLiveResponse(live=True)

    async def ServerReady(self, _: Any) -> Any:
        return protocol.ServerReadyResponse(ready=await self._service.ready())

    async def ModelReady(self, request: Any) -> Any:
        model = await self._service.find(request.name, request.version)
        return protocol.ModelReadyResponse(ready=not inference.not_ready(model))

    async def ServerMetadata(self, _: Any) -> Any:
        return protocol.ServerMetadataResponse(**inference.server_metadata())

    async def ModelMetadata(self, request: Any) -> Any:
        model = await self._service.find(request.name, request.version)
        return protocol.ModelMetadataResponse(**inference.metadata(model))

    async def ModelConfig(self, request: Any) -> Any:
        model = await self._service.find(request.name, request.version)
        return protocol.ModelConfigResponse(config=inference.config(model))

    async def ModelInfer(self, request: Any) -> Any:
        call = parse(request)
        model = await self._service.open(request.model_name, request.model_version)
        checked = inference.check(model, call)
        with self._service.holding(request.ByteSize() + checked.size):
            answer = await self._service.infer(model, checked)
            said = protocol.ModelInferResponse(model_name=answer.model, model_version=answer.version, id=request.id)
            for name, output in answer.outputs.items():
                said.outputs.add(name=name, datatype=datatype_of(output.dtype), shape=output.shape)
                said.raw_output_contents.append(output.tobytes())
            return said

    async def RepositoryIndex(self, request: Any) -> Any:
        there = inference.index(await self._service.models(), ready=request.ready)
        return protocol.RepositoryIndexResponse(models=there)

    async def RepositoryModelLoad(self, request: Any) -> Any:
        if request.parameters:
            raise NotSupported(inference.NO_LOAD_PARAMETERS)
        await self._service.load(request.model_name)
        return protocol.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(self, request: Any) -> Any:
        await self._service.find(request.model_name)
        raise NotSupported(inference.NO_UNLOAD)


def parse(request: Any) -> Call:
    """A ModelInferRequest. TensorError for what is none."""
    for name in ("inputs", "outputs"):
        if (count := len(getattr(request, name))) > MAX_TENSORS:
            raise TensorError(f"{name}: expected at most {MAX_TENSORS}, got {count}")
    parameters = _parameters(request.parameters, "the request")
    for i, output in enumerate(request.outputs):
        _parameters(output.parameters, f"outputs[{i}]")
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise TensorError(f"raw_input_contents: expected {len(request.inputs)}, one for each input, got {len(raw)}")
    inputs = []
    for i, each in enumerate(request.inputs):
        where = f"inputs[{i}]"
        _parameters(each.parameters, where)
        if raw and each.HasField("contents"):
            raise TensorError(f"{where}: expected contents or raw_input_contents, got both")
        data = raw[i] if raw else _contents(each, where)
        inputs.append(Given(each.name, each.datatype, each.shape, data))
    timeout = inference.timeout_of(parameters.get("timeout", 0))
    return Call(inputs, [output.name for output in request.outputs], timeout)


def _parameters(said: Mapping[str, Any], where: str) -> dict[str, Any]:
    found = {}
    for name, parameter in said.items():
        if (choice := parameter.WhichOneof("parameter_choice")) is not None:
            found[name] = getattr(parameter, choice)
    inference.check_parameters(found, where)
    return found


def _contents(given: Any, where: str) -> list[Any] | bytes:
    """The numbers of an input. Floats as bytes, since NaN and infinity are among them."""
    expected = CONTENTS.get(given.datatype)
    if others := [field.name for field, _ in given.contents.ListFields() if field.name != expected]:
        wanted = f"{expected} or raw_input_contents" if expected else "raw_input_contents"
        raise TensorError(f"{where}: expected {wanted} for {given.datatype!r:.100}, got {', '.join(others)}")
    values = list(getattr(given.contents, expected)) if expected else []
    if given.datatype in ("FP32", "FP64"):
        return np.array(values, DATATYPES[given.datatype]).tobytes()
    return values
