"""A reader of segments in plain Python: nothing is believed, and what is wrong is said in one word.

    header, lanes = read_header(memory)
    found, error = read_ring("completion", memory, lanes[0], head)

Slow and simple, to compare the others with. It follows layout.md and shares no code with the server's core.
"""

import itertools

import numpy as np

from shm_server import layout
from shm_server.layout import LaneKind, Op, Status, SubmissionFlag

OPS = {LaneKind.IMAGE: (Op.ECHO, Op.CLASSIFY), LaneKind.PROMPT: (Op.ECHO, Op.PROMPT)}
LANE = np.dtype(layout.generated.STRUCTS["lane"])


class Malformed(Exception):
    """`kind` is one of the words of "error" in the golden segments."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def words(dtype: np.dtype, memory: bytes, at: int) -> dict:
    row = np.frombuffer(memory, dtype, 1, at)[0]
    return {name: row[name].item() for name in dtype.names}


def expect(right: bool, kind: str, message: str) -> None:
    if not right:
        raise Malformed(kind, message)


def read_raw(memory: bytes) -> tuple[dict, list[dict]]:
    """Header and lane table as they are: the first entry always, and never more than there can be."""
    header = words(layout.header, memory, 0)
    count = max(1, min(header["lane_count"], layout.MAX_LANES))
    return header, [words(LANE, memory, layout.LANES_OFFSET + i * LANE.itemsize) for i in range(count)]


def read_header(memory: bytes) -> tuple[dict, list[dict]]:
    """Header and lane table. Malformed unless a segment may look like that."""
    expect(len(memory) >= layout.PAGE_BYTES, "geometry", "no room for a header")
    header, lanes = read_raw(memory)
    expect(header["magic"] == layout.SEGMENT_MAGIC, "magic", f"{header['magic']:#x}")
    expect(header["layout_major"] == layout.LAYOUT_MAJOR, "version", f"major {header['layout_major']}")
    expect(header["header_bytes"] == layout.PAGE_BYTES, "geometry", f"header of {header['header_bytes']} bytes")
    size = header["segment_bytes"]
    expect(size <= min(len(memory), layout.MAX_SEGMENT_BYTES), "geometry", f"{size} bytes of {len(memory)}")
    expect(1 <= header["lane_count"] <= layout.MAX_LANES, "geometry", f"{header['lane_count']} lanes")
    areas = [(0, layout.PAGE_BYTES)]
    for lane in lanes:
        check_lane(lane)
        areas += areas_of(lane)
    for offset, length in areas:
        expect(offset % layout.PAGE_BYTES == 0, "geometry", f"area at {offset}, not on a page")
        expect(offset <= size and length <= size - offset, "geometry", f"area at {offset} leaves the segment")
    areas.sort()
    for (offset, length), (following, _) in itertools.pairwise(areas):
        expect(following - offset >= length, "geometry", f"areas at {offset} and {following} overlap")
    return header, lanes


def check_lane(lane: dict) -> None:
    slots, submissions, completions = lane["slot_count"], lane["submission_entries"], lane["completion_entries"]
    each = 2 if lane["kind"] == LaneKind.PROMPT else 1
    expect(1 <= slots <= layout.MAX_SLOTS, "geometry", f"{slots} slots")
    expect(lane["slot_bytes"] > 0 and lane["slot_bytes"] % 64 == 0, "geometry", f"slots of {lane['slot_bytes']} bytes")
    if lane["kind"] == LaneKind.IMAGE:
        expect(lane["slot_bytes"] == layout.IMAGE_BYTES, "geometry", f"images of {lane['slot_bytes']} bytes")
    expect(lane["reply_bytes"] % layout.LINE_BYTES == 0, "geometry", f"replies of {lane['reply_bytes']} bytes")
    for entries, least in ((submissions, slots), (completions, each * slots)):
        expect(entries.bit_count() == 1 and entries >= least, "geometry", f"{entries} entries for {slots} slots")


def areas_of(lane: dict) -> list[tuple[int, int]]:
    slots = lane["slot_count"]
    areas = [
        (lane["submissions_offset"], lane["submission_entries"] * layout.ENTRY_BYTES),
        (lane["completions_offset"], lane["completion_entries"] * layout.ENTRY_BYTES),
        (lane["slots_offset"], slots * lane["slot_bytes"]),
        (lane["replies_offset"], slots * lane["reply_bytes"]),
    ]
    if lane["kind"] == LaneKind.PROMPT:
        areas += [(lane["controls_offset"], slots * layout.LINE_BYTES)]
        areas += [(lane["progress_offset"], slots * layout.LINE_BYTES)]
    return areas


def read_ring(ring: str, memory: bytes, lane: dict, head: int) -> tuple[list[dict], str | None]:
    """The entries that a consumer at `head` finds, up to the first that is wrong, and what is wrong with that."""
    dtype = getattr(layout, ring)
    entries, found = lane[f"{ring}_entries"], []
    check = check_submission if ring == "submission" else check_completion
    try:
        for position in range(head, head + entries):  # Python's integers do not wrap
            entry = words(dtype, memory, lane[f"{ring}s_offset"] + position % entries * layout.ENTRY_BYTES)
            if entry["turn"] == layout.turn(position % 2**64, entries):
                check(entry, lane)
                found.append(entry)
            else:
                before = position % 2**64 // entries
                expect(entry["turn"] == before, "turn", f"turn {entry['turn']} at {position}, {before} stood there")
                break
    except Malformed as malformed:
        return found, malformed.kind
    return found, None


def check_submission(entry: dict, lane: dict) -> None:
    flags = int(SubmissionFlag.WANT_SCORES) if entry["op"] == Op.CLASSIFY else 0
    expect(entry["slot"] < lane["slot_count"], "slot", f"slot {entry['slot']}")
    expect(entry["op"] in OPS[lane["kind"]], "op", f"op {entry['op']}")
    expect(not entry["flags"] & ~flags, "flags", f"flags {entry['flags']:#x}")
    whole = entry["length"] == lane["slot_bytes"]
    fits = lane["kind"] == LaneKind.PROMPT and entry["length"] <= lane["slot_bytes"]
    expect(whole or fits, "length", f"{entry['length']} bytes")


def check_completion(entry: dict, lane: dict) -> None:
    expect(entry["slot"] < lane["slot_count"], "slot", f"slot {entry['slot']}")
    expect(entry["status"] in list(Status), "status", f"status {entry['status']}")
    expect(entry["length"] <= lane["reply_bytes"], "length", f"{entry['length']} bytes")
