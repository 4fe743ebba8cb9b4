"""The Go command against real servers: what a user sees, and what happens when it is killed."""

import re
import shutil
import subprocess
import time

import pytest
from conftest import ROOT, until

SAMPLES = ROOT / "shm_server" / "assets" / "samples"


@pytest.fixture
def call(shm_client):
    """call(server, command, *args) runs shm-client."""

    def _call(server, command: str, *args) -> subprocess.CompletedProcess:
        line = [shm_client, command, "-socket", server.socket, *args]
        return subprocess.run(line, capture_output=True, text=True, timeout=120)

    return _call


@pytest.mark.parametrize("engine", ["tensorflow", "openvino"])
def test_the_sample_pictures_are_what_they_are_called(start, call, engine):
    server = start("--engine", engine, "--generator", "none")
    pictures = sorted(SAMPLES.glob("*.png"))
    done = call(server, "classify", *pictures)
    assert done.returncode == 0, done.stderr
    assert len(pictures) == 5
    for picture, line in zip(pictures, done.stdout.splitlines(), strict=True):
        assert picture.name in line
        assert re.search(rf"\b{picture.stem}\b.*%", line.replace(picture.name, "")), line


def test_an_unreadable_picture_is_one_clear_line_and_the_others_are_classified(start, call, tmp_path):
    server = start(stub="brightness")
    broken = tmp_path / "broken.png"
    broken.write_bytes((SAMPLES / "cat.png").read_bytes()[:1000])
    done = call(server, "classify", broken, tmp_path / "missing.jpg", ROOT / "README.md", SAMPLES / "ship.png")
    assert done.returncode == 1
    assert "ship.png" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    for name in ("broken.png", "missing.jpg", "README.md"):
        assert len([line for line in done.stderr.splitlines() if name in line]) == 1


def test_a_wrong_flag_of_the_go_command_is_named_and_exits_2(shm_client):
    for args, why in ((["echo", "-n", "0"], "-n 0"), (["classify"], "classify"), (["paint"], "paint"), ([], "usage")):
        done = subprocess.run([shm_client, *args], capture_output=True, text=True)
        assert done.returncode == 2
        assert why in done.stderr


def test_without_a_server_the_go_command_says_what_to_start(shm_client, tmp_path):
    done = subprocess.run([shm_client, "ping", "-socket", tmp_path / "none"], capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "shm-server serve" in line


def test_no_bell_is_rung_and_nobody_sleeps_while_both_sides_spin(start, call):
    server = start("--engine", "none", "--spin", "forever")
    done = call(server, "echo", "-n", "20000", "-spin", "forever")
    assert "20000 polled until answered, 0 slept; bells 0 sent, 0 received" in done.stdout, done.stdout + done.stderr
    counters = server.stop()
    assert counters["echoes"] == 23000
    assert counters.get("bells_sent", 0) == counters.get("parks", 0) == 0


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed; the counters are checked above")
def test_strace_sees_no_system_call_per_request_while_both_sides_spin(start, call, tmp_path):
    server = start("--engine", "none", "--spin", "forever")
    summary = tmp_path / "strace"
    with subprocess.Popen(
        ["strace", "-f", "-c", "-o", summary, "-p", str(server.pid)], stderr=subprocess.PIPE
    ) as tracer:
        assert b"attached" in tracer.stderr.readline()
        call(server, "echo", "-n", "20000", "-spin", "forever")
        tracer.terminate()
    table = summary.read_text()
    calls = {name: int(count) for count, name in re.findall(r"(\d+)\s+(?:\d+ )?(\w+)$", table, re.MULTILINE)}
    # Looking for bells now and then goes by time, not by request, and is left out. The rest is of one client's coming
    # and going, for 23,000 echoes.
    assert calls["total"] - calls.get("epoll_wait", 0) < 500, table


@pytest.mark.parametrize("spin", ["0", "100us", "forever"])
def test_a_go_client_killed_in_mid_flight_is_dropped_and_others_go_on(start, call, shm_client, spin):
    server = start(stub="brightness")
    before = server.descriptors(), server.mappings()
    line = [shm_client, "echo", "-socket", server.socket, "-n", "100000000", "-c", "32", "-spin", spin]
    with subprocess.Popen(line) as victim:
        until(lambda: server.mappings() > before[1])
        time.sleep(0.3)
        victim.kill()
    until(lambda: (server.descriptors(), server.mappings()) == before)
    assert call(server, "echo", "-n", "100").returncode == 0
    assert server.stop()["protocol_faults"] == 0


def test_a_go_client_whose_server_is_killed_says_so(start, shm_client):
    server = start(stub="brightness")
    line = [shm_client, "echo", "-socket", server.socket, "-n", "100000000"]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as client:
        until(lambda: server.mappings() > 0)
        time.sleep(0.3)
        server.process.kill()
        assert client.wait(300) == 1
        (said,) = client.stderr.read().splitlines()
    assert "server" in said
    assert "gone" in said
