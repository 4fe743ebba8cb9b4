"""Write the layout constants of all three languages from the tables of layout.md.

``python tools/generate_layout.py`` rewrites the files. ``--check`` only says whether they are up to date (exit code 1
and a diff when they are not). layout.md is the single source: nobody edits what this writes.
"""

import argparse
import difflib
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MARKER = re.compile(r"<!-- layout: (constants|enum|struct) ?(\w*) ?(\d*) -->")
SIZES = {"u16": 2, "u32": 4, "u64": 8, "f32": 4}
NOTICE = "Generated from layout.md by tools/generate_layout.py; do not edit."


@dataclass(frozen=True)
class Field:
    name: str
    offset: int
    type: str  # u16, u32, u64, f32, or one of these or a struct with [count]

    @property
    def array(self) -> tuple[str, int] | None:
        match = re.fullmatch(r"(\w+)\[(\d+)\]", self.type)
        return (match[1], int(match[2])) if match else None

    @property
    def element(self) -> str:
        return self.array[0] if self.array else self.type

    @property
    def nested(self) -> bool:
        """Is it an array of structs? Only its offset is generated."""
        return self.element not in SIZES


@dataclass(frozen=True)
class Table:
    kind: str  # constants, enum or struct
    name: str
    size: int
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def values(self) -> list[tuple[str, int, str]]:
        return [(row[0], int(row[1], 0), row[-1]) for row in self.rows]

    @property
    def extras(self) -> list[tuple[str, list[int]]]:
        """Columns of numbers between an enum's value and its meaning, each with its cells in the rows' order."""
        return [(column, [int(row[at], 0) for row in self.rows])
                for at, column in enumerate(self.columns[:-1]) if at > 1]  # fmt: skip

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
        for row in (lines[number + 1], *lines[number + 3 :]):
            if not row.startswith("|"):
                break
            rows.append(tuple(cell.strip() for cell in row.strip("|").split("|")))
        table = Table(marker[1], marker[2], int(marker[3] or 0), rows[0], tuple(rows[1:]))
        if table.kind == "struct":
            check_struct(table, {t.name: t.size for t in tables} | SIZES | {"lane": 128, "tensor": 64})
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
    special = {
        "id": "ID",
        "ns": "NS",
        "ok": "OK",
        "op": "Op",
        "fp16": "FP16",
        "bf16": "BF16",
        "fp32": "FP32",
        "fp64": "FP64",
    }
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
            for column, cells in table.extras:
                out += ["", "", f"{table.name.upper()}_{column.upper()} = {{"]
                out += [
                    f"    {camel(table.name)}.{row[0].upper()}: {cell},"
                    for row, cell in zip(table.rows, cells, strict=True)
                ]
                out += ["}"]
    out += ["", "", "# Structs as numpy.dtype takes them: names, formats, offsets, itemsize.", "STRUCTS = {"]
    for table in tables:
        if table.kind == "struct":
            plain = [field for field in table.fields if not field.nested]
            out.append(f'    "{table.name}": {{')
            for key, items in (
                ("names", [f'"{f.name}"' for f in plain]),
                ("formats", [f'"{numpy_shape(f)}{types[f.element]}"' for f in plain]),
                ("offsets", [str(f.offset) for f in plain]),
            ):
                out += [f'        "{key}": [', *(f"            {item}," for item in items), "        ],"]
            out += [f'        "itemsize": {table.size},', "    },"]
    out += ["}", ""]
    arrays = [f for table in tables if table.kind == "struct" for f in table.fields if f.nested]
    out += [f"{f.name.upper()}_OFFSET = {f.offset}" for f in arrays]
    return "\n".join(out) + "\n"


def numpy_shape(field: Field) -> str:
    return f"({field.array[1]},)" if field.array else ""


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
            for column, cells in table.extras:
                pairs = ", ".join(f"[{row[1]}] = {cell}" for row, cell in zip(table.rows, cells, strict=True))
                out.append(f"static const uint8_t shm_{table.name}_{column}[] = {{{pairs}}};")
            out.append("")
        elif table.size <= 128:
            out += [f"struct shm_{table.name} {{"]
            end = 0
            for field in table.fields:
                if field.offset > end:
                    out.append(f"    uint8_t reserved_{end}[{field.offset - end}];")
                count = field.array[1] if field.array else 1
                out.append(f"    {types[field.element]} {field.name}{f'[{count}]' if field.array else ''};")
                end = field.offset + SIZES[field.element] * count
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
    out = [f"// Code generated from layout.md by tools/generate_layout.py; DO NOT EDIT.", "",  # noqa: F541
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
            for column, cells in table.extras:
                name = camel(table.name) + camel(column)
                out += [f"// {name} are the {column} of each {table.name}.", f"var {name} = [...]int{{"]
                width = max(len(row[1]) for row in table.rows)
                out += [f"\t{row[1] + ':':<{width + 1}} {cell}," for row, cell in zip(table.rows, cells, strict=True)]
                out += ["}", ""]
        else:
            out += go_struct(table, types)
    return "\n".join(out).rstrip("\n") + "\n"


def go_struct(table: Table, types: dict[str, str]) -> list[str]:
    name = camel(table.name)
    plain = [field for field in table.fields if not field.nested]
    out = [f"// {name}Bytes is the size of {name} in memory.", f"const {name}Bytes = {table.size}", ""]
    for field in table.fields:
        out += [f"// {name}{camel(field.name)}At is the offset of {table.name}.{field.name}.",
                f"const {name}{camel(field.name)}At = {field.offset}", ""]  # fmt: skip
    width = max(len(camel(field.name)) for field in plain)
    out += [f"// {name} is a private copy of the struct {table.name} of layout.md.", f"type {name} struct {{"]
    out += [f"\t{camel(field.name):<{width}} {f'[{field.array[1]}]' if field.array else ''}{types[field.element]}"
            for field in plain]  # fmt: skip
    out += ["}", "", f"// Decode{name} copies the fields out of b, which holds at least {name}Bytes bytes.",
            f"func Decode{name}(b []byte) {name} {{", f"\t_ = b[{name}Bytes-1]", f"\treturn {name}{{"]  # fmt: skip
    for field in plain:
        width_of_key = f"{camel(field.name) + ':':<{width + 1}}"
        if field.array:
            step = SIZES[field.element]
            values = ", ".join(go_read(field.element, field.offset + step * i) for i in range(field.array[1]))
            out.append(f"\t\t{width_of_key} [{field.array[1]}]{types[field.element]}{{{values}}},")
        else:
            out.append(f"\t\t{width_of_key} {go_read(field.type, field.offset)},")
    out += ["\t}", "}", "", f"// Encode writes the fields to b, which holds at least {name}Bytes bytes.",
            f"func (s {name}) Encode(b []byte) {{", f"\t_ = b[{name}Bytes-1]"]  # fmt: skip
    for field in plain:
        for i in range(field.array[1] if field.array else 1):
            value = f"s.{camel(field.name)}" + (f"[{i}]" if field.array else "")
            value = f"math.Float32bits({value})" if field.element == "f32" else value
            size = SIZES[field.element]
            out.append(f"\tbinary.LittleEndian.PutUint{size * 8}(b[{field.offset + size * i}:], {value})")
    return [*out, "}", ""]


def go_read(kind: str, offset: int) -> str:
    at = f"binary.LittleEndian.Uint{SIZES[kind] * 8}(b[{offset}:])"
    return f"math.Float32frombits({at})" if kind == "f32" else at


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
