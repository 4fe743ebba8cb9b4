"""The client's side of a lane, with the server's side in the same hand. tests/native runs this file under sanitizers
too.
"""

import contextlib
import json
import os
import select
import socket
import threading
import time

import numpy as np
import pytest
from heap_lane import HeapLane, prompt_spec, tokens_spec
from make_golden import FOLDER

from shm_server import _core, layout
from shm_server.client.errors import ProtocolError
from shm_server.client.handshake import Welcome
from shm_server.client.session import Session
from shm_server.layout import CompletionFlag, Datatype, Op, Protocol, Status
from shm_server.session.doorbell import LaneRequest

LATE, ENDED, DRAINING, LOST_LATE, LOST = -1, -2, -3, -4, -5
NOW = 1  # a deadline that has passed


class Both(HeapLane):
    """A HeapLane whose client is the core's, too."""

    def __init__(self, spec=None, **options) -> None:
        super().__init__(spec, doorbell=True)
        self.options = options
        self.ours = _core.ClientLane(self.memory, self.memory[: layout.PAGE_BYTES], self.client.fileno(), **options)

    def close(self) -> None:
        self.ours = None
        super().close()


@pytest.fixture
def both():
    with contextlib.ExitStack() as stack:

        def make(*args, **options) -> Both:
            made = Both(*args, **options)
            stack.callback(made.close)
            return made

        yield make


def test_a_call_is_claimed_submitted_and_taken(both):
    h = both()
    slots = h.ours.claim(3, 0)
    assert (slots, h.ours.free) == ([0, 1, 2], 1)
    assert h.ours.submit(slots, Op.ECHO, 0, 0)
    assert h.ours.in_flight == 3
    assert [int(h.submissions[i]["slot"]) for i in range(3)] == slots
    assert h.lane.drain(8) == 3
    h.lane.complete_echo()
    assert h.ours.wait(slots, 0) == 0
    status, flags, extent, batch, checksum, _, _, message = h.ours.result(1)
    assert (status, flags, extent, batch, message) == (Status.OK, 0, 0, 3, b"")
    assert checksum == _core.checksum(bytes(3072))
    for slot in slots:
        h.ours.release(slot)
    assert (h.ours.free, h.ours.in_flight) == (4, 0)


def test_slots_come_lowest_first_and_not_more_than_there_are(both):
    h = both()
    assert h.ours.claim(9, 0) == [0, 1, 2, 3]
    assert h.ours.claim(1, NOW) == LATE
    h.ours.release(2)
    h.ours.release(0)
    assert h.ours.claim(9, NOW) == [0, 2]


def test_a_call_that_is_given_up_keeps_its_slot_until_the_server_is_through_with_it(both):
    h = both()
    assert h.ours.call(Op.ECHO, (bytes(3072),), 0, time.monotonic_ns() + 1_000_000) == LOST_LATE
    assert h.ours.claim(9, NOW) == [1, 2, 3]
    assert h.ours.claim(1, NOW) == LATE
    assert h.lane.drain(1) in (0, 1)  # it may be late for the server too
    if h.lane.count:
        h.lane.complete_echo()
    assert h.ours.claim(1, 0) == [0]


def test_who_waits_for_a_slot_is_woken_by_one_that_is_released(both):
    h = both(spin_ns=0)
    held, got = h.ours.claim(4, 0), []
    threads = [threading.Thread(target=lambda: got.append(h.ours.claim(1, 0)), daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: h.ours.led)
    for slot in held:
        h.ours.release(slot)
    for thread in threads:
        thread.join()
    assert sorted(got) == [[0], [1], [2], [3]]


def until(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.001)


@pytest.mark.parametrize("spin_ns", [0, -1])
def test_a_follower_leads_once_the_leader_has_its_answer_and_is_told_its_own_by_whoever_leads(both, spin_ns):
    h = both(spin_ns=spin_ns)
    answers = []

    def call(value: int) -> None:
        answers.append((value, h.ours.call(Op.ECHO, (bytes([value]) * 3072,), 0, 0)))

    threads = [threading.Thread(target=call, args=(value,), daemon=True) for value in range(4)]
    threads[0].start()
    until(lambda: h.ours.led)
    for count, thread in enumerate(threads[1:], 1):
        thread.start()
        until(lambda count=count: h.ours.followers == count)
    for count in (1, 2, 1):  # the leader's alone; the new leader's and a follower's; the last one's
        answered = len(answers)
        assert h.lane.drain(count) == count
        h.lane.complete_echo()
        until(lambda wanted=answered + count: len(answers) == wanted)
    assert answers[0][0] == 0
    assert sorted(answers) == [(value, _core.checksum(bytes([value]) * 3072)) for value in range(4)]
    assert (h.ours.led, h.ours.followers, h.ours.free) == (False, 0, 4)


@pytest.mark.parametrize("spin_ns", [0, -1])
def test_a_follower_is_told_of_its_answer_by_a_leader_that_has_none(both, spin_ns):
    h = both(spin_ns=spin_ns)
    threads = [
        threading.Thread(target=h.ours.call, args=(Op.ECHO, (bytes(3072),), 0, 0), daemon=True) for _ in range(3)
    ]
    threads[0].start()
    until(lambda: h.ours.led)
    for count, thread in enumerate(threads[1:], 1):
        thread.start()
        until(lambda count=count: h.ours.followers == count)
    for position, slot in enumerate((2, 1, 0)):  # the server's order is not that in which they came
        entry = h.completions[position]
        entry["request_id"], entry["slot"] = slot, slot
        entry["turn"] = 1
        h.server.send(bytes([layout.BELL]))
        threads[slot].join()
        assert sum(thread.is_alive() for thread in threads) == 2 - position


@pytest.mark.parametrize("spin_ns", [0, 50_000, -1])
def test_many_threads_share_a_lane_and_none_is_forgotten(both, spin_ns):
    """Threads that wait for slots, followers and leaders, however they meet: each gets its own answer."""
    h = both(tokens_spec(slots=3), spin_ns=spin_ns)
    poller, wrong, left = _core.Poller(0), [], [8]
    poller.add(h.lane)

    def work(number: int) -> None:
        draw = np.random.default_rng(number)
        try:
            for _ in range(150):
                extent = int(draw.integers(1, 17))
                ids = draw.integers(0, 2**32, extent, np.uint32)
                mask = draw.integers(0, 256, extent, np.uint8)
                said = h.ours.call(Op.ECHO, (ids, mask), extent, 0)
                pad = bytes(-len(ids.tobytes()) % 8)
                assert said == _core.checksum(ids.tobytes() + pad + mask.tobytes())
        except BaseException as error:
            wrong.append(error)
        finally:
            left[0] -= 1
            poller.wake()

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    while left[0]:
        if (lane := poller.next(2)) is not None:
            assert lane.op == Op.ECHO, lane.fault
            lane.complete_echo()
    for thread in threads:
        thread.join()
    poller.remove(h.lane)
    assert not wrong
    assert (h.ours.free, h.ours.in_flight) == (3, 0)
    if spin_ns == 0:
        assert h.ours.counters()["spin_hits"] == 0
        assert h.ours.counters()["parks"] > 0


@pytest.mark.parametrize("spin_ns", [0, -1])
@pytest.mark.parametrize("by", ["the server", "ourselves"])
def test_the_end_wakes_everybody_who_waits(both, spin_ns, by):
    h = both(spin_ns=spin_ns)
    answers = []
    calls = [lambda: h.ours.call(Op.RUN, (bytes(3072),), 0, 0)] * 4 + [lambda: h.ours.claim(1, 0)] * 2
    threads = [threading.Thread(target=lambda call=call: answers.append(call()), daemon=True) for call in calls]
    for thread in threads[:4]:
        thread.start()
    until(lambda: h.ours.in_flight == 4)
    for thread in threads[4:]:
        thread.start()
    if by == "ourselves":
        until(lambda: h.ours.led)
        h.ours.end(False)  # the socket stays as it is
    else:
        h.server.close()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [LOST] * 4 + [ENDED] * 2
    assert (h.ours.over, h.ours.farewell, h.ours.fault) == (True, b"", "")
    assert h.ours.claim(1, 0) == ENDED
    assert h.ours.call(Op.RUN, (bytes(3072),), 0, 0) == ENDED
    assert h.ours.free == 4


def test_an_end_that_was_said_while_nobody_called_is_heard_before_the_next_call(both):
    h = both()
    slots = h.ours.claim(1, 0)
    h.ours.submit(slots, Op.ECHO, 0, 0)
    h.lane.drain(1)
    h.lane.complete_echo()
    h.server.send(bytes([layout.BELL]) * 3 + b"goodbye")
    h.server.close()
    time.sleep(0.002)  # longer than a lane counts as one in use
    assert h.ours.claim(1, 0) == ENDED
    assert h.ours.farewell == b"goodbye"
    assert h.ours.wait(slots, 0) == 0  # it was answered before
    assert h.ours.result(slots[0])[0] == Status.OK
    assert not h.ours.submit(slots, Op.ECHO, 0, 0)


def test_a_draining_server_is_asked_for_nothing(both):
    h = both()
    h.lane.announce_draining()
    assert h.ours.claim(1, 0) == DRAINING
    assert h.ours.call(Op.ECHO, (bytes(3072),), 0, 0) == DRAINING
    assert (h.ours.free, h.ours.counters()["requests"]) == (4, 0)


def test_times_are_sent_as_the_servers_clock_has_them(both):
    ahead = 10**15
    h = both(ahead_ns=ahead)
    began, deadline = time.monotonic_ns(), time.monotonic_ns() + 10**12
    h.ours.submit(h.ours.claim(1, 0), Op.RUN, 0, deadline)
    assert int(h.submissions[0]["deadline"]) == deadline + ahead
    assert began + ahead <= int(h.submissions[0]["submitted"]) <= time.monotonic_ns() + ahead


def test_a_status_that_is_not_ok_leaves_the_slot_to_the_caller(both):
    h = both(spin_ns=-1)
    got = []
    thread = threading.Thread(target=lambda: got.append(h.ours.call(Op.RUN, (bytes(3072),), 0, 0)), daemon=True)
    thread.start()
    until(lambda: h.lane.drain(1))
    h.lane.complete_error(b"no")
    thread.join()
    assert got == [(0, Status.MODEL_ERROR)]
    assert h.ours.result(0)[7] == b"no"
    h.ours.release(0)


# ---- prompts


def test_text_is_handed_out_once_and_acknowledged(both):
    h = both(prompt_spec())
    slots = h.ours.claim(1, 0)
    h.slots[0, :4] = np.frombuffer(b"text", np.uint8)
    h.ours.submit(slots, Op.RUN, 4, 0, 7, 128, 0.75, 40, 2**64 - 1)
    assert h.lane.drain(1) == 1
    assert h.lane.begin_prompts() == [(0, b"text", 128, 0.75, 40, 2**64 - 1, 0)]
    h.lane.append(0, b"ab")
    h.lane.append(0, "ü".encode())  # goes with the `more` that is outstanding
    assert h.ours.wait(slots, 0) == 0
    assert h.ours.text(0) == ("abü".encode(), False)
    assert int(h.controls[0]["acknowledged"]) == 1
    assert not h.ours.ready(0)
    assert h.ours.wait(slots, NOW) == LOST_LATE
    h.lane.append(0, b"cd")
    h.lane.finish_prompt(0, Status.OK, CompletionFlag.TRUNCATED, b"")
    assert h.ours.wait(slots, 0) == 0
    assert h.ours.text(0) == (b"cd", True)
    assert h.ours.result(0)[:3] == (Status.OK, CompletionFlag.TRUNCATED, 6)
    h.ours.release(0)


def test_giving_up_a_prompt_cancels_it(both):
    h = both(prompt_spec())
    slots = h.ours.claim(1, 0)
    h.ours.submit(slots, Op.RUN, 4, 0)
    h.lane.drain(1)
    h.lane.begin_prompts()
    h.lane.append(0, b"ab")
    h.ours.abandon(0)
    assert h.lane.cancelled(0)
    h.lane.finish_prompt(0, Status.CANCELLED, 0, b"")
    assert h.ours.claim(2, 0) == [1]
    assert h.ours.claim(1, 0) == [0]


# ---- an event loop


def test_an_evented_lane_says_of_which_slots_there_is_news(both):
    h = both(evented=True)
    slots = h.ours.claim(9, 0)
    assert h.ours.claim(1, 0) == LATE  # nobody waits
    assert h.ours.events() == []
    assert not int(h.header["client_parked"])  # nothing is in flight
    h.ours.submit(slots, Op.ECHO, 0, 0)
    assert h.ours.events() == []
    assert int(h.header["client_parked"])
    assert h.lane.drain(2) == 2
    h.lane.complete_echo()
    assert select.select([h.client], [], [], 60)[0]
    assert h.ours.events() == [0, 1]
    assert h.ours.events() == []
    h.ours.release(0)
    h.ours.abandon(2)
    h.server.close()
    assert h.ours.events() == [2, 3]
    assert h.ours.result(3) is None
    assert h.ours.over
    with pytest.raises(ValueError, match="nobody waits in an evented lane"):
        h.ours.wait([3], 0)
    with pytest.raises(ValueError, match="nobody waits in an evented lane"):
        h.ours.call(Op.ECHO, (bytes(3072),), 0, 0)


# ---- wrong uses


def test_wrong_uses_are_errors_and_change_nothing(both):
    h = both(tokens_spec())
    ours = h.ours
    with pytest.raises(ValueError, match="threads wait in this lane"):
        ours.events()
    with pytest.raises(ValueError, match="an extent of 17, the bound is 16"):
        ours.submit([], Op.RUN, 17, 0)
    with pytest.raises(ValueError, match="an extent of 17"):
        ours.call(Op.RUN, (b"", b""), 17, 0)
    with pytest.raises(ValueError, match="input 1: 3 bytes, expected 2"):
        ours.call(Op.RUN, (bytes(8), bytes(3)), 2, 0)
    with pytest.raises(TypeError, match="a tuple of 2 inputs"):
        ours.call(Op.RUN, (bytes(8),), 2, 0)
    with pytest.raises(BufferError):
        ours.call(Op.RUN, (memoryview(bytes(16))[::2], bytes(2)), 2, 0)
    for method in (ours.release, ours.abandon, ours.result, ours.text, ours.ready):
        for slot in (4, 2**32):
            with pytest.raises(ValueError, match=f"slot {slot} is not such a one"):
                method(slot)
        for wrong in (-1, "x", None, 2**64):
            with pytest.raises((TypeError, OverflowError)):
                method(wrong)
    for method in (ours.release, ours.result, ours.text, ours.abandon):
        with pytest.raises(ValueError, match="slot 0 is not such a one"):
            method(0)
    slots = ours.claim(1, 0)
    with pytest.raises(ValueError, match="slot 0"):
        ours.wait(slots, 0)
    with pytest.raises(ValueError, match="slot 0"):
        ours.submit([0, 0], Op.RUN, 1, 0)  # once only
    with pytest.raises(ValueError, match="this lane has no prompts"):
        ours.text(0)
    assert (ours.free, ours.in_flight) == (3, 1)
    with pytest.raises(TypeError, match="initialised once"):
        ours.__init__(h.memory, h.memory[:4096], -1)


def test_a_lane_that_was_not_initialised_is_an_error(both):
    blank = _core.ClientLane.__new__(_core.ClientLane)
    for use in (
        lambda: blank.claim(1, 0), lambda: blank.submit([], 1, 0, 0), lambda: blank.wait([], 0), lambda:
        blank.release(0), lambda: blank.call(1, (), 0, 0), blank.events, lambda: blank.end(True), blank.forget,
    ):  # fmt: skip
        with pytest.raises(ValueError, match="not initialised"):
            use()
    h = both()
    for header in (b"", bytes(4096), h.memory[:4095]):
        with pytest.raises(ValueError, match="describes no lane"):
            _core.ClientLane(h.memory, header, -1)


def test_a_child_forgets_the_lane(both):
    h = both()
    slots = h.ours.claim(1, 0)
    h.ours.submit(slots, Op.ECHO, 0, 0)
    h.ours.forget()
    assert h.ours.over
    assert h.ours.wait(slots, 0) == LOST
    assert h.ours.claim(1, 0) == ENDED
    assert h.client.fileno() >= 0  # which is the owner's to close


# ---- golden segments


def opened(name: str) -> Session:
    """A session on a golden segment, whose welcome says what its header says."""
    memory, golden = (FOLDER / f"{name}.bin").read_bytes(), json.loads((FOLDER / f"{name}.json").read_text())
    fd = os.memfd_create("golden")
    os.write(fd, memory)
    said = []
    for number, row in enumerate(golden["tensors"]):
        shape = row["dims"][: row["rank"]]
        shape = [-1, *shape[1:]] if row["symbolic"] == 1 else shape
        datatype = Datatype(row["datatype"]).name if row["datatype"] in list(Datatype) else "FP32"
        said.append({"name": f"t{number}", "datatype": datatype, "shape": shape})
    inputs = max(1, golden["lane"]["input_count"])
    model = {"name": "golden", "version": "1", "platform": "", "inputs": said[:inputs], "outputs": said[inputs:]}
    header = golden["header"]
    welcome = Welcome(fd, header["segment_bytes"], header["epoch"], 0, "golden", model)
    protocol = golden["lane"]["protocol"]
    request = LaneRequest(Protocol(protocol) if protocol in list(Protocol) else Protocol.CALL)
    ours, theirs = socket.socketpair()
    theirs.close()
    return Session(ours, welcome, request, 0.0, False)


GOLDEN = {path.stem: json.loads(path.read_text())["error"] for path in sorted(FOLDER.glob("*.json"))}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_golden_header_is_taken_or_refused_as_it_says(name):
    error = GOLDEN[name]
    if error in ("magic", "version", "epoch", "geometry"):
        with pytest.raises(ProtocolError) as caught:
            opened(name)
        assert caught.value.rule == error
        return
    session = opened(name)
    golden = json.loads((FOLDER / f"{name}.json").read_text())
    assert session.lane.slots == golden["lane"]["slot_count"]
    for rows, row in zip((*session.inputs, *session.outputs), golden["tensors"], strict=True):
        assert rows.shape == (session.lane.slots, *row["dims"][: row["rank"]])
        assert rows.strides[0] == row["row_bytes"]
    session.close()
