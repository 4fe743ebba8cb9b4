"""The golden segments are what make_golden.py makes, and Python reads them as they say. Go reads the same files."""

import json
import struct

import make_golden
import pytest
from make_golden import FOLDER, checksum, segments
from segment_reader import Malformed, read_header, read_raw, read_ring
from tables import CONSTANTS

from shm_server import _core

MADE = {name: (memory, document) for name, memory, document in segments()}


def load(name: str) -> tuple[bytes, dict]:
    return (FOLDER / f"{name}.bin").read_bytes(), json.loads((FOLDER / f"{name}.json").read_text())


def test_the_files_are_what_the_generator_makes():
    wanted = {f"{name}.{kind}" for name in MADE for kind in ("bin", "json")}
    assert {path.name for path in FOLDER.iterdir()} == wanted, "run tests/conformance/make_golden.py"
    for name, (memory, document) in MADE.items():
        assert (FOLDER / f"{name}.json").read_text() == document, f"{name}.json: run tests/conformance/make_golden.py"
        assert (FOLDER / f"{name}.bin").read_bytes() == memory, f"{name}.bin: run tests/conformance/make_golden.py"
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 2**20  # they are in the repository


@pytest.mark.parametrize("name", MADE)
def test_the_reader_finds_what_the_golden_segment_says(name):
    memory, golden = load(name)
    error, readable = None, True
    header, lanes = read_raw(memory)
    try:
        assert read_header(memory) == (header, lanes)
    except Malformed as malformed:
        error, readable = malformed.kind, False
    for lane, wanted in zip(lanes, golden["lanes"], strict=False):
        lane |= {key: wanted[key] for key in ("submission_head", "completion_head")}
        for ring in ("submission", "completion"):
            found, wrong = read_ring(ring, memory, lane, lane[f"{ring}_head"]) if readable else ([], None)
            lane[f"{ring}s"] = found
            error = error or wrong
    assert error == golden["error"], golden["why"]
    assert header == golden["header"]
    assert lanes[: len(golden["lanes"])] == golden["lanes"]


def test_every_kind_of_fault_is_there():
    errors = {json.loads(document)["error"] for _, document in MADE.values()}
    assert errors == {None, "magic", "version", "geometry", "turn", "slot", "op", "flags", "length", "status"}


def test_each_broken_segment_is_broken_in_one_way_only():
    """Put the one word right, and the reader is content: otherwise it may have stumbled over something else."""
    whole = [name for name, (_, document) in MADE.items() if json.loads(document)["error"] is None]
    assert len(whole) == len(make_golden.RIGHT)
    right = make_golden.broken_header("", "").finish("")[0]
    read_header(right)
    for name in make_golden.HEADERS:
        memory = MADE[name][0]
        if len(memory) == len(right):
            assert 1 <= sum(a != b for a, b in zip(memory, right, strict=True)) <= 8, name


def test_echo_answers_carry_the_checksum_of_their_slots():
    for name, slot in (("in_flight", 0), ("wrapped", 1)):
        memory, golden = load(name)
        lane = golden["lanes"][0]
        at = lane["slots_offset"] + slot * lane["slot_bytes"]
        data = memory[at : at + lane["slot_bytes"]]
        assert lane["completions"][0]["checksum"] == _core.checksum(data) == checksum(data)


def test_the_replies_hold_what_the_completions_say():
    memory, golden = load("answered")
    lane = golden["lanes"][0]
    scored, _, _, failed = lane["completions"]
    reply = memory[lane["replies_offset"] :][: scored["length"]]
    scores = struct.unpack(f"<{scored['length'] // 4}f", reply)
    assert (scores[scored["label"]], max(scores)) == (scored["score"], scored["score"])
    at = lane["replies_offset"] + failed["slot"] * lane["reply_bytes"]
    assert memory[at : at + failed["length"]].decode() == "ValueError: zu groß"


def test_a_position_near_2_64_is_really_near_it():
    _, golden = load("across_the_end_of_positions")
    assert [entry["turn"] for entry in golden["lanes"][0]["submissions"]] == [0, 0, 1, 1]
    memory, golden = load("before_the_end_of_positions")
    lane = golden["lanes"][0]
    last = lane["submissions_offset"] + 3 * CONSTANTS["entry_bytes"]
    assert struct.unpack_from("<Q", memory, last) == (2**62 - 1,)
