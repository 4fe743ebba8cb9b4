"""Real runs of bench/go's load, against real servers."""

import dataclasses
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from bench.contestants import DEFAULT, GATEWAY, GRPC, HTTP, SPINNING, UDS
from bench.engine_limit import measure
from bench.histogram import Histogram
from bench.load import Load, LoadError
from bench.sections.processes import combined
from bench.servers import Fleet


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    with Fleet(
        tmp_path_factory.mktemp("fleet"), "none", ("spinning", "default", "gateway", "uds", "grpc", "http")
    ) as fleet:
        yield fleet


@pytest.fixture
def caller(program, tmp_path):
    pictures, labels = tmp_path / "pictures.bin", tmp_path / "labels.json"
    np.zeros(3072, np.uint8).tofile(pictures)
    labels.write_text('["cat"]')
    return Load(program, pictures, labels, seed=1, warm_up=10)


@pytest.mark.parametrize("contestant", [SPINNING, DEFAULT, UDS, GRPC, HTTP, GATEWAY], ids=lambda each: each.key)
def test_every_transport_echoes_and_every_byte_is_checked(fleet, caller, contestant):
    with fleet.only(contestant.server) as server:
        run = caller.run(contestant, server, "echo", calls=50, callers=4)
    assert (run["count"], run["errors"]) == (50, 0)
    assert run["bytes_checked"] == 50 * 3072
    histogram = Histogram([run["histogram"]])
    assert len(histogram) == 50  # Go's encoding is read by Python, and the warm-up is not in it
    assert 0 < histogram.us(50) <= histogram.max_us() < 60e6
    assert sum(run["client"].values()) > 0


def test_shared_memory_says_how_it_waited(fleet, caller):
    with fleet.only("spinning") as server:
        run = caller.run(SPINNING, server, "echo", calls=50)
    assert run["stats"]["requests"] == 50
    assert run["stats"]["bells_sent"] == 0


def test_an_open_loop_makes_every_call_that_was_due(fleet, caller):
    with fleet.only("uds") as server:
        run = caller.run(UDS, server, "echo", seconds=0.5, rate=100, callers=8)
    assert run["count"] + run["unfinished"] == 50  # those given up on a machine that stood still count as well
    assert len(Histogram([run["histogram"]])) == 50
    assert len(Histogram([run["lateness"]])) == 50


def test_calls_that_are_never_answered_count_with_the_time_they_waited(fleet, caller):
    with fleet.only("uds") as server, caller.hold(UDS, server, "echo", seconds=0.2, rate=100, callers=4) as run:
        server.freeze()
        measured = run.go()
        server.thaw()
    assert (measured["count"], measured["errors"], measured["unfinished"]) == (0, 0, 20)
    histogram = Histogram([measured["histogram"]])
    assert len(histogram) == 20
    assert 1e6 < histogram.us(0) <= histogram.max_us() < 1.3e6  # due in the first 0.2 s, given up after 1.2 s


def test_an_idle_client_makes_no_call(fleet, caller):
    with fleet.only("default") as server:
        run = caller.run(DEFAULT, server, "idle", seconds=0.1)
    assert run["count"] == 0
    assert run["stats"]["requests"] == 0


def test_a_wrong_answer_is_an_error_and_no_sample(fleet, caller):
    with fleet.only("default") as server, pytest.raises(LoadError, match="one FP32 output with a label"):
        caller.run(DEFAULT, server, "classify", calls=5)


def test_a_run_against_nobody_says_why(fleet, caller, tmp_path):
    server = dataclasses.make_dataclass("Gone", ["serving"], namespace={"address": lambda *_: str(tmp_path / "gone")})
    with pytest.raises(LoadError, match="no such file or directory"):
        caller.run(DEFAULT, server(os.getpid()), "echo", calls=1)


def test_frozen_servers_use_nothing(fleet):
    with fleet.only("default"):
        spinning = fleet.servers["spinning"].pid
        fields = [Path(f"/proc/{spinning}/stat").read_text().rpartition(")")[2].split() for _ in range(2)]
    assert [each[0] for each in fields] == ["T", "T"]
    assert fields[0][11:13] == fields[1][11:13]


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["-op", "dance"], "echo, classify or idle"),
        (["-calls", "1", "-seconds", "1"], "one of -calls and -seconds"),
        (["-rate", "5", "-calls", "1"], "-rate needs -seconds"),
        (["-calls", "1", "-op", "classify"], "needs -pictures and -labels"),
        (["-calls", "1", "-spin", "often"], "not a time"),
        (["-calls", "1", "-op", "call", "-transport", "uds"], "through all but shm -bytes"),
        (["-seconds", "1", "-op", "call", "-bytes", "1", "-rate", "5"], "-op call has callers who send"),
        (["-seconds", "1", "-until-line"], "-until-line needs -hold"),
        (["-calls", "1", "-slots", "-1"], "out of range"),
        (["-calls", "1", "-transport", "pigeon"], "no transport"),
        (["-calls", "1", "more"], "unexpected argument"),
    ],
)
def test_wrong_flags_give_one_clear_line(program, flags, complaint):
    done = subprocess.run([program, "-address", "nowhere", *flags], capture_output=True, text=True)
    assert done.returncode == 1
    assert complaint in done.stderr
    assert done.stdout == ""


def test_runs_at_the_same_time_add_up():
    one = {
        "histogram": Histogram.of(np.array([1000])).encode(), "count": 1, "errors": 0, "wall_s": 2.0,
        "client": {"user_s": 1.0}, "server_cpu_s": 3.0, "batches": {"1": 1},
    }  # fmt: skip
    both = combined([one, {**one, "errors": 1, "first_error": "lost", "wall_s": 4.0}])
    assert (both["count"], both["errors"], both["first_error"], both["wall_s"]) == (2, 1, "lost", 3.0)
    assert (both["client"], both["server_cpu_s"], both["batches"]) == ({"user_s": 2.0}, 3.0, {"1": 2})
    assert len(Histogram([both["histogram"]])) == 2


class Brightness:
    name, class_names = "brightness", ("dark", "bright")

    def scores(self, pixels):
        bright = pixels.mean(axis=(1, 2, 3), dtype=np.float32) / 255
        return np.stack([1 - bright, bright], axis=1)


def test_the_engine_in_process_is_measured_with_changing_pictures():
    pictures = np.random.default_rng(1).integers(0, 256, (5, 3, 32, 32), np.uint8)
    run = measure(Brightness(), pictures, batch=4, seconds=0.05)
    assert run["count"] > 0
    assert run["images_per_s"] > 0
    assert len(Histogram([run["histogram"]])) == run["count"]
    json.dumps(run)
