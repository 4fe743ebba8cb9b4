"""What server and worker say to each other: each message comes as it was sent, and what is none is named."""

import json
import os
import socket

import pytest
from client import hung_up, read_reason
from stub_generators import supervised
from test_supervisor import ask

from shm_server import wire
from shm_server.layout import Protocol, Reason

MESSAGES = [
    wire.Load("STREAM", {"engine": "tiny"}, {"spin_us": 100.0, "idle": True}, {"level": "info"}, ["", "/x"]),
    wire.Open("http", {"socket": "/x"}, {"level": "info"}),
    wire.Client(1, "iris \u20ac\u0000", 64, 0, 1 << 32),
    wire.AskCounters(),
    wire.Move(),
    wire.Stop(),
    wire.Ready({"name": "tiny"}),
    wire.Failed("half a pair: \ud800, there is no checkpoint", misnamed=False),
    wire.Counters({"prompts": 1 << 60}),
]

CLIENT = wire.Client(int(Protocol.CALL), "", 0, 0, 0)


@pytest.fixture
def wires():
    ours, theirs = wire.pair()
    with ours, theirs:
        yield ours, theirs


def test_every_message_comes_as_it_was_sent(wires):
    assert {type(message) for message in MESSAGES} == set(wire.MESSAGES)
    ours, theirs = wires
    for message in MESSAGES:
        passing = socket.socket() if message.passes else None
        wire.send(ours, message, passing)
        received, passed = wire.receive(theirs, type(message))
        assert received == message
        assert bool(passed) == message.passes
        if passed:
            assert os.fstat(passed.fileno()) == os.fstat(passing.fileno())
            assert not os.get_inheritable(passed.fileno())
            passed.close()
            passing.close()


def packet(kind: type[wire.Message], body: object) -> bytes:
    return bytes([wire.TAGS[kind]]) + (body if isinstance(body, bytes) else json.dumps(body).encode())


FIELDS = "['input_extent', 'model', 'output_extent', 'protocol', 'slot_count']"

WRONG = {
    b"\x00{}": "expected Counters or Failed or Client, got a packet with tag 0",
    b"\xff{}": "got a packet with tag 255",
    packet(wire.Stop, {}): "got Stop",
    packet(wire.Client, b""): "a Client whose body is no JSON",
    packet(wire.Client, b"{"): "a Client whose body is no JSON",
    packet(wire.Client, b"\xff\xfe"): "a Client whose body is no JSON",
    packet(wire.Client, b"[" * 100_000): "a Client whose body is no JSON",
    packet(wire.Client, []): f"a Client has the fields {FIELDS}, got list",
    packet(wire.Client, None): "got NoneType",
    packet(wire.Client, {}): "got []",
    packet(wire.Client, {"model": "x"}): "got ['model']",
    packet(wire.Client, vars(CLIENT) | {"colour": 1}): "got ['colour', 'input_extent'",
    packet(wire.Client, vars(CLIENT) | {"model": 7}): "model of a Client is of type str, got int",
    packet(wire.Client, vars(CLIENT) | {"slot_count": True}): "slot_count of a Client is of type int, got bool",
    packet(wire.Client, vars(CLIENT) | {"protocol": 99}): "a Client with 99 is not a valid Protocol",
    packet(wire.Counters, {"values": {"prompts": 1.5}}): "a Counters with a counter that is no whole number",
    packet(wire.Failed, {"words": [], "misnamed": True}): "words of a Failed is of type str, got list",
}


def test_what_is_no_message_is_named():
    for wrong, said in WRONG.items():
        with pytest.raises(wire.Malformed) as error:
            wire.decode(wrong, (wire.Counters, wire.Failed, wire.Client))
        assert said in str(error.value), wrong[:40]


def test_what_is_longer_than_a_packet_is_neither_sent_nor_taken(wires):
    ours, theirs = wires
    with pytest.raises(wire.TooLong, match="a Failed of 131106 bytes; at most 131072"):
        wire.send(ours, wire.Failed("x" * (wire.MAX_PACKET + 1), False))
    ours.send(packet(wire.Failed, {"words": "x" * wire.MAX_PACKET}))
    with pytest.raises(wire.Malformed, match="a Failed of more than 131072 bytes"):
        wire.receive(theirs, wire.Failed)


def test_a_socket_that_is_not_expected_comes_with_the_error_and_one_that_is_missing_is_an_error(wires):
    ours, theirs = wires
    with socket.socket() as passing:
        socket.send_fds(ours, [packet(wire.Stop, {})], [passing.fileno()])
    with pytest.raises(wire.Malformed, match="a Stop with a socket") as error:
        wire.receive(theirs, wire.Stop)
    error.value.passed.close()
    ours.send(packet(wire.Client, vars(CLIENT)))
    with pytest.raises(OSError, match="a client was lost"):
        wire.receive(theirs, wire.Client)


@pytest.mark.parametrize("unread", [False, True])
def test_the_end_of_the_other_process_is_the_end_of_the_file(wires, unread):
    ours, theirs = wires
    if unread:
        wire.send(theirs, wire.Ready({}))
    ours.close()
    for _ in range(2):
        with pytest.raises(EOFError):
            wire.receive(theirs, wire.Ready)


def test_a_packet_that_is_no_message_is_the_end_of_who_came_with_it_and_the_worker_goes_on():
    generator = supervised("computing", spin_us=0)
    try:
        generator.wait_ready()
        pid, pipe = generator.pid, generator._replicas[0]._worker._pipe
        for wrong in WRONG:
            if wrong[0] == wire.TAGS[wire.Stop]:
                continue
            ours, theirs = socket.socketpair()
            with ours:
                with theirs:
                    socket.send_fds(pipe, [wrong], [theirs.fileno()])
                assert hung_up(ours)
            assert ask(generator, "to be") == "to be "
        pipe.send(packet(wire.Ready, {}))
        ours, theirs = socket.socketpair()
        with ours, theirs:  # one who wants another kind of lane, passed on in spite of it
            wire.send(pipe, CLIENT, theirs)
            assert read_reason(ours)[1:] == (Reason.NO_SUCH_MODEL, "this server has no call model")
        assert ask(generator, "to be") == "to be "
        assert generator.pid == pid
    finally:
        generator.stop()


def test_what_was_said_before_the_end_is_heard_by_who_had_said_more():
    """The kernel says first that the other end was closed with something of ours unread."""
    ours, theirs = wire.pair()
    with ours:
        wire.send(theirs, wire.Counters({"calls": 3}))
        wire.send(ours, wire.AskCounters())
        theirs.close()
        assert wire.receive(ours, wire.Counters) == (wire.Counters({"calls": 3}), None)
        with pytest.raises(EOFError):
            wire.receive(ours, wire.Counters)
