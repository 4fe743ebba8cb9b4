"""The Open Inference Protocol, version 2, without what carries it: which models there are, and what they make of
tensors.

    service = Inference(client)
    model = await service.open("iris")
    call = check(model, Call([Given("x", "FP32", (2, 4), bytes(32))]))
    (await service.infer(model, call)).outputs["y"]                         # (2, 3) float32

Each raises ClientError. http/inference.py has it over HTTP, grpc over gRPC: KServe's, Triton's and MLServer's clients
speak both.
"""

import asyncio
import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from shm_server import __version__
from shm_server.client import handshake
from shm_server.client.aio import AsyncClient, AsyncModel
from shm_server.client.errors import ModelError, NoSuchModel, ProtocolError, Refused, ServerGone, TensorError
from shm_server.client.signature import ModelInfo, Tensor
from shm_server.gateways import tensors
from shm_server.gateways.tensors import Given
from shm_server.layout import MAX_MODEL_NAME_BYTES, Reason

NAME = "shm-server"
EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository")
# Of a request, and of its answer.
MAX_BYTES = 64 << 20
# Of all requests and answers that are in memory: what callers of a slow model, or who read slowly, can make us hold.
MAX_IN_HAND = 512 << 20
# The server's process answers at once, unless it is not there.
ASK_SECONDS = 5.0
# A model that does not load in an hour is waited for no longer; it may take over all the same.
LOAD_SECONDS = 3600.0
LOADS = 4  # that are waited for at a time: the others are in line
# The worker before says goodbye at once, unless it is not there.
GOODBYE_SECONDS = 10.0
MAX_TIMEOUT_US = 86_400_000_000

STATES = {"ready": "READY", "starting": "LOADING", "not answering": "UNAVAILABLE"}
# What a parameter asks for that there is not here, and that would make another answer of it.
NOT_HERE = {
    "sequence_id": "models keep no state from one request to the next",
    "classification": "outputs are numbers, not BYTES; labels are in the model's own metadata",
    "shared_memory_region": "tensors come in the request; for shared memory there are this server's own clients",
}
NO_LOAD_PARAMETERS = "expected no parameters: a model is loaded again from where the server has it"
NO_UNLOAD = "models are not unloaded while the server runs: it was told which to serve when it was started"


class NotSupported(Refused):
    """What the protocol has, and this server has not."""

    reason = Reason.MALFORMED


class TooMuch(Refused):
    """There is no room for another request now."""

    reason = Reason.NO_MEMORY


class Call(NamedTuple):
    """A request; nothing in it is checked."""

    inputs: Sequence[Given]
    outputs: Sequence[str] = ()
    """The names of those that are wanted; none: all."""
    timeout: float | None = None
    """In seconds."""


class Checked(NamedTuple):
    """A call that a model takes."""

    inputs: dict[str, np.ndarray]
    outputs: dict[Tensor, int]
    """Those that are wanted, in that order, and how many numbers each will have."""
    size: int
    """Of all that the model gives, in bytes."""
    timeout: float | None


class Answer(NamedTuple):
    model: str
    version: str
    outputs: dict[str, np.ndarray]
    """(n, *shape), in the order in which they were asked for."""


class Inference:
    """What the protocol has, over the models of `client`'s server."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._loading = ThreadPoolExecutor(LOADS, "loading")  # so that no call waits for a thread to dial in
        self._in_hand = 0

    @contextlib.contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """Bytes of a request and its answer, from here until they are not needed any more. TooMuch."""
        if self._in_hand + size > MAX_IN_HAND:
            raise TooMuch("too many large requests at a time")
        self._in_hand += size
        try:
            yield
        finally:
            self._in_hand -= size

    async def ready(self) -> bool:
        return all(state == "up" for state in (await self._client.health(timeout=ASK_SECONDS)).values())

    async def models(self) -> list[ModelInfo]:
        return await self._client.models(timeout=ASK_SECONDS)

    async def find(self, name: str, version: str = "") -> ModelInfo:
        """NoSuchModel, with the names of those that there are."""
        there = await self.models()
        found = next((each for each in there if each.name == name), None)
        if found is None:
            raise NoSuchModel(f"there is no model {name!r:.100}: {_listed(there)}")
        _check_version(found, version)
        return found

    async def open(self, name: str, version: str = "") -> AsyncModel:
        """The model that takes tensors. NoSuchModel, or TensorError for one that takes prompts."""
        try:
            if not name or len(name.encode(errors="replace")) > MAX_MODEL_NAME_BYTES:
                raise NoSuchModel(f"a model's name has 1 to {MAX_MODEL_NAME_BYTES} bytes")
            model = await self._client.model(name)
        except NoSuchModel:
            found = await self.find(name, version)  # whose list has all that there are
            if found.protocol == "stream":
                text = f"model {name!r} answers prompts and takes no tensors"
                raise TensorError(f"{text}: HTTP's POST /prompt and /v1/completions have it") from None
            raise
        if version and version != model.version:
            await self.find(name, version)
            await _left(model)  # for the one that has it now
            model = await self._client.model(name)
            _check_version(model, version)
        return model

    async def infer(self, model: AsyncModel, call: Checked) -> Answer:
        """Run `model` on what `check` found right. A caller who is cancelled cancels it."""
        outputs = await model.run(call.inputs, timeout=call.timeout)
        return Answer(model.name, model.version, {each.name: outputs[each.name] for each in call.outputs})

    async def load(self, name: str) -> None:
        """Have a model loaded again, beside the one that serves; calls from now on are the new one's. ModelError when
        it does not load: the old one goes on.
        """
        await self.find(name)
        before = None
        with contextlib.suppress(NoSuchModel, ServerGone):  # one that takes prompts; one whose process is not there
            before = await self._client.model(name)
        patient = dataclasses.replace(self._client.address, patience=LOAD_SECONDS)
        asked = asyncio.get_running_loop().run_in_executor(self._loading, handshake.ask, patient, f"reload {name}")
        for each in _outcomes(await asked):
            if each["error"]:
                raise ModelError(f"model {each['name']!r} was not loaded: {each['error']}")
        if before:
            await _left(before)


def check(model: AsyncModel, call: Call) -> Checked:
    """TensorError for what `model` does not take or give."""
    taken = tensors.arrays(model.inputs, model.bound, call.inputs)
    known = {tensor.name: tensor for tensor in model.outputs}
    for name in call.outputs:
        if name not in known:
            raise TensorError(f"expected outputs of {tensors.names(model.outputs)}, got {name!r:.100}")
    if len({*call.outputs}) != len(call.outputs):
        raise TensorError(f"expected each output once, got {list(call.outputs)!r:.100}")
    sizes = {each: tensors.elements(each, model.inputs, taken) for each in model.outputs}
    made = sum(size * each.dtype.itemsize for each, size in sizes.items())  # whatever is wanted of it
    if made > MAX_BYTES:
        raise TensorError(f"expected inputs whose outputs have at most {MAX_BYTES} bytes, got some that make {made}")
    wanted = [known[name] for name in call.outputs] or list(model.outputs)
    return Checked(taken, {each: sizes[each] for each in wanted}, made, call.timeout)


def check_parameters(parameters: Any, where: str) -> None:
    """TensorError for what there is not here. What is a hint only, such as a priority, is let be."""
    for name, why in NOT_HERE.items():
        if parameters.get(name):
            raise TensorError(f"{where}: there is no {name} here: {why}")


def timeout_of(microseconds: Any) -> float | None:
    """Of a request's parameter `timeout`, in seconds."""
    if type(microseconds) is not int or not 0 <= microseconds <= MAX_TIMEOUT_US:
        raise TensorError(f"timeout: expected 0 to {MAX_TIMEOUT_US} microseconds, got {microseconds!r:.100}")
    return microseconds / 1e6 or None


def server_metadata() -> dict[str, Any]:
    return {"name": NAME, "version": __version__, "extensions": list(EXTENSIONS)}


def metadata(model: ModelInfo) -> dict[str, Any]:
    said = {"name": model.name, "versions": [model.version], "platform": model.platform}
    for side in ("inputs", "outputs"):
        said[side] = [
            {"name": each.name, "datatype": each.datatype, "shape": tensors.shape_of(each)}
            for each in getattr(model, side)
        ]
    return said


def config(model: ModelInfo) -> dict[str, Any]:
    """What Triton's clients want to know of a model: the same in its configuration's words."""
    said = {"name": model.name, "platform": model.platform, "backend": NAME, "max_batch_size": tensors.MAX_ROWS}
    for side in ("input", "output"):
        said[side] = [
            {"name": each.name, "data_type": f"TYPE_{each.datatype}", "dims": list(each.shape)}
            for each in getattr(model, f"{side}s")
        ]
    return said


def index(models: Sequence[ModelInfo], *, ready: bool = False) -> list[dict[str, str]]:
    """`ready`: those that are, only."""
    return [
        {"name": each.name, "version": each.version, "state": STATES[each.state], "reason": not_ready(each)}
        for each in models
        if each.state == "ready" or not ready
    ]


def not_ready(model: ModelInfo) -> str:
    """Why a model is not ready; "" where it is."""
    return "" if model.state == "ready" else f"it is {model.state}"


async def _left(model: AsyncModel) -> None:
    """Until we have been told that others serve a model now, which the server's process knows a moment earlier."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(GOODBYE_SECONDS):
            while not model.over:
                await asyncio.sleep(0.002)


def _listed(models: Sequence[ModelInfo]) -> str:
    return f"there are {', '.join(repr(each.name) for each in models)}" if models else "this server has none"


def _check_version(model: ModelInfo | AsyncModel, version: str) -> None:
    if version and version != model.version:
        raise NoSuchModel(f"model {model.name!r} has version {model.version!r}, and no {version!r:.100}")


def _outcomes(said: Any) -> list[dict[str, Any]]:
    if not isinstance(said, list) or not all(isinstance(each, dict) and {"name", "error"} <= {*each} for each in said):
        raise ProtocolError.of("answer", f"expected a list of models that were loaded, got {said!r:.100}")
    return said
