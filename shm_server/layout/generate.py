"""Write the layout constants of all three languages from the tables of layout.md.

``python shm_server/layout/generate.py`` rewrites the files; it is run as a script because it must work when they are
missing. ``--check`` only says whether they are up to date (exit code 1 and a diff when they are not). layout.md is
the single source: nobody edits what this writes.
"""

import argparse
import difflib
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MARKER = re.compile(r"<!-- layout: (constants|enum|struct) ?(\w*) ?(\d*) -->")
SIZES = {"u16": 2, "u32": 4, "u64": 8, "f32": 4}
NOTICE = "Generated from layout.md by shm_server/layout/generate.py; do not edit."


@dataclass(frozen=True)
class Field:
    name: str
    offset: int
    type: str  # u16, u32, u64, f32, or struct[count]

    @property
    def array(self) -> tuple[str, int] | None:
        match = re.fullmatch(r"(\w+)\[(\d+)\]", self.type)
        return (match[1], int(match[2])) if match else None


@dataclass(frozen=True)
class Table:
    kind: str  # constants, enum or struct
    name: str
    size: int
    rows: tuple[tuple[str, ...], ...]

    @property
    def values(self) -> list[tuple[str, int, str]]:
        return [(name, int(value, 0), meaning) for name, value, meaning in self.rows]

    @property
    def fields(self) -> list[Field]:
        return [Field(row[0], int(row[1]), row[2]) for row in self.rows]


def read_tables(text: str) -> list[Table]:
    """Every marked table of layout.md, checked: fields aligned, in order, inside their struct."""
    tables = []
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if not (marker := MARKER.fullmatch(line)):
            continue
        rows = []
        for row in lines[number + 3 :]:
            if not row.startswith("|"):
                break
            rows.append(tuple(cell.strip() for cell in row.strip("|").split("|")))
        table = Table(marker[1], marker[2], int(marker[3] or 0), tuple(rows))
        if table.kind == "struct":
            check_struct(table, {t.name: t.size for t in tables} | SIZES | {"lane": 128})
        tables.append(table)
    return tables


def check_struct(table: Table, sizes: dict[str, int]) -> None:
    end = 0
    for field in table.fields:
        kind, count = field.array or (field.type, 1)
        alignment = min(sizes[kind], 8)
        if field.offset < end or field.offset % alignment:
            raise ValueError(f"layout.md: {table.name}.{field.name} overlaps or is not aligned")
        end = field.offset + sizes[kind] * count
    if end > table.size:
        raise ValueError(f"layout.md: {table.name} has {table.size} bytes, its fields need {end}")


def camel(name: str) -> str:
    special = {"id": "ID", "ns": "NS", "ok": "OK", "op": "Op"}
    return "".join(special.get(part, part.capitalize()) for part in name.split("_"))


def python_source(tables: list[Table]) -> str:
    out = [f'"""{NOTICE}"""', "", "from enum import IntEnum", ""]
    types = {"u16": "<u2", "u32": "<u4", "u64": "<u8", "f32": "<f4"}
    for table in tables:
        if table.kind == "constants":
            out += [f"{name.upper()} = 0x{value:X}" if value > 1 << 31 else f"{name.upper()} = {value}"
                    for name, value, _ in table.values]  # fmt: skip
        elif table.kind == "enum":
            out += ["", "", f"class {camel(table.name)}(IntEnum):"]
            out += [f"    {name.upper()} = {value}" for name, value, _ in table.values]
    out += ["", "", "# Structs as numpy.dtype takes them: names, formats, offsets, itemsize.", "STRUCTS = {"]
    for table in tables:
        if table.kind == "struct":
            plain = [field for field in table.fields if not field.array]
            out.append(f'    "{table.name}": {{')
            for key, items in (
                ("names", [f'"{f.name}"' for f in plain]),
                ("formats", [f'"{types[f.type]}"' for f in plain]),
                ("offsets", [str(f.offset) for f in plain]),
            ):
                out += [f'        "{key}": [', *(f"            {item}," for item in items), "        ],"]
            out += [f'        "itemsize": {table.size},', "    },"]
    out += ["}", ""]
    arrays = [(t, f) for t in tables if t.kind == "struct" for f in t.fields if f.array]
    out += [f"{f.name.upper()}_OFFSET = {f.offset}" for _, f in arrays]
    return "\n".join(out) + "\n"


def c_source(tables: list[Table]) -> str:
    out = [f"/* {NOTICE} */", "#ifndef SHM_LAYOUT_H", "#define SHM_LAYOUT_H", "",
           "#include <stddef.h>", "#include <stdint.h>", ""]  # fmt: skip
    types = {"u16": "uint16_t", "u32": "uint32_t", "u64": "uint64_t", "f32": "float"}
    for table in tables:
        if table.kind == "constants":
            out += [f"#define SHM_{name.upper()} {value}u{'ll' if value >> 32 else ''}"
                    for name, value, _ in table.values]  # fmt: skip
            out.append("")
        elif table.kind == "enum":
            out += [f"#define SHM_{table.name.upper()}_{name.upper()} {value}u" for name, value, _ in table.values]
            out.append("")
        elif table.size <= 128:
            out += [f"struct shm_{table.name} {{"]
            end = 0
            for field in table.fields:
                if field.offset > end:
                    out.append(f"    uint8_t reserved_{end}[{field.offset - end}];")
                out.append(f"    {types[field.type]} {field.name};")
                end = field.offset + SIZES[field.type]
            if end < table.size:
                out.append(f"    uint8_t reserved_{end}[{table.size - end}];")
            out += ["};", f'_Static_assert(sizeof(struct shm_{table.name}) == {table.size}, "{table.name}");']
            out += [f"_Static_assert(offsetof(struct shm_{table.name}, {f.name}) == {f.offset}, \"{f.name}\");"
                    for f in table.fields]  # fmt: skip
            out.append("")
        else:
            out += [f"#define SHM_{table.name.upper()}_{f.name.upper()} {f.offset}u" for f in table.fields]
            out.append("")
    return "\n".join([*out, "#endif"]) + "\n"


def go_source(tables: list[Table]) -> str:
    out = [f"// Code generated from layout.md by shm_server/layout/generate.py; DO NOT EDIT.", "",  # noqa: F541
           "package layout", "", 'import (', '\t"encoding/binary"', '\t"math"', ")", ""]  # fmt: skip
    types = {"u16": "uint16", "u32": "uint32", "u64": "uint64", "f32": "float32"}
    for table in tables:
        if table.kind == "constants":
            for name, value, meaning in table.values:
                out += [f"// {camel(name)}: {meaning}.", f"const {camel(name)} = {value:#x}" if value > 1 << 31 else
                        f"const {camel(name)} = {value}", ""]  # fmt: skip
        elif table.kind == "enum":
            for name, value, meaning in table.values:
                out += [f"// {camel(table.name)}{camel(name)}: {meaning}.",
                        f"const {camel(table.name)}{camel(name)} = {value}", ""]  # fmt: skip
        else:
            out += go_struct(table, types)
    return "\n".join(out).rstrip("\n") + "\n"


def go_struct(table: Table, types: dict[str, str]) -> list[str]:
    name = camel(table.name)
    plain = [field for field in table.fields if not field.array]
    out = [f"// {name}Bytes is the size of {name} in memory.", f"const {name}Bytes = {table.size}", ""]
    for field in table.fields:
        out += [f"// {name}{camel(field.name)}At is the offset of {table.name}.{field.name}.",
                f"const {name}{camel(field.name)}At = {field.offset}", ""]  # fmt: skip
    width = max(len(camel(field.name)) for field in plain)
    out += [f"// {name} is a private copy of the struct {table.name} of layout.md.", f"type {name} struct {{"]
    out += [f"\t{camel(field.name):<{width}} {types[field.type]}" for field in plain]
    out += ["}", "", f"// Decode{name} copies the fields out of b, which holds at least {name}Bytes bytes.",
            f"func Decode{name}(b []byte) {name} {{", f"\t_ = b[{name}Bytes-1]", f"\treturn {name}{{"]  # fmt: skip
    for field in plain:
        at = f"binary.LittleEndian.Uint{SIZES[field.type] * 8}(b[{field.offset}:])"
        value = f"math.Float32frombits({at})" if field.type == "f32" else at
        out.append(f"\t\t{camel(field.name) + ':':<{width + 1}} {value},")
    out += ["\t}", "}", "", f"// Encode writes the fields to b, which holds at least {name}Bytes bytes.",
            f"func (s {name}) Encode(b []byte) {{", f"\t_ = b[{name}Bytes-1]"]  # fmt: skip
    for field in plain:
        value = f"math.Float32bits(s.{camel(field.name)})" if field.type == "f32" else f"s.{camel(field.name)}"
        out.append(f"\tbinary.LittleEndian.PutUint{SIZES[field.type] * 8}(b[{field.offset}:], {value})")
    return [*out, "}", ""]


OUTPUTS = {
    "shm_server/layout/generated.py": python_source,
    "shm_server/native/layout.h": c_source,
    "go-shm-client/internal/layout/generated.go": go_source,
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a file is out of date")
    args = parser.parse_args(argv)
    tables = read_tables((ROOT / "layout.md").read_text())
    stale = False
    for name, source in OUTPUTS.items():
        path, wanted = ROOT / name, source(tables)
        found = path.read_text() if path.exists() else ""
        if found != wanted:
            stale = True
            if args.check:
                sys.stdout.writelines(difflib.unified_diff(found.splitlines(True), wanted.splitlines(True), name))
            else:
                path.write_text(wanted)
                print(f"wrote {name}")
    return int(args.check and stale)


if __name__ == "__main__":
    raise SystemExit(main())
