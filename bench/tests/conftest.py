"""What is made once: the load program, and the bundled generator's first start."""

import shutil
from pathlib import Path

import pytest
from first_start import compiled, first_start  # noqa: F401 -- fixtures

from bench import load
from bench.machine import ROOT


@pytest.fixture(scope="session")
def program(tmp_path_factory) -> Path:
    if not shutil.which(load.go(ROOT)):
        pytest.skip("no Go")
    built = tmp_path_factory.mktemp("load") / "load"
    load.build(ROOT, built)
    return built
