"""The quick form from end to end, as `make bench-quick` runs it, but shorter still and with a model that loads at once.
Its times are not looked at: CI is no quiet place."""

import dataclasses
import json
import os
from pathlib import Path

import pytest

from bench import contestants, run
from bench.histogram import Histogram
from bench.plan import QUICK
from bench.sections import SECTIONS, prompt, size

# Enough for some calls of everybody.
PLAN = dataclasses.replace(
    QUICK, seconds=0.03, warm_up=10, sweep_seconds=0.03, load_seconds=0.05, syscall_seconds=0.03, idle_seconds=0.03,
    quiet_seconds=0.03,
)  # fmt: skip

STUBBED = str(Path(__file__).with_name("stubbed"))


@pytest.fixture(scope="module")
def output(tmp_path_factory, program, first_start):  # `program`: skipped without Go
    directory = tmp_path_factory.mktemp("quick")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "BUILD", directory)  # the other one is for whoever measures
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [STUBBED, os.environ.get("PYTHONPATH")])))
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(first_start.compiled))
        # Idle, prompts would get no core at all on a machine that is kept busy.
        flags = ["--quick", "--prompt-priority", "normal", "--output", str(directory)]
        assert run.main(flags, quick=PLAN) == 0
    return directory


@pytest.fixture(scope="module")
def results(output):
    return json.loads((output / "results.json").read_text())


@pytest.mark.parametrize("name", SECTIONS)
def test_every_section_measured_and_no_call_failed(results, name):
    rows = results["sections"][name]["rows"]
    assert rows
    for row in rows:
        assert row["errors"] == 0, row["first_error"]
        assert row["count"] > 0, row["label"]
        assert len(Histogram([row["histogram"]])) == row["count"] + row.get("unfinished", 0)


def test_nobody_is_left_out(results):
    sections = {name: {row["key"] for row in section["rows"]} for name, section in results["sections"].items()}
    everybody = {each.key for each in contestants.ALL}
    assert sections["echo"] >= everybody | {each.key for each in contestants.FLOORS}
    assert sections["classify"] == everybody | {contestants.ENGINE.key}
    assert sections["cost"] == {each.key for each in contestants.OF_ONE_PROCESS}
    assert {row["callers"] for row in results["sections"]["concurrency"]["rows"]} == set(QUICK.callers)
    assert sections["prompt"] >= {f"echo/{each.key}" for each in prompt.ECHOES}
    lanes = {f"{kind.key}/{each.key}" for kind in prompt.KINDS for each in (contestants.ENGINE, *kind.lanes)}
    assert {key.partition("/")[2] for key in sections["prompt"] if key.startswith("first/")} == lanes
    assert "made/paced/floor-wake" in sections["prompt"]
    for what in ("classify", "generating", "beside"):
        assert {f"{what}/{each.key}" for each in prompt.CLASSIFIERS} <= sections["prompt"]
    assert sections["size"] == {f"{what}/{n}/{each.key}" for what, n, each in size.places(QUICK)}
    assert {row["replicas"] for row in results["sections"]["replicas"]["rows"]} == set(QUICK.replicas)
    assert [each["what"] for each in results["sections"]["reload"]["changes"]].count("reload") == QUICK.reloads
    assert len(results["sections"]["reload"]["changes"]) == QUICK.reloads + QUICK.takeovers
    assert {row["processes"] for row in results["sections"]["processes"]["rows"]} == set(QUICK.processes)


def test_a_picture_and_a_table_of_every_section_exist(output):
    for name in SECTIONS:
        assert (output / f"{name}.png").read_bytes().startswith(b"\x89PNG"), name
        assert SECTIONS[name].TITLE in (output / "RESULTS.md").read_text()


def test_the_header_names_the_machine_the_versions_and_the_commit(results):
    head = results["header"]
    for name in ("cpu", "cores", "pinning", "kernel", "commit", "model", "python"):
        assert head[name], name
    assert {"numpy", "tensorflow", "grpcio", "hdrhistogram"} <= head["versions"].keys()
    assert {"go", "grpc", "hdrhistogram-go"} <= head["go"].keys()
