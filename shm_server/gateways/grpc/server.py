"""grpcio as this gateway has it: behind a socket that the server's process holds, until that says stop."""

import asyncio
import os
import secrets
import socket
from collections.abc import Callable
from typing import Any

import grpc

from shm_server.client.aio import AsyncClient
from shm_server.gateways.grpc import health, inference
from shm_server.gateways.grpc.answers import answering
from shm_server.gateways.grpc.front import Front
from shm_server.gateways.inference import MAX_BYTES, Inference
from shm_server.gateways.main import Door

# What is in flight when the server stops has so long; the server's process waits for 15 s before it kills us. Who moves
# has what a call may take.
DRAIN_SECONDS = 5.0
MOVE_SECONDS = 3600.0
# Around the tensors of a message.
MORE_BYTES = 1 << 20
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_BYTES + MORE_BYTES),
    ("grpc.max_send_message_length", MAX_BYTES + MORE_BYTES),
)


class Stop:
    """When the server's process says so, in a thread of the wire: whether patiently."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._said: asyncio.Queue[bool] = asyncio.Queue()

    def say(self, patient: bool) -> None:
        self._loop.call_soon_threadsafe(self._said.put_nowait, patient)

    async def said(self) -> bool:
        return await self._said.get()


def serve(door: Door, sock: socket.socket, *, socket: str) -> None:
    """Serve on `sock` what the server at the path `socket` has, until the door says stop."""
    asyncio.run(_serve(door, sock, socket))


async def _serve(door: Door, sock: socket.socket, path: str) -> None:
    async with AsyncClient(path) as client:
        service, counted = Inference(client), Counted()
        server = grpc.aio.server(options=OPTIONS)
        for protocol, servicer in ((inference.protocol, inference.Servicer), (health.protocol, health.Servicer)):
            server.add_generic_rpc_handlers((counted.handlers(protocol, servicer(service)),))
        name = f"shm-server-{os.getpid()}-{secrets.token_hex(16)}"  # in no folder: nothing is left behind
        server.add_insecure_port(f"unix-abstract:{name}")
        await server.start()
        front, stop = Front(sock, f"\0{name}"), Stop()
        await front.start()
        door.counters, door.on_stop = counted.counters, stop.say
        door.ready()
        patient = await stop.said()
        front.close()
        await _stopped(server, stop, patient)


async def _stopped(server: grpc.aio.Server, stop: Stop, patient: bool) -> None:
    """Answer what is in flight, or what can be answered in time."""
    if patient:
        moving = asyncio.create_task(server.stop(MOVE_SECONDS))
        hurried = asyncio.create_task(stop.said())
        await asyncio.wait({moving, hurried}, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if moving.done():
            return
    await server.stop(DRAIN_SECONDS)


class Counted:
    """The calls that there were."""

    def __init__(self) -> None:
        self.requests = 0

    def counters(self) -> dict[str, int]:
        return {"grpc_requests": self.requests}

    def handlers(self, protocol: Any, servicer: Any) -> grpc.GenericRpcHandler:
        methods = {
            name: grpc.unary_unary_rpc_method_handler(
                self._one_more(answering(getattr(servicer, name), method.request)),
                response_serializer=method.response.SerializeToString,
            )
            for name, method in protocol.methods.items()
        }
        return grpc.method_handlers_generic_handler(protocol.service, methods)

    def _one_more(self, answer: Callable) -> Callable:
        async def counted(request: Any, context: grpc.aio.ServicerContext) -> Any:
            self.requests += 1
            return await answer(request, context)

        return counted
