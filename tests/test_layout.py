"""layout.md against what is made of it, in all three languages, and against its own promises."""

import re
import subprocess
import sys
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent / "conformance"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
import generate_layout as generate
from heap_lane import image_spec, prompt_spec, tokens_spec
from tables import CONSTANTS, ENUMS, ERRORS, FORMATS, PAGE, ROOT, SIZES, STRUCTS

from shm_server import generators, layout
from shm_server.session.segment import Plan

BYTES = {"u16": 2, "u32": 4, "u64": 8, "f32": 4, "u32[8]": 32}
BYTES |= {"lane[1]": SIZES["lane"], "tensor[24]": 24 * SIZES["tensor"]}
NUMPY = {"u16": "<u2", "u32": "<u4", "u64": "<u8", "f32": "<f4", "u32[8]": "(8,)<u4"}
LINE = CONSTANTS["line_bytes"]
PYTHON, GO = "shm_server/layout/generated.py", "go-shm-client/internal/layout/generated.go"
# Of gRPC, https://grpc.io/docs/guides/status-codes/
GRPC_CODES = """
    OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED
    RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE DATA_LOSS
    UNAUTHENTICATED
"""


# ---- the page and what is generated from it


def test_the_generated_files_are_up_to_date():
    script = ROOT / "tools" / "generate_layout.py"
    run = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert run.returncode == 0, f"run `make layout`:\n{run.stdout}{run.stderr}"


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder with a layout.md in which the generator may write."""
    for name in ("layout.md", *generate.OUTPUTS):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", generate.OUTPUTS)
def test_a_constant_edited_by_hand_is_reported_and_then_written_anew(elsewhere, capsys, name):
    path, wanted = elsewhere / name, (ROOT / name).read_text()
    assert generate.main(["--check"]) == 0
    path.write_text(wanted.replace("65536", "65537"))
    assert generate.main(["--check"]) == 1
    assert "65537" in capsys.readouterr().out
    assert "65537" in path.read_text()  # --check writes nothing
    assert generate.main([]) == 0
    assert path.read_text() == wanted


def test_a_change_of_the_page_reaches_all_three_languages(elsewhere):
    page = elsewhere / "layout.md"
    page.write_text(PAGE.replace("| cancel | 4 | u32 |", "| cancel | 8 | u32 |"))
    assert generate.main(["--check"]) == 1
    generate.main([])
    assert "ControlCancelAt = 8" in (elsewhere / "go-shm-client/internal/layout/generated.go").read_text()
    assert "offsetof(struct shm_control, cancel) == 8" in (elsewhere / "shm_server/native/layout.h").read_text()
    namespace: dict = {}
    exec((elsewhere / "shm_server/layout/generated.py").read_text(), namespace)
    assert namespace["STRUCTS"]["control"]["offsets"][-1] == 8


@pytest.mark.parametrize(
    ("row", "cell", "instead", "written"),
    [
        ("broken | 11", "502", "418", {PYTHON: "Status.BROKEN: 418,", GO: "StatusBroken:           418,"}),
        ("broken | 11", "ABORTED", "DATA_LOSS", {PYTHON: 'Status.BROKEN: "DATA_LOSS",'}),
        ("broken | 11", "ErrBroken", "ErrTimedOut", {GO: "StatusBroken:           fault.TimedOut,"}),
        ("broken | 11", "Broken", "Torn", {PYTHON: 'Status.BROKEN: "Torn",'}),
        ("moved | 11", "503", "410", {PYTHON: "Reason.MOVED: 410,", GO: "ReasonMoved:           410,"}),
        ("moved | 11", "UNAVAILABLE", "ABORTED", {PYTHON: 'Reason.MOVED: "ABORTED",'}),
        ("moved | 11", "ErrServerGone", "-", {GO: "ReasonMoved:           nil,"}),
        ("moved | 11", "ServerGone", "Away", {PYTHON: 'Reason.MOVED: "Away",'}),
        ("fp16 | 10", "2", "4", {PYTHON: "Datatype.FP16: 4,", GO: "DatatypeFP16:   4,"}),
    ],
)
def test_a_changed_column_of_an_enum_is_reported_and_reaches_the_languages_that_need_it(
    elsewhere, capsys, row, cell, instead, written
):
    (line,) = re.findall(rf"^\| {re.escape(row)} \|.*$", PAGE, re.MULTILINE)
    (elsewhere / "layout.md").write_text(PAGE.replace(line, line.replace(f"| {cell} |", f"| {instead} |")))
    assert generate.main(["--check"]) == 1
    said = capsys.readouterr().out
    generate.main([])
    for name, text in written.items():
        assert f"+    {text}" in said or f"+\t{text}" in said
        assert text in (elsewhere / name).read_text()


def test_a_new_status_reaches_all_three_languages(elsewhere):
    page = elsewhere / "layout.md"
    last = next(line for line in PAGE.splitlines() if line.startswith("| broken | 11 |"))
    page.write_text(PAGE.replace(last, f"{last}\n| lost | 12 | 410 | NOT_FOUND | ErrServerGone | Lost | it is lost |"))
    assert generate.main(["--check"]) == 1
    generate.main([])
    python, c, go = ((elsewhere / name).read_text() for name in generate.OUTPUTS)
    namespace: dict = {}
    exec(python, namespace)
    lost = namespace["Status"].LOST
    assert namespace["STATUS_HTTP_CODE"][lost] == 410
    assert namespace["STATUS_PYTHON_ERROR"][lost] == "Lost"
    assert "#define SHM_STATUS_LOST 12u" in c
    assert re.search(r"StatusLost: +fault.ServerGone,", go)
    assert re.search(r'StatusLost: +"lost",', go)


@pytest.mark.parametrize(
    ("heading", "cell", "why"),
    [
        ("HTTP code", "OK", "enum status, ok: 'OK', expected a HTTP code, or '-' for none"),
        ("HTTP code", "1000", "'1000', expected a HTTP code"),
        ("gRPC code", "14", "'14', expected a gRPC code"),
        ("Go error", "Broken", "'Broken', expected a Go error"),
        ("Python error", "", "'', expected a Python error"),
        ("HTTP status", "200", "enum status: a column 'HTTP status', expected one of bytes, HTTP code, gRPC code"),
        ("HTTP code", "200 | 201", "enum status, ok: 5 cells, expected 4"),
    ],
)
def test_the_generator_rejects_a_column_that_it_does_not_know_and_a_cell_that_is_not_of_its_column(heading, cell, why):
    page = f"<!-- layout: enum status -->\n| name | value | {heading} | meaning |\n| - |\n| ok | 0 | {cell} | done |"
    with pytest.raises(ValueError, match=re.escape(why)):
        generate.read_tables(page)


def test_every_marker_on_the_page_is_a_table_that_the_generator_reads():
    tables = generate.read_tables(PAGE)
    assert len(tables) == PAGE.count("<!-- layout:") == len(STRUCTS) + len(ENUMS) + 1
    assert all(table.rows for table in tables)


def struct(*rows: str, size: int = 16) -> str:
    lines = [
        f"<!-- layout: struct thing {size} -->",
        "| field | offset | type | written by | ordering |",
        "| - | - | - |",
    ]
    return "\n".join([*lines, *(f"| {row} | client | |" for row in rows)])


@pytest.mark.parametrize(
    ("rows", "size", "why"),
    [
        (["a | 0 | u64", "b | 4 | u32"], 16, "b overlaps"),
        (["a | 0 | u32", "b | 4 | u64"], 16, "b overlaps or is not aligned"),
        (["a | 0 | u32", "b | 6 | u32"], 16, "b overlaps or is not aligned"),
        (["a | 1 | u16"], 16, "a overlaps or is not aligned"),
        (["a | 8 | u32", "b | 0 | u32"], 16, "b overlaps"),
        (["a | 0 | u64", "b | 8 | u64", "c | 16 | u16"], 16, "16 bytes, its fields need 18"),
        (["a | 0 | lane[2]"], 255, "255 bytes, its fields need 256"),
    ],
)
def test_the_generator_rejects_fields_that_overlap_lie_askew_or_leave_their_struct(rows, size, why):
    with pytest.raises(ValueError, match=why.replace("[", r"\[")):
        generate.read_tables(struct(*rows, size=size))


def test_the_generator_takes_what_is_right():
    (table,) = generate.read_tables(struct("a | 0 | u64", "b | 8 | u16", "c | 10 | u16", "d | 12 | f32"))
    assert [field.offset for field in table.fields] == [0, 8, 10, 12]


# ---- Python, C and Go against the tables, read by other code than the generator's


def plain(name: str) -> list:
    """The words of a struct that are no structs themselves."""
    return [word for word in STRUCTS[name] if word.type not in ("lane[1]", "tensor[24]")]


def test_numpys_dtypes_are_the_tables():
    for name, words in ((name, plain(name)) for name in STRUCTS):
        dtype = np.dtype(layout.generated.STRUCTS[name])
        assert getattr(layout, name, dtype) == dtype
        assert dtype.itemsize == SIZES[name]
        assert list(dtype.names) == [word.name for word in words]
        for word in words:
            field, offset = dtype.fields[word.name][:2]
            assert (field, offset) == (np.dtype(NUMPY[word.type]), word.offset), f"{name}.{word.name}"
    places = {word.name: word.offset for word in STRUCTS["header"]}
    assert (places["lane"], places["tensors"]) == (layout.LANE_OFFSET, layout.TENSORS_OFFSET)


def test_pythons_constants_and_enums_are_the_tables():
    for name, value in CONSTANTS.items():
        assert getattr(layout, name.upper()) == value
    for name, values in ENUMS.items():
        enum = getattr(layout, generate.camel(name))
        assert {item.name.lower(): item.value for item in enum} == values


def test_cs_offsets_sizes_and_constants_are_the_tables(tmp_path):
    lines = ['#include "layout.h"']

    def same(expression: str, value: int) -> None:
        lines.append(f'_Static_assert({expression} == {value}ull, "{expression}");')

    for name, value in CONSTANTS.items():
        same(f"SHM_{name.upper()}", value)
    for name, values in ENUMS.items():
        for item, value in values.items():
            same(f"SHM_{name.upper()}_{item.upper()}", value)
    for name, words in STRUCTS.items():
        if name == "header":  # a page with holes: offsets, no struct
            for word in words:
                same(f"SHM_HEADER_{word.name.upper()}", word.offset)
            continue
        same(f"sizeof(struct shm_{name})", SIZES[name])
        for word in words:
            same(f"offsetof(struct shm_{name}, {word.name})", word.offset)
            same(f"sizeof(((struct shm_{name} *)0)->{word.name})", BYTES[word.type])
    source = tmp_path / "offsets.c"
    source.write_text("\n".join(lines) + "\n")
    command = ["gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{ROOT}/shm_server/native", source]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert len(lines) > 150


def test_gos_constants_are_the_tables():
    text = (ROOT / "go-shm-client/internal/layout/generated.go").read_text()
    found = dict(line.split()[1:4:2] for line in text.splitlines() if line.startswith("const "))
    found = {name: int(value, 0) for name, value in found.items()}
    wanted = {generate.camel(name): value for name, value in CONSTANTS.items()}
    for name, values in ENUMS.items():
        wanted |= {generate.camel(name) + generate.camel(item): value for item, value in values.items()}
    for name, words in STRUCTS.items():
        wanted[f"{generate.camel(name)}Bytes"] = SIZES[name]
        wanted |= {f"{generate.camel(name)}{generate.camel(word.name)}At": word.offset for word in words}
    assert found == wanted


# ---- errors: what a status and a reason are in the two languages and over HTTP and gRPC


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("heading", ["HTTP code", "gRPC code", "Python error"])
def test_pythons_codes_and_errors_are_the_tables(name, heading):
    enum = getattr(layout, name.capitalize())
    written = getattr(layout, f"{name}_{heading.replace(' ', '_')}".upper())
    wanted = {enum[item.upper()]: cell for item, cell in ERRORS[name][heading].items() if cell != "-"}
    assert {item: str(cell) for item, cell in written.items()} == wanted


def go_array(text: str, name: str) -> dict[str, str]:
    (body,) = re.findall(rf"^var {name} = \[\.\.\.\]\w+{{\n(.*?)^}}", text, re.MULTILINE | re.DOTALL)
    return dict(re.findall(r"^\t(\w+): +(.*),$", body, re.MULTILINE))


@pytest.mark.parametrize("name", ERRORS)
def test_gos_codes_errors_and_words_are_the_tables(name):
    text, kind = (ROOT / GO).read_text(), name.capitalize()
    codes, errors = ERRORS[name]["HTTP code"], ERRORS[name]["Go error"]
    public = dict(
        re.findall(r"^\t(Err\w+) += (fault\.\w+)$", (ROOT / "go-shm-client/errors.go").read_text(), re.MULTILINE)
    )
    public["-"] = "nil"
    assert go_array(text, f"{kind}HTTPCode") == {
        kind + generate.camel(item): "0" if cell == "-" else cell for item, cell in codes.items()
    }
    assert go_array(text, f"{kind}GoError") == {
        kind + generate.camel(item): public[cell] for item, cell in errors.items()
    }
    assert go_array(text, f"{kind}Name") == {
        kind + generate.camel(item): f'"{item.replace("_", " ")}"' for item in errors
    }


def test_grpcs_codes_are_codes_of_grpc():
    for columns in ERRORS.values():
        assert set(columns["gRPC code"].values()) - {"-"} <= set(GRPC_CODES.split())


def test_whatever_fails_has_a_code_and_an_error_everywhere():
    for name, columns in ERRORS.items():
        for heading, cells in columns.items():
            missing = {item for item, cell in cells.items() if cell == "-"}
            if name == "status":
                assert missing == ({"more"} if "code" in heading else {"ok", "more", "cancelled"}), heading
            else:  # a refusal, a goodbye: an error of their own, whatever the reason
                assert missing == set() if "code" in heading else missing < set(cells), heading


def test_a_generators_errors_are_those_of_the_page():
    kinds = {kind.__name__: kind for kind in generators.GeneratorError.__subclasses__()}
    named = {name: item for item, name in ERRORS["status"]["Python error"].items() if name in kinds}
    assert {name: generators.status_of(kind("why")).name.lower() for name, kind in kinds.items()} == named
    assert {kind: status.name.lower() for status, kind in generators.ERRORS.items()} == {
        kinds[name]: item for name, item in named.items()
    }

    class Worse(generators.Broken):
        """Of a generator of somebody's own."""

    assert generators.status_of(Worse("why")) == layout.Status.BROKEN
    assert generators.status_of(generators.ModelError("why")) == layout.Status.MODEL_ERROR
    assert generators.status_of(SystemExit(3)) == layout.Status.MODEL_ERROR


# ---- what the page promises


def test_magics_spell_their_names_and_cannot_begin_with_a_bell():
    assert CONSTANTS["segment_magic"].to_bytes(8, "little") == b"STENSOR1"
    assert CONSTANTS["frame_magic"].to_bytes(4, "little") == b"STB1"
    assert CONSTANTS["frame_magic"] & 0xFF != CONSTANTS["bell"]


def test_every_word_is_aligned_to_its_size_within_its_struct():
    for name, words in STRUCTS.items():
        for word in words:
            assert word.offset % min(BYTES[word.type], 4 if word.type == "u32[8]" else 8) == 0, f"{name}.{word.name}"
            assert word.offset + BYTES[word.type] <= SIZES[name], f"{name}.{word.name}"
        for one, other in pairwise(words):
            assert one.offset + BYTES[one.type] <= other.offset, f"{name}: {one.name}, {other.name}"


def test_no_two_words_of_the_header_that_different_sides_write_share_a_line():
    def lines(word):
        return set(range(word.offset // LINE, (word.offset + BYTES[word.type] - 1) // LINE + 1))

    assert {word.writer for word in STRUCTS["header"]} == {"server", "both"}
    shared = [
        (one.name, other.name)
        for one, other in combinations(STRUCTS["header"], 2)
        if (one.writer != other.writer or one.writer == "both") and lines(one) & lines(other)
    ]
    assert shared == []


def test_no_line_of_the_areas_is_written_by_both_sides():
    """Whoever writes a ring's entries writes the ring; the client writes the slots, the server the replies."""
    for name, side in (
        ("submission", "client"),
        ("completion", "server"),
        ("control", "client"),
        ("progress", "server"),
    ):
        assert {word.writer for word in STRUCTS[name]} == {side}
    for count in (1, 2, 3, 4, 31, 64, 65):
        for spec in (image_spec(count), tokens_spec(count), prompt_spec(count)):
            plan = Plan(spec)
            lane = dict(zip(plan.lane.dtype.names, plan.lane.tolist(), strict=True))
            sides = ["client"] * len(spec.inputs) + ["server"] * len(spec.outputs)
            areas = [
                ("client", lane["submissions_offset"], lane["submission_entries"] * layout.ENTRY_BYTES),
                ("server", lane["completions_offset"], lane["completion_entries"] * layout.ENTRY_BYTES),
                ("server", lane["messages_offset"], count * layout.MESSAGE_BYTES),
                *(
                    (side, int(row["offset"]), count * int(row["row_bytes"]))
                    for side, row in zip(sides, plan.tensors, strict=True)
                ),
            ]
            if spec.protocol == layout.Protocol.STREAM:
                areas.append(("client", lane["controls_offset"], count * SIZES["control"]))
                areas.append(("server", lane["progress_offset"], count * SIZES["progress"]))
            assert all(offset % layout.PAGE_BYTES == 0 and length > 0 for _, offset, length in areas)
            owner = dict.fromkeys(range(layout.PAGE_BYTES // LINE), "both")  # the header
            for side, offset, length in areas:
                assert offset + length <= plan.size
                for line in range(offset // LINE, (offset + length - 1) // LINE + 1):
                    assert owner.setdefault(line, side) == side, f"{count} slots: byte {line * LINE}"


def test_a_lane_that_is_planned_keeps_the_rules_of_its_table():
    for make, completions in ((image_spec, 1), (prompt_spec, 2)):
        for count in (1, 2, 3, 5, 64, 1000):
            lane = Plan(make(count)).lane
            for name, least in (("submission_entries", count), ("completion_entries", completions * count)):
                entries = int(lane[name])
                assert entries >= least
                assert entries & (entries - 1) == 0


# ---- turns


def test_a_turn_counts_laps_from_one():
    assert [layout.turn(position, 4) for position in range(9)] == [1, 1, 1, 1, 2, 2, 2, 2, 3]


@pytest.mark.parametrize("entries", [1, 2, 4, 64, 65536])
def test_turns_near_2_64_go_on_as_if_nothing_ended(entries):
    """Before it is published, the entry at p holds the turn of the lap before, also across the end of 64 bits."""
    for offset in range(-2 * entries - 1, 2 * entries + 1) if entries <= 64 else (-entries - 1, -entries, -1, 0, 1):
        position, before = offset % 2**64, (offset - entries) % 2**64
        assert layout.turn(before, entries) == (position // entries) % 2**64
        assert layout.turn(position, entries) != layout.turn(before, entries)
        assert 0 <= layout.turn(position, entries) < 2**64
    assert layout.turn(2**64 - 1, entries) == 0  # as a fresh ring holds
    assert layout.turn(0, entries) == 1


def test_turns_take_integers_of_numpy_near_2_64():
    with np.errstate(all="raise"):
        assert layout.turn(int(np.uint64(2**64 - 1)), int(np.uint32(4))) == 0


def test_formats_cover_every_type_of_the_page():
    assert {word.type for words in STRUCTS.values() for word in words} - {"lane[1]", "tensor[24]", "u32[8]"} == set(
        FORMATS
    )
