"""The command line: one clear line and a non-zero exit code for each thing that is wrong."""

import json
import os
import socket
import subprocess
import sys

import pytest
from conftest import ROOT


def run(*args: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "shm_server.cli", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)


@pytest.mark.parametrize("command", [[], ["serve"], ["train"]])
def test_help_is_there_for_every_command(command):
    done = run(*command, "--help")
    assert done.returncode == 0
    assert "usage: shm-server" in done.stdout


WRONG = {
    "--no-such-flag": "unrecognized arguments: --no-such-flag",
    "--engine abacus": "invalid choice: 'abacus'",
    "--model ": "argument --model: it is empty",
    "--engine none --model x.keras": "--model is not for --engine none",
    "--max-batch 48": "48 is not a power of two",
    "--max-batch 131072": "'131072' is no whole number from 1 to 65536",
    "--max-batch many": "'many' is no whole number from 1 to 65536",
    "--slots 0": "argument --slots: '0' is no whole number from 1 to 65536",
    "--slots 65537": "argument --slots: '65537' is no whole number",
    "--slots -3": "argument --slots",
    "--slots 1e3": "argument --slots: '1e3' is no whole number",
    f"--slots {'9' * 5000}": "argument --slots: '9999",
    "--max-sessions 0": "argument --max-sessions: '0' is no whole number",
    "--model-threads 0": "argument --model-threads: '0' is no whole number from 1 to 1024",
    "--spin -1": "argument --spin",
    "--spin nan": "argument --spin: 'nan' is neither microseconds, 0 to 1e9, nor `forever`",
    "--spin 1e400": "argument --spin: '1e400'",
    "--spin inf": "argument --spin: 'inf'",
    "--spin ": "argument --spin: ''",
    "--cpu -1": "argument --cpu",
    "--cpu 4096": "--cpu 4096: this process may run on",
    "--socket ": "argument --socket: it is empty",
    "--uds ": "argument --uds: it is empty",
    "--http 0": "argument --http: '0': expected PORT or HOST:PORT with a port of 1 to 65535",
    "--http localhost": "argument --http: 'localhost': expected PORT or HOST:PORT",
    "--http ::1:80": "argument --http: '::1:80': expected PORT or HOST:PORT",
    "--http unix:": "argument --http: 'unix:': expected PORT or HOST:PORT",
    "--http unix:/tmp/x --socket /tmp/x": "--socket and --http are both /tmp/x",
    "--metrics 65536": "argument --metrics: '65536': expected PORT or HOST:PORT with a port of 1 to 65535",
    "--metrics unix:/tmp/x": "argument --metrics: 'unix:/tmp/x': expected PORT or HOST:PORT",
    "--metrics 9999 --http 127.0.0.1:9999": "--http and --metrics are both 127.0.0.1:9999",
    "--grpc 9999 --http 9999": "--http and --grpc are both 127.0.0.1:9999",
    "--grpc unix:/tmp/x": "argument --grpc: 'unix:/tmp/x': expected PORT or HOST:PORT",
    "--socket /tmp/x --uds /tmp/../tmp/x": "--socket and --uds are both /tmp/../tmp/x",
    "--log-format xml": "invalid choice: 'xml'",
    "--generator abacus": "'abacus' is none of tiny, gemma, openai, none, and not MODULE:ATTRIBUTE",
    "--generator my.module:": "argument --generator: 'my.module:' is none of",
    "--generator my.module:Poet --context 3": "--context is not for --generator my.module:Poet",
    "--generator tiny --chat": "--chat is not for --generator tiny",
    "--chat": "--chat is not for --generator tiny",
    "--generator gemma --timeout 3": "--timeout is not for --generator gemma",
    "--generator openai --context 3": "--context is not for --generator openai",
    "--generator none --base-url x": "--base-url is not for --generator none",
    "--generator none --prompt-spin 0": "--prompt-spin is not for --generator none",
    "--engine none --generator-model x": "--generator-model is not for --generator none",
    "--generator tiny --generator-model x": "--generator-model is not for --generator tiny",
    "--generator openai --base-url ": "argument --base-url: it is empty",
    "--generator openai --timeout nan": "argument --timeout: 'nan' is no number of seconds",
    "--generator openai --timeout 0": "argument --timeout: '0' is no number of seconds",
    "--generator openai --timeout -1": "argument --timeout",
    "--generator openai --timeout 1e400": "argument --timeout: '1e400' is no number of seconds",
    "--generator gemma --checkpoint ": "argument --checkpoint: it is empty",
    "--context 0": "argument --context: '0' is no whole number",
}


def test_flags_that_make_no_sense_are_one_line_and_exit_2(capsys):
    from shm_server.cli import options
    from shm_server.training import train

    def parse(flags: str) -> None:
        args = parser.parse_args(["serve", *flags.split(" ")])
        args.check(args)
        pytest.fail(f"{flags} was taken")

    parser = options.parser(train)
    for flags, why in WRONG.items():
        with pytest.raises(SystemExit) as ended:
            parse(flags)
        assert ended.value.code == 2, flags
        said = capsys.readouterr().err
        assert said.startswith("shm-server"), flags
        assert why in said, flags
        assert said.count("\n") == 1, flags


@pytest.mark.parametrize("flags", ["serve --slots 0", "serve --cpu 4096", "paint", "--log-level loud serve"])
def test_the_command_exits_2_for_a_wrong_flag(flags):
    done = run(*flags.split())
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("shm-server")


def test_without_a_command_there_is_help():
    done = run()
    assert done.returncode == 2
    assert done.stderr.startswith("usage: shm-server")
    assert "serve models" in done.stderr


def test_the_endpoints_model_is_one_thing_and_the_classifiers_another():
    from shm_server.cli import options
    from shm_server.training import train

    flags = "serve --model mine.keras --generator openai --generator-model gemma3 --timeout 2.5 --base-url http://h/v1"
    args = options.parser(train).parse_args(flags.split())
    args.check(args)
    assert args.model == "mine.keras"
    asked = {"engine": "openai", "model": "gemma3", "timeout": 2.5, "base_url": "http://h/v1"}
    assert options.generator_options(args) == asked


@pytest.mark.parametrize(
    "flags", ["--log-level error --log-format json serve", "serve --log-level error --log-format json"]
)
def test_log_flags_stand_before_the_command_or_after_it(flags):
    from shm_server.cli import options
    from shm_server.training import train

    args = options.parser(train).parse_args(flags.split())
    assert (args.log_level, args.log_format) == ("error", "json")


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--generator", "none", "--model", "/no/such/model.keras"], "/no/such/model.keras"),
        (["--generator", "none", "--model", str(ROOT / "README.md")], "README.md"),
        (["--engine", "none", "--generator", "gemma"], "MODEL_CHECKPOINT"),
        (
            ["--engine", "none", "--generator", "gemma", "--checkpoint", "/no/such", "--tokenizer", "x"],
            "x: no such tokenizer",
        ),
        (["--engine", "none", "--generator", "openai", "--generator-model", "x", "--base-url", "no url"], "no url"),
    ],
)
def test_what_cannot_be_served_is_one_line_and_exits_1(flags, why, tmp_path):
    done = run("--log-level", "warning", "serve", "--socket", str(tmp_path / "s"), *flags)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("shm-server serve: ")
    assert why in line
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("flag", ["--metrics", "--http"])
def test_a_port_in_use_is_said_before_a_model_is_loaded(flag, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run("serve", "--socket", str(tmp_path / "s"), flag, port, "--log-format", "json")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()  # nothing about loading
    assert json.loads(line)["message"] == f"shm-server serve: 127.0.0.1:{port} is in use by another server"
    assert os.listdir(tmp_path) == []


def test_metrics_count_what_was_served(start):
    from urllib.request import urlopen

    from client import Client

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = start("--engine", "none", "--metrics", str(port))
    with Client(server.socket) as client:
        for _ in range(3):
            client.submit(0)
            client.wait()
        page = urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    assert "shm_echoes_total 3.0" in page
    assert "shm_sessions 1.0" in page
    assert 'shm_model_batches_total{images="32"} 0.0' in page


def test_one_server_offers_every_transport_over_one_model(start, tmp_path):
    from urllib.request import Request, urlopen

    from client import Client, connect, read_exactly

    from shm_server.layout import Op

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = start("--engine", "tensorflow", "--generator", "none", "--uds", str(tmp_path / "uds"), "--http", str(port))
    server.wait_for(f"http://127.0.0.1:{port}")
    pixels = bytes(range(256)) * 12
    with Client(server.socket) as client:
        client.slots[0] = list(pixels)
        client.submit(0, Op.RUN)
        label = client.signature["outputs"][0]["labels"][client.label(client.wait())]
    with connect(tmp_path / "uds") as sock:
        sock.sendall((1 + len(pixels)).to_bytes(4, "big") + b"\1" + pixels)
        size = int.from_bytes(read_exactly(sock, 4)[0], "big")
        assert read_exactly(sock, size)[0] == b"\1" + label.encode()
    headers = {"Content-Type": "application/octet-stream"}
    with urlopen(Request(f"http://127.0.0.1:{port}/classify", pixels, headers)) as answer:
        assert json.load(answer)["label"] == label
    server.stop()
    assert not (tmp_path / "uds").exists()


def test_a_second_sigterm_while_http_waits_for_its_clients_changes_nothing(start):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = start("--engine", "none", "--http", str(port))
    with socket.create_connection(("127.0.0.1", port)) as kept_alive:
        kept_alive.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert kept_alive.recv(100).startswith(b"HTTP/1.1 200")
        server.process.terminate()
        server.wait_for("stopped:")
        server.stop()


def test_the_generators_process_logs_in_the_same_format(start):
    endpoint = ["--generator", "openai", "--base-url", "http://127.0.0.1:9/v1", "--generator-model", "x"]
    server = start("--engine", "none", *endpoint, "--prompt-priority", "normal", "--log-format", "json")
    server.process.terminate()
    assert server.process.wait(60) == 0
    lines = [json.loads(line) for line in server.log.splitlines()]
    assert {line["level"] for line in lines} == {"info"}
    assert len({line["process"] for line in lines}) == 2
