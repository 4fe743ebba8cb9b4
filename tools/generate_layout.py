"""Write the layout constants of all three languages from the tables of layout.md.

``python tools/generate_layout.py`` rewrites the files. ``--check`` only says whether they are up to date (exit code 1
and a diff when they are not). layout.md is the single source: nobody edits what this writes.
"""

import argparse
import difflib
import sys
from pathlib import Path

from layout_tables import SIZES, Field, Table, read_tables

ROOT = Path(__file__).resolve().parents[1]
NOTICE = "Generated from layout.md by tools/generate_layout.py; do not edit."


def snake(heading: str) -> str:
    return heading.lower().replace(" ", "_")


def camel(name: str) -> str:
    special = {
        "http": "HTTP",
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
            for heading, cells in table.extras("python"):
                out += ["", "", f"{table.name.upper()}_{snake(heading).upper()} = {{"]
                out += [f"    {camel(table.name)}.{name.upper()}: {cell}," for name, cell in cells.items() if cell]
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
            for heading, cells in table.extras("c"):
                numbers = {name: value for name, value, _ in table.values}
                pairs = ", ".join(f"[{numbers[name]}] = {cell}" for name, cell in cells.items() if cell)
                out.append(f"static const uint8_t shm_{table.name}_{snake(heading)}[] = {{{pairs}}};")
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
           "package layout", "", 'import (', '\t"encoding/binary"', '\t"math"', "",
           '\t"go-shm-client/internal/fault"', ")", ""]  # fmt: skip
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
            for heading, cells in table.extras("go"):
                kind, none = ("error", "nil") if heading == "Go error" else ("int", "0")
                said = f"the {heading} of each {table.name}, {none} for none"
                out += go_array(table, heading, said, kind, {name: cell or none for name, cell in cells.items()})
            if "Go error" in table.columns:  # whose text may say the name
                names = {name: f'"{name.replace("_", " ")}"' for name, _, _ in table.values}
                out += go_array(table, "name", f"each {table.name} in words", "string", names)
        else:
            out += go_struct(table, types)
    return "\n".join(out).rstrip("\n") + "\n"


def go_array(table: Table, heading: str, said: str, kind: str, cells: dict[str, str]) -> list[str]:
    name, keys = camel(table.name) + camel(snake(heading)), [camel(table.name) + camel(item) + ":" for item in cells]
    width = max(map(len, keys))
    rows = [f"\t{key:<{width}} {cell}," for key, cell in zip(keys, cells.values(), strict=True)]
    return [f"// {name}: {said}.", f"var {name} = [...]{kind}{{", *rows, "}", ""]


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
