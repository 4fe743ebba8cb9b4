"""A client that breaks the protocol ends its own session, and nobody else's."""

import socket
import time

import numpy as np
import pytest
from client import IMAGE_BYTES, Client, connect, framed, hello, hung_up, read_frame, read_reason
from conftest import until

from shm_server import _core, layout
from shm_server.layout import FrameKind, Op, Reason


def assert_serves(client: Client) -> None:
    client.slots[0] = 77
    client.submit(0)
    assert client.wait()["checksum"] == _core.checksum(bytes([77]) * IMAGE_BYTES)


BROKEN_SUBMISSIONS = {
    "slot one beyond the last": ({"slot": 64}, "slot out of range: 64"),
    "slot 2^32 - 1": ({"slot": 2**32 - 1}, "slot out of range: 4294967295"),
    "op 0": ({"op": 0}, "unknown op: 0"),
    "an op that there is not": ({"op": 99}, "unknown op: 99"),
    "an extent of nothing": ({"extent": 1}, "extent beyond the bound: 1"),
    "extent 2^32 - 1": ({"extent": 2**32 - 1}, "extent beyond the bound: 4294967295"),
    "a flag of prompts": ({"flags": 1}, "unknown flags: 1"),
    "a flag that does not exist": ({"op": Op.RUN, "flags": 0x8000}, "unknown flags: 32768"),
    "a turn two laps ahead": ({"turn": 3}, "turn neither old nor new"),
    "turn 2^64 - 1": ({"turn": 2**64 - 1}, "turn neither old nor new"),
}


@pytest.mark.parametrize("case", BROKEN_SUBMISSIONS)
def test_a_broken_submission_ends_only_its_session_and_says_why(echo_server, case):
    fields, why = BROKEN_SUBMISSIONS[case]
    with Client(echo_server.socket) as good, Client(echo_server.socket) as bad:
        assert_serves(good)
        bad.submit(**({"slot": 0} | fields))
        assert read_reason(bad.sock) == (FrameKind.GOODBYE, Reason.PROTOCOL, f"submission 0: {why}")
        assert hung_up(bad.sock)
        assert_serves(good)
    assert echo_server.stop()["protocol_faults"] == 1


def test_a_slot_submitted_twice_ends_the_session(start):
    server = start("5", stub="slow")
    with Client(server.socket) as client:
        client.submit(3, Op.RUN)
        time.sleep(0.2)  # the model has it; the server cannot have completed it
        client.submit(4)
        client.submit(4)
        assert read_reason(client.sock)[1:] == (Reason.PROTOCOL, "submission 2: slot already in flight: 4")


def test_a_byte_that_is_no_bell_ends_the_session(echo_server):
    with Client(echo_server.socket) as good, Client(echo_server.socket) as bad:
        bad.sock.sendall(b"GET / HTTP/1.1\r\n")
        assert read_reason(bad.sock)[1:] == (Reason.PROTOCOL, "byte 71 on the doorbell is no bell")
        assert_serves(good)


def test_a_million_bells_are_harmless(echo_server):
    with Client(echo_server.socket) as client:
        for _ in range(250):
            client.sock.sendall(bytes([layout.BELL]) * 4000)
        assert_serves(client)


def test_random_bytes_all_over_the_segment_hurt_only_their_writer(echo_server):
    seed = 20261123
    print("seed", seed)
    random = np.random.default_rng(seed)
    with Client(echo_server.socket) as good:
        for _ in range(20):
            with Client(echo_server.socket) as bad:
                everything = np.frombuffer(bad.memory, np.uint8)
                everything[:] = random.integers(0, 256, len(everything), np.uint8)
                del everything
                bad.ring()
                assert read_reason(bad.sock)[1] == Reason.PROTOCOL
            assert_serves(good)


BROKEN_HELLOS = {
    "another protocol": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", Reason.MALFORMED),
    "wrong magic": (framed(FrameKind.HELLO, bytes(48), magic=1), Reason.MALFORMED),
    "a goodbye first": (framed(FrameKind.GOODBYE, bytes(48)), Reason.MALFORMED),
    "a body of 4 GB": (framed(FrameKind.HELLO, b"", size=2**32 - 1), Reason.MALFORMED),
    "an empty body": (framed(FrameKind.HELLO, b""), Reason.MALFORMED),
    "another major": (hello(major=1), Reason.VERSION),
    "a feature nobody has": (hello(needed=1 << 63), Reason.FEATURES),
    "no protocol": (hello(protocol=0), Reason.MALFORMED),
    "an unknown protocol": (hello(protocol=77), Reason.MALFORMED),
    "a name that is longer than it says": (hello(model=b"none", model_bytes=3), Reason.MALFORMED),
    "a name that is shorter than it says": (hello(model=b"none", model_bytes=5), Reason.MALFORMED),
    "a name of 4 GB": (hello(model_bytes=2**32 - 1), Reason.MALFORMED),
    "a name that is no UTF-8": (hello(model=b"\xff\xfe"), Reason.MALFORMED),
    "a name of 256 bytes": (hello(model=b"n" * 256), Reason.MALFORMED),
    "a name that nobody has": (hello(model=b"nobody"), Reason.NO_SUCH_MODEL),
    "a name with a line's end": (hello(model=b"no\nbody"), Reason.NO_SUCH_MODEL),
    "a stream, of which there is none": (hello(protocol=2), Reason.NO_SUCH_MODEL),
    "an extent of nothing": (hello(input_extent=1), Reason.MALFORMED),
    "an output's extent in a call": (hello(output_extent=1), Reason.MALFORMED),
    "text without end": (hello(protocol=2, output_extent=2**32 - 1), Reason.MALFORMED),
    "too many slots": (hello(slots=65537), Reason.MALFORMED),
    "2^32 - 1 slots": (hello(slots=2**32 - 1), Reason.MALFORMED),
}


@pytest.mark.parametrize("case", BROKEN_HELLOS)
def test_a_broken_hello_is_refused_with_the_reason(echo_server, case):
    message, reason = BROKEN_HELLOS[case]
    with Client(echo_server.socket) as good, connect(echo_server.socket) as sock:
        sock.sendall(message)
        kind, told, text = read_reason(sock)
        assert (kind, told) == (FrameKind.REFUSAL, reason)
        assert text
        assert_serves(good)


def test_a_refusal_of_another_major_names_both(echo_server):
    with connect(echo_server.socket) as sock:
        sock.sendall(hello(major=1))
        assert read_reason(sock)[2] == "the client speaks layout 1, this server 2"


def test_a_hello_may_come_byte_by_byte(echo_server):
    with connect(echo_server.socket) as sock:
        for byte in hello():
            sock.sendall(bytes([byte]))
            time.sleep(0.001)
        assert read_frame(sock)[0] == FrameKind.WELCOME


def test_a_client_cut_off_at_any_byte_of_its_hello_leaves_nothing(echo_server):
    with Client(echo_server.socket) as good:
        assert_serves(good)
        before = echo_server.descriptors()
        message = hello()
        for size in range(len(message)):
            with connect(echo_server.socket) as sock:
                sock.sendall(message[:size])
        until(lambda: echo_server.descriptors() == before)
        assert_serves(good)


def test_a_client_that_says_nothing_delays_nobody_and_is_hung_up_on(echo_server):
    with connect(echo_server.socket) as silent:
        for _ in range(5):
            with Client(echo_server.socket) as client:
                assert_serves(client)
        silent.settimeout(300)
        assert hung_up(silent)
    echo_server.wait_for("said no hello")


def test_a_client_that_reads_nothing_cannot_block_the_server(echo_server):
    with Client(echo_server.socket) as deaf, Client(echo_server.socket) as good:
        deaf.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        for _ in range(3000):  # each completion rings, since the client claims to sleep, and never reads
            deaf.header["client_parked"] = 1
            deaf.submit(0)
            deaf.wait()
        assert_serves(good)
        assert_serves(deaf)
