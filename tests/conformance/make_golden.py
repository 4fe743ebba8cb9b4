"""Write the golden segments: what every language must read alike.

    python tests/conformance/make_golden.py

golden/NAME.bin is a segment, byte by byte as in shared memory; golden/NAME.json says what is in it:

    name, why
    error     null, or what a reader must reject it for: "magic", "version", "geometry" (the header),
              "turn", "slot", "op", "flags", "length", "status" (the first entry that is not right)
    header    every word of the header
    lanes     for each lane that there should be: every word of its table entry; where its consumers stand,
              `submission_head` and `completion_head`; and `submissions`, `completions`: what they find from there
              on, word by word, up to the first entry that is not published or not right

The numbers come from what was put in, by offsets read from layout.md: no reader's code is used here.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

from tables import CONSTANTS, ENUMS, FORMATS, PLAIN, SIZES, STRUCTS

FOLDER = Path(__file__).with_name("golden")
PAGE, ENTRY, IMAGE = CONSTANTS["page_bytes"], CONSTANTS["entry_bytes"], CONSTANTS["image_bytes"]
LANES_AT = next(word.offset for word in STRUCTS["header"] if word.name == "lanes")
ECHO, CLASSIFY, PROMPT = (ENUMS["op"][name] for name in ("echo", "classify", "prompt"))
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


def image_lane(slots: int = 4, entries: int = 4) -> dict:
    return {"kind": ENUMS["lane_kind"]["image"], "slot_count": slots, "slot_bytes": IMAGE, "reply_bytes": 256,
            "submission_entries": entries, "completion_entries": entries}  # fmt: skip


def prompt_lane() -> dict:
    return {"kind": ENUMS["lane_kind"]["prompt"], "slot_count": 2, "slot_bytes": 192, "reply_bytes": 512,
            "submission_entries": 2, "completion_entries": 4}  # fmt: skip


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
    """A segment and what is in it. `header` and `lane` may be changed to what is wrong before `finish`."""

    def __init__(self, why: str, *lanes: dict) -> None:
        self.why, self.error = why, None
        self.lanes: list[dict] = []
        end = PAGE
        for lane in lanes or (image_lane(),):
            areas = {
                "submissions_offset": lane["submission_entries"] * ENTRY,
                "completions_offset": lane["completion_entries"] * ENTRY,
                "slots_offset": lane["slot_count"] * lane["slot_bytes"],
                "replies_offset": lane["slot_count"] * lane["reply_bytes"],
            }
            if lane["kind"] == ENUMS["lane_kind"]["prompt"]:
                areas["controls_offset"] = lane["slot_count"] * SIZES["control"]
                areas["progress_offset"] = lane["slot_count"] * SIZES["progress"]
            row = dict.fromkeys((word.name for word in PLAIN["lane"]), 0) | lane
            for name, size in areas.items():
                row[name] = end
                end += -(-size // PAGE) * PAGE
            row |= {"submission_head": 0, "completion_head": 0, "submissions": [], "completions": []}
            self.lanes.append(row)
        self.memory = bytearray(end)
        self.header = dict.fromkeys((word.name for word in PLAIN["header"]), 0)
        self.header |= {"magic": CONSTANTS["segment_magic"], "layout_major": CONSTANTS["layout_major"]}
        self.header |= {"layout_minor": CONSTANTS["layout_minor"], "header_bytes": PAGE, "segment_bytes": end}
        self.header |= {"epoch": 0xF00DFACECAFEBEEF, "lane_count": len(self.lanes)}
        self.planned = [dict(row) for row in self.lanes]  # where the entries are, also when the table will lie

    def put(self, name: str, at: int, values: dict) -> dict:
        """Write a struct; words that are not named are 0."""
        values = dict.fromkeys((word.name for word in PLAIN[name]), 0) | values
        for word in PLAIN[name]:
            struct.pack_into(f"<{FORMATS[word.type]}", self.memory, at + word.offset, values[word.name])
        return {name: values[name] for name in (word.name for word in PLAIN[name])}

    def pixels(self, slot: int, lane: int = 0) -> bytes:
        """Fill a slot with bytes that tell where they are."""
        row = self.planned[lane]
        size = row["slot_bytes"]
        data = bytes((17 * slot + i * i + i // 251) % 256 for i in range(size))
        self.write("slots", slot, data, lane)
        return data

    def write(self, area: str, slot: int, data: bytes, lane: int = 0) -> None:
        row = self.planned[lane]
        at = row[f"{area}_offset"] + slot * row["slot_bytes" if area == "slots" else "reply_bytes"]
        self.memory[at : at + len(data)] = data

    def _entry(self, ring: str, position: int, values: dict, lane: int) -> dict:
        row = self.planned[lane]
        entries = row[f"{ring}_entries"]
        at = row[f"{ring}s_offset"] + position % END % entries * ENTRY
        return self.put(ring, at, {"turn": turn(position, entries)} | values)

    def consumed(self, position: int, lane: int = 0) -> None:
        """Both rings have come to `position`, and all that was before it is done."""
        row = self.lanes[lane]
        row["submission_head"] = row["completion_head"] = position % END
        for ring in ("submission", "completion"):
            entries = row[f"{ring}_entries"]
            for old in range(position - entries, position):
                slot = old % row["slot_count"]
                values = {"request_id": old % END, "slot": slot}
                if ring == "submission":
                    values |= {"op": ECHO, "length": row["slot_bytes"]}
                if old >= 0 or position % END > entries:
                    self._entry(ring, old, values, lane)

    def submit(self, position: int, *, lane: int = 0, right: bool = True, **values) -> None:
        """An entry that is published and not consumed; not `right`: the one that readers must stumble over."""
        row = self.lanes[lane]
        defaults = {
            "request_id": position % END,
            "slot": position % row["slot_count"],
            "op": ECHO,
            "length": row["slot_bytes"],
        }
        written = self._entry("submission", position, defaults | values, lane)
        if right:
            row["submissions"].append(written)

    def complete(self, position: int, *, lane: int = 0, right: bool = True, **values) -> None:
        row = self.lanes[lane]
        defaults = {"request_id": position % END, "slot": position % row["slot_count"], "batch": 1}
        written = self._entry("completion", position, defaults | values, lane)
        if right:
            row["completions"].append(written)

    def finish(self, name: str) -> tuple[bytes, str]:
        self.put("header", 0, self.header)
        for i, row in enumerate(self.lanes):
            self.put("lane", LANES_AT + i * SIZES["lane"], row)
        document = {"name": name, "why": self.why, "error": self.error, "header": self.header, "lanes": self.lanes}
        return bytes(self.memory), as_json(document) + "\n"


# ---- segments that are right


def empty() -> Golden:
    return Golden("a fresh segment: nothing was ever submitted")


def in_flight() -> Golden:
    g = Golden("slot 0 is answered and its answer not yet taken; slots 1 to 3 wait for the server")
    data = g.pixels(0)
    g.submit(0)
    g.lanes[0]["submissions"].clear()  # the server has it
    g.lanes[0]["submission_head"] = 1
    g.complete(0, checksum=checksum(data), batch=1, queue_ns=1500)
    for slot in (1, 2, 3):
        g.pixels(slot)
    g.submit(1, op=CLASSIFY, submitted=123_456_789_012_345)
    g.submit(2, op=CLASSIFY, flags=ENUMS["submission_flag"]["want_scores"], deadline=2**63 + 1)
    g.submit(3, deadline=1, submitted=END - 1, request_id=END - 1)
    return g


def answered() -> Golden:
    g = Golden("an answer of every status that an image lane has; the server is stopping, and both sides sleep")
    g.header |= {"server_state": ENUMS["server_state"]["draining"], "server_parked": 1, "client_parked": 1}
    g.consumed(4)
    g.lanes[0]["completion_head"] = 0
    scores = [0.015625] * 9 + [0.859375]
    g.write("replies", 0, struct.pack("<10f", *scores))
    g.complete(0, length=40, label=9, score=0.859375, batch=2, queue_ns=2_000, model_ns=61_000)
    g.complete(1, status=STATUS["deadline_exceeded"], batch=0)
    g.complete(2, status=STATUS["draining"], batch=0)
    why = "ValueError: zu groß".encode()
    g.write("replies", 3, why)
    g.complete(3, status=STATUS["model_error"], length=len(why), batch=2)
    return g


def wrapped() -> Golden:
    g = Golden("the second lap: entry 3 still holds the first lap's turn and is empty")
    g.consumed(5)
    g.submit(5, slot=3)
    g.submit(6, slot=0)
    g.complete(5, slot=1, checksum=checksum(g.pixels(1)))
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
        g.submit(1000 + i, slot=slot, request_id=0xFFFF_0000_0000_0000 >> i, op=CLASSIFY)
    g.complete(1000, slot=1, request_id=2**63, label=4_294_967_295, score=1.0, batch=32)
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
    for row in g.lanes:  # `consumed` leaves a ring at 0 fresh: here the last lap's entries lie in it
        for old in range(END - row["submission_entries"], END):
            g._entry("submission", old, {"request_id": old, "slot": old % 4, "op": ECHO, "length": IMAGE}, 0)
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
    g.memory[60:64] = b"news"
    g.memory[PAGE - 4 : PAGE] = b"more"
    g.complete(0)
    at = g.planned[0]["submissions_offset"]
    g.submit(0)
    g.memory[at + 36 : at + 40] = bytes(4)  # a word that only prompts use
    return g


def two_lanes() -> Golden:
    g = Golden("an image lane and a prompt lane, each with its own rings", image_lane(), prompt_lane())
    g.submit(0, op=CLASSIFY)
    for slot, text in enumerate(("Sag etwas über Möwen.", "And now in English, please.")):
        g.write("slots", slot, text.encode(), lane=1)
        g.submit(
            slot,
            lane=1,
            op=PROMPT,
            length=len(text.encode()),
            sampling_steps=128,
            temperature=0.75,
            top_k=40,
            seed=END - 1,
        )
    g.write("replies", 0, b"Gulls", lane=1)
    g.complete(0, lane=1, status=STATUS["more"], length=5, label=5)
    return g


# ---- segments that are wrong, each in one way


def broken_header(error: str, why: str, *, header: dict | None = None, lane: dict | None = None, lanes=()) -> Golden:
    g = Golden(why, *(lanes or (image_lane(1, 4),)))
    g.error = error
    g.header |= header or {}
    g.lanes[0] |= lane or {}
    return g


def broken_submission(error: str, why: str, *, head: int = 0, **values) -> Golden:
    g = Golden(why, image_lane(1, 4))
    g.error = error
    g.consumed(head)
    g.submit(head, right=False, **values)
    return g


def broken_completion(error: str, why: str, *, head: int = 0, **values) -> Golden:
    g = Golden(why, image_lane(1, 4))
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
    g.lanes[0]["submissions"].pop()  # nobody comes that far
    return g


def shorter_than_it_says() -> Golden:
    g = broken_header("geometry", "the file ends a page before the segment does")
    del g.memory[-PAGE:]
    return g


HEADERS = {
    "bad_magic": ("magic", "one bit of the magic is another", {"header": {"magic": CONSTANTS["segment_magic"] ^ 1}}),
    "major_2": ("version", "a layout of the next major", {"header": {"layout_major": 2}}),
    "header_of_two_pages": ("geometry", "header_bytes is not a page", {"header": {"header_bytes": 8192}}),
    "no_lanes": ("geometry", "lane_count is 0", {"header": {"lane_count": 0}}),
    "nine_lanes": ("geometry", "lane_count is 9: more than the table holds", {"header": {"lane_count": 9}}),
    "image_slots_too_small": ("geometry", "slot_bytes is not image_bytes", {"lane": {"slot_bytes": 3008}}),
    "replies_of_no_whole_lines": ("geometry", "reply_bytes is one line and a half", {"lane": {"reply_bytes": 192}}),
    "submission_entries_no_power_of_two": ("geometry", "three entries", {"lane": {"submission_entries": 3}}),
    "fewer_submission_entries_than_slots": (
        "geometry", "four slots, two entries", {"lanes": (image_lane(),), "lane": {"submission_entries": 2}}),
    "offset_not_on_a_page": ("geometry", "the slots begin 64 bytes late", {"lane": {"slots_offset": 3 * PAGE + 64}}),
    "offset_in_the_header": ("geometry", "the replies begin at 0", {"lane": {"replies_offset": 0}}),
    "areas_overlap": ("geometry", "both rings in one place", {"lane": {"completions_offset": PAGE}}),
    "area_beyond_the_end": ("geometry", "the replies begin at the end", {"lane": {"replies_offset": 5 * PAGE}}),
    "offset_overflows": (
        "geometry", "offset + length is 0 in 64 bits, if added up", {"lane": {"replies_offset": END - PAGE}}),
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
    "submission_flags_unknown": ("flags", "a flag that is not defined", {"op": CLASSIFY, "flags": 0x8001}),
    "submission_too_short": ("length", "a byte less than an image", {"length": IMAGE - 1}),
}

COMPLETIONS = {
    "completion_turn_two_laps_ahead": ("turn", "turn 2 at position 0", {"turn": 2}),
    "completion_slot_out_of_range": ("slot", "slot 2^32-1", {"slot": 2**32 - 1}),
    "completion_status_unknown": ("status", "no such status", {"status": 999}),
    "completion_longer_than_the_reply": ("length", "257 bytes in a reply of 256", {"length": 257}),
}

RIGHT = (
    empty, in_flight, answered, wrapped, full, out_of_order, before_the_end_of_positions, across_the_end_of_positions,
    last_lap_of_positions, after_the_end_of_positions, one_slot_at_the_last_position, more_entries_than_slots,
    newer_minor, two_lanes,
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
