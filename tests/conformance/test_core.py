"""What shm_server._core answers, rightly and wrongly used. tests/native runs this file under sanitizers too."""

import contextlib
import mmap
import os
import select
import socket
import threading
import time

import numpy as np
import pytest
from heap_lane import HeapLane, call_spec, image_spec, memory_of, prompt_spec, tensor, tokens_spec

from shm_server import _core, layout
from shm_server.layout import CompletionFlag, Op, Status, SubmissionFlag

CLOSED = "the lane is closed"


@pytest.fixture
def heap():
    """heap(spec, doorbell=...) makes a HeapLane and closes it in the end."""
    with contextlib.ExitStack() as stack:

        def make(*args, **kwargs) -> HeapLane:
            made = HeapLane(*args, **kwargs)
            stack.callback(made.close)
            return made

        yield make


def scores(*rows) -> np.ndarray:
    return np.array(rows, np.float32)


def message_of(h: HeapLane, done: np.void) -> bytes:
    return bytes(h.messages[done["slot"]][: done["message_bytes"]])


def soon(condition, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.001)


def test_the_core_under_test_is_the_one_that_was_asked_for():
    wanted = os.environ.get("SHM_CORE")
    assert wanted is None or _core.__file__ == wanted


# ---- opening and closing a lane


def test_a_lane_holds_the_segment_until_it_is_closed():
    memory, _ = memory_of(image_spec())
    lane = _core.Lane(memory, -1)
    with pytest.raises(BufferError):
        memory.close()
    lane.close()
    lane.close()
    memory.close()


def test_a_lane_that_nobody_refers_to_lets_go_of_the_segment():
    memory, _ = memory_of(image_spec())
    lane = _core.Lane(memory, -1)
    del lane
    memory.close()


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("drain", (1,)),
        ("announce_draining", ()),
        ("complete_echo", ()),
        ("complete_calls", (1,)),
        ("scatter", (0, scores([1]), 0, 4, False)),
        ("complete_error", (b"why",)),
        ("gather", (0, np.zeros((1, 3072), np.uint8), 0, 3072)),
        ("begin_prompts", ()),
        ("append", (0, b"text")),
        ("room", (0,)),
        ("cancelled", (0,)),
        ("finish_prompt", (0, 0, 0, b"")),
    ],
)
@pytest.mark.parametrize("spec", [image_spec(), prompt_spec()], ids=["image", "prompt"])
def test_a_closed_lane_says_so(spec, call, arguments):
    memory, _ = memory_of(spec)
    lane = _core.Lane(memory, -1)
    lane.close()
    with pytest.raises(ValueError, match=CLOSED):
        getattr(lane, call)(*arguments)
    assert lane.fault == ""
    assert lane.counters()["batches"] == 0
    with pytest.raises(ValueError, match=CLOSED):
        _core.Poller(0).add(lane)


def test_a_lane_that_was_never_opened_is_a_closed_one():
    lane = _core.Lane.__new__(_core.Lane)
    with pytest.raises(ValueError, match=CLOSED):
        lane.drain(1)
    lane.close()


def test_a_lane_is_initialised_once():
    memory, _ = memory_of(image_spec())
    lane = _core.Lane(memory, -1)
    with pytest.raises(TypeError, match="once"):
        lane.__init__(memory, -1)
    lane.close()
    memory.close()


def changed(spec, lane: dict | None = None, tensor: dict | None = None, index: int = 0):
    """Memory whose header differs in these fields of the lane, or of a tensor."""
    memory, _ = memory_of(spec)
    places = (lane, layout.lane, layout.LANE_OFFSET), (tensor, layout.tensor, layout.TENSORS_OFFSET + 64 * index)
    for changes, dtype, offset in places:
        row = np.frombuffer(memory, dtype, 1, offset)[0]
        for name, value in (changes or {}).items():
            row[name] = value
    return memory


@pytest.mark.parametrize(
    "changes",
    [
        {"protocol": 0},
        {"protocol": 3},
        {"slot_count": 0},
        {"slot_count": 65537},
        {"slot_count": 2**32 - 1},
        {"submission_entries": 0},
        {"submission_entries": 3},
        {"submission_entries": 2},
        {"completion_entries": 0},
        {"completion_entries": 6},
        {"completion_entries": 2},
        {"input_count": 0},
        {"input_count": 25},
        {"input_count": 2**32 - 1},
        {"output_count": 0},
        {"output_count": 24},
        {"output_count": 2**32 - 1},
        {"submissions_offset": 0},
        {"submissions_offset": 4096 + 64},
        {"completions_offset": 2**64 - 4096},
        {"messages_offset": 2**63},
        {"messages_offset": 4097},
        {"protocol": layout.Protocol.STREAM},
    ],
    ids=str,
)
def test_a_header_that_describes_no_lane_is_refused(changes):
    memory = changed(image_spec(), changes)
    with pytest.raises(ValueError, match="describes no lane"):
        _core.Lane(memory, -1)
    memory.close()  # a lane that was refused holds nothing


@pytest.mark.parametrize(
    "changes",
    [
        {"offset": 0},
        {"offset": 4096 + 64},
        {"offset": 2**63},
        {"offset": 2**64 - 4096},
        {"offset": 8 * 4096},
        {"row_bytes": 0},
        {"row_bytes": 3008},
        {"row_bytes": 3136},
        {"datatype": 0},
        {"datatype": 14},
        {"datatype": 65535},
        {"rank": 0},
        {"rank": 2},
        {"rank": 4},
        {"rank": 9},
        {"rank": 65535},
        {"symbolic": 2},
        {"dims": [3, 0, 32, 0, 0, 0, 0, 0]},
        {"dims": [2**32 - 1] * 8, "rank": 8, "row_bytes": 2**32 - 64},
        {"dims": [2**16, 2**16, 0, 0, 0, 0, 0, 0], "rank": 2, "row_bytes": 64},
        {"dims": [0, 32, 32, 0, 0, 0, 0, 0], "symbolic": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("index", [0, 1])
def test_a_header_whose_tensors_do_not_fit_is_refused(changes, index):
    image = image_spec().inputs[0]
    memory = changed(call_spec((image,), (image,)), tensor=changes, index=index)
    with pytest.raises(ValueError, match="describes no lane"):
        _core.Lane(memory, -1)
    memory.close()


def test_a_symbolic_dimension_has_one_bound():
    _core.Lane(changed(tokens_spec()), -1)
    memory = changed(tokens_spec(), tensor={"dims": [15, 0, 0, 0, 0, 0, 0, 0]}, index=0)
    with pytest.raises(ValueError, match="describes no lane"):
        _core.Lane(memory, -1)


@pytest.mark.parametrize(
    ("lane", "tensor", "index"),
    [
        ({"completion_entries": 2}, {}, 0),
        ({"controls_offset": 0}, {}, 0),
        ({"controls_offset": 2**64 - 4096}, {}, 0),
        ({"progress_offset": 4097}, {}, 0),
        ({"output_count": 2}, {}, 0),
        ({}, {"datatype": layout.Datatype.INT8}, 0),
        ({}, {"symbolic": 0}, 1),
        ({}, {"dims": [257, 0, 0, 0, 0, 0, 0, 0], "row_bytes": 320}, 0),  # longer than the reply: an echo would not fit
        ({}, {"dims": [2**24 + 64, 0, 0, 0, 0, 0, 0, 0], "row_bytes": 2**24 + 64}, 1),
    ],
    ids=str,
)
def test_a_header_that_describes_no_stream_lane_is_refused(lane, tensor, index):
    memory = changed(prompt_spec(), lane, tensor, index)
    with pytest.raises(ValueError, match="describes no lane"):
        _core.Lane(memory, -1)


@pytest.mark.parametrize("finite", [0b10, 0b100, 0b11, 1 << 31])
def test_only_an_output_of_floats_is_promised_to_be_finite(finite):
    memory, _ = memory_of(call_spec((tensor("UINT8", 4),), (tensor("FP32", 4), tensor("UINT32", 4))))
    with pytest.raises(ValueError, match="a mask of FP32 outputs, there are 2"):
        _core.Lane(memory, -1, finite)
    _core.Lane(memory, -1, 1).close()
    memory.close()


def test_memory_that_cannot_be_a_segment_is_refused():
    memory, _ = memory_of(image_spec())
    short = mmap.mmap(-1, 4096)
    short[:] = memory[:4096]
    with pytest.raises(ValueError, match="describes no lane"):
        _core.Lane(short, -1)
    aside = memoryview(mmap.mmap(-1, 2 * len(memory)))[64 : 64 + len(memory)]
    aside[:] = memory[:]
    with pytest.raises(ValueError, match="describes no lane"):
        _core.Lane(aside, -1)
    for wrong in (b"", bytearray(64)):
        with pytest.raises((ValueError, BufferError)):
            _core.Lane(wrong, -1)
    with pytest.raises(BufferError):
        _core.Lane(memoryview(memory).toreadonly(), -1)
    for arguments in ((), (memory,), (None, -1), (memory, "0"), (memory, None), (memory, -1, "1")):
        with pytest.raises(TypeError):
            _core.Lane(*arguments)


# ---- drain


def test_nothing_submitted_is_an_ordinary_answer(heap):
    h = heap()
    assert h.lane.drain(8) == 0
    assert (h.lane.count, h.lane.op, h.lane.fault, h.lane.contiguous) == (0, 0, "", False)


def test_a_batch_is_what_is_pending_up_to_the_limit(heap):
    h = heap()
    for slot in range(4):
        h.submit(slot, Op.RUN)
    assert h.lane.drain(3) == 3
    assert (h.lane.count, h.lane.op, h.lane.lowest, h.lane.contiguous) == (3, Op.RUN, 0, True)
    h.answer(np.ones((3, 3), np.float32), by_slot=True)
    assert h.lane.drain(3) == 1
    assert h.lane.lowest == 3


@pytest.mark.parametrize("limit", [2**32, 2**63])
def test_a_limit_beyond_32_bits_is_no_limit(heap, limit):
    h = heap()
    h.submit(0)
    assert h.lane.drain(limit) == 1


@pytest.mark.parametrize(
    ("limit", "error"), [(-1, OverflowError), (2**64, OverflowError), ("1", TypeError), (None, TypeError)]
)
def test_a_limit_that_is_none_is_refused_and_nothing_is_taken(heap, limit, error):
    h = heap()
    h.submit(0)
    for call in (h.lane.drain, _core.Poller(0).take, _core.Poller(0).next):
        with pytest.raises(error):
            call(limit)
    assert h.lane.count == 0
    assert h.lane.drain(1) == 1


def test_a_batch_stops_where_the_operation_changes(heap):
    h = heap()
    for slot, op in enumerate((Op.RUN, Op.RUN, Op.ECHO, Op.RUN)):
        h.submit(slot, op)
    found = []
    while h.lane.drain(8):
        found.append((h.lane.op, h.lane.count))
        if h.lane.op == Op.ECHO:
            h.lane.complete_echo()
        else:
            h.answer(np.ones((2, 3), np.float32))
    assert found == [(Op.RUN, 2), (Op.ECHO, 1), (Op.RUN, 1)]
    assert [done["request_id"] for done in h.taken()] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("order", "contiguous"),
    [((2, 1, 3), True), ((0, 2), False), ((3,), True), ((3, 0, 1), False), ((3, 2, 1, 0), True)],
)
def test_neighbouring_slots_are_contiguous_in_whatever_order(heap, order, contiguous):
    h = heap()
    for slot in order:
        h.submit(slot, Op.RUN)
    assert h.lane.drain(8) == len(order)
    assert h.lane.contiguous is contiguous
    assert h.lane.lowest == min(order)


def test_a_slot_goes_round_and_round(heap):
    h = heap()
    random = np.random.default_rng(3)
    for lap in range(300):
        order = random.permutation(4)[: random.integers(1, 5)]
        for slot in order:
            h.slots[slot, :8] = lap % 256
            h.submit(int(slot))
        assert h.lane.drain(4) == len(order)
        h.lane.complete_echo()
        done = h.taken()
        assert [int(each["slot"]) for each in done] == order.tolist()
        assert all(each["checksum"] == _core.checksum(h.slots[each["slot"]].tobytes()) for each in done)
    assert h.lane.counters()["echoes"] == h.tail


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"slot": 4}, "slot out of range: 4"),
        ({"slot": 2**32 - 1}, f"slot out of range: {2**32 - 1}"),
        ({"op": 0}, "unknown op: 0"),
        ({"op": 3}, "unknown op: 3"),
        ({"op": 65535}, "unknown op: 65535"),
        ({"flags": 1}, "unknown flags: 1"),
        ({"op": Op.RUN, "flags": 0x8001}, "unknown flags: 32769"),
        ({"extent": 1}, "extent beyond the bound: 1"),
        ({"extent": 2**32 - 1}, f"extent beyond the bound: {2**32 - 1}"),
        ({"turn": 2}, "turn neither old nor new"),
        ({"turn": 2**64 - 1}, "turn neither old nor new"),
    ],
    ids=str,
)
@pytest.mark.parametrize("before", [0, 1])
def test_a_submission_that_breaks_the_protocol_is_a_fault_of_the_lane(heap, fields, fault, before):
    h = heap()
    for slot in range(before):
        h.submit(slot, fields.get("op", Op.ECHO) if fields.get("op") == Op.RUN else Op.ECHO)
    slot = fields.get("slot", before)
    h.submit(slot, **{"op": Op.ECHO} | {name: value for name, value in fields.items() if name != "slot"})
    while h.lane.drain(8):  # what came before it may be a batch of its own
        h.lane.complete_echo()
    assert h.lane.fault == f"submission {before}: {fault}"
    assert (h.lane.count, h.lane.op) == (0, 0)
    h.submit(3)
    assert h.lane.drain(8) == 0, "a lane with a fault takes nothing more"


def test_a_slot_that_is_in_flight_may_not_be_submitted_again(heap):
    h = heap()
    h.submit(2)
    h.submit(2)
    assert h.lane.drain(8) == 0
    assert h.lane.fault == "submission 1: slot already in flight: 2"
    other = heap()
    other.submit(2)
    assert other.lane.drain(8) == 1
    other.submit(2)
    other.lane.complete_echo()  # completed before it is looked at: that is in order
    assert other.lane.drain(8) == 1


def test_a_stream_lane_takes_up_to_a_slot_of_text(heap):
    for fields, fault in (
        ({"extent": 193}, "extent beyond the bound: 193"),
        ({"op": 3}, "unknown op: 3"),
        ({"flags": 8}, "unknown flags: 8"),
    ):
        h = heap(prompt_spec())
        h.submit(0, **{"op": Op.RUN} | fields)
        assert h.lane.drain(8) == 0
        assert h.lane.fault == f"submission 0: {fault}"
    h = heap(prompt_spec())
    h.submit(0, Op.RUN, extent=0)
    h.submit(1, Op.RUN, extent=192)
    assert h.lane.drain(8) == 2


# ---- what is answered without being run


def test_a_deadline_that_has_passed_is_answered_and_not_run(heap):
    h = heap()
    now = time.monotonic_ns()
    h.submit(0, deadline=1)
    h.submit(1, deadline=now + 60 * 10**9)
    h.submit(2, deadline=now - 1)
    h.submit(3)
    assert h.lane.drain(8) == 2
    assert [(done["slot"], done["status"], done["request_id"]) for done in h.taken()] == [
        (0, Status.DEADLINE_EXCEEDED, 0),
        (2, Status.DEADLINE_EXCEEDED, 2),
    ]
    h.lane.complete_echo()
    assert [(done["slot"], done["status"], done["batch"]) for done in h.taken()] == [
        (1, Status.OK, 2),
        (3, Status.OK, 2),
    ]
    assert h.lane.counters()["expired"] == 2


def test_a_draining_lane_refuses_what_comes(heap):
    h = heap()
    h.submit(0)
    assert h.lane.drain(8) == 1
    h.lane.announce_draining()
    assert h.header["server_state"] == layout.ServerState.DRAINING
    h.lane.draining = True
    h.submit(1)
    h.lane.complete_echo()
    assert h.lane.drain(8) == 0
    assert [(done["slot"], done["status"]) for done in h.taken()] == [(0, Status.OK), (1, Status.DRAINING)]
    assert h.lane.counters()["refused"] == 1


def test_what_is_answered_at_once_keeps_the_server_no_longer_than_a_batch(heap):
    """A client that resubmits as fast as it is refused gets `limit` answers a turn."""
    h = heap()
    h.lane.draining = True
    for slot in range(4):
        h.submit(slot)
    assert h.lane.drain(3) == 0
    assert len(h.taken()) == 3


def test_waiting_is_measured_from_the_clients_stamp_but_not_from_the_future(heap):
    h = heap()
    h.submit(0, submitted=time.monotonic_ns() - 10**9)
    h.submit(1, submitted=2**64 - 1)
    h.submit(2, submitted=0)
    h.lane.drain(8)
    h.lane.complete_echo()
    waited, future, unmeasured = (int(done["queue_ns"]) for done in h.taken())
    assert 10**9 <= waited < 60 * 10**9
    assert (future, unmeasured) == (0, 0)
    assert h.lane.counters()["queue_ns"] == waited


# ---- completing


def test_an_echo_reads_every_byte(heap):
    h = heap()
    random = np.random.default_rng(4)
    h.slots[:] = random.integers(0, 256, h.slots.shape, np.uint8)
    for slot in range(4):
        h.submit(slot)
    h.lane.drain(8)
    h.lane.complete_echo()
    for done in h.taken():
        data = h.slots[done["slot"]].tobytes()
        assert done["checksum"] == _core.checksum(data)
        for at in (0, 1, 1535, 3071):
            assert done["checksum"] != _core.checksum(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def test_an_echo_of_text_comes_back_in_the_reply(heap):
    h = heap(prompt_spec())
    text = "Möwe".encode()
    h.slots[1, : len(text)] = np.frombuffer(text, np.uint8)
    h.submit(1, extent=len(text))
    h.lane.drain(8)
    h.lane.complete_echo()
    (done,) = h.taken()
    assert bytes(h.replies[1][: done["extent"]]) == text
    assert done["checksum"] == _core.checksum(text)


def test_the_checksum_is_fletchers_over_words():
    def reference(data: bytes) -> int:
        a = b = 0
        for at in range(0, len(data), 8):
            a = (a + int.from_bytes(data[at : at + 8], "little")) % 2**64
            b = (b + a) % 2**64
        return a ^ (b << 32 | b >> 32) % 2**64

    random = np.random.default_rng(5)
    for length in (*range(20), 3071, 3072):
        data = random.bytes(length)
        assert _core.checksum(data) == _core.checksum(bytearray(data)) == reference(data)
    assert _core.checksum(b"\xff" * 3072) == reference(b"\xff" * 3072)
    assert _core.checksum(bytes(8) + b"a") != _core.checksum(b"a" + bytes(8))
    for wrong in (3, "text", None):
        with pytest.raises(TypeError):
            _core.checksum(wrong)
    with pytest.raises((ValueError, BufferError)):
        _core.checksum(np.zeros((4, 4), np.uint8)[:, ::2])


def test_an_echo_is_the_checksum_of_what_counts_of_every_input(heap):
    h = heap(tokens_spec())
    random = np.random.default_rng(6)
    for rows in h.inputs:
        rows[:] = random.integers(0, 256, rows.shape, np.uint8)
    for slot, extent in enumerate((0, 3, 16)):
        h.submit(slot, extent=extent)
    h.lane.drain(8)
    h.lane.complete_echo()
    for slot, (done, extent) in enumerate(zip(h.taken(), (0, 3, 16), strict=True)):
        ids, mask = h.inputs[0][slot, : 4 * extent].tobytes(), h.inputs[1][slot, :extent].tobytes()
        padded = b"".join(part + bytes(-len(part) % 8) for part in (ids, mask))
        assert (done["checksum"], done["extent"]) == (_core.checksum(padded), extent)


def test_an_answer_is_the_row_of_each_output(heap):
    h = heap(call_spec((tensor("UINT8", 4),), (tensor("FP32", 3), tensor("UINT32", 2, 5))))
    for rows in h.outputs:
        rows[:] = 0xEE
    for slot in (1, 3):
        h.submit(slot, Op.RUN)
    h.lane.drain(8)
    first, second = scores([0.0, 0.25, 0.75], [0.5, 0.5, 0.0]), np.arange(20, dtype=np.uint32).reshape(2, 2, 5)
    h.answer(first, second, batch=7)
    for number, done in enumerate(h.taken()):
        slot = (1, 3)[number]
        assert (done["slot"], done["status"], done["batch"], done["extent"]) == (slot, Status.OK, 7, 0)
        assert done["model_ns"] > 0
        assert h.outputs[0][slot, :12].tobytes() == first[number].tobytes()
        assert h.outputs[1][slot, :40].tobytes() == second[number].tobytes()
        h.outputs[0][slot, :12] = h.outputs[1][slot, :40] = 0xEE
    assert all((rows == 0xEE).all() for rows in h.outputs), "nothing else was written"


def test_rows_may_begin_further_down_or_follow_the_slots(heap):
    h = heap()
    rows = np.repeat(np.arange(5, dtype=np.float32)[:, None], 3, axis=1)
    for first, by_slot, expected in ((2, False, [2, 3]), (1, True, [2, 1])):
        for slot in (3, 2):
            h.submit(slot, Op.RUN)
        h.lane.drain(8)
        h.answer(rows, row=first, by_slot=by_slot)
        assert [h.replies[done["slot"], :12].view(np.float32)[0] for done in h.taken()] == expected


def test_a_part_of_a_symbolic_row_is_answered_up_to_its_extent(heap):
    h = heap(tokens_spec())
    h.replies[:] = 0xEE
    for slot, extent in ((0, 5), (1, 0), (2, 8)):
        h.submit(slot, Op.RUN, extent=extent)
    h.lane.drain(8)
    assert h.lane.extent == 8
    vectors = np.arange(3 * 8 * 3, dtype=np.float32).reshape(3, 8, 3)  # the batch ran at 8
    h.answer(vectors, np.ones((3, 1), np.float32))
    for slot, done in enumerate(h.taken()):
        extent = int(done["extent"])
        assert extent == (5, 0, 8)[slot]
        assert h.replies[slot, : 12 * extent].tobytes() == vectors[slot, :extent].tobytes()
        assert (h.replies[slot, 12 * extent :] == 0xEE).all()


def test_numbers_that_are_not_finite_are_that_rows_error_and_not_its_neighbours(heap):
    h = heap(image_spec(6), finite=1)
    rows = scores([np.nan, 1, 2], [0, 1, 0], [1, np.nan, 2], [-np.inf, np.inf, 0], [0, 0, 1], [np.nan] * 3)
    for slot in range(6):
        h.submit(slot, Op.RUN)
    h.lane.drain(8)
    h.answer(rows)
    for slot, done in enumerate(h.taken()):
        if slot in (1, 4):
            assert (done["status"], done["message_bytes"]) == (Status.OK, 0)
            continue
        assert (done["status"], done["batch"]) == (Status.MODEL_ERROR, 6)
        assert message_of(h, done) == b"the model's output 0 holds numbers that are not finite"
    counters = h.lane.counters()
    assert (counters["calls"], counters["model_errors"]) == (2, 4)


def test_numbers_that_nobody_promised_may_be_anything(heap):
    h = heap(image_spec(1))
    h.submit(0, Op.RUN)
    h.lane.drain(8)
    h.answer(scores([np.nan, np.inf, 0]))
    assert h.taken()[0]["status"] == Status.OK


def test_rows_out_of_reach_are_refused_and_the_batch_stays(heap):
    h = heap()
    for slot in (0, 2):
        h.submit(slot, Op.RUN)
    h.lane.drain(8)
    rows = np.zeros((4, 3), np.float32)
    for first in (3, 4, 2**32 - 1):
        with pytest.raises(ValueError, match="do not fit"):
            h.lane.scatter(0, rows, first, 12, False)
    for output in (1, 2**32 - 1):
        with pytest.raises(ValueError, match=f"output {output}, there are 1"):
            h.lane.scatter(output, rows, 0, 12, False)
    with pytest.raises(ValueError, match="no neighbours"):
        h.lane.scatter(0, rows, 0, 12, True)
    for row_bytes in (0, 48, 2**32 - 1):
        with pytest.raises(ValueError, match="do not fit"):
            h.lane.scatter(0, rows, 0, row_bytes, False)
    with pytest.raises((ValueError, BufferError)):
        h.lane.scatter(0, rows[:, ::2], 0, 8, False)
    for arguments in ((), (0, rows), (0, None, 0, 12, False), (0, rows, -1, 12, False), (0, rows, "0", 12, False)):
        with pytest.raises((TypeError, ValueError, OverflowError)):
            h.lane.scatter(*arguments)
    for batch in (-1, "1", None):
        with pytest.raises((TypeError, OverflowError)):
            h.lane.complete_calls(batch)
    assert h.taken() == []
    assert h.lane.count == 2
    h.answer(rows, row=2)
    assert len(h.taken()) == 2


def test_a_model_error_carries_its_message(heap):
    h = heap()
    for message in (b"", b"why", b"x" * 256):
        h.submit(2)
        h.lane.drain(8)
        h.lane.complete_error(message)
        (done,) = h.taken()
        assert done["status"] == Status.MODEL_ERROR
        assert message_of(h, done) == message
    h.submit(2)
    h.lane.drain(8)
    with pytest.raises(ValueError, match="a message of 257 bytes, 256 fit"):
        h.lane.complete_error(b"x" * 257)
    for wrong in ("text", None, bytearray(b"why")):
        with pytest.raises(TypeError):
            h.lane.complete_error(wrong)
    assert h.lane.count == 1
    assert h.lane.counters()["model_errors"] == 3


def test_completing_when_nothing_was_taken_publishes_nothing(heap):
    h = heap()
    h.lane.complete_echo()
    h.lane.complete_error(b"why")
    h.lane.complete_calls(0)
    assert h.taken() == []


def test_gather_copies_the_rows_in_the_order_of_the_batch(heap):
    h = heap()
    h.slots[:] = np.arange(4, dtype=np.uint8)[:, None] + 10
    for slot in (3, 0, 2):
        h.submit(slot, Op.RUN)
    h.lane.drain(8)
    out = np.zeros((5, 3, 32, 32), np.uint8)
    h.lane.gather(0, out, 1, 3072)
    assert out.reshape(5, -1)[:, 0].tolist() == [0, 13, 10, 12, 0]
    assert (out.reshape(5, -1) == out.reshape(5, -1)[:, :1]).all()
    h.lane.gather(0, out, 2, 3072)  # the last rows
    for row in (3, 5, 2**32 - 1, 2**32 - 3):
        with pytest.raises(ValueError, match="do not fit"):
            h.lane.gather(0, out, row, 3072)
    for row_bytes in (0, 2**32 - 1):
        with pytest.raises(ValueError, match="do not fit"):
            h.lane.gather(0, out, 0, row_bytes)
    with pytest.raises(ValueError, match="do not fit"):
        h.lane.gather(0, np.zeros(3 * 3072 - 1, np.uint8), 0, 3072)
    for number in (1, 2**32 - 1):
        with pytest.raises(ValueError, match=f"input {number}, there are 1"):
            h.lane.gather(number, out, 0, 3072)
    out.flags.writeable = False
    for wrong in (out, b"bytes", np.zeros((8, 3072), np.uint8)[::2], None):
        with pytest.raises((ValueError, BufferError, TypeError)):
            h.lane.gather(0, wrong, 0, 3072)
    with pytest.raises((OverflowError, TypeError, ValueError)):
        h.lane.gather(0, np.zeros((8, 3072), np.uint8), -1, 3072)


def test_what_is_gathered_of_a_symbolic_row_ends_in_zeros(heap):
    h = heap(tokens_spec())
    for rows in h.inputs:
        rows[:] = 7  # also behind the extents: whatever the client left there
    for slot, extent in ((2, 3), (0, 8), (1, 0)):
        h.submit(slot, Op.RUN, extent=extent)
    h.lane.drain(8)
    ids, mask = np.full((3, 8), 9, np.uint32), np.full((3, 8), 9, np.uint8)
    h.lane.gather(0, ids, 0, ids[:1].nbytes)
    h.lane.gather(1, mask, 0, mask[:1].nbytes)
    assert mask.tolist() == [[7] * 3 + [0] * 5, [7] * 8, [0] * 8]
    assert (ids == np.where(mask == 7, 0x07070707, 0)).all()


# ---- prompts


def prompt(h: HeapLane, slot: int, text: bytes, **fields) -> None:
    h.controls[slot]["acknowledged"] = h.controls[slot]["cancel"] = 0
    h.slots[slot, : len(text)] = np.frombuffer(text, np.uint8)
    h.submit(slot, Op.RUN, extent=len(text), **fields)


def text_of(h: HeapLane, done: np.void) -> bytes:
    return bytes(h.replies[done["slot"]][: done["extent"]])


def test_prompts_are_handed_out_with_their_text_and_parameters(heap):
    h = heap(prompt_spec())
    given = SubmissionFlag.WITH_TEMPERATURE | SubmissionFlag.WITH_TOP_K | SubmissionFlag.WITH_SEED
    fields = {"sampling_steps": 128, "temperature": 0.5, "top_k": 40, "seed": 2**64 - 1, "deadline": 2**63}
    prompt(h, 1, b"hello", flags=given, **fields)
    prompt(h, 0, b"")
    assert h.lane.drain(8) == 2
    first, second = h.lane.begin_prompts()
    assert first == (1, b"hello", 128, 0.5, 40, 2**64 - 1, 2**63)
    assert second == (0, b"", 0, None, None, None, 0)
    assert h.lane.count == 0
    assert h.lane.counters()["prompts"] == 2
    assert h.lane.begin_prompts() == []


def test_text_grows_with_one_more_outstanding_at_most(heap):
    h = heap(prompt_spec())
    prompt(h, 0, b"go")
    h.lane.drain(8)
    h.lane.begin_prompts()
    assert h.lane.room(0) == 256
    h.lane.append(0, b"one ")
    h.lane.append(0, b"two ")
    h.lane.append(0, b"")
    (more,) = h.taken()  # the second found the first not acknowledged
    assert (more["status"], text_of(h, more)) == (Status.MORE, b"one ")
    assert h.progress[0]["extent"] == 8
    h.controls[0]["acknowledged"] = 1
    h.lane.append(0, b"three")
    (more,) = h.taken()
    assert text_of(h, more) == b"one two three"
    assert h.lane.room(0) == 256 - 13
    h.lane.finish_prompt(0, Status.OK, 0, b"")
    (done,) = h.taken()
    assert (done["status"], done["message_bytes"], text_of(h, done)) == (Status.OK, 0, b"one two three")
    prompt(h, 0, b"again")  # the slot is free
    h.lane.drain(8)
    h.lane.begin_prompts()
    assert (h.lane.room(0), h.progress[0]["extent"]) == (256, 0)


def test_the_time_in_line_counts_as_queueing_and_not_as_the_model(heap):
    h = heap(prompt_spec())
    moments = []
    for slot, started in enumerate(("between", "never", "in the future")):
        prompt(h, slot % 2, b"go")
        h.lane.drain(8)
        before = time.monotonic_ns()
        h.lane.begin_prompts()
        begun = time.monotonic_ns()
        turn_came = {"between": begun, "never": 0, "in the future": 2**63}[started]
        h.lane.finish_prompt(slot % 2, Status.OK, 0, b"", turn_came)
        moments.append((begun - before, begun, time.monotonic_ns()))
    first, *others = h.taken()
    waited, begun, finished = moments[0]
    assert first["queue_ns"] >= waited
    assert first["model_ns"] <= finished - begun
    for done in others:  # it never had its turn: all of it was waiting
        assert done["model_ns"] == 0
        assert 0 < done["queue_ns"] < 60 * 10**9


def test_an_errors_message_stands_beside_the_text(heap):
    h = heap(prompt_spec())
    prompt(h, 1, b"go")
    h.lane.drain(8)
    h.lane.begin_prompts()
    h.lane.append(1, b"x" * h.lane.room(1))
    assert h.lane.room(1) == 0
    with pytest.raises(ValueError, match="the reply takes 0 more"):
        h.lane.append(1, b"y")
    with pytest.raises(ValueError, match="a message of 257 bytes"):
        h.lane.finish_prompt(1, Status.BROKEN, 0, b"e" * 257)
    h.lane.finish_prompt(1, Status.BROKEN, CompletionFlag.TRUNCATED, b"e" * 256)
    more, done = h.taken()
    assert more["status"] == Status.MORE
    assert (done["status"], done["flags"]) == (Status.BROKEN, 1)
    assert (text_of(h, done), message_of(h, done)) == (b"x" * 256, b"e" * 256)


def test_a_client_that_wants_no_more_says_so_in_its_control(heap):
    h = heap(prompt_spec())
    prompt(h, 0, b"go")
    h.lane.drain(8)
    h.lane.begin_prompts()
    assert h.lane.cancelled(0) is False
    h.controls[0]["cancel"] = 1
    assert h.lane.cancelled(0) is True


def test_a_slot_with_a_prompt_may_not_be_submitted_again_also_after_a_more(heap):
    h = heap(prompt_spec())
    prompt(h, 0, b"go")
    h.lane.drain(8)
    h.lane.begin_prompts()
    h.lane.append(0, b"text")
    prompt(h, 0, b"again")
    assert h.lane.drain(8) == 0
    assert "slot already in flight: 0" in h.lane.fault


def test_a_client_that_acknowledges_what_it_never_took_overruns_only_its_own_ring(heap):
    h = heap(prompt_spec())
    prompt(h, 0, b"go")
    h.lane.drain(8)
    h.lane.begin_prompts()
    before = bytes(h.memory)
    for count in range(1, 20):
        h.lane.append(0, b"x")
        h.controls[0]["acknowledged"] = count
    after = bytes(h.memory)
    writable = {"completions_offset": 4 * 64, "progress_offset": 2 * 128}
    writable |= {"controls_offset": 2 * 128}  # our own writing
    spans = [(int(h.at[name]), int(h.at[name]) + size) for name, size in writable.items()]
    reply = h.replies.ctypes.data - np.frombuffer(h.memory, np.uint8).ctypes.data
    spans.append((reply, reply + 2 * 256))
    changed = [at for at, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    assert changed
    assert all(any(low <= at < high for low, high in spans) for at in changed)


@pytest.mark.parametrize(
    ("call", "arguments"), [("append", (b"x",)), ("room", ()), ("cancelled", ()), ("finish_prompt", (0, 0, b""))]
)
def test_only_a_prompt_in_flight_can_be_worked_on(heap, call, arguments):
    h = heap(prompt_spec())
    for slot in (0, 1, 2, 2**32 - 1):
        with pytest.raises(ValueError, match=f"no prompt is in flight in slot {slot}"):
            getattr(h.lane, call)(slot, *arguments)
    for wrong in (-1, 2**64, "0", None):
        with pytest.raises((ValueError, OverflowError, TypeError)):
            getattr(h.lane, call)(wrong, *arguments)
    image = heap()
    image.submit(0)
    image.lane.drain(8)
    with pytest.raises(ValueError, match="no prompt is in flight"):
        getattr(image.lane, call)(0, *arguments)
    with pytest.raises(ValueError, match="this lane has no prompts"):
        image.lane.begin_prompts()


# ---- bells


def test_a_client_that_is_awake_is_not_rung_for(heap):
    h = heap(doorbell=True)
    h.submit(0)
    h.lane.drain(8)
    h.lane.complete_echo()
    assert h.rung() == b""
    assert h.lane.counters()["bells_suppressed"] == 1


def test_a_client_that_sleeps_is_rung_for_once_a_batch(heap):
    h = heap(doorbell=True)
    for slot in range(3):
        h.submit(slot)
    h.lane.drain(8)
    h.header["client_parked"] = 1
    h.lane.complete_echo()
    assert h.header["client_parked"] == 0
    assert h.rung() == bytes([layout.BELL])
    assert h.lane.counters()["bells_sent"] == 1


def test_a_refusal_rings_as_well(heap):
    h = heap(doorbell=True)
    h.header["client_parked"] = 1
    h.submit(0, deadline=1)
    assert h.lane.drain(8) == 0
    assert h.rung() == bytes([layout.BELL])


def test_a_bell_for_a_full_socket_or_a_client_that_is_gone_is_dropped(heap):
    h = heap(doorbell=True)
    h.server.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            h.server.send(bytes([layout.BELL]) * 4096)
    for slot in range(2):
        h.submit(slot)
        h.lane.drain(8)
        h.header["client_parked"] = 1
        h.lane.complete_echo()
        if slot == 0:
            h.client.close()
    assert h.lane.counters()["bells_pending"] == 2
    assert len(h.taken()) == 2


# ---- the poller: whose turn it is


def test_take_answers_none_when_there_is_nothing(heap):
    poller = _core.Poller(0)
    assert poller.take(8) is None
    h = heap()
    poller.add(h.lane)
    assert poller.take(8) is None
    h.submit(0)
    assert poller.take(8) is h.lane
    assert h.lane.count == 1


def test_a_lane_whose_batch_is_running_is_passed_over(heap):
    poller, busy, other = _core.Poller(0), heap(), heap()
    poller.add(busy.lane)
    poller.add(other.lane)
    busy.submit(0)
    assert poller.take(8) is busy.lane
    busy.submit(1)
    assert poller.take(8) is None
    other.submit(0)
    assert poller.take(8) is other.lane
    busy.lane.complete_echo()
    assert poller.take(8) is busy.lane


def test_a_paused_lane_is_passed_over_and_keeps_nobody_awake(heap, waits):
    poller, paused, other = _core.Poller(-1), heap(), heap()
    for h in (paused, other):
        poller.add(h.lane)
        h.submit(0)
    paused.lane.paused = True
    assert [poller.take(8), poller.take(8), poller.sweep(8)] == [other.lane, None, None]
    waiting = waits(poller)  # a spin that never ends, unless it finds something
    poller.wake()
    assert waiting.ended() is None
    paused.lane.paused = False
    assert poller.next(8) is paused.lane


def test_a_flooding_client_delays_another_by_one_batch_at_most(heap):
    poller, flood, meek = _core.Poller(0), heap(image_spec(8)), heap()
    poller.add(flood.lane)
    poller.add(meek.lane)
    for slot in range(8):
        flood.submit(slot)
    for round_ in range(20):
        meek.submit(round_ % 4)
        turns = []
        for _ in range(2):
            lane = poller.next(4)
            turns.append(lane)
            assert lane.count <= 4
            lane.complete_echo()
            for done in flood.taken():  # it resubmits at once
                flood.submit(int(done["slot"]))
            meek.taken()
        assert meek.lane in turns, f"round {round_}"


def test_sessions_take_turns(heap):
    poller, lanes = _core.Poller(0), [heap() for _ in range(5)]
    for h in lanes:
        poller.add(h.lane)
        h.submit(0)
        h.submit(1)
    served = []
    while (lane := poller.take(1)) is not None:
        served.append([h.lane for h in lanes].index(lane))
        lane.complete_echo()
    assert served == [0, 1, 2, 3, 4] * 2


def test_a_sweep_looks_at_each_session_once_whatever_one_of_them_resubmits(heap):
    poller, lanes = _core.Poller(0), [heap() for _ in range(4)]
    for h in lanes:
        poller.add(h.lane)
        h.submit(0)
    for _ in range(3):
        swept = []
        while (lane := poller.sweep(8)) is not None:
            swept.append([h.lane for h in lanes].index(lane))
            lane.complete_echo()
            lanes[swept[-1]].submit(0)
        assert swept == [0, 1, 2, 3]


@pytest.mark.parametrize("begin", ["next", "take"])
def test_a_sweep_goes_on_where_next_or_take_began(heap, begin):
    poller, lanes = _core.Poller(0), [heap() for _ in range(3)]
    for h in lanes:
        poller.add(h.lane)
        h.submit(0)
    assert getattr(poller, begin)(8) is lanes[0].lane
    lanes[0].lane.complete_echo()
    lanes[0].submit(0)
    assert [poller.sweep(8) for _ in range(3)] == [lanes[1].lane, lanes[2].lane, None]
    assert poller.sweep(8) is lanes[0].lane  # of the next one


@pytest.mark.parametrize("seed", range(20))
def test_sessions_that_come_and_go_do_not_have_another_one_passed_over(heap, seed):
    random = np.random.default_rng(seed)
    poller, lanes = _core.Poller(0), [heap() for _ in range(12)]
    there = list(range(6))
    for number in there:
        poller.add(lanes[number].lane)
    for h in lanes:
        h.submit(0)
    for _ in range(20):
        swept, stayed = [], set(there)
        while (lane := poller.sweep(8)) is not None:
            swept.append([h.lane for h in lanes].index(lane))
            lane.complete_echo()
            lanes[swept[-1]].taken()
            lanes[swept[-1]].submit(0)
            if random.integers(3) == 0 and len(there) > 1:
                gone = there.pop(random.integers(len(there)))
                poller.remove(lanes[gone].lane)
                stayed.discard(gone)
            elif random.integers(3) == 0 and len(there) < len(lanes):
                new = next(number for number in range(12) if number not in there)
                there.append(new)
                poller.add(lanes[new].lane)
        assert stayed <= set(swept), "one that was there all the time was not looked at"
        assert all(swept.count(number) <= 1 for number in stayed)


def test_a_byte_that_is_no_bell_is_seen_although_another_client_never_lets_the_server_sleep(heap):
    poller, busy, hostile = _core.Poller(0), heap(), heap(doorbell=True)
    poller.add(busy.lane)
    poller.add(hostile.lane)
    hostile.client.send(b"X")
    busy.submit(0)

    def seen() -> bool:
        lane = poller.next(8)
        if lane is hostile.lane:
            return True
        lane.complete_echo()
        busy.taken()
        busy.submit(0)
        return False

    soon(seen, 60)
    assert hostile.lane.fault == "byte 88 on the doorbell is no bell"
    assert poller.counters()["parks"] == 0


def test_a_fault_is_handed_out_once_and_the_others_go_on(heap):
    poller, hostile, other = _core.Poller(0), heap(), heap()
    poller.add(hostile.lane)
    poller.add(other.lane)
    hostile.submit(99)
    other.submit(0)
    lane = poller.next(8)
    assert (lane, lane.count, lane.op) == (hostile.lane, 0, 0)
    assert "slot out of range: 99" in lane.fault
    assert poller.next(8) is other.lane
    other.lane.complete_echo()
    assert poller.take(8) is None
    poller.remove(hostile.lane)


def test_lanes_come_and_go(heap):
    poller, lanes = _core.Poller(0), [heap(doorbell=True) for _ in range(40)]
    for h in lanes:
        poller.add(h.lane)
    for h in lanes[::2]:
        poller.remove(h.lane)
    for h in lanes:
        h.submit(1)
    served = set()
    while (lane := poller.take(8)) is not None:
        served.add(lane)
        lane.complete_echo()
    assert served == {h.lane for h in lanes[1::2]}
    for h in lanes[1::2]:
        poller.remove(h.lane)
    assert poller.take(8) is None
    with pytest.raises(ValueError, match="was not added"):
        poller.remove(lanes[0].lane)
    poller.add(lanes[0].lane)
    assert poller.take(8) is lanes[0].lane


def test_a_poller_takes_lanes_and_nothing_else(heap):
    poller = _core.Poller(0)
    for wrong in (None, "lane", _core.Lane):
        with pytest.raises(TypeError, match="takes a Lane"):
            poller.add(wrong)
        with pytest.raises(ValueError, match="was not added"):
            poller.remove(wrong)
    with pytest.raises(TypeError, match="once"):
        poller.__init__(0)
    for arguments in ((), ("0",), (0, 0)):
        with pytest.raises(TypeError):
            _core.Poller(*arguments)


def test_a_doorbell_that_is_no_socket_is_an_oserror_and_the_lane_is_not_added():
    memory, _ = memory_of(image_spec())
    lane, poller = _core.Lane(memory, 999_999), _core.Poller(0)
    with pytest.raises(OSError, match="Bad file descriptor"):
        poller.add(lane)
    with pytest.raises(ValueError, match="was not added"):
        poller.remove(lane)


# ---- the poller: spinning, sleeping, waking


class Waiting:
    """poller.next in a thread, as the data thread does it."""

    def __init__(self, poller: _core.Poller) -> None:
        self.poller, self.result = poller, "nothing yet"
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        self.result = self.poller.next(8)

    def ended(self) -> object:
        self.thread.join(60)
        assert not self.thread.is_alive(), "it still waits"
        return self.result


@pytest.fixture
def waits(heap):
    """waits(poller) makes a Waiting; none is left behind to look at lanes that are closed."""
    made: list[Waiting] = []

    def make(poller: _core.Poller) -> Waiting:
        made.append(Waiting(poller))
        return made[-1]

    yield make
    for waiting in made:
        while waiting.thread.is_alive():
            waiting.poller.wake()
            waiting.thread.join(0.1)


def asleep(poller: _core.Poller) -> None:
    """Wait until the poller stays asleep: what keeps waking it never lets this return."""

    def quiet() -> bool:
        parks = poller.counters()["parks"]
        time.sleep(0.05)
        return poller.counters()["parks"] == parks

    soon(quiet)


def test_wake_ends_next_from_any_thread_and_also_beforehand(waits):
    poller = _core.Poller(0)
    waiting = waits(poller)
    time.sleep(0.02)
    poller.wake()
    assert waiting.ended() is None
    poller.wake()
    poller.wake()
    assert poller.next(8) is None
    assert poller.take(8) is None
    waiting = waits(poller)  # both wakes are spent: this one sleeps
    time.sleep(0.05)
    assert waiting.thread.is_alive()
    poller.wake()
    assert waiting.ended() is None


def test_a_sleeping_server_says_so_and_is_woken_by_a_bell(heap, waits):
    h = heap(doorbell=True)
    poller = _core.Poller(0)
    poller.add(h.lane)
    for round_ in range(20):
        waiting = waits(poller)
        soon(lambda: h.header["server_parked"] == 1)
        h.submit(round_ % 4)
        h.header["server_parked"] = 0
        h.client.send(bytes([layout.BELL]))
        assert waiting.ended() is h.lane
        assert h.header["server_parked"] == 0
        h.lane.complete_echo()
        assert len(h.taken()) == 1
    assert poller.counters()["parks"] >= 20


def test_every_session_is_told_that_the_server_sleeps_and_each_can_wake_it(heap, waits):
    poller, lanes = _core.Poller(0), [heap(doorbell=True) for _ in range(3)]
    for h in lanes:
        poller.add(h.lane)
    for h in (lanes[2], lanes[0], lanes[1]):
        waiting = waits(poller)
        soon(lambda: all(each.header["server_parked"] == 1 for each in lanes))
        h.submit(0)
        h.client.send(bytes([layout.BELL]))
        assert waiting.ended() is h.lane
        assert all(each.header["server_parked"] == 0 for each in lanes)
        h.lane.complete_echo()


def test_what_was_submitted_before_the_park_is_seen_without_a_bell(heap):
    h = heap(doorbell=True)
    poller = _core.Poller(0)
    poller.add(h.lane)
    h.submit(0)
    assert poller.next(8) is h.lane
    assert poller.counters()["parks"] == 0


def test_bells_without_news_wake_for_nothing_and_are_read_away(heap, waits):
    h = heap(doorbell=True)
    poller = _core.Poller(0)
    poller.add(h.lane)
    waiting = waits(poller)
    soon(lambda: h.header["server_parked"] == 1)
    for _ in range(5):
        h.client.send(bytes([layout.BELL]) * 100)
        time.sleep(0.005)
    soon(lambda: not select.select([h.server], [], [], 0)[0])
    asleep(poller)
    assert waiting.thread.is_alive()
    poller.wake()
    assert waiting.ended() is None


@pytest.mark.parametrize("data", [b"\x00", b"\x01\x01\x02", b"STB1", b"\x01" * 256 + b"\xff" * 300], ids=len)
def test_a_byte_that_is_no_bell_is_a_fault(heap, data, waits):
    h = heap(doorbell=True)
    poller = _core.Poller(0)
    poller.add(h.lane)
    waiting = waits(poller)
    soon(lambda: h.header["server_parked"] == 1)
    h.client.send(data)
    assert waiting.ended() is h.lane
    first = next(byte for byte in data if byte != layout.BELL)
    assert h.lane.fault == f"byte {first} on the doorbell is no bell"
    assert (h.lane.count, h.lane.op) == (0, 0)
    assert poller.take(8) is None


@pytest.mark.parametrize("how", ["closed", "shut down", "closed with bells unread", "reset"])
def test_a_client_that_hangs_up_wakes_once_and_does_not_keep_the_server_awake(heap, how, waits):
    h, other = heap(doorbell=True), heap(doorbell=True)
    poller = _core.Poller(0)
    poller.add(h.lane)
    poller.add(other.lane)
    waiting = waits(poller)
    soon(lambda: h.header["server_parked"] == 1)
    if how == "shut down":
        h.client.shutdown(socket.SHUT_RDWR)
    else:
        if how == "closed with bells unread":
            h.client.send(bytes([layout.BELL]) * 1000)
        elif how == "reset":
            h.server.send(bytes([layout.BELL]))  # unread by the client when it closes: a reset
        h.client.close()
    soon(lambda: poller.counters()["parks"] >= 1)
    asleep(poller)
    other.submit(0)
    other.client.send(bytes([layout.BELL]))
    assert waiting.ended() is other.lane
    poller.remove(h.lane)  # as the control thread has it


def test_more_doorbells_than_one_wake_looks_at_are_all_served(heap, waits):
    poller, lanes = _core.Poller(0), [heap(image_spec(1), doorbell=True) for _ in range(150)]
    for h in lanes:
        poller.add(h.lane)
    waiting = waits(poller)
    soon(lambda: lanes[-1].header["server_parked"] == 1)
    for h in lanes:
        h.submit(0)
        h.client.send(bytes([layout.BELL]))
    lane, served = waiting.ended(), set()
    while len(served) < len(lanes):
        served.add(lane)
        lane.complete_echo()
        lane = poller.next(8) if len(served) < len(lanes) else None
    assert served == {h.lane for h in lanes}


def test_an_idle_server_sleeps_in_one_system_call(heap, waits):
    h = heap(doorbell=True)
    poller = _core.Poller(100_000)
    poller.add(h.lane)
    waiting = waits(poller)
    soon(lambda: h.header["server_parked"] == 1)
    used = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - used < 0.1
    assert poller.counters()["parks"] == 0  # it is in the first one
    poller.wake()
    assert waiting.ended() is None


def test_a_spin_catches_what_comes_and_one_without_end_never_sleeps(heap, waits):
    h = heap(doorbell=True)
    poller = _core.Poller(-1)
    poller.add(h.lane)
    for round_ in range(5):
        waiting = waits(poller)
        time.sleep(0.01)
        h.submit(round_ % 4)  # and no bell
        assert waiting.ended() is h.lane
        h.lane.complete_echo()
        h.taken()
    counters = poller.counters()
    assert (counters["parks"], counters["spin_misses"]) == (0, 0)
    assert counters["spin_hits"] >= 5


def test_a_spin_that_does_not_pay_is_cut_until_there_is_none(heap, waits):
    """Half the budget after each miss, nothing below 2 us; back to the full one when a sleep was shorter than it."""
    h = heap(doorbell=True)
    poller = _core.Poller(64_000)
    poller.add(h.lane)

    def sleep_through(seconds: float) -> None:
        waiting = waits(poller)
        soon(lambda: h.header["server_parked"] == 1)
        time.sleep(seconds)
        poller.wake()
        assert waiting.ended() is None

    misses, tries = -1, 0
    while (now := poller.counters()["spin_misses"]) != misses:
        misses, tries = now, tries + 1
        assert tries < 50, "it goes on spinning for nothing"
        sleep_through(0.01)
    assert misses >= 6  # 64, 32, 16, 8, 4 and 2 us


def test_the_gil_is_free_while_a_poller_waits(waits):
    for spin in (0, -1):
        poller = _core.Poller(spin)
        waiting = waits(poller)
        begun, turns = time.monotonic(), 0
        while time.monotonic() - begun < 0.05:
            turns += 1
        assert turns > 100
        poller.wake()
        assert waiting.ended() is None


def test_a_poller_and_its_lanes_may_be_dropped_in_any_order():
    for _ in range(3):
        poller, lanes = _core.Poller(0), [HeapLane(doorbell=True) for _ in range(3)]
        for h in lanes:
            poller.add(h.lane)
        poller.remove(lanes[1].lane)
        del poller
        for h in lanes:
            h.close()


def test_lane_kinds_have_counters_under_the_same_names(heap):
    names = set(heap().lane.counters())
    assert names == set(heap(prompt_spec()).lane.counters())
    assert {"echoes", "calls", "batches", "expired", "refused", "bells_sent", "bells_suppressed"} <= names
    assert set(_core.Poller(0).counters()) == {"spin_hits", "spin_misses", "parks", "wakes"}


def test_a_poller_forgives_a_closed_lane_and_a_huge_limit_and_refuses_what_it_cannot_do(heap):
    lane, poller = heap(), _core.Poller(0)
    poller.add(lane.lane)
    lane.submit(0)
    assert poller.take(2**40) is lane.lane
    lane.lane.complete_echo()
    lane.lane.close()
    assert poller.take(4) is None
    poller.wake()
    assert poller.next(4) is None
    with pytest.raises(ValueError, match="at least 1"):
        poller.take(0)
    never = _core.Poller.__new__(_core.Poller)
    for call in (never.wake, lambda: never.next(1)):
        with pytest.raises(ValueError, match="not initialised"):
            call()
    with pytest.raises(TypeError):
        never.add(lane.lane)
