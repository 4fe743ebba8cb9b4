"""A reader of segments in plain Python: nothing is believed, and what is wrong is said in one word.

    header, lane, tensors = read_header(memory)
    found, error = read_ring("completion", memory, lane, tensors, head)

Slow and simple, to compare the others with. It follows layout.md and shares no code with the server's core.
"""

import itertools
import math

import numpy as np

from shm_server import layout
from shm_server.layout import DATATYPE_BYTES, Datatype, Op, Protocol, Status, SubmissionFlag

PROMPT_FLAGS = int(SubmissionFlag.WITH_TEMPERATURE | SubmissionFlag.WITH_TOP_K | SubmissionFlag.WITH_SEED)


class Malformed(Exception):
    """`kind` is one of the words of "error" in the golden segments."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def words(dtype: np.dtype, memory: bytes, at: int) -> dict:
    row = np.frombuffer(memory, dtype, 1, at)[0]
    return {name: row[name].tolist() for name in dtype.names}


def expect(right: bool, kind: str, message: str) -> None:
    if not right:
        raise Malformed(kind, message)


def read_raw(memory: bytes) -> tuple[dict, dict, list[dict]]:
    """Header, lane and tensors as they are; never more tensors than there can be."""
    lane = words(layout.lane, memory, layout.LANE_OFFSET)
    count = min(lane["input_count"] + lane["output_count"], layout.MAX_TENSORS)
    tensors = [words(layout.tensor, memory, layout.TENSORS_OFFSET + i * layout.tensor.itemsize) for i in range(count)]
    return words(layout.header, memory, 0), lane, tensors


def read_header(memory: bytes) -> tuple[dict, dict, list[dict]]:
    """Header, lane and tensors. Malformed unless a segment may look like that."""
    expect(len(memory) >= layout.PAGE_BYTES, "geometry", "no room for a header")
    header, lane, tensors = read_raw(memory)
    expect(header["magic"] == layout.SEGMENT_MAGIC, "magic", f"{header['magic']:#x}")
    expect(header["layout_major"] == layout.LAYOUT_MAJOR, "version", f"major {header['layout_major']}")
    expect(header["header_bytes"] == layout.PAGE_BYTES, "geometry", f"header of {header['header_bytes']} bytes")
    expect(header["epoch"] != 0, "epoch", "epoch 0")
    size = header["segment_bytes"]
    expect(size <= min(len(memory), layout.MAX_SEGMENT_BYTES), "geometry", f"{size} bytes of {len(memory)}")
    check_lane(lane)
    for tensor in tensors:
        check_tensor(tensor)
    bounds = {tensor["dims"][0] for tensor in tensors if tensor["symbolic"]}
    if lane["protocol"] == Protocol.CALL:
        expect(len(bounds) <= 1, "geometry", f"bounds {bounds}")
    else:
        check_texts(lane, tensors)
    areas = [(0, layout.PAGE_BYTES), *areas_of(lane, tensors)]
    for offset, length in areas:
        expect(offset % layout.PAGE_BYTES == 0, "geometry", f"area at {offset}, not on a page")
        expect(offset <= size and length <= size - offset, "geometry", f"area at {offset} leaves the segment")
    areas.sort()
    for (offset, length), (following, _) in itertools.pairwise(areas):
        expect(following - offset >= length, "geometry", f"areas at {offset} and {following} overlap")
    return header, lane, tensors


def check_lane(lane: dict) -> None:
    slots, submissions, completions = lane["slot_count"], lane["submission_entries"], lane["completion_entries"]
    expect(lane["protocol"] in list(Protocol), "geometry", f"protocol {lane['protocol']}")
    each = 2 if lane["protocol"] == Protocol.STREAM else 1
    expect(1 <= slots <= layout.MAX_SLOTS, "geometry", f"{slots} slots")
    for entries, least in ((submissions, slots), (completions, each * slots)):
        expect(entries.bit_count() == 1 and entries >= least, "geometry", f"{entries} entries for {slots} slots")
    inputs, outputs = lane["input_count"], lane["output_count"]
    expect(min(inputs, outputs) >= 1, "geometry", f"{inputs} inputs, {outputs} outputs")
    expect(inputs + outputs <= layout.MAX_TENSORS, "geometry", f"{inputs} inputs, {outputs} outputs")


def check_tensor(tensor: dict) -> None:
    expect(tensor["datatype"] in list(Datatype), "geometry", f"datatype {tensor['datatype']}")
    expect(1 <= tensor["rank"] <= layout.MAX_RANK, "geometry", f"rank {tensor['rank']}")
    expect(tensor["symbolic"] in (0, 1), "geometry", f"symbolic {tensor['symbolic']}")
    dims = tensor["dims"][: tensor["rank"]]
    expect(min(dims) >= 1, "geometry", f"dims {dims}")
    used = math.prod(dims) * DATATYPE_BYTES[tensor["datatype"]]
    row = -(-used // layout.ROW_ALIGNMENT) * layout.ROW_ALIGNMENT
    expect(tensor["row_bytes"] == row, "geometry", f"rows of {tensor['row_bytes']} bytes, {row} for {dims}")


def check_texts(lane: dict, tensors: list[dict]) -> None:
    expect(len(tensors) == 2 and lane["input_count"] == 1, "geometry", "a prompt in, a text out")
    for tensor in tensors:
        text = tensor["datatype"] == Datatype.UINT8 and tensor["rank"] == tensor["symbolic"] == 1
        expect(text and tensor["dims"][0] <= layout.MAX_TEXT_BYTES, "geometry", f"no text: {tensor}")
    expect(tensors[0]["dims"][0] <= tensors[1]["dims"][0], "geometry", "a prompt is longer than its reply")


def areas_of(lane: dict, tensors: list[dict]) -> list[tuple[int, int]]:
    slots = lane["slot_count"]
    areas = [
        (lane["submissions_offset"], lane["submission_entries"] * layout.ENTRY_BYTES),
        (lane["completions_offset"], lane["completion_entries"] * layout.ENTRY_BYTES),
        (lane["messages_offset"], slots * layout.MESSAGE_BYTES),
        *((tensor["offset"], slots * tensor["row_bytes"]) for tensor in tensors),
    ]
    if lane["protocol"] == Protocol.STREAM:
        areas += [(lane["controls_offset"], slots * layout.LINE_BYTES)]
        areas += [(lane["progress_offset"], slots * layout.LINE_BYTES)]
    return areas


def bounds_of(lane: dict, tensors: list[dict]) -> tuple[int, int]:
    """Of the extents in submissions and in completions."""
    inputs, outputs = tensors[: lane["input_count"]], tensors[lane["input_count"] :]
    if lane["protocol"] == Protocol.STREAM:
        return inputs[0]["dims"][0], outputs[0]["dims"][0]
    bound = max((tensor["dims"][0] for tensor in tensors if tensor["symbolic"]), default=0)
    return bound, bound


def read_ring(ring: str, memory: bytes, lane: dict, tensors: list[dict], head: int) -> tuple[list[dict], str | None]:
    """The entries that a consumer at `head` finds, up to the first that is wrong, and what is wrong with that."""
    dtype = getattr(layout, ring)
    entries, found = lane[f"{ring}_entries"], []
    check = check_submission if ring == "submission" else check_completion
    try:
        for position in range(head, head + entries):  # Python's integers do not wrap
            entry = words(dtype, memory, lane[f"{ring}s_offset"] + position % entries * layout.ENTRY_BYTES)
            if entry["turn"] == layout.turn(position % 2**64, entries):
                check(entry, lane, bounds_of(lane, tensors))
                found.append(entry)
            else:
                before = position % 2**64 // entries
                expect(entry["turn"] == before, "turn", f"turn {entry['turn']} at {position}, {before} stood there")
                break
    except Malformed as malformed:
        return found, malformed.kind
    return found, None


def check_submission(entry: dict, lane: dict, bounds: tuple[int, int]) -> None:
    flags = PROMPT_FLAGS if entry["op"] == Op.RUN and lane["protocol"] == Protocol.STREAM else 0
    expect(entry["slot"] < lane["slot_count"], "slot", f"slot {entry['slot']}")
    expect(entry["op"] in list(Op), "op", f"op {entry['op']}")
    expect(not entry["flags"] & ~flags, "flags", f"flags {entry['flags']:#x}")
    expect(entry["extent"] <= bounds[0], "extent", f"extent {entry['extent']} of {bounds[0]}")


def check_completion(entry: dict, lane: dict, bounds: tuple[int, int]) -> None:
    expect(entry["slot"] < lane["slot_count"], "slot", f"slot {entry['slot']}")
    expect(entry["status"] in list(Status), "status", f"status {entry['status']}")
    expect(entry["extent"] <= bounds[1], "extent", f"extent {entry['extent']} of {bounds[1]}")
    expect(entry["message_bytes"] <= layout.MESSAGE_BYTES, "message", f"{entry['message_bytes']} bytes")
