"""How a call ends that failed: gRPC's code and a line of text."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc import StatusCode

from shm_server.client.errors import ClientError, TensorError
from shm_server.gateways.codes import code_of
from shm_server.gateways.grpc import wire
from shm_server.layout import REASON_GRPC_CODE, STATUS_GRPC_CODE
from shm_server.runtime.describe import describe, where

log = logging.getLogger(__name__)

# gRPC sends the text among the headers, which have 8 KiB, and makes up to twelve bytes of a character.
MAX_TEXT = 600


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
            code, text = StatusCode[code_of(error, STATUS_GRPC_CODE, REASON_GRPC_CODE)], str(error)
        except Exception as error:
            log.error("a call failed: %s. %s", describe(error), where(error))
            code, text = StatusCode.INTERNAL, "the gateway failed; its log says why"
        return await context.abort(code, text[:MAX_TEXT].encode(errors="backslashreplace").decode())  # which raises

    return answer
