"""The marked tables of layout.md, read and checked.

    for table in read_tables(Path("layout.md").read_text()):
        print(table.kind, table.name, table.rows)

What breaks a rule of its table is a ValueError that says where.
"""

import re
from dataclasses import dataclass

MARKER = re.compile(r"<!-- layout: (constants|enum|struct) ?(\w*) ?(\d*) -->")
SIZES = {"u16": 2, "u32": 4, "u64": 8, "f32": 4}
NONE = "-"  # a cell that says that there is none


def number(cell: str) -> str:
    return str(int(cell, 0))


def quoted(cell: str) -> str:
    return f'"{cell}"'


def sentinel(cell: str) -> str:
    """A public error of package shm, which is named `Err` and its name in package fault."""
    return "fault." + cell.removeprefix("Err")


# The columns that an enum may have between value and meaning: what a cell looks like, and how each language that needs
# it writes it.
COLUMNS = {
    "bytes": (r"\d+", {"python": number, "c": number, "go": number}),
    "HTTP code": (r"[1-5]\d\d", {"python": number, "go": number}),
    "gRPC code": (r"[A-Z_]+", {"python": quoted}),
    "Go error": (r"Err[A-Z]\w*", {"go": sentinel}),
    "Python error": (r"[A-Z]\w*", {"python": quoted}),
}


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

    def extras(self, language: str) -> list[tuple[str, dict[str, str]]]:
        """The columns between an enum's value and its meaning that `language` needs: the heading, and the cell of each
        name as that language writes it, "" for none.
        """
        return [
            (heading, {row[0]: "" if row[at] == NONE else write(row[at]) for row in self.rows})
            for at, heading in enumerate(self.columns[2:-1], 2)
            if (write := COLUMNS[heading][1].get(language))
        ]

    @property
    def fields(self) -> list[Field]:
        return [Field(row[0], int(row[1]), row[2]) for row in self.rows]


def read_tables(text: str) -> list[Table]:
    """Every marked table of layout.md, checked: fields aligned, in order, inside their struct; columns known."""
    tables = []
    lines = text.splitlines()
    for at, line in enumerate(lines):
        if not (marker := MARKER.fullmatch(line)):
            continue
        rows = []
        for row in (lines[at + 1], *lines[at + 3 :]):
            if not row.startswith("|"):
                break
            rows.append(tuple(cell.strip() for cell in row.strip("|").split("|")))
        table = Table(marker[1], marker[2], int(marker[3] or 0), rows[0], tuple(rows[1:]))
        if table.kind == "struct":
            check_struct(table, {t.name: t.size for t in tables} | SIZES | {"lane": 128, "tensor": 64})
        elif table.kind == "enum":
            check_enum(table)
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


def check_enum(table: Table) -> None:
    where = f"layout.md: enum {table.name}"
    for row in table.rows:
        if len(row) != len(table.columns):
            raise ValueError(f"{where}, {row[0]}: {len(row)} cells, expected {len(table.columns)}")
    for at, heading in enumerate(table.columns[2:-1], 2):
        if heading not in COLUMNS:
            raise ValueError(f"{where}: a column {heading!r}, expected one of {', '.join(COLUMNS)}")
        for row in table.rows:
            if row[at] != NONE and not re.fullmatch(COLUMNS[heading][0], row[at]):
                raise ValueError(f"{where}, {row[0]}: {row[at]!r}, expected a {heading}, or {NONE!r} for none")
