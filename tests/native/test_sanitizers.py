"""The C core under AddressSanitizer, UBSan and ThreadSanitizer: alone, as two threads, and inside Python.

SHM_TEST_SEED repeats a run; every program prints its seed. What fuzzes it is in tests/fuzz.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import sanitizers
from sanitizers import MEMORY, ROOT, THREADS, needs

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "conformance" / "golden"
SEED = int(os.environ.get("SHM_TEST_SEED", random.SystemRandom().randrange(2**32)))
WORDS = ("turn", "request_id", "slot", "op", "flags", "extent", "deadline", "submitted", "sampling_steps",
         "temperature", "top_k", "seed")  # fmt: skip
FAULTS = {
    "turn neither": "turn",
    "slot out of range": "slot",
    "unknown op": "op",
    "unknown flags": "flags",
    "extent beyond": "extent",
}


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """build(NAME.c, sanitizer) compiles one of the programs beside this file, once."""
    built: dict[tuple[str, str], Path] = {}

    def _build(name: str, sanitizer: list[str]) -> Path:
        key = name, sanitizer[0]
        if key not in built:
            folder = tmp_path_factory.mktemp("native")
            needs(sanitizer, folder)
            built[key] = sanitizers.build(HERE / name, folder, sanitizer)
        return built[key]

    return _build


def run(program: Path, *arguments: object, seconds: int = 100) -> str:
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=seconds)
    print(done.stdout)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    assert not done.stderr, done.stderr
    return done.stdout


def test_no_bytes_of_a_hostile_server_harm_the_client(build):
    said = run(build("fuzz_client.c", MEMORY), SEED, 400)
    assert said.startswith(f"seed {SEED}\n400 sessions")


def test_two_threads_exchange_every_byte_without_a_race_or_a_lost_wake_up(build):
    said = run(build("two_threads.c", THREADS), SEED, 20_000)
    assert said.count("completions") == 3


@pytest.mark.parametrize("sanitizer", [MEMORY, THREADS], ids=["memory", "threads"])
def test_memory_that_goes_away_reads_as_zeros_on_every_thread_and_other_faults_go_where_they_went(build, sanitizer):
    said = run(build("guards.c", sanitizer), SEED, 10, seconds=600)
    assert said.endswith("all guarded\n")


def golden_rings() -> list[dict]:
    """Those with a header that is right: the server reads no other's, and what ring_open refuses is fuzzed above."""
    documents = [json.loads(path.read_text()) for path in sorted(GOLDEN.glob("*.json"))]
    return [document for document in documents if document["error"] not in ("magic", "version", "epoch", "geometry")]


@pytest.mark.parametrize("golden", golden_rings(), ids=lambda golden: golden["name"])
def test_the_core_reads_and_writes_the_golden_segments_as_they_say(build, golden):
    name, lane = golden["name"], golden["lane"]
    heads = lane["submission_head"], lane["completion_head"], len(lane["completions"])
    *lines, last = run(build("golden.c", MEMORY), GOLDEN / f"{name}.bin", *heads).splitlines()
    wanted = [tuple(entry[word] for word in WORDS) for entry in lane["submissions"]]
    assert [tuple(float(w) if "." in w else int(w) for w in line.split()) for line in lines] == wanted
    found = next((kind for text, kind in FAULTS.items() if text in last), None)
    assert (found is None) == (last == "ok")
    if golden["error"] != found:
        assert name.startswith("completion_"), last  # those are for the client to find
        assert found is None


COMPLETION_WORDS = ("turn", "request_id", "slot", "status", "flags", "extent", "message_bytes", "batch", "checksum",
                    "queue_ns", "model_ns")  # fmt: skip


@pytest.mark.parametrize("golden", golden_rings(), ids=lambda golden: golden["name"])
def test_the_clients_side_reads_and_writes_the_golden_segments_as_they_say(build, golden):
    name, lane = golden["name"], golden["lane"]
    heads = lane["submission_head"], lane["completion_head"], len(lane["submissions"])
    *lines, last = run(build("golden_client.c", MEMORY), GOLDEN / f"{name}.bin", *heads).splitlines()
    wanted = [tuple(entry[word] for word in COMPLETION_WORDS) for entry in lane["completions"]]
    assert [tuple(map(int, line.split())) for line in lines] == wanted
    ours = golden["error"] if name.startswith("completion_") else None  # the others are for the server to find
    assert last.partition(":")[0] == (ours or "ok")


def golden_headers() -> list[dict]:
    documents = [json.loads(path.read_text()) for path in sorted(GOLDEN.glob("*.json"))]
    # Areas that overlap, and the identity of a header, are the client's to check: the server wrote them.
    return [document for document in documents if document["error"] == "geometry"]


def test_the_core_refuses_the_golden_headers_that_describe_no_lane(build):
    refused = {
        golden["name"]
        for golden in golden_headers()
        if run(build("golden.c", MEMORY), GOLDEN / f"{golden['name']}.bin", 0, 0, 0) == "geometry\n"
    }
    ours = {"header_of_two_pages", "rings_overlap", "areas_overlap"}
    assert refused == {golden["name"] for golden in golden_headers()} - ours


@pytest.fixture(scope="module")
def sanitized_core(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sanitized")
    needs(MEMORY, folder)
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", folder, "--build-temp", folder / "objects"]
    environment = os.environ | {"SHM_SANITIZE": "address,undefined", "CC": "gcc"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (core,) = folder.glob("shm_server/_core*.so")
    return core


def test_the_extension_passes_its_tests_under_address_and_undefined_behaviour_sanitizer(sanitized_core):
    """Its tests in a Python of its own: every method, every error, parks, wakes, hostile bytes on real sockets, memory
    that goes away. Without those that start processes of their own, whose faults are the sanitizer's."""
    library = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True).stdout.strip()
    environment = os.environ | {
        "LD_PRELOAD": library,  # Python itself is not instrumented
        "ASAN_OPTIONS": "detect_leaks=0",  # Python leaves much for the end of the process
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "PYTHONMALLOC": "malloc",  # so that each object has its redzones
        "PYTHONPATH": str(HERE),
        "SHM_CORE": str(sanitized_core),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "sanitized_core", "-p", "no:cacheprovider"]
    command += [ROOT / "tests/conformance" / f"test_{name}.py" for name in ("core", "client_lane", "mapping")]
    command += ["-k", "not another_sigbus and not little_memory"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-6000:]
    assert "runtime error" not in said
    assert "AddressSanitizer" not in said
    assert " passed" in said
    assert "skipped" not in said


def test_address_sanitizer_is_really_there(sanitized_core):
    """The core of the test above is an instrumented one, and not the installed one by mistake."""
    symbols = subprocess.run(["nm", "-D", sanitized_core], capture_output=True, text=True).stdout
    assert "__asan_report_load8" in symbols
    assert "__ubsan_handle" in symbols
