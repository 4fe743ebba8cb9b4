"""Models that compute on a device: the next batch is begun while one is computed."""

import contextlib
import re

import pytest
from client import Client, hung_up
from conftest import until
from test_call_lane import ran, serve  # noqa: F401 -- a fixture

from shm_server.layout import Op, Status


@pytest.fixture
def server(serve):  # noqa: F811
    return serve("device")


def events(server) -> list[str]:
    """What the model has logged of batches, without those that warmed it up."""
    return re.findall(r"(begin|finish) (\d+) from (-?\d+)", server.log)


def submit(client: Client, numbers: range) -> None:
    for slot, number in enumerate(numbers):
        client.array(0)[slot] = number
        client.submit(slot, Op.RUN)


@pytest.mark.parametrize("sessions", [1, 2])
def test_the_next_batch_is_begun_before_the_last_is_finished(server, tmp_path, sessions):
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(server.socket, slots=65)) for _ in range(sessions)]
        clients[0].array(0)[64] = -3
        clients[0].submit(64, Op.RUN)
        server.wait_for("finish 1 from -3")
        each = 64 // sessions  # two batches of 32 in all, of one session or of one each
        for number, client in enumerate(clients):
            submit(client, range(100 * number, 100 * number + each))
        (tmp_path / "gate").touch()
        assert clients[0].wait()["batch"] == 1
        for number, client in enumerate(clients):
            for slot in range(each):
                done = client.wait()
                assert (done["slot"], done["status"], done["batch"]) == (slot, Status.OK, 32)
                assert client.array(1)[slot, 0] == 2 * (100 * number + slot)
    until(lambda: len(events(server)) == 6)  # lines are written by a thread of their own
    last = [(what, int(number)) for what, _, number in events(server)][-4:]
    assert [what for what, _ in last] == ["begin", "begin", "finish", "finish"]
    assert last[0][1] == last[2][1] != last[1][1] == last[3][1], "in the order of their beginnings"


@pytest.mark.parametrize(("number", "words"), [(-1, "it did not begin"), (-2, "it did not finish")])
def test_what_fails_is_its_own_batch_only(server, tmp_path, number, words):
    with Client(server.socket) as first, Client(server.socket) as second:
        first.array(0)[63] = -3
        first.submit(63, Op.RUN)
        server.wait_for("finish 1 from -3")
        submit(first, range(100, 132))
        submit(second, [number, *range(200, 231)])
        (tmp_path / "gate").touch()
        assert first.wait()["status"] == Status.OK
        for slot in range(32):
            done = second.wait()
            assert (done["slot"], done["status"]) == (slot, Status.MODEL_ERROR)
            assert words in second.message(done)
        for slot in range(32):
            done = first.wait()
            assert (done["slot"], done["status"], first.array(1)[slot, 0]) == (slot, Status.OK, 2 * (100 + slot))
        ran(second, 5)


def test_a_client_that_hangs_up_or_breaks_the_protocol_with_a_batch_begun_hurts_nobody(server, tmp_path):
    with Client(server.socket) as other:
        other.array(0)[63] = -3
        other.submit(63, Op.RUN)
        server.wait_for("finish 1 from -3")
        gone, broken = Client(server.socket), Client(server.socket)
        submit(gone, range(300, 332))
        submit(broken, range(400, 432))
        broken.submit(0, 77)
        submit(other, range(500, 532))
        gone.close()
        (tmp_path / "gate").touch()
        assert other.wait()["status"] == Status.OK
        for slot in range(32):
            done = other.wait()
            assert (done["slot"], done["status"], other.array(1)[slot, 0]) == (slot, Status.OK, 2 * (500 + slot))
        while not hung_up(broken.sock):
            continue
        broken.close()
        for number in range(20):
            ran(other, number)


def test_an_echo_and_a_stop_come_between(server, tmp_path):
    with Client(server.socket) as client:
        client.array(0)[63] = -3
        client.submit(63, Op.RUN)
        server.wait_for("finish 1 from -3")
        submit(client, range(32))
        client.submit(40, Op.ECHO)
        (tmp_path / "gate").touch()
        kinds = [int(client.wait()["slot"]) for _ in range(34)]
        assert kinds[0] == 63
        assert sorted(kinds[1:]) == [*range(32), 40]
    server.stop()
    assert server.log.count("closed\n") >= 1
    assert "INFO closed\n" in server.log, "the model is told when all is over"
