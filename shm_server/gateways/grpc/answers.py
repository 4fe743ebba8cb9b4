"""How a call ends that failed: gRPC's code and a line of text."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc import StatusCode

from shm_server.client import errors
from shm_server.client.errors import ClientError, TensorError
from shm_server.gateways.grpc import wire
from shm_server.layout import REASON_GRPC_CODE, REASON_PYTHON_ERROR, STATUS_GRPC_CODE, STATUS_PYTHON_ERROR
from shm_server.runtime.describe import describe, where

log = logging.getLogger(__name__)

# gRPC sends the text among the headers, which have 8 KiB, and makes up to twelve bytes of a character.
MAX_TEXT = 600

# What stands for an error of the client's in layout.md's tables; the rest has no number in the rings.
CODES: dict[str, str] = {name: REASON_GRPC_CODE[reason] for reason, name in REASON_PYTHON_ERROR.items()}
CODES |= {name: STATUS_GRPC_CODE[status] for status, name in STATUS_PYTHON_ERROR.items()}
CODES |= {"TensorError": "INVALID_ARGUMENT", "WrongSignature": "UNAVAILABLE", "ServerGone": "UNAVAILABLE"}
CODES["Closed"] = "UNAVAILABLE"


def code_of(error: ClientError) -> StatusCode:
    """That of the nearest class which has one."""
    if isinstance(error, errors.Refused) and error.reason in REASON_GRPC_CODE:
        return StatusCode[REASON_GRPC_CODE[error.reason]]
    names = (kind.__name__ for kind in type(error).__mro__)
    return StatusCode[next((CODES[name] for name in names if name in CODES), "INTERNAL")]


def parsed(data: bytes, kind: type) -> Any:
    """Of a caller, a message. TensorError for what is none."""
    try:
        wire.check(data)
        return kind.FromString(data)
    except (ValueError, DecodeError) as error:
        raise TensorError(f"{len(data)} bytes that are no {kind.__name__}: {error}") from None


def answering(
    handler: Callable[[Any], Awaitable[Any]], request: type
) -> Callable[[bytes, grpc.aio.ServicerContext], Awaitable[Any]]:
    """`handler`, which takes a `request`, as grpcio calls it: with its bytes."""

    async def answer(data: bytes, context: grpc.aio.ServicerContext) -> Any:
        try:
            return await handler(parsed(data, request))
        except ClientError as error:
            code, text = code_of(error), str(error)
        except Exception as error:
            log.error("a call failed: %s. %s", describe(error), where(error))
            code, text = StatusCode.INTERNAL, "the gateway failed; its log says why"
        return await context.abort(code, text[:MAX_TEXT].encode(errors="backslashreplace").decode())  # which raises

    return answer
