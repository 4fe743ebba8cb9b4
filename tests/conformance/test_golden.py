"""The golden segments are what make_golden.py makes, and Python reads them as they say. Go reads the same files."""

import json
import struct

import make_golden
import numpy as np
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
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 2**21  # they are in the repository


@pytest.mark.parametrize("name", MADE)
def test_the_reader_finds_what_the_golden_segment_says(name):
    memory, golden = load(name)
    error, readable = None, True
    header, lane, tensors = read_raw(memory)
    try:
        assert read_header(memory) == (header, lane, tensors)
    except Malformed as malformed:
        error, readable = malformed.kind, False
    lane |= {key: golden["lane"][key] for key in ("submission_head", "completion_head")}
    for ring in ("submission", "completion"):
        head = lane[f"{ring}_head"]
        found, wrong = read_ring(ring, memory, lane, tensors, head) if readable else ([], None)
        lane[f"{ring}s"] = found
        error = error or wrong
    assert error == golden["error"], golden["why"]
    assert header == golden["header"]
    assert lane == golden["lane"]
    assert tensors[: len(golden["tensors"])] == golden["tensors"][: len(tensors)]  # the counts may be what is wrong


def test_every_kind_of_fault_is_there():
    errors = {json.loads(document)["error"] for _, document in MADE.values()}
    words = {"magic", "version", "epoch", "geometry", "turn", "slot", "op", "flags", "extent", "status", "message"}
    assert errors == words | {None}


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
        row = golden["tensors"][0]
        at = row["offset"] + slot * row["row_bytes"]
        data = memory[at : at + row["row_bytes"]]
        assert golden["lane"]["completions"][0]["checksum"] == _core.checksum(data) == checksum(data)


def test_the_outputs_and_messages_hold_what_the_completions_say():
    memory, golden = load("answered")
    scores = np.frombuffer(memory, "<f4", 10, golden["tensors"][1]["offset"])
    assert (scores.argmax(), scores.max()) == (9, 0.859375)
    failed = golden["lane"]["completions"][3]
    at = golden["lane"]["messages_offset"] + failed["slot"] * CONSTANTS["message_bytes"]
    assert memory[at : at + failed["message_bytes"]].decode() == "ValueError: zu groß"


def test_a_position_near_2_64_is_really_near_it():
    _, golden = load("across_the_end_of_positions")
    assert [entry["turn"] for entry in golden["lane"]["submissions"]] == [0, 0, 1, 1]
    memory, golden = load("before_the_end_of_positions")
    lane = golden["lane"]
    last = lane["submissions_offset"] + 3 * CONSTANTS["entry_bytes"]
    assert struct.unpack_from("<Q", memory, last) == (2**62 - 1,)
