"""Rows of any size, to the models of bench/rows.py and to the peers: real servers, and real runs of bench/go's load."""

import dataclasses
import os
import socket
import threading

import numpy as np
import pytest

from bench import packet_peer
from bench.changing import ChangingServer
from bench.contestants import DEFAULT, GRPC, PACKETS, SPINNING
from bench.histogram import Histogram
from bench.load import Load, LoadError
from bench.rows import SMALL_BYTES, Busy, Identity, Untouched
from bench.servers import REPLICAS, TOUCHED, UNTOUCHED, Fleet, ServerError, of

LARGE_BYTES = 5 << 20  # more than gRPC takes unless it is told to
NAMES = (of(UNTOUCHED, LARGE_BYTES), of(TOUCHED, LARGE_BYTES), of(REPLICAS, 2), "packets", "grpc")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    with Fleet(tmp_path_factory.mktemp("fleet"), "none", NAMES) as fleet:
        yield fleet


@pytest.fixture
def caller(program, tmp_path):
    return Load(program, tmp_path / "none", tmp_path / "none", seed=1, warm_up=2)


@pytest.mark.parametrize(
    "contestant",
    [dataclasses.replace(SPINNING, server=of(TOUCHED, LARGE_BYTES)), PACKETS, GRPC],
    ids=lambda each: each.key,
)
def test_a_row_of_any_size_comes_back_and_every_byte_is_checked(fleet, caller, contestant):
    with fleet.only(contestant.server) as server:
        run = caller.run(contestant, server, "call", calls=5, bytes=LARGE_BYTES)
    assert (run["count"], run["errors"], run["bytes_checked"]) == (5, 0, 5 * LARGE_BYTES)
    assert len(Histogram([run["histogram"]])) == 5


def test_a_model_that_does_not_touch_its_rows_gives_nothing_back(fleet, caller):
    each = dataclasses.replace(SPINNING, server=of(UNTOUCHED, LARGE_BYTES))
    with fleet.only(each.server) as server:
        run = caller.run(each, server, "call", calls=5, slots=1)
        assert (run["count"], run["errors"], run.get("bytes_checked", 0)) == (5, 0, 0)
        with pytest.raises(LoadError, match="not the 5242880 that were sent"):
            caller.run(each, server, "call", calls=5, slots=1, bytes=LARGE_BYTES)


def test_a_model_is_called_by_its_name(fleet, caller):
    each = dataclasses.replace(DEFAULT, server=of(REPLICAS, 2))
    with fleet.only(each.server) as server:
        run = caller.run(each, server, "call", calls=5, bytes=SMALL_BYTES, model="one_ms")
        assert (run["count"], run["errors"]) == (5, 0)
        with pytest.raises(LoadError, match="one_ms"):
            caller.run(each, server, "call", calls=5, bytes=SMALL_BYTES, model="two_ms")


def test_the_thread_of_a_caller_can_be_kept_on_one_core(fleet, caller):
    cores = sorted(os.sched_getaffinity(0))
    each = dataclasses.replace(DEFAULT, server=of(TOUCHED, LARGE_BYTES), apart=(cores[-1], cores[0]))
    with fleet.only(each.server) as server, server.pinned(each.apart[1]):
        assert caller.run(each, server, "call", calls=5, bytes=LARGE_BYTES)["count"] == 5
        nowhere = dataclasses.replace(each, apart=(cores[-1] + 1, cores[0]))
        with pytest.raises(LoadError, match="pin to cores"):
            caller.run(nowhere, server, "call", calls=5, bytes=LARGE_BYTES)


def test_no_call_fails_while_the_model_is_loaded_again_and_another_server_takes_over(caller, tmp_path):
    with ChangingServer("bench.rows:small", tmp_path) as served:
        flags = {"seconds": 3600.0, "callers": 4, "bytes": SMALL_BYTES}
        with caller.hold(DEFAULT, served.server, "call", observe=False, until_stopped=True, **flags) as run:
            run.release()
            before = served.server
            served.reload()
            served.take_over()
            run.stop()  # before its hour is over
            measured = run.result()
        assert before.process.returncode == 0
        assert served.server is not before
    assert (measured["count"] > 0, measured["errors"]) == (True, 0)


def test_a_reload_of_a_server_that_is_gone_says_so(tmp_path):
    with ChangingServer("bench.rows:small", tmp_path) as served:
        served.server.stop()
        with pytest.raises(ServerError, match="a reload failed"):
            served.reload()


def test_the_models_do_what_their_names_say():
    x = np.arange(SMALL_BYTES, dtype=np.uint8)[np.newaxis]
    for model, same in (
        (Identity(SMALL_BYTES), True),
        (Busy(SMALL_BYTES, 1e-6), True),
        (Untouched(SMALL_BYTES), False),
    ):
        y = np.full_like(x, 255)  # which no byte of x is
        model.run({"x": x}, {"y": y})
        assert (y == (x if same else 255)).all()


def test_the_packet_peer_gives_back_packets_and_refuses_what_is_too_long():
    client, server = socket.socketpair()
    ended = []

    def answer():
        try:
            packet_peer.answer(server, memoryview(bytearray(4 + 10)))
        except ValueError as error:
            ended.append(str(error))
        server.close()

    thread = threading.Thread(target=answer)
    thread.start()
    with client:
        client.sendall(b"\0\0\0\3abc")
        assert client.recv(7, socket.MSG_WAITALL) == b"\0\0\0\3abc"
        client.sendall(b"\0\0\0\x0b")
        assert client.recv(1) == b""
    thread.join()
    assert "a packet of 11 bytes" in ended[0]
