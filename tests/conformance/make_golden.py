"""Write the golden segments: what every language must read alike.

    python tests/conformance/make_golden.py

golden/NAME.bin is a segment, byte by byte as in shared memory; golden/NAME.json says what is in it:

    name, why
    error     null, or what a reader must reject it for: "magic", "version", "epoch", "geometry" (the header),
              "turn", "slot", "op", "flags", "extent", "status", "message" (the first entry that is not right)
    header    every word of the header
    lane      every word of the lane; where its consumers stand, `submission_head` and `completion_head`; and
              `submissions`, `completions`: what they find from there on, word by word, up to the first entry that is
              not published or not right
    tensors   every word of each tensor, the inputs first

The numbers come from what was put in, by offsets read from layout.md: no reader's code is used here.
"""

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tables import CONSTANTS, DATATYPE_BYTES, ENUMS, FORMATS, PLAIN, SIZES, STRUCTS

FOLDER = Path(__file__).with_name("golden")
PAGE, ENTRY = CONSTANTS["page_bytes"], CONSTANTS["entry_bytes"]
LANE_AT, TENSORS_AT = (
    next(word.offset for word in STRUCTS["header"] if word.name == name) for name in ("lane", "tensors")
)
RANK = CONSTANTS["max_rank"]
CALL, STREAM = ENUMS["protocol"]["call"], ENUMS["protocol"]["stream"]
ECHO, RUN = ENUMS["op"]["echo"], ENUMS["op"]["run"]
STATUS = ENUMS["status"]
END = 2**64


def turn(position: int, entries: int) -> int:
    return (position + entries) % END // entries


def checksum(data: bytes) -> int:
    a = b = 0
    for (word,) in struct.iter_unpack("<Q", data + bytes(-len(data) % 8)):
        a = (a + word) % END
        b = (b + a) % END
    return a ^ (b << 32 | b >> 32) % END


def tensor(datatype: str, *dims: int, symbolic: bool = False) -> dict:
    number = ENUMS["datatype"][datatype]
    row = -(-math.prod(dims) * DATATYPE_BYTES[number] // CONSTANTS["row_alignment"]) * CONSTANTS["row_alignment"]
    return {"offset": 0, "row_bytes": row, "datatype": number, "rank": len(dims), "symbolic": int(symbolic),
            "dims": [*dims, *[0] * (RANK - len(dims))]}  # fmt: skip


class Lane(NamedTuple):
    words: dict
    inputs: tuple[dict, ...]
    outputs: tuple[dict, ...]


def call_lane(inputs: tuple, outputs: tuple, slots: int = 4, entries: int = 4) -> Lane:
    words = {"protocol": CALL, "slot_count": slots, "submission_entries": entries, "completion_entries": entries}
    return Lane(words, inputs, outputs)


def image_lane(slots: int = 4, entries: int = 4) -> Lane:
    return call_lane((tensor("uint8", 3, 32, 32),), (tensor("fp32", 10),), slots, entries)


def encoder_lane() -> Lane:
    ids, mask = tensor("int32", 16, symbolic=True), tensor("bool", 16, symbolic=True)
    return call_lane((ids, mask), (tensor("bf16", 16, 8, symbolic=True), tensor("fp64", 1)), 3, 8)


def stream_lane() -> Lane:
    words = {"protocol": STREAM, "slot_count": 2, "submission_entries": 2, "completion_entries": 4}
    return Lane(words, (tensor("uint8", 150, symbolic=True),), (tensor("uint8", 500, symbolic=True),))


def as_json(value, indent: int = 0) -> str:
    """JSON in which what holds nothing but numbers and words is one line."""
    items = list(value.items()) if isinstance(value, dict) else [(None, item) for item in value]
    if not any(isinstance(item, dict | list) for _, item in items):
        return json.dumps(value)
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    lines = []
    for key, item in items:
        text = as_json(item, indent + 1) if isinstance(item, dict | list) else json.dumps(item)
        lines.append(" " * (indent + 1) + (f"{json.dumps(key)}: " if key else "") + text)
    return opening + "\n" + ",\n".join(lines) + "\n" + " " * indent + closing


class Golden:
    """A segment and what is in it. `header`, `lane` and `tensors` may be changed to what is wrong before `finish`."""

    def __init__(self, why: str, lane: Lane | None = None) -> None:
        self.why, self.error = why, None
        lane = lane or image_lane()
        self.end = PAGE
        row = dict.fromkeys((word.name for word in PLAIN["lane"]), 0) | lane.words
        row |= {"input_count": len(lane.inputs), "output_count": len(lane.outputs)}
        for ring in ("submission", "completion"):
            row[f"{ring}s_offset"] = self._next(row[f"{ring}_entries"] * ENTRY)
        row["messages_offset"] = self._next(row["slot_count"] * CONSTANTS["message_bytes"])
        self.tensors = [
            each | {"offset": self._next(row["slot_count"] * each["row_bytes"])}
            for each in (*lane.inputs, *lane.outputs)
        ]
        if row["protocol"] == STREAM:
            row["controls_offset"] = self._next(row["slot_count"] * SIZES["control"])
            row["progress_offset"] = self._next(row["slot_count"] * SIZES["progress"])
        row |= {"submission_head": 0, "completion_head": 0, "submissions": [], "completions": []}
        self.lane, self.memory = row, bytearray(self.end)
        self.header = dict.fromkeys((word.name for word in PLAIN["header"]), 0)
        self.header |= {"magic": CONSTANTS["segment_magic"], "layout_major": CONSTANTS["layout_major"]}
        self.header |= {"layout_minor": CONSTANTS["layout_minor"], "header_bytes": PAGE, "segment_bytes": self.end}
        self.header |= {"epoch": 0xF00DFACECAFEBEEF}
        # Where everything is, also when the header will lie.
        self.planned, self.rows = dict(row), [dict(each) for each in self.tensors]

    def _next(self, size: int) -> int:
        begin = self.end
        self.end += -(-size // PAGE) * PAGE
        return begin

    def put(self, name: str, at: int, values: dict) -> dict:
        """Write a struct; words that are not named are 0."""
        values = dict.fromkeys((word.name for word in PLAIN[name]), 0) | values
        for word in PLAIN[name]:
            struct.pack_into(f"<{FORMATS[word.type]}", self.memory, at + word.offset, values[word.name])
        return {name: values[name] for name in (word.name for word in PLAIN[name])}

    def fill(self, slot: int, number: int = 0) -> bytes:
        """Fill a slot's row of a tensor with bytes that tell where they are."""
        size = self.rows[number]["row_bytes"]
        data = bytes((17 * slot + 5 * number + i * i + i // 251) % 256 for i in range(size))
        self.write(number, slot, data)
        return data

    def write(self, number: int, slot: int, data: bytes) -> None:
        """Write to a slot's row of a tensor."""
        at = self.rows[number]["offset"] + slot * self.rows[number]["row_bytes"]
        self.memory[at : at + len(data)] = data

    def say(self, slot: int, message: str) -> int:
        """Write a slot's message; its bytes."""
        at = self.planned["messages_offset"] + slot * CONSTANTS["message_bytes"]
        data = message.encode()
        self.memory[at : at + len(data)] = data
        return len(data)

    def _entry(self, ring: str, position: int, values: dict) -> dict:
        entries = self.planned[f"{ring}_entries"]
        at = self.planned[f"{ring}s_offset"] + position % END % entries * ENTRY
        return self.put(ring, at, {"turn": turn(position, entries)} | values)

    def consumed(self, position: int) -> None:
        """Both rings have come to `position`, and all that was before it is done."""
        row = self.lane
        row["submission_head"] = row["completion_head"] = position % END
        for ring in ("submission", "completion"):
            entries = row[f"{ring}_entries"]
            for old in range(position - entries, position):
                values = {"request_id": old % END, "slot": old % row["slot_count"]}
                values |= {"op": ECHO} if ring == "submission" else {}
                if old >= 0 or position % END > entries:
                    self._entry(ring, old, values)

    def submit(self, position: int, *, right: bool = True, **values) -> None:
        """An entry that is published and not consumed; not `right`: the one that readers must stumble over."""
        defaults = {"request_id": position % END, "slot": position % self.lane["slot_count"], "op": ECHO}
        written = self._entry("submission", position, defaults | values)
        if right:
            self.lane["submissions"].append(written)

    def complete(self, position: int, *, right: bool = True, **values) -> None:
        defaults = {"request_id": position % END, "slot": position % self.lane["slot_count"], "batch": 1}
        written = self._entry("completion", position, defaults | values)
        if right:
            self.lane["completions"].append(written)

    def finish(self, name: str) -> tuple[bytes, str]:
        self.put("header", 0, self.header)
        self.put("lane", LANE_AT, self.lane)
        dims_at = next(word.offset for word in STRUCTS["tensor"] if word.name == "dims")
        for number, row in enumerate(self.tensors):
            at = TENSORS_AT + number * SIZES["tensor"]
            self.put("tensor", at, row)
            struct.pack_into(f"<{RANK}I", self.memory, at + dims_at, *row["dims"])
        document = {"name": name, "why": self.why, "error": self.error, "header": self.header, "lane": self.lane}
        return bytes(self.memory), as_json(document | {"tensors": self.tensors}) + "\n"


# ---- segments that are right


def empty() -> Golden:
    return Golden("a fresh segment: nothing was ever submitted")


def in_flight() -> Golden:
    g = Golden("slot 0 is answered and its answer not yet taken; slots 1 to 3 wait for the server")
    data = g.fill(0)
    g.submit(0)
    g.lane["submissions"].clear()  # the server has it
    g.lane["submission_head"] = 1
    g.complete(0, checksum=checksum(data), batch=1, queue_ns=1500)
    for slot in (1, 2, 3):
        g.fill(slot)
    g.submit(1, op=RUN, submitted=123_456_789_012_345)
    g.submit(2, op=RUN, deadline=2**63 + 1)
    g.submit(3, deadline=1, submitted=END - 1, request_id=END - 1)
    return g


def answered() -> Golden:
    g = Golden("an answer of every status that a call lane has; the server is stopping, and both sides sleep")
    g.header |= {"server_state": ENUMS["server_state"]["draining"], "server_parked": 1, "client_parked": 1}
    g.consumed(4)
    g.lane["completion_head"] = 0
    scores = [0.015625] * 9 + [0.859375]
    g.write(1, 0, struct.pack("<10f", *scores))
    g.complete(0, batch=2, queue_ns=2_000, model_ns=61_000)
    g.complete(1, status=STATUS["deadline_exceeded"], batch=0)
    g.complete(2, status=STATUS["draining"], batch=0)
    g.complete(3, status=STATUS["model_error"], message_bytes=g.say(3, "ValueError: zu groß"), batch=2)
    return g


def wrapped() -> Golden:
    g = Golden("the second lap: entry 3 still holds the first lap's turn and is empty")
    g.consumed(5)
    g.submit(5, slot=3)
    g.submit(6, slot=0)
    g.complete(5, slot=1, checksum=checksum(g.fill(1)))
    return g


def full() -> Golden:
    g = Golden("every entry of both rings is published: the reader stops at its own first entry, a lap on")
    g.consumed(2)
    for position in range(2, 6):
        g.submit(position, slot=3 - position % 4)
        g.complete(position, slot=3 - position % 4)
    return g


def out_of_order() -> Golden:
    g = Golden("slots are submitted and answered in whatever order; request ids are whatever the client likes")
    g.consumed(1000)
    for i, slot in enumerate((2, 0, 3)):
        g.submit(1000 + i, slot=slot, request_id=0xFFFF_0000_0000_0000 >> i, op=RUN)
    g.complete(1000, slot=1, request_id=2**63, batch=32)
    return g


def before_the_end_of_positions() -> Golden:
    g = Golden("positions 2^64-3 and 2^64-2 are published, with turn 0; 2^64-1 is not, it holds 2^62-1")
    g.consumed(END - 3)
    g.submit(END - 3)
    g.submit(END - 2)
    g.complete(END - 3, checksum=END - 1)
    return g


def across_the_end_of_positions() -> Golden:
    g = Golden("positions 2^64-2, 2^64-1, 0 and 1: turns 0, 0, 1, 1")
    g.consumed(END - 2)
    for position in range(END - 2, END + 2):
        g.submit(position)
    for position in range(END - 2, END + 1):
        g.complete(position)
    return g


def last_lap_of_positions() -> Golden:
    g = Golden("the head is at 2^64-4, the first of the lap whose turn is 0; nothing is published")
    g.consumed(END - 4)
    return g


def after_the_end_of_positions() -> Golden:
    g = Golden("position 0 for the second time: published with turn 1, entry 1 holds the 0 of position 2^64-3")
    g.consumed(END)
    # `consumed` leaves a ring at 0 fresh: here the last lap's entries lie in it
    for old in range(END - g.lane["submission_entries"], END):
        g._entry("submission", old, {"request_id": old, "slot": old % 4, "op": ECHO})
    g.submit(0)
    return g


def one_slot_at_the_last_position() -> Golden:
    g = Golden(
        "rings of one entry, whose turn is the position and one: 2^64-1 is published with turn 0", image_lane(1, 1)
    )
    g.consumed(END - 1)
    g.submit(END - 1)
    return g


def more_entries_than_slots() -> Golden:
    g = Golden("three slots in rings of eight entries", image_lane(3, 8))
    g.consumed(13)
    g.submit(13)
    g.complete(13)
    return g


def newer_minor() -> Golden:
    g = Golden("a newer minor with a feature that a reader may not know, and something in the reserved bytes")
    g.header |= {"layout_minor": 7, "features_optional": 2**40}
    g.memory[100:104] = b"news"
    g.memory[PAGE - 4 : PAGE] = b"more"
    g.complete(0)
    g.submit(0, sampling_steps=7)  # a word that only prompts use
    return g


def many_tensors() -> Golden:
    g = Golden(
        "two inputs and two outputs, some of a symbolic dimension, of which each call uses a part", encoder_lane()
    )
    for slot, extent in ((0, 16), (1, 5)):
        used = g.fill(slot, 0)[: 4 * extent], g.fill(slot, 1)[:extent]
        g.submit(slot, op=RUN if slot else ECHO, extent=extent)
        if not slot:
            sums = checksum(b"".join(part + bytes(-len(part) % 8) for part in used))
            g.complete(0, extent=extent, checksum=sums)
    g.write(2, 1, bytes(range(80)))
    g.write(3, 1, struct.pack("<d", 0.5))
    g.complete(1, extent=5, model_ns=7)
    return g


def stream() -> Golden:
    g = Golden("a stream lane: two prompts, the first has some text", stream_lane())
    for slot, text in enumerate(("Sag etwas über Möwen.", "And now in English, please.")):
        g.write(0, slot, text.encode())
        g.submit(
            slot,
            op=RUN,
            extent=len(text.encode()),
            flags=7,
            sampling_steps=128,
            temperature=0.75,
            top_k=40,
            seed=END - 1,
        )
    g.write(1, 0, b"Gulls")
    g.complete(0, status=STATUS["more"], extent=5)
    return g


# ---- segments that are wrong, each in one way


def broken_header(
    error: str, why: str, *, header: dict | None = None, lane: dict | None = None, tensors=(), of: Lane | None = None
) -> Golden:
    g = Golden(why, of or image_lane(1, 4))
    g.error = error
    g.header |= header or {}
    g.lane |= lane or {}
    for row, changes in zip(g.tensors, tensors, strict=False):
        row |= changes
    return g


def broken_submission(error: str, why: str, *, head: int = 0, of: Lane | None = None, **values) -> Golden:
    g = Golden(why, of or image_lane(1, 4))
    g.error = error
    g.consumed(head)
    g.submit(head, right=False, **values)
    return g


def broken_completion(error: str, why: str, *, head: int = 0, of: Lane | None = None, **values) -> Golden:
    g = Golden(why, of or image_lane(1, 4))
    g.error = error
    g.consumed(head)
    g.complete(head, right=False, **values)
    return g


def second_submission_broken() -> Golden:
    g = Golden("the first submission is right, the second names a slot that the lane does not have")
    g.error = "slot"
    g.consumed(7)
    g.submit(7)
    g.submit(8, right=False, slot=4)
    g.submit(9)
    g.lane["submissions"].pop()  # nobody comes that far
    return g


def shorter_than_it_says() -> Golden:
    g = broken_header("geometry", "the file ends a page before the segment does")
    del g.memory[-PAGE:]
    return g


HEADERS = {
    "bad_magic": ("magic", "one bit of the magic is another", {"header": {"magic": CONSTANTS["segment_magic"] ^ 1}}),
    "major_1": ("version", "a layout of the major before", {"header": {"layout_major": 1}}),
    "header_of_two_pages": ("geometry", "header_bytes is not a page", {"header": {"header_bytes": 8192}}),
    "epoch_0": ("epoch", "an epoch is never 0", {"header": {"epoch": 0}}),
    "protocol_unknown": ("geometry", "no such protocol", {"lane": {"protocol": 3}}),
    "no_inputs": ("geometry", "a model takes something", {"lane": {"input_count": 0}}),
    "more_tensors_than_the_table": ("geometry", "24 outputs beside an input", {"lane": {"output_count": 24}}),
    "submission_entries_no_power_of_two": ("geometry", "three entries", {"lane": {"submission_entries": 3}}),
    "fewer_submission_entries_than_slots": (
        "geometry", "four slots, two entries", {"of": image_lane(), "lane": {"submission_entries": 2}}),
    "messages_not_on_a_page": ("geometry", "they begin 64 bytes late", {"lane": {"messages_offset": 3 * PAGE + 64}}),
    "rings_overlap": ("geometry", "both rings in one place", {"lane": {"completions_offset": PAGE}}),
    "row_of_no_whole_lines": ("geometry", "a row of 3080 bytes", {"tensors": [{"row_bytes": 3080}]}),
    "row_too_small": ("geometry", "a row is smaller than its dims", {"tensors": [{"row_bytes": 3008}]}),
    "row_too_large": ("geometry", "a row is larger than its dims", {"tensors": [{"row_bytes": 3136}]}),
    "datatype_unknown": ("geometry", "no such datatype", {"tensors": [{"datatype": 99}]}),
    "rank_0": ("geometry", "a scalar has one dimension", {"tensors": [{"rank": 0}]}),
    "rank_9": ("geometry", "more dimensions than there is room for", {"tensors": [{"rank": 9}]}),
    "symbolic_2": ("geometry", "only the first dimension may be symbolic", {"tensors": [{"symbolic": 2}]}),
    "dims_overflow": ("geometry", "2^32 elements, if multiplied in 32 bits none", {
        "tensors": [{"dims": [1 << 16, 1 << 16, 1, 0, 0, 0, 0, 0]}]}),
    "area_in_the_header": ("geometry", "the output begins at 0", {"tensors": [{}, {"offset": 0}]}),
    "area_beyond_the_end": ("geometry", "the output begins at the end", {"tensors": [{}, {"offset": 6 * PAGE}]}),
    "areas_overlap": ("geometry", "the output lies in the input", {"tensors": [{}, {"offset": 4 * PAGE}]}),
    "offset_overflows": (
        "geometry", "offset + length is 0 in 64 bits, if added up", {"tensors": [{}, {"offset": END - PAGE}]}),
    "two_bounds": ("geometry", "the symbolic dimension has two bounds", {
        "of": encoder_lane(), "tensors": [{"dims": [15, *[0] * 7]}]}),
    "stream_of_floats": ("geometry", "text is bytes", {
        "of": stream_lane(), "tensors": [tensor("fp32", 150, symbolic=True)]}),
    "stream_with_few_completions": ("geometry", "a slot has two entries", {
        "of": stream_lane(), "lane": {"completion_entries": 2}}),
}  # fmt: skip

SUBMISSIONS = {
    "submission_turn_two_laps_ahead": ("turn", "turn 2 at position 0", {"turn": 2}),
    "submission_turn_wrong_at_the_end": (
        "turn",
        "turn 2^62 at position 2^64-1: 0 is right",
        {"head": END - 1, "turn": 2**62},
    ),
    "submission_slot_out_of_range": ("slot", "slot 1 of a lane that has slot 0", {"slot": 1}),
    "submission_op_unknown": ("op", "no such operation", {"op": 99}),
    "submission_flags_unknown": ("flags", "a flag that is not defined", {"op": RUN, "flags": 0x8001}),
    "submission_flags_of_a_stream": ("flags", "a flag that a call lane does not have", {"op": RUN, "flags": 1}),
    "submission_extent_of_nothing": ("extent", "an extent where no dimension is symbolic", {"extent": 1}),
    "submission_extent_beyond_the_bound": ("extent", "17 tokens of 16", {"of": encoder_lane(), "extent": 17}),
}

COMPLETIONS = {
    "completion_turn_two_laps_ahead": ("turn", "turn 2 at position 0", {"turn": 2}),
    "completion_slot_out_of_range": ("slot", "slot 2^32-1", {"slot": 2**32 - 1}),
    "completion_status_unknown": ("status", "no such status", {"status": 999}),
    "completion_extent_beyond_the_bound": ("extent", "17 tokens of 16", {"of": encoder_lane(), "extent": 17}),
    "completion_longer_than_the_reply": ("extent", "501 bytes of 500", {"of": stream_lane(), "extent": 501}),
    "completion_message_too_long": ("message", "257 bytes in 256", {"status": 3, "message_bytes": 257}),
}

RIGHT = (
    empty, in_flight, answered, wrapped, full, out_of_order, before_the_end_of_positions, across_the_end_of_positions,
    last_lap_of_positions, after_the_end_of_positions, one_slot_at_the_last_position, more_entries_than_slots,
    newer_minor, many_tensors, stream,
)  # fmt: skip


def segments() -> Iterator[tuple[str, bytes, str]]:
    """Name, bytes and JSON of every golden segment."""
    made = {make.__name__: make() for make in (*RIGHT, second_submission_broken, shorter_than_it_says)}
    made |= {name: broken_header(error, why, **changes) for name, (error, why, changes) in HEADERS.items()}
    made |= {name: broken_submission(error, why, **values) for name, (error, why, values) in SUBMISSIONS.items()}
    made |= {name: broken_completion(error, why, **values) for name, (error, why, values) in COMPLETIONS.items()}
    for name, golden in made.items():
        yield name, *golden.finish(name)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.iterdir():
        old.unlink()
    total = 0
    for name, memory, document in segments():
        (FOLDER / f"{name}.bin").write_bytes(memory)
        (FOLDER / f"{name}.json").write_text(document)
        total += len(memory) + len(document)
    print(f"{total} bytes in {FOLDER}")
