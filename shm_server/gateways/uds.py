"""The Unix-socket protocol: what a sidecar is usually reached by; for clients of others, which go on unchanged.

    packet   | length, 4 bytes, big-endian | type, 1 byte | body |
                                           \\____ length bytes ___/

    type 0   echo: the packet comes back as it is
    type 1   classify: the body is 3072 bytes (1024 red, 1024 green, 1024 blue, each row by row from the top); the
             answer is a packet of type 1 whose body is the label's name in UTF-8

A client sends a packet and reads one; it may send more before it reads. The protocol has no packet for errors: what
the server cannot answer ends the connection, with one line in the log.
"""

import contextlib
import logging
import os
import select
import socket
import struct
import threading
import time

import numpy as np

from shm_server.client.client import Client
from shm_server.client.errors import ClientError
from shm_server.gateways import pictures
from shm_server.gateways.main import Door
from shm_server.gateways.pictures import IMAGE_BYTES
from shm_server.runtime.describe import describe, message, where
from shm_server.session.doorbell import Peer

log = logging.getLogger(__name__)

DEFAULT_SOCKET = "/tmp/imageserver.sock"
ECHO, CLASSIFY = 0, 1
# The largest length that is taken: 340 images, for echoes. It bounds what a connection can make the server hold.
MAX_LENGTH = 1 << 20
# Threads at a time. Four times what the largest measurement of `bench` uses.
MAX_CONNECTIONS = 1024
# How long a stopping server waits for what is in flight.
DRAIN_SECONDS = 5.0

_LENGTH = struct.Struct(">I")


class BrokenPacket(Exception):
    """The peer does not follow the protocol, or went away within a packet."""


class Server:
    """Serves those who connect to `sock`, which listens, a thread each; their pictures go to `client`'s default model.

    Between `start` and `stop` everything happens in threads of the server's own.
    """

    def __init__(self, client: Client, sock: socket.socket) -> None:
        self._client, self._socket = client, sock
        sock.setblocking(False)  # who takes over from us may be faster
        self.packets = 0
        """That were answered."""
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._stopping = False
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._acceptor = threading.Thread(target=self._accept, name="uds-accept", daemon=True)

    def start(self) -> None:
        """Let clients in."""
        self._acceptor.start()

    def stop(self) -> None:
        """Answer what has been received, close every connection, end every thread. Stopping twice does nothing."""
        if self._stopping:
            return
        self._stopping = True
        os.eventfd_write(self._wake, 1)  # not by a shutdown of the socket, which may be another server's by now
        self._acceptor.join()
        self._socket.close()
        os.close(self._wake)
        # First nothing more can be read: a thread answers what it has, and ends. Then nothing can be written either: a
        # thread whose peer does not read ends as well.
        for how, seconds in ((socket.SHUT_RD, DRAIN_SECONDS), (socket.SHUT_RDWR, DRAIN_SECONDS)):
            with self._lock:  # a socket is closed only after it left the table, so these are open
                threads = list(self._connections.values())
                for sock in self._connections:
                    with contextlib.suppress(OSError):  # the peer was faster
                        sock.shutdown(how)
            end = time.monotonic() + seconds
            for thread in threads:
                thread.join(max(0.0, end - time.monotonic()))

    # -- the acceptor

    def _accept(self) -> None:
        number = 0
        some = select.poll()
        for each in (self._socket, self._wake):
            some.register(each, select.POLLIN)
        while some.poll() and not self._stopping:
            try:
                sock, _ = self._socket.accept()
            except BlockingIOError:
                continue
            except OSError as error:  # out of descriptors, or the client is gone again
                log.error("uds: accept: %s", error)
                time.sleep(0.01)  # the listener stays readable: do not burn a core until a descriptor is free
                continue
            number += 1
            self._begin(sock, number)

    def _begin(self, sock: socket.socket, number: int) -> None:
        if len(self._connections) >= MAX_CONNECTIONS:
            log.warning("uds connection %d refused: all %d are taken", number, MAX_CONNECTIONS)
            sock.close()
            return
        thread = threading.Thread(target=self._serve, args=(sock, number), name=f"uds-{number}", daemon=True)
        with self._lock:
            self._connections[sock] = thread
        try:
            thread.start()
        except RuntimeError as error:  # out of threads
            self._end(sock)
            log.error("uds connection %d refused: %s", number, error)

    # -- a connection's thread

    def _serve(self, sock: socket.socket, number: int) -> None:
        fault = ""
        try:
            self._answer(sock)
        except (BrokenPacket, OSError) as error:
            fault = message(error)
        except ClientError as error:
            fault = str(error)
        except Exception as error:
            fault = f"the gateway failed: {describe(error)}. {where(error)}"
        try:
            if fault and not self._stopping:
                log.warning("uds connection %d (pid %d) closed: %s", number, Peer.of(sock).pid, fault)
        finally:
            self._end(sock)

    def _end(self, sock: socket.socket) -> None:
        with self._lock:
            del self._connections[sock]
        sock.close()

    def _answer(self, sock: socket.socket) -> None:
        """Answer packets until the peer hangs up between two of them."""
        recv_into, send = sock.recv_into, sock.sendall
        received, pixels = _buffer()
        have = 0  # bytes of `received` that are not answered yet

        def receive(needed: int) -> bool:
            """Receive until there are `needed` bytes, or more; False when the peer has hung up between packets."""
            nonlocal have
            while have < needed:
                count = recv_into(received[have:])
                if not count:
                    if have:
                        raise BrokenPacket(f"the peer went away after {have} bytes of a packet")
                    return False
                have += count
            return True

        while receive(4):
            length = _LENGTH.unpack_from(received)[0]
            if not 1 <= length <= MAX_LENGTH:
                raise BrokenPacket(f"a packet of length {length}, must be 1 to {MAX_LENGTH}")
            receive(5)
            kind, end = received[4], 4 + length
            if kind == ECHO:
                receive(end)
                send(received[:end])
            elif kind != CLASSIFY:
                raise BrokenPacket(f"a packet of unknown type {kind}")
            elif length != 1 + IMAGE_BYTES:
                raise BrokenPacket(f"an image of {length - 1} bytes, must be {IMAGE_BYTES}")
            else:
                receive(end)
                send(packet(CLASSIFY, self._label(pixels).encode()))
            with self._lock:
                self.packets += 1
            have -= end
            if have:  # the peer has sent more already
                received[:have] = received[end : end + have]

    def _label(self, pixels: np.ndarray) -> str:
        model = self._client.model()
        ours = pictures.classifier(model.signature)
        return ours.classes[model.run({ours.pixels: pixels})[ours.scores].argmax()]


def packet(kind: int, body: bytes) -> bytes:
    return _LENGTH.pack(1 + len(body)) + bytes([kind]) + body


def _buffer() -> tuple[memoryview, np.ndarray]:
    """Room for the largest packet, and the image in it, read-only: uint8 (3, 32, 32) in place of a packet's body.

    What no packet is long enough to touch stays without a page of memory.
    """
    packets = memoryview(np.empty(4 + MAX_LENGTH, np.uint8))
    body = packets[5 : 5 + IMAGE_BYTES].toreadonly()
    return packets, np.frombuffer(body, np.uint8).reshape(pictures.SHAPE)


def serve(door: Door, sock: socket.socket, *, socket: str) -> None:
    """Serve on `sock` what the server at the path `socket` has, until the door says stop."""
    stopped = threading.Event()
    with Client(socket) as client:
        server = Server(client, sock)
        door.counters = lambda: {"uds_packets": server.packets}
        door.on_stop = lambda patient: stopped.set()
        server.start()
        door.ready()
        stopped.wait()
        server.stop()
