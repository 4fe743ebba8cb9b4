"""The load program, built once."""

import shutil
from pathlib import Path

import pytest

from bench import load
from bench.machine import ROOT


@pytest.fixture(scope="session")
def program(tmp_path_factory) -> Path:
    if not shutil.which(load.go(ROOT)):
        pytest.skip("no Go")
    built = tmp_path_factory.mktemp("load") / "load"
    load.build(ROOT, built)
    return built
