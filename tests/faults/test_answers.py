"""What a well-behaved client is answered when something else goes wrong."""

import time

import numpy as np
import pytest
from client import IMAGE_BYTES, Client
from stub_server import GATE

from shm_server import _core
from shm_server.layout import Op, Status


@pytest.fixture
def busy(start, tmp_path):
    """A server whose model is busy with slot 0 of a client until `open` is called: what is submitted then waits."""

    class Busy:
        def __init__(self) -> None:
            self.server = start(str(tmp_path / "gate"), stub="gated")

        def enter(self, client: Client) -> None:
            client.slots[0][: len(GATE)] = list(GATE)
            client.submit(0, Op.RUN)
            self.server.wait_for("in the model")

        def open(self) -> None:
            (tmp_path / "gate").touch()

    return Busy()


def test_an_echo_carries_the_checksum_of_all_its_bytes(echo_server):
    random = np.random.default_rng(1)
    with Client(echo_server.socket) as client:
        for slot in range(64):
            client.slots[slot] = random.integers(0, 256, IMAGE_BYTES, np.uint8)
        for slot in range(64):
            client.submit(slot)
        for _ in range(64):
            done = client.wait()
            assert done["checksum"] == _core.checksum(client.slots[done["slot"]].tobytes())
            assert done["request_id"] == done["slot"]


def test_a_classification_is_a_score_for_each_label_of_the_signature(start):
    server = start(stub="brightness")
    with Client(server.socket) as client:
        (pixels,), (scores,) = client.signature["inputs"], client.signature["outputs"]
        assert (pixels["datatype"], pixels["shape"]) == ("UINT8", [3, 32, 32])
        assert (scores["datatype"], scores["shape"], scores["labels"]) == ("FP32", [2], ["dark", "bright"])
        client.slots[9] = 204
        client.submit(9, Op.RUN, submitted=time.monotonic_ns())
        done = client.wait()
        np.testing.assert_allclose(client.scores(9), [0.2, 0.8], rtol=1e-6)
        assert done["queue_ns"] > 0
        assert done["model_ns"] > 0


def test_pending_images_run_as_one_batch_in_place_whatever_their_order(busy):
    with Client(busy.server.socket) as client:
        busy.enter(client)
        order = [13, 11, 12, 10, 14]
        for slot in order:
            client.slots[slot] = slot * 10
            client.submit(slot, Op.RUN)
        busy.open()
        assert client.wait()["batch"] == 1
        for slot in order:
            done = client.wait()
            assert (done["slot"], done["batch"]) == (slot, 5)
            expected = np.float32(slot * 10) / 255
            np.testing.assert_allclose(client.scores(slot), [1 - expected, expected], rtol=1e-5)
    counters = busy.server.stop()
    assert (counters["views"], counters["gathers"]) == (2, 0)


def test_scattered_images_are_gathered_once(busy):
    with Client(busy.server.socket) as client:
        busy.enter(client)
        for slot in (40, 20, 63):
            client.slots[slot] = slot * 4
            client.submit(slot, Op.RUN)
        busy.open()
        client.wait()
        for slot in (40, 20, 63):
            done = client.wait()
            expected = np.float32(slot * 4) / 255
            assert done["slot"] == slot
            np.testing.assert_allclose(client.scores(slot), [1 - expected, expected], rtol=1e-5)
    assert busy.server.stop()["gathers"] == 1


def test_the_last_slots_are_not_read_beyond_their_end(busy):
    with Client(busy.server.socket) as client:
        busy.enter(client)
        for slot in (61, 62, 63):  # three neighbours run in a bucket of four: the fourth would lie outside
            client.slots[slot] = 255
            client.submit(slot, Op.RUN)
        busy.open()
        assert [client.label(client.wait()) for _ in range(4)] == [0, 1, 1, 1]


def test_images_of_several_sessions_run_as_one_batch(busy):
    path = busy.server.socket
    with Client(path) as first, Client(path) as second, Client(path) as third:
        for client in (second, third):  # one that was answered is among those that are looked at
            client.submit(0)
            client.wait()
        busy.enter(first)
        for client, level in ((first, 255), (second, 0), (third, 255)):
            client.slots[7] = level
            client.submit(7, Op.RUN)
        busy.open()
        first.wait()
        answers = [client.wait() for client in (first, second, third)]
        assert [client.label(done) for client, done in zip((first, second, third), answers, strict=True)] == [1, 0, 1]
        assert {int(done["batch"]) for done in answers} == {3}


def test_a_passed_deadline_is_answered_and_the_model_is_not_run(start):
    server = start(stub="brightness")
    with Client(server.socket) as client:
        client.submit(0, Op.RUN, deadline=time.monotonic_ns() - 1)
        assert client.wait()["status"] == Status.DEADLINE_EXCEEDED
        client.submit(0, Op.RUN, deadline=time.monotonic_ns() + 60_000_000_000)
        assert client.wait()["status"] == Status.OK
    counters = server.stop()
    assert (counters["expired"], counters["calls"]) == (1, 1)


def test_a_model_that_raises_fails_its_batch_with_its_message_and_nothing_else(start):
    server = start(stub="raising")
    with Client(server.socket) as client:
        client.submit(0, Op.RUN)
        done = client.wait()
        assert done["status"] == Status.MODEL_ERROR
        assert client.message(done).startswith("ValueError: a black picture é")
        assert 250 < done["message_bytes"] <= 256  # cut at a character
        client.slots[0] = 255
        client.submit(0, Op.RUN)
        assert client.wait()["status"] == Status.OK
    assert server.stop()["model_errors"] == 1


def test_a_model_that_writes_to_its_pixels_is_told_so_and_no_slot_is_changed(start):
    """Not its own, in place (three images run in a bucket of four) or gathered, and not the neighbour's."""
    server = start(stub="writing")
    with Client(server.socket) as client:
        client.slots[:] = 7
        for slots in ((0, 1, 2), (9, 20)):
            for slot in slots:
                client.submit(slot, Op.RUN)
            for _ in slots:
                done = client.wait()
                assert done["status"] == Status.MODEL_ERROR
                assert client.message(done) == "ValueError: assignment destination is read-only"
        assert (client.slots == 7).all()


def test_scores_of_a_wrong_shape_are_a_model_error(start):
    server = start(stub="wrong")
    with Client(server.socket) as client:
        client.submit(0, Op.RUN)
        done = client.wait()
        assert done["status"] == Status.MODEL_ERROR
        assert "scores must be" in client.message(done)
        client.submit(0)
        assert client.wait()["status"] == Status.OK


def test_a_server_without_a_model_says_so(echo_server):
    with Client(echo_server.socket) as client:
        client.submit(0, Op.RUN)
        done = client.wait()
        assert done["status"] == Status.MODEL_ERROR
        assert "no model" in client.message(done)
