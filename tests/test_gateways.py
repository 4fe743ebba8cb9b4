"""`shm-server serve --http --uds`: the transports are clients of the lane of the bundled network."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import struct
from pathlib import Path

import numpy as np
import pytest
from client import Client, connect
from conftest import ROOT, ended, until, workers
from test_reload import port, reload

from shm_server.layout import Op, Status

# A model that needs no framework in TensorFlow's place.
STUBBED = str(ROOT / "bench" / "tests" / "stubbed")
PIXELS = np.random.default_rng(20261130).integers(0, 256, 3072, np.uint8).tobytes()


@pytest.fixture
def served(start, tmp_path):
    """A server with the three transports, the port of HTTP and the path of the Unix socket's protocol."""
    number, uds = port(), tmp_path / "uds"
    path = os.pathsep.join(filter(None, [STUBBED, os.environ.get("PYTHONPATH")]))
    flags = ("--generator", "none", "--http", number, "--metrics", port(), "--uds", str(uds))
    return start(*flags, prefix=("env", f"PYTHONPATH={path}")), int(number), uds


def over_http(number: int) -> tuple[int, dict]:
    connection = http.client.HTTPConnection("127.0.0.1", number, timeout=300)
    connection.request("POST", "/classify", PIXELS, {"Content-Type": "application/octet-stream"})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def over_uds(path) -> str:
    with connect(path) as sock:
        sock.sendall(struct.pack(">IB", 1 + len(PIXELS), 1) + PIXELS)
        (length,) = struct.unpack(">I", sock.recv(4))
        body = b""
        while len(body) < length:
            body += sock.recv(length - len(body))
        return body[1:].decode()


def over_shared_memory(path) -> int:
    with Client(path) as client:
        client.slots[0, : len(PIXELS)] = np.frombuffer(PIXELS, np.uint8)
        client.submit(0, Op.RUN)
        done = client.wait()
        assert done["status"] == Status.OK
        return client.label(done)


def test_every_transport_gives_the_same_answer_and_the_server_itself_has_no_model(served):
    server, number, uds = served
    (worker,) = workers(server.pid)
    status, said = over_http(number)
    assert status == 200
    assert said["label"] == over_uds(uds) == f"class {over_shared_memory(server.socket)}"
    with open(f"/proc/{server.pid}/maps") as maps:
        assert not re.search(r"tensorflow|jaxlib|openvino|onnxruntime", maps.read())
    counters = server.stop()
    assert counters["calls"] == 3, "the worker's counters are in the last line, too"
    assert (counters["http_requests"], counters["uds_packets"]) == (1, 1), "and the gateways'"
    assert (counters["gateway_starts"], counters["gateway_crashes"]) == (2, 0)
    assert ended(worker)


def test_callers_of_other_transports_notice_nothing_of_a_reload(served):
    server, number, uds = served
    before = over_http(number)
    assert before[0] == 200
    for _ in range(3):
        assert reload(server) == (0, "patches: version 1 in place of 1\n")
        assert over_http(number) == before
        assert over_uds(uds) == before[1]["label"]
    server.stop()


def test_a_classifier_whose_process_is_away_is_503_and_comes_back(served):
    server, number, _ = served
    assert over_http(number)[0] == 200
    (worker,) = workers(server.pid)
    os.kill(worker, signal.SIGSTOP)  # it is there, and not loading, for as long as it takes to look
    os.kill(worker, signal.SIGKILL)
    statuses = {over_http(number)[0] for _ in range(3)}
    assert statuses <= {200, 503}
    until(lambda: "the process of the classifier is back" in server.log)
    until(lambda: over_http(number)[0] == 200)
    server.stop()


def test_the_server_itself_sleeps_whatever_its_workers_are_told(start, tmp_path):
    """One that spun would take a core from the model: a thread that spins is runnable (R) whenever somebody looks."""
    path = os.pathsep.join(filter(None, [STUBBED, os.environ.get("PYTHONPATH")]))
    server = start("--generator", "none", "--spin", "forever", prefix=("env", f"PYTHONPATH={path}"))
    over_shared_memory(server.socket)
    until(lambda: states(server.pid) == {"S"})
    until(lambda: "R" in states(*workers(server.pid)))
    server.stop()


def states(pid: int) -> set[str]:
    """Of its threads, as the kernel has them."""
    found = set()
    for thread in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError):  # it has ended
            found.add(Path(f"/proc/{pid}/task/{thread}/stat").read_text().rpartition(")")[2].split()[0])
    return found


def ask(sock: socket.socket) -> bytes:
    """The answer to a request for /livez."""
    with sock:
        sock.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b""
        while piece := sock.recv(4096):
            answer += piece
        return answer


def test_http_listens_at_a_path_which_a_server_that_takes_over_has_too(start, tmp_path):
    path = tmp_path / "web"
    flags = ("--engine", "none", "--http", f"unix:{path}")
    server = start(*flags)
    server.wait_for(f"listening on {server.socket}")
    assert path.stat().st_mode & 0o777 == 0o600
    assert ask(connect(path)).startswith(b"HTTP/1.1 200")
    other = start(*flags, "--takeover")
    server.ended()
    assert ask(connect(path)).endswith(b'{"status": "ok"}')
    other.stop()
    assert not path.exists()


def test_http_listens_at_an_address_of_ipv6(start):
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as free:
            number = free.getsockname()[1]
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    server = start("--engine", "none", "--http", f"[::1]:{number}")
    server.wait_for(f"listening on http://[::1]:{number}")
    assert ask(socket.create_connection(("::1", number), timeout=60)).startswith(b"HTTP/1.1 200")
    server.stop()
