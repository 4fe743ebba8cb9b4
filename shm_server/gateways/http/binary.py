"""An inference request in JSON, and its answer, with the bytes of tensors behind it: Triton's "binary tensor data".

    Inference-Header-Content-Length: 95
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}}]}<16 bytes>

Without that header all of a body is JSON, and so are its tensors. Those of the answer are JSON unless the request says
"binary_data": true of one, or "binary_data_output": true of all.
"""

import asyncio
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from starlette.exceptions import HTTPException
from starlette.responses import Response

from shm_server.client.errors import TensorError
from shm_server.client.signature import Tensor
from shm_server.gateways import inference, tensors
from shm_server.gateways.http import body
from shm_server.gateways.http.answers import write
from shm_server.gateways.inference import Answer, Call
from shm_server.gateways.tensors import Given
from shm_server.layout import MAX_TENSORS
from shm_server.models.tensor import datatype_of

LENGTH = "inference-header-content-length"
# Of the JSON alone; and of an answer's numbers, each of which has some twenty bytes then.
MAX_JSON_BYTES = body.MAX_BODY_BYTES
MAX_JSON_NUMBERS = 1 << 20
# Made, or sent, between two looks at who else wants something.
NUMBERS_AT_A_TIME = 1 << 14
BYTES_AT_A_TIME = 256 << 10


class Request(NamedTuple):
    """What was asked for, and how it is to be said."""

    call: Call
    id: str | None
    binary: dict[str, bool]
    """Of the outputs that say so themselves."""
    all_binary: bool
    """Of the others."""

    def is_binary(self, output: str) -> bool:
        return self.binary.get(output, self.all_binary)


def parse(data: bytes, length: str | None) -> Request:
    """A body; `length` is what the header says. HTTPException, or TensorError, which says where what was expected."""
    head = len(data) if length is None else _length(length, len(data))
    if head > MAX_JSON_BYTES:
        raise HTTPException(413, f"expected at most {MAX_JSON_BYTES} bytes of JSON, got {head}: send binary data")
    said = body.parsed(data[:head])
    parameters = _parameters(said, "the request")
    inputs, left = _inputs(said, memoryview(data)[head:])
    if left:
        raise TensorError(f"expected {len(data) - head - left} bytes behind the JSON, as inputs say, got {left} more")
    outputs = [_named(each, f"outputs[{i}]") for i, each in enumerate(_list(said, "outputs", []))]
    binary = {}
    for i, each in enumerate(outputs):
        own = _parameters(each, f"outputs[{i}]")
        if "binary_data" in own:
            binary[each["name"]] = _get(own, "binary_data", bool, f"outputs[{i}].parameters")
    timeout = inference.timeout_of(parameters.get("timeout", 0))
    call = Call(inputs, [each["name"] for each in outputs], timeout)
    all_binary = _get(parameters, "binary_data_output", bool, "parameters", False)
    return Request(call, _get(said, "id", str, "the request", None), binary, all_binary)


def check_json(request: Request, outputs: dict[Tensor, int]) -> None:
    """HTTPException unless those outputs that are wanted in JSON can be said so."""
    in_json = {each: count for each, count in outputs.items() if not request.is_binary(each.name)}
    for tensor in in_json:
        if tensor.datatype in tensors.BYTES_ONLY:
            text = f"output {tensor.name!r}: {tensor.datatype} has no numbers in JSON: ask for it as binary data"
            raise HTTPException(400, text)
    if (count := sum(in_json.values())) > MAX_JSON_NUMBERS:
        text = f"expected at most {MAX_JSON_NUMBERS} numbers of outputs in JSON, got {count}: ask for binary data"
        raise HTTPException(400, text)


async def said(answer: Answer, request: Request) -> tuple[list[Any], int | None]:
    """The pieces of a body, and the length of its JSON where bytes follow."""
    head = {"model_name": answer.model, "model_version": answer.version}
    if request.id is not None:
        head["id"] = request.id
    pieces, behind = [json.dumps(head)[:-1].encode(), b', "outputs": ['], []
    for name, output in answer.outputs.items():
        form: dict[str, Any] = {"name": name, "datatype": datatype_of(output.dtype), "shape": list(output.shape)}
        if request.is_binary(name):
            form["parameters"] = {"binary_data_size": output.nbytes}
            behind.append(np.ascontiguousarray(output).reshape(-1).view(np.uint8).data)
            pieces.append(json.dumps(form).encode())
        else:
            pieces += [json.dumps(form)[:-1].encode(), b', "data": [', *await _numbers(name, output), b"]}"]
        pieces.append(b", ")
    pieces[-1] = b"]}"
    return pieces + behind, sum(map(len, pieces)) if behind else None


class Sent(Response):
    """A body in pieces, with its length, until the caller hangs up or reads nothing any more. `done` is called then."""

    def __init__(self, pieces: list[Any], length: int | None, done: Callable[[], None]) -> None:
        self._pieces, self._done = pieces, done
        self.status_code, self.background, self.body = 200, None, b""
        kind = b"application/json" if length is None else b"application/octet-stream"
        size = sum(map(len, pieces))
        self.raw_headers = [(b"content-type", kind), (b"content-length", b"%d" % size)]
        if length is not None:
            self.raw_headers.append((LENGTH.encode(), b"%d" % length))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            for piece in self._pieces:
                for start in range(0, len(piece), BYTES_AT_A_TIME):
                    await write(send, bytes(piece[start : start + BYTES_AT_A_TIME]), more=True)
            await write(send, b"", more=False)
        finally:
            self._done()


async def _numbers(name: str, output: np.ndarray) -> list[bytes]:
    """Of an output, as JSON has them, between its brackets. HTTPException for NaN and infinity."""
    if output.dtype.kind == "f" and not np.isfinite(output).all():
        text = f"output {name!r} has NaN or infinity, for which JSON has no word: ask for it as binary data"
        raise HTTPException(400, text)
    flat, pieces = output.reshape(-1), []
    for start in range(0, len(flat), NUMBERS_AT_A_TIME):
        pieces += [b", " if start else b"", json.dumps(flat[start : start + NUMBERS_AT_A_TIME].tolist())[1:-1].encode()]
        await asyncio.sleep(0)
    return pieces


def _length(text: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and 1 <= int(text) <= most):
        raise TensorError(f"Inference-Header-Content-Length: expected 1 to {most}, as the body has, got {text!r:.60}")
    return int(text)


def _inputs(said: dict[str, Any], behind: memoryview) -> tuple[list[Given], int]:
    """Those of a request, and how many of the bytes behind its JSON they leave over."""
    inputs, at = [], 0
    for i, each in enumerate(_list(said, "inputs")):
        where = f"inputs[{i}]"
        own = _parameters(_named(each, where), where)
        if "binary_data_size" in own:
            size = _get(own, "binary_data_size", int, f"{where}.parameters")
            if not 0 <= size <= len(behind) - at:
                text = f"expected 0 to {len(behind) - at}, as the body has, got {size!r:.60}"
                raise TensorError(f"{where}: binary_data_size: {text}")
            if "data" in each:
                raise TensorError(f"{where}: expected data or binary_data_size, got both")
            data: memoryview | list[Any] = behind[at : at + size]
            at += size
        else:
            data = _get(each, "data", list, where)
        shape, datatype = _get(each, "shape", list, where), _get(each, "datatype", str, where)
        inputs.append(Given(each["name"], datatype, shape, data))
    return inputs, len(behind) - at


def _list(said: dict[str, Any], key: str, *default: Any) -> list[Any]:
    found = _get(said, key, list, "the request", *default)
    if len(found) > MAX_TENSORS:
        raise TensorError(f"{key}: expected at most {MAX_TENSORS}, got {len(found)}")
    return found


def _named(said: Any, where: str) -> dict[str, Any]:
    if not isinstance(said, dict):
        raise TensorError(f"{where}: expected an object, got {type(said).__name__}")
    _get(said, "name", str, where)
    return said


def _parameters(said: dict[str, Any], where: str) -> dict[str, Any]:
    parameters = _get(said, "parameters", dict, where, {})
    inference.check_parameters(parameters, where)
    return parameters


def _get(said: dict[str, Any], key: str, kind: type, where: str, *default: Any) -> Any:
    """A field, or its `default` where it has one and is not there, or null. TensorError for another kind of value."""
    if default and said.get(key) is None:
        return default[0]
    if type(said.get(key)) is not kind:
        got = type(said[key]).__name__ if key in said else "none"
        raise TensorError(f"{where}: expected {key} of type {kind.__name__}, got {got}")
    return said[key]
