"""The bundled generator starts once for the whole session before any test uses it: compiling takes longer than all that
is done with it. For tests/ and bench/tests/, whose conftest.py take the fixtures from here."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

LOAD = """
from jax import monitoring
found = []
monitoring.register_event_listener(lambda event, **_: found.append(event) if "cache_hits" in event else None)
from shm_server.generators import load_generator
tiny = load_generator("tiny")
print("hits", len(found))
"""


class FirstStart(NamedTuple):
    environment: dict[str, str]  # in which the next ones find what this one compiled
    hits: int  # compiled programs that it found itself

    @property
    def home(self) -> Path:
        return Path(self.environment["XDG_CACHE_HOME"])

    @property
    def compiled(self) -> Path:
        return self.home / "shm-server" / "jax"

    def again(self, program: str) -> list[str]:
        """Start once more and run `program`, which has the generator as `tiny`: the words on stdout, after hits N."""
        return start(self.environment, program)


def start(environment: dict[str, str], program: str = "") -> list[str]:
    run = subprocess.run([sys.executable, "-c", LOAD + program], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


@pytest.fixture(scope="session")
def first_start(tmp_path_factory) -> FirstStart:
    """Once, also where the session has several workers."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment["XDG_CACHE_HOME"] = str(shared / "first-start")
    hits = shared / "first-start.hits"
    with (shared / "first-start.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not hits.exists():
            hits.write_text(start(environment)[1])
    return FirstStart(environment, int(hits.read_text()))


@pytest.fixture(scope="module")
def compiled(first_start):
    """Generators that a module's tests start, in this process or in others, find what `first_start` compiled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
        patch.setenv("XDG_CACHE_HOME", str(first_start.home))
        yield
