"""The post's Unix-socket server: a thread a connection, the model in the same process.

    python -m bench.peers.uds_peer --socket PATH --engine tensorflow

Its protocol is the one of shm_server/gateways/uds.py. Who breaks it loses the connection.
"""

from __future__ import annotations

import argparse
import logging
import signal
import socketserver
import struct

from shm_server.models import ENGINES

from .model import Model

ECHO, CLASSIFY = 0, 1
MAX_LENGTH = 1 << 20
_LENGTH = struct.Struct(">I")


class Connection(socketserver.BaseRequestHandler):
    """Answers packets until the client hangs up between two of them."""

    server: Server

    def handle(self) -> None:
        sock, room = self.request, memoryview(bytearray(4 + MAX_LENGTH))
        have = 0  # bytes of `room` that are not answered yet

        def receive(needed: int) -> bool:
            nonlocal have
            while have < needed:
                count = sock.recv_into(room[have:])
                if not count:
                    return False
                have += count
            return True

        while receive(5):
            length, kind = _LENGTH.unpack_from(room)[0], room[4]
            end = 4 + length
            if not 1 <= length <= MAX_LENGTH or kind not in (ECHO, CLASSIFY):
                raise ValueError(f"a packet of type {kind} and length {length}")
            if not receive(end):
                return
            if kind == ECHO:
                sock.sendall(room[:end])
            else:
                label = self.server.model.label(room[5:end]).encode()
                sock.sendall(_LENGTH.pack(1 + len(label)) + bytes([CLASSIFY]) + label)
            have -= end
            if have:  # the client has sent more already
                room[:have] = room[end : end + have]


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads, block_on_close, request_queue_size = True, False, 1024

    def __init__(self, path: str, model: Model) -> None:
        self.model = model
        super().__init__(path, Connection)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.peers.uds_peer", description="Serve a model over a Unix socket.")
    parser.add_argument("--socket", required=True, metavar="PATH")
    parser.add_argument("--engine", choices=(*ENGINES, "none"), default="tensorflow")
    args = parser.parse_args()
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Server(args.socket, Model(args.engine)) as server:
            logging.info("listening on %s", args.socket)
            server.serve_forever()
    except KeyboardInterrupt:  # SIGTERM too
        pass


if __name__ == "__main__":
    main()
