"""Rows of any size over a Unix socket, for the benchmark only: shm-server's own protocol ends at 1 MiB.

    python -m bench.packet_peer --socket PATH

    packet   | length, 4 bytes, big-endian | so many bytes |      comes back as it is

One client at a time, blocking on both sides. Nothing is copied here but by the kernel.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import struct

MAX_BYTES = 16 << 20
_LENGTH = struct.Struct(">I")


def answer(sock: socket.socket, packet: memoryview) -> None:
    """Give back packets until the peer hangs up. `packet` has room for the largest."""
    while True:
        have, needed = 0, _LENGTH.size
        while have < needed:
            count = sock.recv_into(packet[have:])
            if not count:
                return
            have += count
            if have >= _LENGTH.size:
                needed = _LENGTH.size + _LENGTH.unpack_from(packet)[0]
                if needed > len(packet):
                    raise ValueError(f"a packet of {needed - _LENGTH.size} bytes, expected at most {MAX_BYTES}")
        sock.sendall(packet[:have])  # it sends the next one when it has this one


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.packet_peer")
    parser.add_argument("--socket", required=True, metavar="PATH")
    path = parser.parse_args().socket
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    packet = memoryview(bytearray(_LENGTH.size + MAX_BYTES))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        logging.info("listening on %s", path)
        while True:
            sock, _ = listener.accept()
            with sock:
                try:
                    answer(sock, packet)
                except (OSError, ValueError) as error:
                    logging.warning("a connection ended: %s", error)


if __name__ == "__main__":
    raise SystemExit(main())
