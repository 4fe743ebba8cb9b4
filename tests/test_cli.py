"""The command line: one clear line and a non-zero exit code for each thing that is wrong."""

import socket
import subprocess
import sys
import time

import pytest
from conftest import ROOT, until


def run(*args: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "shm_server.cli", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)


@pytest.mark.parametrize("command", [[], ["serve"], ["train"]])
def test_help_is_there_for_every_command(command):
    done = run(*command, "--help")
    assert done.returncode == 0
    assert "usage: shm-server" in done.stdout


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["serve", "--no-such-flag"], "unrecognized arguments: --no-such-flag"),
        (["serve", "--engine", "abacus"], "invalid choice: 'abacus'"),
        (["serve", "--max-batch", "48"], "48 is not a power of two"),
        (["serve", "--max-batch", "many"], "invalid power_of_two value: 'many'"),
        (["serve", "--slots", "0"], "0 is not positive"),
        (["serve", "--spin", "-1"], "argument --spin"),
        (["serve", "--spin", "nan"], "nan"),
        (["paint"], "invalid choice: 'paint'"),
        ([], "required: COMMAND"),
    ],
)
def test_a_wrong_flag_is_named_and_exits_2(flags, why):
    done = run(*flags)
    assert done.returncode == 2
    assert why in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--model", "/no/such/model.keras"], "/no/such/model.keras"),
        (["--model", str(ROOT / "README.md")], "README.md"),
        (["--cpu", "4096"], "--cpu 4096: this process may run on"),
        (["--slots", "65537"], "slots must be 1 to 65536, not 65537"),
        (["--engine", "none", "--model", "x.keras"], "--engine none takes no --model"),
        (["--engine", "none", "--generator", "gemma"], "MODEL_CHECKPOINT"),
        (
            ["--engine", "none", "--generator", "gemma", "--checkpoint", "/no/such", "--tokenizer", "x"],
            "x: no such tokenizer",
        ),
        (["--engine", "none", "--generator", "openai", "--model", "x", "--base-url", "no url"], "no url"),
        (["--engine", "none", "--generator", "tiny", "--chat"], "--chat is not for --generator tiny"),
        (["--generator", "none", "--base-url", "x"], "--base-url is not for --generator none"),
    ],
)
def test_what_cannot_be_served_is_one_line_and_exits_1(flags, why, tmp_path):
    done = run("--log-level", "warning", "serve", "--socket", str(tmp_path / "s"), *flags)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("shm-server serve: ")
    assert why in line
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "s").exists()


def test_a_metrics_port_in_use_is_one_line(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run(
            "--log-level", "warning", "serve", "--engine", "none", "--socket", str(tmp_path / "s"), "--metrics", port
        )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "Address already in use" in line


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
    import json
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
        client.submit(0, Op.CLASSIFY)
        label = json.loads(client.metadata)["classes"][client.wait()["label"]]
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
    with socket.create_connection(("127.0.0.1", port)) as kept_alive:  # gunicorn gives it 2 s more
        kept_alive.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert kept_alive.recv(100).startswith(b"HTTP/1.1 200")
        server.process.terminate()
        until(lambda: not server.socket.exists())
        time.sleep(0.2)
        server.stop()
