"""The Unix-socket protocol, spoken by raw sockets as a program of somebody else's would."""

import contextlib
import fcntl
import os
import random
import socket
import struct
import termios
import threading

import numpy as np
import pytest
from client import connect, hung_up, read_exactly
from conftest import until
from stub_transports import Guarded

from shm_server import Client, Server
from shm_server.door.listener import Listener
from shm_server.gateways import pictures, uds


class Shades(Guarded):
    class_names = ("dunkelgrün", "bright")  # a name whose UTF-8 is longer than its text


class Broken(Shades):
    def scores(self, pixels: np.ndarray) -> np.ndarray:
        raise ValueError("out of paint")


def packet(kind: int, body: bytes = b"", *, length: int | None = None) -> bytes:
    return (1 + len(body) if length is None else length).to_bytes(4, "big") + bytes([kind]) + body


def read_packet(sock: socket.socket) -> tuple[int, bytes]:
    """Type and body of the next packet."""
    length = int.from_bytes(read_exactly(sock, 4)[0], "big")
    answer = read_exactly(sock, length)[0]
    return answer[0], answer[1:]


def unread(sock: socket.socket) -> int:
    """Bytes that were sent and that the peer has not received yet, as the kernel says (unix(7): SIOCOUTQ)."""
    return struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0]


def call(sock: socket.socket, kind: int, body: bytes) -> tuple[int, bytes]:
    sock.sendall(packet(kind, body))
    return read_packet(sock)


BRIGHT, DARK = bytes([255]) * 3072, bytes(3072)


@pytest.fixture
def serve(tmp_path):
    """serve(model) starts a server and the gateway at tmp_path/"uds" in this process; nothing of them may be left at
    the end, whoever stopped the gateway.
    """
    before = threading.active_count()
    with contextlib.ExitStack() as stack:

        def _serve(model=None) -> uds.Server:
            listener, listening = stack.enter_context(Listener(tmp_path / "uds")), threading.Event()
            server = Server(model, tmp_path / "shm")
            server.when_listening = listening.set
            running = threading.Thread(target=server.run)
            running.start()
            stack.callback(running.join)
            stack.callback(server.stop)
            listening.wait()
            client = stack.enter_context(Client(str(tmp_path / "shm")))
            gateway = uds.Server(client, socket.socket(fileno=os.dup(listener.socket.fileno())))
            listener.listen()
            gateway.start()
            stack.callback(gateway.stop)
            return gateway

        yield _serve
    until(lambda: threading.active_count() == before)  # a thread ends a moment after its connection
    assert not (tmp_path / "uds").exists()


@pytest.fixture
def path(serve, tmp_path):
    """Where a server with a model listens."""
    serve(Shades())
    return tmp_path / "uds"


def test_a_packet_of_type_0_comes_back_as_it_is(path):
    with connect(path) as sock:
        for size in (0, 1, 3072, 3073, 100_000, uds.MAX_LENGTH - 1):
            body = random.Random(size).randbytes(size)
            assert call(sock, 0, body) == (0, body)


def test_an_image_is_answered_with_the_name_of_its_label(path):
    with connect(path) as sock:
        assert call(sock, 1, BRIGHT) == (1, b"bright")
        assert call(sock, 1, DARK) == (1, "dunkelgrün".encode())


def test_a_packet_may_arrive_byte_by_byte(path):
    with connect(path) as sock:
        for byte in packet(0, b"slowly"):
            sock.sendall(bytes([byte]))
            until(lambda: unread(sock) == 0)
        assert read_packet(sock) == (0, b"slowly")


def test_packets_may_be_sent_before_answers_are_read(path):
    with connect(path) as sock:
        sock.sendall(packet(0, b"one") + packet(1, BRIGHT) + packet(0) + packet(1, DARK) + packet(0, b"last")[:6])
        assert [read_packet(sock) for _ in range(4)] == [
            (0, b"one"),
            (1, b"bright"),
            (0, b""),
            (1, "dunkelgrün".encode()),
        ]
        sock.sendall(b"ast")
        assert read_packet(sock) == (0, b"last")


def test_many_clients_at_once_each_get_their_own_answers(path):
    seed = 20261124
    print("seed", seed)
    failures = []

    def client(number: int) -> None:
        chance = random.Random(seed + number)
        try:
            with connect(path) as sock:
                for _ in range(100):
                    if chance.random() < 0.5:
                        body = chance.randbytes(chance.choice((0, 10, 3072, 70_000)))
                        assert call(sock, 0, body) == (0, body)
                    else:
                        bright = chance.random() < 0.5
                        want = "bright" if bright else "dunkelgrün"
                        assert call(sock, 1, BRIGHT if bright else DARK) == (1, want.encode())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def lines(caplog) -> list[str]:
    """What the gateway has logged; the server is in this process too."""
    return [record.getMessage() for record in caplog.records if record.name == uds.log.name]


def assert_one_line(caplog, why: str) -> None:
    """Exactly one line was logged, and it says `why`."""
    until(lambda: lines(caplog))
    until(lambda: len(uds_threads()) <= 1)  # the acceptor: nobody is left who could log another
    (line,) = lines(caplog)
    assert line.startswith("uds connection ")
    assert f"(pid {os.getpid()})" in line
    assert why in line


HOSTILE = {
    "length 0": (packet(0, length=0)[:4], "a packet of length 0, must be 1 to 1048576"),
    "length 2^32 - 1": (b"\xff\xff\xff\xff", "a packet of length 4294967295"),
    "length 2^31": (b"\x80\x00\x00\x00", "a packet of length 2147483648"),
    "a byte more than the limit": (packet(0, length=uds.MAX_LENGTH + 1)[:4], "a packet of length 1048577"),
    "a little-endian length": (b"\x01\x0c\x00\x00", "a packet of length 17563648"),
    "type 2": (packet(2, b"x"), "a packet of unknown type 2"),
    "type 255, nothing behind it": (packet(255), "a packet of unknown type 255"),
    "an image one byte short": (packet(1, bytes(3071)), "an image of 3071 bytes, must be 3072"),
    "an image one byte long": (packet(1, bytes(3073)), "an image of 3073 bytes, must be 3072"),
    "an image without a byte": (packet(1), "an image of 0 bytes, must be 3072"),
    "another protocol": (b"GET / HTTP/1.1\r\n\r\n", "a packet of length 1195725856"),
    "an echo, then garbage": (packet(0) + b"\xff" * 9, "a packet of length 4294967295"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_packet_ends_its_connection_with_one_line_and_no_other(path, caplog, case):
    sent, why = HOSTILE[case]
    with connect(path) as good, connect(path) as bad:
        assert call(good, 0, b"before") == (0, b"before")
        bad.sendall(sent)
        if case == "an echo, then garbage":
            assert read_packet(bad) == (0, b"")
        assert hung_up(bad)
        assert call(good, 0, b"after") == (0, b"after")
    assert_one_line(caplog, why)


@pytest.mark.parametrize("sent", range(1, 13))
def test_a_peer_that_goes_away_within_a_packet_is_one_line_whatever_byte_was_the_last(path, caplog, sent):
    whole = packet(0, b"12345678")
    assert len(whole) == 13
    with connect(path) as bad:
        bad.sendall(whole[:sent])
    assert_one_line(caplog, f"the peer went away after {sent} bytes of a packet")
    with connect(path) as good:
        assert call(good, 1, BRIGHT) == (1, b"bright")


@pytest.mark.parametrize("sent", [5, 6, 1000, 3076])
def test_an_image_cut_off_is_not_classified(path, caplog, sent):
    with connect(path) as bad:
        bad.sendall(packet(1, BRIGHT)[:sent])
        bad.shutdown(socket.SHUT_WR)
        assert hung_up(bad)
    assert_one_line(caplog, f"after {sent} bytes")


def test_a_client_that_leaves_between_packets_is_no_line(path, caplog):
    with connect(path) as sock:
        call(sock, 0, b"x")
    with connect(path):
        pass
    with connect(path) as sock:  # by now the others are gone
        call(sock, 0, b"x")
    assert not lines(caplog)


def test_a_client_that_does_not_read_its_answer_and_dies_is_one_line(path, caplog):
    with connect(path) as bad:
        bad.sendall(packet(0, bytes(500_000)))  # more than the socket holds of the answer
        bad.recv(1)  # it is being sent
    assert_one_line(caplog, "closed: [Errno ")


def test_random_bytes_hurt_only_their_sender(path):
    seed = 20261125
    print("seed", seed)
    chance = random.Random(seed)
    with connect(path) as good:
        for _ in range(200):
            with connect(path) as bad, contextlib.suppress(BrokenPipeError, ConnectionResetError):
                if chance.random() < 0.5:  # a plausible head
                    bad.sendall(bytes([0, 0, chance.randrange(256), chance.randrange(256), chance.randrange(3)]))
                bad.sendall(chance.randbytes(chance.randrange(200)))
        assert call(good, 1, BRIGHT) == (1, b"bright")


def test_a_model_that_raises_ends_the_connection_and_says_why(serve, tmp_path, caplog):
    serve(Broken())
    with connect(tmp_path / "uds") as bad:
        bad.sendall(packet(1, BRIGHT))
        assert hung_up(bad)
    assert_one_line(caplog, "the model failed: ValueError: out of paint")
    with connect(tmp_path / "uds") as good:
        assert call(good, 0, b"x") == (0, b"x")


def test_a_server_whose_model_takes_no_pictures_echoes_only(serve, tmp_path, caplog):
    serve()
    with connect(tmp_path / "uds") as sock:
        assert call(sock, 0, b"x") == (0, b"x")
        sock.sendall(packet(1, BRIGHT))
        assert hung_up(sock)
    assert_one_line(caplog, "no model that classifies pictures")


def test_a_connection_too_many_is_closed_with_one_line(serve, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(uds, "MAX_CONNECTIONS", 2)
    serve()
    with connect(tmp_path / "uds") as one, connect(tmp_path / "uds") as two:
        assert call(one, 0, b"1") == (0, b"1")
        assert call(two, 0, b"2") == (0, b"2")
        with connect(tmp_path / "uds") as three:
            assert hung_up(three)
        assert lines(caplog) == ["uds connection 3 refused: all 2 are taken"]


def test_the_image_is_read_where_its_packet_was_received():
    memory, pixels = uds._buffer()
    memory[5:3077] = bytes(range(256)) * 12
    assert (pixels.shape, pixels.tobytes()) == (pictures.SHAPE, bytes(range(256)) * 12)


class Gate(Shades):
    """Answers when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.opened = threading.Event(), threading.Event()

    def scores(self, pixels: np.ndarray) -> np.ndarray:
        self.entered.set()
        self.opened.wait(60)
        return super().scores(pixels)


def uds_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("uds")]


def test_stop_answers_what_is_in_flight_and_closes_everything(serve, tmp_path, caplog):
    gate = Gate()
    server = serve(gate)
    with connect(tmp_path / "uds") as busy, connect(tmp_path / "uds") as idle, connect(tmp_path / "uds") as cut_off:
        assert call(idle, 0, b"x") == (0, b"x")
        cut_off.sendall(packet(0, b"half")[:6])
        busy.sendall(packet(1, BRIGHT) + packet(0, b"behind it"))
        assert gate.entered.wait(60)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        assert hung_up(idle)
        assert hung_up(cut_off)
        gate.opened.set()
        assert read_packet(busy) == (1, b"bright")
        assert read_packet(busy) == (0, b"behind it")
        assert hung_up(busy)
        stopping.join(60)
        assert not stopping.is_alive()
    until(lambda: not uds_threads())
    assert not lines(caplog)


def test_stop_does_not_wait_for_a_peer_that_never_reads(serve, tmp_path, monkeypatch):
    monkeypatch.setattr(uds, "DRAIN_SECONDS", 0.2)
    server = serve()
    with connect(tmp_path / "uds") as sock:
        sock.sendall(packet(0, bytes(1_000_000)))
        sock.recv(1)  # the answer is being sent
        server.stop()
        until(lambda: not uds_threads())
