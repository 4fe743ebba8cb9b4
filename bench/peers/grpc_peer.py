"""The usual advice, "just use gRPC": the same model over a Unix socket, for the benchmark only.

    python -m bench.peers.grpc_peer --socket PATH --engine tensorflow

    /bench.Model/Echo       BytesValue -> BytesValue      the bytes come back
    /bench.Model/Classify   BytesValue -> StringValue     3,072 bytes of pixels -> the label's name

The messages are protobuf's own wrappers, so no code is generated. grpcio has two servers: a pool of threads, and
asyncio (--threads 0). bench/README.md, "The gRPC peer", says which is the faster one here.
"""

import argparse
import asyncio
import concurrent.futures
import logging
import os
import signal
from collections.abc import Callable

import grpc
from google.protobuf.wrappers_pb2 import BytesValue, StringValue

from shm_server.models import ENGINES

from .model import Model

# A row of 16 MiB, and what is around it. 4 MiB by default.
OPTIONS = (("grpc.max_receive_message_length", 17 << 20),)


class Methods:
    """The two methods."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def echo(self, request: BytesValue, _: grpc.ServicerContext) -> BytesValue:
        return request

    def classify(self, request: BytesValue, context: grpc.ServicerContext) -> StringValue:
        try:
            return StringValue(value=self._model.label(request.value))
        except ValueError as error:
            context.set_code(grpc.StatusCode.INVALID_ARGUMENT)
            context.set_details(str(error))
            return StringValue()


def add_to(server: grpc.Server | grpc.aio.Server, path: str, echo: Callable, classify: Callable) -> None:
    method = grpc.unary_unary_rpc_method_handler
    handlers = {
        "Echo": method(echo, BytesValue.FromString, BytesValue.SerializeToString),
        "Classify": method(classify, BytesValue.FromString, StringValue.SerializeToString),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench.Model", handlers),))
    server.add_insecure_port(f"unix:{path}")


def serve(methods: Methods, path: str, threads: int) -> None:
    """Serve at the Unix socket `path` until a signal comes."""
    # The kernel may hand a signal to any of our threads, and that interrupts the main thread's sleep in no other way.
    awake, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(threads), options=OPTIONS)
    add_to(server, path, methods.echo, methods.classify)
    server.start()
    logging.info("listening on %s, grpcio %s", path, grpc.__version__)
    os.read(awake, 1)
    server.stop(grace=1).wait()


async def serve_asyncio(methods: Methods, path: str) -> None:
    """The same in one thread; the model runs between two events."""

    async def echo(request: BytesValue, context: grpc.aio.ServicerContext) -> BytesValue:
        return methods.echo(request, context)

    async def classify(request: BytesValue, context: grpc.aio.ServicerContext) -> StringValue:
        return methods.classify(request, context)

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = grpc.aio.server(options=OPTIONS)
    add_to(server, path, echo, classify)
    await server.start()
    logging.info("listening on %s, grpcio %s, asyncio", path, grpc.__version__)
    await stop.wait()
    await server.stop(grace=1)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="bench.peers.grpc_peer", description="Serve a model over gRPC on a Unix socket."
    )
    parser.add_argument("--socket", required=True, metavar="PATH")
    parser.add_argument("--engine", choices=(*ENGINES, "none"), default="tensorflow")
    parser.add_argument("--threads", type=int, default=4, metavar="N", help="that answer requests; 0: asyncio")
    args = parser.parse_args()
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    methods = Methods(Model(args.engine))
    if args.threads:
        serve(methods, args.socket, args.threads)
    else:
        asyncio.run(serve_asyncio(methods, args.socket))


if __name__ == "__main__":
    main()
