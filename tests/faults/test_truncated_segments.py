"""A client that takes its segment's memory away under the server, at any time, ends its own session and nobody else's.

A client that truncated its own file must not touch it either: it would be killed, and that is its own business.
"""

import contextlib
import itertools
import os
import sys

import numpy as np
import pytest
from client import IMAGE_BYTES, Client, hung_up, read_reason
from conftest import ROOT, children, until
from stub_server import GATE
from test_server_life import needs_root

from shm_server import _core, layout
from shm_server.layout import FrameKind, Op, Protocol, Reason, Status

TRUNCATED = "the client truncated its segment, or took pages out of it"
GOODBYE = (FrameKind.GOODBYE, Reason.PROTOCOL, TRUNCATED)


class Neighbour(Client):
    """Another client, which must not notice anything."""

    def __init__(self, path) -> None:
        super().__init__(path)
        self.random = np.random.default_rng(8)

    def goes_on(self) -> None:
        """Every slot is echoed with the checksum of its bytes, and classified with its scores."""
        count = len(self.slots)
        for slot in range(count):
            self.slots[slot] = self.random.integers(0, 256, IMAGE_BYTES, np.uint8)
        sent = self.slots.copy()
        for slot in range(count):
            self.submit(slot)
        for _ in range(count):
            done = self.wait()
            assert done["checksum"] == _core.checksum(sent[done["slot"]].tobytes())
        for slot in range(count):
            self.submit(slot, Op.RUN)
        for _ in range(count):
            done = self.wait()
            bright = sent[done["slot"]].mean(dtype=np.float64) / 255
            np.testing.assert_allclose(self.scores(done["slot"]), [1 - bright, bright], atol=1e-5)
        assert (self.slots == sent).all()


def truncate(client: Client, size: int) -> None:
    os.ftruncate(client.fd, size)
    client.ring()


def half_the_slots(client: Client) -> int:
    return int(client.tensors[0]["offset"]) + layout.PAGE_BYTES * 4


def test_truncated_rings_end_the_session_and_nobody_else_notices(start):
    """Nothing is left, or the header; between the welcome and the first call, on the first lap, on later ones."""
    server = start(stub="brightness")
    cases = list(itertools.product((0, layout.PAGE_BYTES), (0, 3, 200)))
    with Neighbour(server.socket) as good:
        for size, calls in cases:
            with Client(server.socket) as bad:
                for _ in range(calls):
                    bad.submit(0)
                    bad.wait()
                truncate(bad, size)
                good.goes_on()
                assert read_reason(bad.sock) == GOODBYE, (size, calls)
                assert hung_up(bad.sock)
        good.goes_on()
    counters = server.stop()
    assert counters["protocol_faults"] == len(cases)
    assert counters["sessions"] == 0


def test_truncated_slots_end_the_session_when_they_are_read(start):
    server = start(stub="brightness")
    with Neighbour(server.socket) as good:
        for op in (Op.ECHO, Op.RUN):
            with Client(server.socket) as bad:
                os.ftruncate(bad.fd, half_the_slots(bad))
                bad.submit(63, op)
                assert read_reason(bad.sock) == GOODBYE
                good.goes_on()
    assert server.stop()["protocol_faults"] == 2


def test_truncated_replies_end_the_session_when_they_are_written(start):
    server = start(stub="brightness")
    with Neighbour(server.socket) as good, Client(server.socket) as bad:
        os.ftruncate(bad.fd, int(bad.tensors[1]["offset"]))  # the output is the last area
        bad.submit(5, Op.RUN)
        assert read_reason(bad.sock) == GOODBYE
        good.goes_on()


def test_slots_truncated_while_the_model_reads_them_are_black_and_the_model_goes_on(start, tmp_path):
    server = start(str(tmp_path / "gate"), stub="gated")
    with Neighbour(server.socket) as good, Client(server.socket) as bad:
        bad.slots[7][: len(GATE)] = list(GATE)
        bad.submit(7, Op.RUN)
        server.wait_for("in the model")
        good.slots[3] = 255
        good.submit(3, Op.RUN)
        os.ftruncate(bad.fd, 0)
        (tmp_path / "gate").touch()
        assert good.label(good.wait()) == 1
        assert read_reason(bad.sock) == GOODBYE
        good.goes_on()
    assert server.stop()["model_errors"] == 0


def test_slots_truncated_before_a_batch_of_two_sessions_spoil_only_their_own_rows(start, tmp_path):
    server = start(str(tmp_path / "gate"), stub="gated")
    with Neighbour(server.socket) as good, Client(server.socket) as bad, Client(server.socket) as third:
        third.slots[0][: len(GATE)] = list(GATE)
        third.submit(0, Op.RUN)
        server.wait_for("in the model")
        for client in (bad, good):
            client.slots[60] = 255
            client.submit(60, Op.RUN)
        os.ftruncate(bad.fd, half_the_slots(bad))
        (tmp_path / "gate").touch()
        done = good.wait()
        np.testing.assert_allclose(good.scores(60), [0, 1])
        assert done["batch"] == 2
        assert third.wait()["status"] == Status.OK
        assert read_reason(bad.sock) == GOODBYE
        good.goes_on()


def test_a_segment_that_grows_again_or_loses_pages_in_between_hurts_its_client_only(start):
    server = start("--engine", "none", "--spin", "0")  # parked: it touches nothing meanwhile
    with Client(server.socket) as good, Client(server.socket) as bad:
        size = int(bad.welcome["segment_bytes"])
        os.ftruncate(bad.fd, 0)
        os.ftruncate(bad.fd, size)
        bad.slots[0] = 5
        bad.submit(0)
        assert bad.wait()["checksum"] == _core.checksum(bytes([5]) * IMAGE_BYTES)
        os.ftruncate(bad.fd, 1 << 40)
        bad.submit(0)
        assert bad.wait()["status"] == Status.OK
        for _ in range(64):
            bad.submit(1)
            bad.wait()
        bad.memory.madvise(9)  # MADV_REMOVE: holes; the ring reads as nobody left it
        bad.ring()
        assert read_reason(bad.sock)[1:] == (Reason.PROTOCOL, "submission 66: turn neither old nor new")
        good.slots[1] = 9
        good.submit(1)
        assert good.wait()["checksum"] == _core.checksum(bytes([9]) * IMAGE_BYTES)
    assert server.stop()["protocol_faults"] == 1


@needs_root
def test_holes_that_no_memory_is_left_to_fill_end_the_session(start):
    mount = 'mount -t tmpfs -o size=4m none /dev/shm && exec "$@"'
    server = start("--engine", "none", prefix=("unshare", "-m", "sh", "-c", mount, "sh"))
    with Client(server.socket) as good, Client(server.socket) as bad:
        at = itertools.count(int(bad.welcome["segment_bytes"]), layout.PAGE_BYTES)
        bad.memory.madvise(9)
        bad.submissions[:] = 0  # a page that we need ourselves

        def full() -> bool:
            """Take one page more. The last may be the server's for a moment, which asks for it and gives it back."""
            with contextlib.suppress(OSError):
                os.posix_fallocate(bad.fd, next(at), layout.PAGE_BYTES)
            return os.statvfs(f"/proc/{server.pid}/root/dev/shm").f_bfree == 0

        until(full)
        bad.submit(63)
        assert read_reason(bad.sock) == GOODBYE
        good.submit(1)
        assert good.wait()["status"] == Status.OK


def test_a_hundred_truncated_sessions_leave_nothing(start):
    server = start("--engine", "none")
    with Client(server.socket):
        pass
    until(lambda: "closed" in server.log)
    before = server.descriptors(), server.mappings()
    for number in range(100):
        with Client(server.socket, slots=1 + number % 64) as bad:
            truncate(bad, number % 2 * layout.PAGE_BYTES)
            assert read_reason(bad.sock)[1] == Reason.PROTOCOL
    until(lambda: (server.descriptors(), server.mappings()) == before)
    assert server.stop()["protocol_faults"] == 100


class Prompts(Client):
    def __init__(self, path) -> None:
        super().__init__(path, protocol=Protocol.STREAM)

    def prompt(self, text: str, slot: int) -> None:
        data = text.encode()
        self.controls[slot]["acknowledged"] = 0
        self.slots[slot, : len(data)] = np.frombuffer(data, np.uint8)
        self.submit(slot, Op.RUN, extent=len(data), sampling_steps=8)

    def final(self) -> str:
        while (done := self.wait())["status"] == Status.MORE:
            self.controls[done["slot"]]["acknowledged"] += 1
        assert done["status"] == Status.OK
        return bytes(self.replies[done["slot"], : done["extent"]]).decode()


@pytest.mark.parametrize("engine", ["computing", "waiting"])
def test_the_generators_process_goes_on_when_a_clients_text_is_truncated(start, tmp_path, engine):
    script = str(ROOT / "tests" / "stub_generators.py")
    server = start(command=[sys.executable, script, str(tmp_path / "sock"), engine])
    generator = children(server.pid)
    with Prompts(server.socket) as good:
        for moment, prompt in (
            ("idle", ""),
            ("in-line", "three"),
            ("streaming", f"three await:{tmp_path}/streaming four"),
        ):
            gate = tmp_path / moment
            good.prompt(f"one await:{gate} two", 0)
            assert good.wait()["status"] == Status.MORE
            good.controls[0]["acknowledged"] = 1
            with Prompts(server.socket) as bad:
                if prompt:
                    bad.prompt(prompt, 1)
                truncate(bad, 0)
                gate.touch()
                assert good.final() == "one two "
                assert read_reason(bad.sock) == GOODBYE
        good.prompt("once more", 2)
        assert good.final() == "once more "
    assert children(server.pid) == generator
    server.stop()


# ---- what is given back


@pytest.mark.parametrize("flags", [(), ("--allow-other-users",)], ids=["posix", "memfd"])
def test_clients_that_hang_up_and_keep_their_memory_have_none(start, flags):
    """Five times what the sessions may have that there are at a time."""
    server = start("--engine", "none", "--max-sessions", "2", *flags)
    kept = []
    for _ in range(10):
        client = Client(server.socket, slots=1000)
        client.slots[:] = 7
        client.submit(999)
        assert client.wait()["status"] == Status.OK
        client.sock.close()  # the descriptor and the mapping stay
        until(lambda fd=client.fd: os.fstat(fd).st_blocks == 0)
        kept.append(client)
    for client in kept:
        assert not client.slots.any()
        client.close()
    server.stop()


def test_a_stopping_server_leaves_the_answers_to_their_readers(start):
    server = start(stub="brightness")
    with Client(server.socket) as client:
        client.slots[4] = 255
        client.submit(4, Op.RUN)
        until(lambda: client.completions[0]["turn"] == 1)
        server.stop()
        assert client.label(client.wait()) == 1
        np.testing.assert_allclose(client.scores(4), [0, 1])
