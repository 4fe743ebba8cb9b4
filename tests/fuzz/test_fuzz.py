"""A part of `make fuzz`: its corpus again, and then what some seconds are enough for.

The seed is always the same here, so that what fails is the change's fault, and fails for everybody; SHM_TEST_SEED is
another.
"""

import os
import re
import subprocess

import pytest
from hostile_sessions import SERVE, fuzz
from messages import fuzz as fuzz_messages
from ring_fuzzer import CORPUS, build_ring_fuzzer
from sanitizers import MEMORY, ROOT, needs

SEED = int(os.environ.get("SHM_TEST_SEED", 9))


@pytest.fixture(scope="module")
def ring_fuzzer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    needs(MEMORY, folder)
    return build_ring_fuzzer(folder)


def test_no_bytes_of_a_hostile_client_harm_the_c_core(ring_fuzzer, tmp_path):
    command = [ring_fuzzer, str(SEED), "1000000", CORPUS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr, done.stderr
    first, corpus, *_, last = done.stdout.splitlines()
    assert first == f"seed {SEED}"
    assert corpus.startswith(f"{len(list(CORPUS.iterdir()))} tapes of the corpus: ")
    assert int(re.match(r"done: (\d+) tried", last)[1]) >= 1_000_000


def test_whatever_comes_to_the_door_is_a_message_or_an_error_that_says_why_not():
    read = fuzz_messages(SEED, 30_000)
    assert {
        "hello",
        "question",
        "incomplete",
        "refused MALFORMED",
        "refused VERSION",
        "malformed",
        "Load",
    } <= read.keys()


def test_no_hostile_session_ends_more_than_itself(start, tmp_path):
    socket = tmp_path / "sock"
    prefix = ("env", f"PYTHONPATH={ROOT / 'tests'}:{os.environ.get('PYTHONPATH', '')}")
    server = start(command=[*SERVE, "--socket", str(socket)], prefix=prefix, socket=socket)
    fuzz(server, SEED, 300)
    counters = server.stop()
    assert counters["worker_crashes"] == 0
