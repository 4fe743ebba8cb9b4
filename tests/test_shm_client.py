"""shm-client as a user and a script meet it: real processes, real servers, signals, pipes and files of every sort."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from conftest import ROOT, ServerProcess, until

SAMPLES = ROOT / "shm_server" / "assets" / "samples"
CAT = SAMPLES / "cat.png"


def running(tmp_path_factory, script: str, *args: str):
    folder = tmp_path_factory.mktemp("server")
    socket = folder / "sock"
    command = [sys.executable, str(ROOT / "tests" / script), *(str(socket) if arg == "SOCKET" else arg for arg in args)]
    server = ServerProcess(command, socket, folder / "log")
    yield server
    server.process.kill()
    server.process.wait()


@pytest.fixture(scope="module")
def bright(tmp_path_factory):
    """A server that says how bright pictures are."""
    yield from running(tmp_path_factory, "stub_server.py", "brightness", "SOCKET")


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """A server whose generator does what prompts say; see stub_generators.py."""
    yield from running(tmp_path_factory, "stub_generators.py", "SOCKET", "waiting")


@pytest.fixture
def client(shm_client):
    """client(server, command, *args) runs shm-client to its end."""

    def _client(server: ServerProcess, command: str, *args, **options) -> subprocess.CompletedProcess:
        line = [shm_client, command, "-socket", server.socket, *args]
        return subprocess.run(line, capture_output=True, text=True, timeout=120, **options)

    return _client


@pytest.fixture
def begin(shm_client):
    """begin(server, command, *args) starts shm-client, with pipes on all sides."""
    begun = []

    def _begin(server: ServerProcess, command: str, *args) -> subprocess.Popen:
        line = [shm_client, command, "-socket", server.socket, *args]
        begun.append(subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return begun[-1]

    yield _begin
    for process in begun:
        process.kill()
        process.communicate()


def drained(pipe) -> bool:
    """Whether the other side has read all that was written to `pipe`."""
    left = fcntl.ioctl(pipe.fileno(), termios.FIONREAD, b"\0\0\0\0")
    return int.from_bytes(left, sys.byteorder) == 0


# -- pictures


def test_names_that_begin_with_a_dash_stand_behind_two_dashes_and_a_dash_alone_is_standard_input(
    bright, client, tmp_path
):
    (tmp_path / "-top").write_bytes(CAT.read_bytes())
    (tmp_path / "--").write_bytes(CAT.read_bytes())
    done = client(bright, "classify", "-top", "2", "--", "-top", "--", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["-top", "--"]
    assert "dark" in done.stdout
    assert "bright" in done.stdout
    with CAT.open("rb") as file:
        done = client(bright, "classify", "-", stdin=file)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("-  ")


def test_what_is_no_file_to_be_read_is_a_line_and_the_next_is_classified(bright, client, tmp_path):
    fifo, folder, lines = tmp_path / "fifo", tmp_path / "folder", tmp_path / "two\nlines"
    os.mkfifo(fifo)  # nobody writes to it
    folder.mkdir()
    lines.write_bytes(b"no picture")
    bad = [folder, "/dev/zero", "/dev/null", "", lines, fifo, tmp_path / "missing.png", f"{CAT}/inside"]
    files = [file for one in bad for file in (one, CAT)]
    done = client(bright, "classify", "-timeout", "2s", *files)
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == len(bad), "CAT, each time"
    said = done.stderr.splitlines()
    assert len(said) == len(bad), done.stderr
    assert all(line.startswith("shm-client: classify ") for line in said)
    for line, why in zip(
        said,
        (
            "directory",
            "more than 16777216 bytes",
            "not one of PNG",
            "empty file name",
            r"two\n",
            "-timeout",
            "no such",
            "",
        ),
        strict=True,
    ):
        assert why in line


def test_json_has_a_line_for_each_picture_also_for_those_that_failed(bright, client, tmp_path):
    done = client(bright, "classify", "-json", CAT, tmp_path / "missing.png", CAT)
    first, failed, last = map(json.loads, done.stdout.splitlines())
    assert done.returncode == 1
    assert first["file"] == str(CAT)
    assert first["label"] in ("dark", "bright")
    assert sum(first["scores"].values()) == pytest.approx(1)
    assert first["scores"][first["label"]] == first["score"]
    assert (failed["file"], "no such file" in failed["error"]) == (str(tmp_path / "missing.png"), True)
    assert last["scores"] == first["scores"]


def test_a_closed_pipe_ends_it_without_a_word(bright, begin):
    process = begin(bright, "classify", *[CAT] * 5000)
    assert process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait(60) == -signal.SIGPIPE
    assert said == b""


# -- signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["classify", "prompt"])
def test_a_signal_ends_it_while_it_reads_standard_input(bright, script, begin, command, number):
    process = begin(bright if command == "classify" else script, command, "-")
    process.stdin.write(b"some, and more to come")
    process.stdin.flush()
    until(lambda: drained(process.stdin), 60)
    process.send_signal(number)
    said = process.stderr.read()
    assert process.wait(60) == 128 + number
    assert said == f"shm-client: ended by {number.name}\n".encode()


def test_a_signal_ends_it_while_it_reads_a_fifo_that_nobody_ends(bright, begin, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    process = begin(bright, "classify", "-timeout", "600s", fifo)
    with fifo.open("wb"):  # opens once the other side has
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM


def test_a_signal_ends_it_while_nobody_reads_what_it_writes(script, begin):
    process = begin(script, "prompt", "-steps", "1000000", "-reply-bytes", "16000000", "repeat:" + "x" * 60)
    until(lambda: not drained(process.stdout), 60)
    process.terminate()
    assert process.wait(60) == 128 + signal.SIGTERM


def test_a_signal_ends_measurements_and_prompts_that_go_on(bright, script, begin):
    for process in (
        begin(bright, "echo", "-n", "100000000"),
        begin(bright, "ping", "-n", "1000000", "-interval", "1h"),
        begin(script, "prompt", "say:x hang"),
    ):
        if "echo" not in process.args:
            assert process.stdout.read(1)  # under way
        process.send_signal(signal.SIGINT)
        assert process.wait(60) in (128 + signal.SIGINT, -signal.SIGINT)


# -- prompts, times, other commands


def test_a_cut_reply_says_so_and_exits_3(script, client):
    done = client(script, "prompt", "-reply-bytes", "1000", "-steps", "500", "repeat:0123456789")
    assert done.returncode == 3
    assert "0123456789" * 100 in done.stdout
    (line,) = done.stderr.splitlines()
    assert re.search(r"the reply was cut after \d+ bytes: -reply-bytes", line)
    done = client(script, "prompt", "-json", "-reply-bytes", "1", "-steps", "500", "repeat:0123456789")
    assert done.returncode == 3
    *pieces, last = map(json.loads, done.stdout.splitlines())
    assert (last["done"], last["truncated"]) == (True, True)
    assert len("".join(piece["response"] for piece in pieces)) == last["bytes"]
    done = client(script, "prompt", "-reply-bytes", "16384", "-steps", "500", "repeat:0123456789")
    assert (done.returncode, done.stdout, done.stderr) == (0, "0123456789" * 500 + "\n", "")


def test_a_prompt_has_as_much_room_as_it_needs_and_may_begin_with_a_dash(script, client):
    long = "say:" + "x" * 100_000 + " end"
    done = client(script, "prompt", "-reply-bytes", "200000", "-", input=long)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "x" * 100_000 + "end \n"
    done = client(script, "prompt", "--", "-5", "--", "degrees")
    assert (done.returncode, done.stdout) == (0, "-5 -- degrees \n")
    done = client(script, "prompt", "-", input="x" * ((16 << 20) + 1))
    assert done.returncode == 1
    assert "more than 16777216 bytes" in done.stderr


def test_options_are_what_was_said_and_not_a_default_in_disguise(script, client):
    assert client(script, "prompt", "params").stdout == "128 None None None\n"
    zeros = client(script, "prompt", "params", "-temperature", "0", "-top-k", "0", "-seed", "0")
    assert zeros.stdout == "128 0.0 0 0\n"
    most = client(script, "prompt", "params", "-seed", "18446744073709551615", "-steps", "4294967295")
    assert most.stdout == "4294967295 None None 18446744073709551615\n"


def test_the_time_out_bounds_a_prompt_and_is_named(script, client):
    done = client(script, "prompt", "-timeout", "1s", "say:so_far hang")
    assert done.returncode == 1
    assert done.stdout == "so_far\n"
    (line,) = done.stderr.splitlines()
    assert "-timeout 1s" in line


def test_a_failure_in_json_is_an_object(script, client):
    done = client(script, "prompt", "-json", "one fail:RateLimited")
    assert done.returncode == 1
    first, failed = map(json.loads, done.stdout.splitlines())
    assert first == {"response": "one "}
    assert "it is RateLimited" in failed["error"]


def test_info_of_both_servers(bright, script, client):
    said = json.loads(client(bright, "info", "-json").stdout)
    assert (said["classes"], "prompts" in said, bool(said["no_prompts"])) == (["dark", "bright"], False, True)
    assert json.loads(client(script, "info", "-json").stdout)["prompts"] == "stub"


def test_it_waits_for_a_server_that_is_not_up_yet(shm_client, start, tmp_path):
    socket: Path = tmp_path / "sock"
    line = [shm_client, "classify", "-wait", "-timeout", "100s", "-socket", socket, CAT]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as waiting:
        start(stub="brightness", socket=socket)
        assert waiting.wait(100) == 0
        assert "cat.png" in waiting.stdout.read()
