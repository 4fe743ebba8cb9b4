import json
import shutil

import pytest

from bench import report, tables
from bench.checks import checks
from bench.publish import BEGIN, END, FRONT, between_markers, publish
from bench.sections import SECTIONS
from bench.sections.limit import limit
from bench.sections.size import size_name
from bench.tests.results import failed, results


def test_a_result_can_be_written_as_json_and_drawn(tmp_path):
    read = json.loads(json.dumps(results()))
    assert read == results()
    assert {file.stem for file in report.draw(read, tmp_path)} == set(SECTIONS)


def test_every_section_and_every_failure_is_printed():
    text = report.markdown(results())
    for section in SECTIONS.values():
        assert section.TITLE in text
        assert section.QUESTION in text
    assert "connection refused" in text
    assert "A CPU, 2 cores (virtual machine)" in text


def test_tables_are_rectangular():
    lines = [line for line in report.markdown(results()).splitlines() if line.startswith("|")]
    width = 0
    for line, before in zip(lines, ["", *lines], strict=False):
        if "---" not in line and (not before or line.count("|") != width):
            width = line.count("|")
        assert line.count("|") == width


def test_a_claim_that_is_not_met_is_printed_as_such():
    found = {each["claim"]: each for each in checks(results())}
    assert found["echo, p50: Unix socket / shm spinning"]["met"]
    assert not found["echo, p99: Unix socket / shm spinning"]["met"]  # 12 us / 1.5 us is 8, not 20
    assert found["echo, p50: HTTP / shm spinning"] == {
        "claim": "echo, p50: HTTP / shm spinning", "wanted": "at least 200", "measured": None, "met": False,
    }  # fmt: skip
    assert "**no**" in report.claims(results())


def test_what_the_prompt_lane_adds_is_claimed_by_what_was_measured():
    found = {each["claim"]: each for each in checks(results())}
    assert found["first token, p50: what the lane adds spinning, us"]["met"]
    assert not found["first token, p50: what the lane adds parked, us"]["met"]  # 130 us - 4 us
    assert found["a token's way to Go, p50, parked, us"]["measured"] is None


def test_what_rows_of_every_size_cost_is_claimed_of_the_worst_of_them():
    found = {each["claim"]: each for each in checks(results())}
    assert found["rows that nobody touches, p50: the slowest size / the fastest"]["measured"] == 1.0
    assert found["rows of 1 MiB and more that are touched, p50: shm spinning / memcpy"]["measured"] == 1.2  # not 20
    assert found["rows of 1 MiB and more that are touched, p50: shm spinning / C to C"]["measured"] == 1.1  # not 4
    some = results()
    some["sections"]["size"]["rows"] = [
        row for row in some["sections"]["size"]["rows"] if row["key"] != "touched/1048576/shm-spin"
    ] + [failed("touched/1048576/shm-spin", "shm", what="touched", bytes=1 << 20)]
    found = {each["claim"]: each for each in checks(some)}
    assert found["rows of 1 MiB and more that are touched, p50: shm spinning / memcpy"]["measured"] is None


def test_replicas_and_reloads_are_claimed_by_what_was_measured():
    found = {each["claim"]: each for each in checks(results())}
    assert not found["a model of 1 ms, calls/s: two replicas / one"]["met"]  # 1.5
    assert found["calls that failed among reloads and takeovers"]["met"]
    some = results()
    some["sections"]["reload"]["rows"][1]["errors"] = 1
    assert not {each["claim"]: each for each in checks(some)}["calls that failed among reloads and takeovers"]["met"]
    assert "1 reload (p50 1.00 s) and 1 takeover (p50 2.00 s) in 4.0 s." in report.markdown(results())


def test_the_http_gateway_is_claimed_by_64_callers_that_classify():
    claim = "64 HTTP callers, images/s: the gateway / Flask"
    assert {each["claim"]: each for each in checks(results())}[claim]["measured"] is None  # of a run without it
    some = results()
    some["sections"]["concurrency"]["rows"] += [
        {"key": key, "op": op, "callers": callers, "calls_per_s": speed}
        for key, op, callers, speed in (
            ("http", "classify", 64, 100.0),
            ("http-gateway", "classify", 64, 600.0),
            ("http-gateway", "echo", 64, 9e9),
            ("http-gateway", "classify", 256, 1.0),
        )
    ]
    assert {each["claim"]: each for each in checks(some)}[claim]["measured"] == 6.0


@pytest.mark.parametrize(("size", "name"), [(64, "64 B"), (1 << 14, "16 KiB"), (1 << 24, "16 MiB")])
def test_sizes_are_named_as_people_do(size, name):
    assert size_name(size) == name


def test_claims_of_sections_that_were_not_run_are_left_out():
    some = results()
    some["sections"] = {"classify": some["sections"]["classify"]}
    assert [each["claim"] for each in checks(some)] == [
        "classify, p50: what shm spinning adds, us",
        "classify, p50: Flask / the HTTP gateway",
    ]


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (0.01234, "0.0123"), (1.478, "1.48"), (63.46, "63.5"), (1234.5, "1,234"), (0, "0")]
)
def test_numbers_have_three_digits(value, text):
    assert tables.number(value) == text


def test_the_limit_of_mixed_batches_is_that_of_their_buckets():
    speeds = {1: 10.0, 2: 20.0, 4: 40.0}
    assert limit({"1": 10}, speeds) == 10.0
    # 6 images in 2 batches of 3, each run in a bucket of 4: 0.2 s.
    assert limit({"3": 6}, speeds) == pytest.approx(30.0)
    assert limit({"1": 10, "4": 40}, speeds) == pytest.approx(25.0)


def test_publishing_twice_changes_nothing(tmp_path):
    source, root = tmp_path / "source", tmp_path / "root"
    (root / "bench").mkdir(parents=True)
    source.mkdir()
    some = results()
    some["sections"] = {name: some["sections"][name] for name in FRONT}  # drawing takes longer than all the rest
    (source / "results.json").write_text(json.dumps(some))
    for page in (root / "README.md", root / "bench" / "README.md"):
        page.write_text(f"before\n\n{BEGIN}\n{END}\n\nafter\n")
    publish(source, root)
    first = {file: file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}
    assert b"HTTP + JSON" in first[root / "README.md"]
    assert first[root / "README.md"].startswith(b"before\n")
    assert first[root / "README.md"].endswith(b"after\n")
    publish(source, root)
    assert {file: file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()} == first
    shutil.rmtree(source)
    publish(root / "bench" / "results", root)  # a published result can be published again
    assert {file: file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()} == first


def test_a_page_without_markers_is_refused_and_nothing_written(tmp_path):
    with pytest.raises(ValueError, match="results:begin"):
        between_markers("no markers", "block")
    source, root = tmp_path / "source", tmp_path / "root"
    (root / "bench").mkdir(parents=True)
    source.mkdir()
    (source / "results.json").write_text(json.dumps(results()))
    (root / "README.md").write_text(f"{BEGIN}\n{END}")
    (root / "bench" / "README.md").write_text("no markers")
    with pytest.raises(ValueError, match=r"bench/README\.md"):
        publish(source, root)
    assert (root / "README.md").read_text() == f"{BEGIN}\n{END}"
