import os
import shutil
import subprocess

import pytest

from bench.floor import Floor
from bench.histogram import Histogram
from bench.machine import ROOT


@pytest.fixture(scope="module")
def floor(tmp_path_factory):
    if not shutil.which("cc"):
        pytest.skip("no C compiler")
    return Floor(ROOT, tmp_path_factory.mktemp("floor"))


@pytest.mark.parametrize("way", ["shm", "socket"])
def test_both_ways_make_the_rounds_that_they_are_asked_for(floor, way):
    run = floor.run(way, 20, 60)
    assert (run["count"], run["errors"], len(Histogram([run["histogram"]]))) == (20, 0, 20)


def test_each_wake_up_is_counted(floor):
    run = floor.run("wake", 20, 60)
    assert (run["count"], run["errors"], len(Histogram([run["histogram"]]))) == (20, 0, 20)


@pytest.mark.parametrize("way", ["memcpy", "touched", "untouched"])
def test_every_copy_of_a_row_is_counted(floor, way):
    cores = sorted(os.sched_getaffinity(0))
    for apart in (None, (cores[0], cores[-1])):
        run = floor.rows(way, 4096, 20, 60, apart)
        assert (run["count"], run["errors"], len(Histogram([run["histogram"]]))) == (20, 0, 20)


def test_a_way_or_a_size_that_there_is_not_is_refused(floor):
    for way, size in (("dance", 64), ("memcpy", 0)):
        with pytest.raises(subprocess.CalledProcessError) as failed:
            floor.rows(way, size, 20, 60)
        assert "usage: rows" in failed.value.stderr


def test_it_ends_in_time_when_there_are_too_many_rounds(floor):
    run = floor.run("socket", 1_000_000_000, 0.1)
    assert 0 < run["count"] < 1_000_000_000
