"""layout.md's tables, read a second time: what the tests compare the generated constants with."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "layout.md").read_text()
FORMATS = {"u16": "H", "u32": "I", "u64": "Q", "f32": "f"}  # as `struct` calls them


@dataclass(frozen=True)
class Word:
    name: str
    offset: int
    type: str
    writer: str  # client, server or both


def _cells(kind: str, name: str) -> list[list[str]]:
    found = re.search(rf"<!-- layout: {kind}{' ' if name else ''}{name}(?: \d+)? -->\n((?:\|.*\n)+)", PAGE)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in found[1].splitlines()]
    return rows[2:]  # below the headings and the rule


CONSTANTS = {row[0]: int(row[1], 0) for row in _cells("constants", "")}
ENUMS = {
    name: {row[0]: int(row[1]) for row in _cells("enum", name)}
    for name in re.findall(r"<!-- layout: enum (\w+) -->", PAGE)
}
DATATYPE_BYTES = {int(row[1]): int(row[2]) for row in _cells("enum", "datatype")}
# What stands of an enum's values beside their meaning: ERRORS["status"]["HTTP code"]["draining"] is "503", "-" is none.
ERRORS = {
    name: {
        heading: {row[0]: row[at] for row in _cells("enum", name)}
        for at, heading in enumerate(("HTTP code", "gRPC code", "Go error", "Python error"), 2)
    }
    for name in ("status", "reason")
}
SIZES = {name: int(size) for name, size in re.findall(r"<!-- layout: struct (\w+) (\d+) -->", PAGE)}
STRUCTS = {name: [Word(row[0], int(row[1]), row[2], row[3]) for row in _cells("struct", name)] for name in SIZES}
PLAIN = {name: [word for word in words if word.type in FORMATS] for name, words in STRUCTS.items()}
