"""Prompts in process and through the lane, to the generator of bench/scripted.py."""

import itertools
import json
import os
import signal

import numpy as np
import pytest

from bench import prompt_limit
from bench.contestants import DEFAULT, HTTP
from bench.histogram import Histogram
from bench.load import Load, LoadError
from bench.machine import group_states
from bench.scripted import Scripted
from bench.servers import SCRIPTED, Fleet
from bench.tally import part
from bench.tests.wait import until
from shm_server.generators.turns import Turns

INSTANT = [{"text": f"instant {words}", "steps": 5, "seed": 1} for words in ("to be", "or not")]
PACED = [{"text": "paced 200", "steps": 4, "seed": 1, "reply": "", "pieces": 4}]


@pytest.fixture(scope="module")
def turns():
    return Turns(Scripted())


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    with Fleet(tmp_path_factory.mktemp("fleet"), "none", ("default", "http", *SCRIPTED), "normal") as fleet:
        yield fleet


@pytest.fixture
def caller(program, tmp_path):
    return Load(program, tmp_path / "none", tmp_path / "none", seed=1, warm_up=3)


@pytest.fixture
def write(tmp_path):
    def write(prompts):
        file = tmp_path / "prompts.json"
        file.write_text(json.dumps(prompts))
        return str(file)

    return write


def test_a_script_says_its_words_over_and_over(turns):
    assert prompt_limit.reply(turns, INSTANT) == [
        {"reply": "to be to be to ", "pieces": 5},
        {"reply": "or not or not or ", "pieces": 5},
    ]


class Clock:
    """Stands in for `time`: 50 us pass until a reply's first piece, 200 until each other; a run has three replies."""

    def __init__(self, pieces: int) -> None:
        self._now, self._replies = 0, 0
        self._steps = itertools.cycle([0, 50_000, *[200_000] * (pieces - 1)])

    def monotonic_ns(self) -> int:
        self._now += next(self._steps)
        return self._now

    def monotonic(self) -> float:  # asked once before the run, and before each reply but the first
        self._replies += 1
        return self._replies / 3


def test_a_generator_in_process_is_timed_to_its_first_piece_and_by_the_piece(turns, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(prompt_limit, "WARM_UP", 0)
        patch.setattr(prompt_limit, "time", Clock(PACED[0]["steps"]))
        run = prompt_limit.measure(turns, PACED, 1.0, stamped=False)
    first, later = Histogram([run["histogram"]]), Histogram([run["pieces"]])
    assert len(first) == len(later) == run["count"] == 3
    assert (first.max_us(), later.max_us()) == (pytest.approx(50, rel=1e-3), pytest.approx(200, rel=1e-3))
    stamped = prompt_limit.measure(turns, PACED, 0.05, stamped=True)
    assert len(Histogram([stamped["pieces"]])) == 4 * stamped["count"]


@pytest.mark.parametrize("name", SCRIPTED)
def test_replies_come_through_the_lane_and_are_those_given_in_process(fleet, caller, write, turns, name):
    known = [prompt | reply for prompt, reply in zip(INSTANT, prompt_limit.reply(turns, INSTANT), strict=True)]
    with fleet.only(name) as server:
        run = caller.run(DEFAULT, server, "prompt", calls=20, prompts=write(known))
        stamped = caller.run(DEFAULT, server, "stamped", calls=3, prompts=write(PACED), pause="1ms")
        echoed = caller.run(DEFAULT, server, "echo-prompt", calls=20)
    assert [each["errors"] for each in (run, stamped, echoed)] == [0, 0, 0]
    assert (run["count"], len(Histogram([run["pieces"]]))) == (20, 20)
    assert (stamped["count"], part(stamped, "pieces")["count"]) == (3, 12)
    assert echoed["count"] == 20


def test_http_echoes_the_same_text(fleet, caller):
    with fleet.only("http") as server:
        run = caller.run(HTTP, server, "echo-prompt", calls=5)
    assert (run["count"], run["errors"]) == (5, 0)


def test_a_reply_that_differs_from_the_one_in_process_is_an_error(fleet, caller, write):
    wrong = [{**INSTANT[0], "reply": "to be to be or ", "pieces": 5}]
    with fleet.only("scripted-default") as server, pytest.raises(LoadError, match='"to be to be to "'):
        caller.run(DEFAULT, server, "prompt", calls=5, prompts=write(wrong))


def test_a_frozen_server_s_generator_is_frozen_with_it(fleet):
    with fleet.only("default"):
        group = group_states(fleet.servers["scripted-spinning"].pid)
    assert len(group) == 2
    assert set(group.values()) == {"T"}


def test_a_server_that_is_stopped_leaves_no_generator_behind(tmp_path):
    with Fleet(tmp_path, "none", ("scripted-parked",)) as fleet:
        group = fleet.servers["scripted-parked"].pid
        assert len(group_states(group)) == 2
    assert group_states(group) == {}


def test_a_frozen_generator_ends_when_the_benchmark_is_killed(tmp_path):
    ready, told = os.pipe()
    bench = os.fork()
    if not bench:
        fleet = Fleet(tmp_path, "none", ("scripted-parked",)).__enter__()
        os.write(told, str(fleet.servers["scripted-parked"].pid).encode())
        signal.pause()
    group = int(os.read(ready, 20))
    assert len(group_states(group)) == 2
    os.kill(bench, signal.SIGKILL)
    os.waitpid(bench, 0)
    until(lambda: not group_states(group))


def test_a_part_of_a_run_is_a_run_without_a_time():
    pieces = Histogram.of(np.array([1000, 2000])).encode()
    assert part({"wall_s": 3.0, "pieces": pieces}, "pieces")["count"] == 2
