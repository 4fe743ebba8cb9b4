"""Callers over HTTP that send too slowly, too much, nothing sensible, or do not read: each hurts himself only."""

import contextlib
import gzip
import http.client
import json
import os
import random
import re
import signal
import socket
import sys
import threading
import zlib
from pathlib import Path
from urllib.request import urlopen

import pytest
from client import hung_up
from conftest import ROOT, ServerProcess, ended, gateways, until
from test_reload import port

from shm_server.gateways.address import Tcp, bind
from shm_server.gateways.http import body, protocol, server

RAW, JSON = {"Content-Type": "application/octet-stream"}, {"Content-Type": "application/json"}
BRIGHT = bytes([255]) * 3072
HEALTH = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


def run(command: list[str], socket_path, log) -> ServerProcess:
    running = ServerProcess([sys.executable, *command], socket_path, log)
    running.wait_for(f"listening on {socket_path}")  # the last that it says before it serves
    running.port = int(re.search(r"listening on http://127\.0\.0\.1:(\d+)", running.log)[1])
    return running


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server whose model knows dark from bright; every test leaves it answering."""
    folder = tmp_path_factory.mktemp("http")
    running = run([str(ROOT / "tests" / "stub_transports.py"), "guarded", str(folder)], folder / "shm", folder / "log")
    yield running
    running.process.kill()
    running.process.wait()


@pytest.fixture(autouse=True)
def answering(request):
    yield
    if "served" in request.fixturenames:
        running = request.getfixturevalue("served")
        assert call(running, "POST", "/classify", BRIGHT, RAW)[1]["label"] == "bright"
        assert "Traceback" not in running.log


@pytest.fixture
def prompted(tmp_path):
    """A server with a generator that does as it is told, and metrics."""
    path, metrics = tmp_path / "sock", port()
    command = [str(ROOT / "tests" / "stub_generators.py"), str(path), "computing", "0", metrics]
    running = run(command, path, tmp_path / "log")
    running.metrics = f"http://127.0.0.1:{metrics}/metrics"
    yield running
    running.process.kill()
    running.process.wait()


def call(running, method: str, path: str, data=None, headers=()) -> tuple[int, dict]:
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path, data, dict(headers))
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"null")


def connect(running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", running.port), timeout=60)


def post(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


def read_all(sock: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := sock.recv(1 << 16):
            data += piece
    return data


def read_until(sock: socket.socket, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        piece = sock.recv(1 << 16)
        assert piece, data
        data += piece
    return data


# -- what is refused, and the connection goes on


@pytest.mark.parametrize("size", [5 << 20, 40 << 20])
def test_a_refused_body_is_dropped_and_the_connection_serves_on(served, size):
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    for kind, status in (("image/heic", 415), ("application/json", 415)):
        connection.request("POST", "/classify", bytes(size), {"Content-Type": kind})
        answer = connection.getresponse()
        assert (answer.status, list(json.loads(answer.read()))) == (status, ["error"])
        kept = connection.sock
        connection.request("POST", "/classify", BRIGHT, RAW)
        assert json.loads(connection.getresponse().read())["label"] == "bright"
        assert connection.sock is kept


def test_a_body_over_the_limit_says_the_limit(served):
    status, answer = call(served, "POST", "/classify", bytes(17 << 20), RAW)
    assert (status, answer) == (413, {"error": f"a body of more than {body.MAX_BODY_BYTES} bytes"})


WITH_BODIES = {
    ("HEAD", "/healthz"): 200,
    ("HEAD", "/echo"): 405,
    ("OPTIONS", "/echo"): 405,
    ("POST", "/nowhere"): 404,
    ("GET", "/classify"): 405,
    ("PUT", "/echo"): 405,
    ("DELETE", "/healthz"): 405,
    ("GET", "/livez"): 200,
}


@pytest.mark.parametrize(("method", "path"), WITH_BODIES)
def test_a_body_that_nobody_wants_is_no_request(served, method, path):
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    for data in (b"GET /nowhere HTTP/1.1\r\n\r\n", bytes(3 << 20)):
        connection.request(method, path, data, JSON)
        answer = connection.getresponse()
        assert answer.status == WITH_BODIES[method, path]
        assert bool(answer.read()) == (method != "HEAD")
        connection.request("GET", "/livez")
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())) == (200, {"status": "ok"})


def test_who_announces_a_body_is_refused_before_he_sends_it(served):
    with connect(served) as sock:
        sock.sendall(post("/classify", "Content-Type: image/heic", "Content-Length: 5", "Expect: 100-continue"))
        answer = read_all(sock)
    assert answer.startswith(b"HTTP/1.1 415")
    assert b"connection: close" in answer
    with connect(served) as sock:
        sock.sendall(post("/echo", "Content-Type: application/json", "Content-Length: 15", "Expect: 100-continue"))
        assert read_until(sock, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b'{"prompt": "x"}')
        read_until(sock, b'{"echo_prompt": "x"}')


def test_requests_may_be_sent_before_answers_are_read(served):
    echo = post("/echo", "Content-Type: application/json", "Content-Length: 15")
    with connect(served) as sock:
        sock.sendall(b"".join(echo + b'{"prompt": "%d"}' % number for number in range(5)) + HEALTH)
        received = read_until(sock, b'{"status": "ok"}')
    assert re.findall(rb'echo_prompt": "(\d)"', received) == [b"0", b"1", b"2", b"3", b"4"]


# -- encodings


def packed(data: bytes) -> dict[str, bytes]:
    return {"gzip": gzip.compress(data), "deflate": zlib.compress(data), "GZIP": gzip.compress(data), "identity": data}


def test_a_packed_body_is_unpacked(served):
    for encoding, data in packed(b'{"prompt": "x"}').items():
        headers = JSON | {"Content-Encoding": encoding}
        assert call(served, "POST", "/echo", data, headers) == (200, {"echo_prompt": "x"}), encoding
    for encoding, data in packed(BRIGHT).items():
        assert call(served, "POST", "/classify", data, RAW | {"Content-Encoding": encoding})[1]["label"] == "bright"


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "nonsense"])
def test_another_encoding_is_a_415_that_names_those_that_are_taken(served, encoding):
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    connection.request("POST", "/echo", b"x" * 1000, JSON | {"Content-Encoding": encoding})
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Accept-Encoding"]) == (415, "gzip, deflate")
    assert encoding in json.loads(answer.read())["error"]


@pytest.mark.parametrize("cut", [0, 1, 5, 20, -1, -8])
def test_what_is_packed_badly_is_a_bad_request(served, cut):
    data = gzip.compress(b'{"prompt": "x"}')[: cut or None]
    data = b"no gzip" if not cut else data
    status, answer = call(served, "POST", "/echo", data, JSON | {"Content-Encoding": "gzip"})
    assert status == 400
    assert "gzip" in answer["error"]
    status, answer = call(served, "POST", "/echo", gzip.compress(b"{}") + b"more", JSON | {"Content-Encoding": "gzip"})
    assert (status, "whole gzip" in answer["error"]) == (400, True)


def test_a_bomb_is_too_large_and_takes_no_memory(served):
    (pid,) = (pid for pid in gateways(served.pid) if "uvloop" in Path(f"/proc/{pid}/maps").read_text())
    bomb = gzip.compress(bytes(1 << 28), 9)
    assert len(bomb) < 1 << 20
    before = peak(pid)
    status, answer = call(served, "POST", "/classify", bomb, RAW | {"Content-Encoding": "gzip"})
    assert (status, answer["error"]) == (413, f"a body of more than {body.MAX_BODY_BYTES} bytes, unpacked")
    assert peak(pid) - before < 100 << 20


def peak(pid: int) -> int:
    """The largest resident set that the process has had, in bytes (proc(5): VmHWM)."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) << 10


# -- JSON


NO_JSON = {
    "too deep": b"[" * 100_000,
    "too deep in a field": b'{"prompt": ' + b"[" * 100_000,
    "NaN": b'{"prompt": NaN}',
    "Infinity": b'{"prompt": -Infinity}',
    "no UTF-8": b'{"prompt": "\xff"}',
    "half a character": b'{"prompt": "\xe2\x82"}',
    "a surrogate as bytes": b'{"prompt": "\xed\xa0\x80"}',
    "cut off": b'{"prompt": "x',
    "nothing": b"",
    "two objects": b'{"prompt": "x"}{}',
    "a control character": b'{"prompt": "\n"}',
    "a number of many digits": b'{"prompt": ' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("case", NO_JSON)
def test_what_is_no_json_is_a_bad_request(served, case):
    status, answer = call(served, "POST", "/echo", NO_JSON[case], JSON)
    assert (status, list(answer)) == (400, ["error"])
    assert len(answer["error"]) < 300


def test_what_would_end_a_line_is_escaped(served):
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    text = "a\u2028b\u2029c\u0085d"
    connection.request("POST", "/echo", json.dumps({"prompt": text}), JSON)
    answer = connection.getresponse().read()
    assert json.loads(answer) == {"echo_prompt": text}
    assert answer.isascii()


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("sampling_steps", "8.0", None),
        ("sampling_steps", "8.5", "sampling_steps is 8.5, must be a whole number"),
        ("sampling_steps", "1e400", "sampling_steps is inf, must be a whole number"),
        ("sampling_steps", "1e30", "steps of 1000000000000000019884624838656"),
        ("temperature", "1e400", "temperature is inf"),
        ("top_k", "3.0", None),
        ("seed", "18446744073709551616", "seed is 18446744073709551616"),
    ],
)
def test_numbers_are_taken_for_what_they_are(prompted, field, value, said):
    status, answer = call(prompted, "POST", "/prompt", f'{{"prompt": "on", "{field}": {value}}}', JSON)
    assert status == (200 if said is None else 400), answer
    assert said is None or said in answer["error"]


# -- slow, endless, silent


@pytest.fixture
def hosted(monkeypatch):
    """The gateway in a thread of this process, which is a client of nobody, with limits that a test can wait for."""
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(protocol, "DROP_SECONDS", 0.2)
    monkeypatch.setattr(body, "SILENCE_SECONDS", 0.2)
    monkeypatch.setattr(server, "DRAIN_SECONDS", 0.2)

    class Door:
        listening = threading.Event()

        def ready(self) -> None:
            self.listening.set()

    with bind(Tcp(0)) as sock:
        door, port = Door(), Tcp.of(sock).port
        thread = threading.Thread(target=server.serve, args=(door, sock), kwargs={"socket": "/nowhere/sock"})
        thread.start()
        door.listening.wait()
        door.port = port
        yield door
        door.on_stop(False)
        thread.join()


@pytest.mark.parametrize("sent", [b"G", b"GET /livez HTTP/1.1\r\n", HEALTH[:-2], HEALTH + b"POST /ec"])
def test_half_a_head_is_answered_and_hung_up_on(hosted, sent):
    with connect(hosted) as sock:
        sock.sendall(sent)
        answer = read_all(sock)
    assert b"HTTP/1.1 408 " in answer
    assert answer.endswith(b'{"error": "no whole head within 0.2 s"}')


@pytest.mark.parametrize("length", ["Content-Length: 100", "Transfer-Encoding: chunked"])
def test_half_a_body_is_answered_and_hung_up_on(hosted, length):
    with connect(hosted) as sock:
        sock.sendall(
            post("/echo", "Content-Type: application/json", length) + (b"5\r\n{" if "chunk" in length else b"{")
        )
        answer = read_all(sock)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"the body did not come" in answer


def test_half_a_body_that_nobody_wants_is_hung_up_on(hosted):
    with connect(hosted) as sock:
        sock.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
        assert read_all(sock).endswith(b'{"status": "ok"}')


def test_heads_that_are_no_heads_are_refused(served):
    for sent, status in (
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b"400"),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", b"400"),
        (b"GET /livez HTTP/1.1\r\n" + b"X: y\r\n" * 200_000, b"431"),
        (b"GET /" + b"a" * 1_000_000, b"431"),
    ):
        with connect(served) as sock:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # not all of it is waited for
                sock.sendall(sent)
            answer = read_all(sock)
            assert answer.startswith(b"HTTP/1.1 " + status) or (status == b"431" and not answer), sent[:60]


def test_an_endless_body_ends(hosted, monkeypatch):
    """In chunks, of a request that is refused, and of one that has been answered."""
    monkeypatch.setattr(body, "MAX_DROPPED_BYTES", 1 << 20)
    monkeypatch.setattr(protocol, "MAX_DROPPED_BYTES", 1 << 20)
    chunk = b"%x\r\n" % (1 << 16) + bytes(1 << 16) + b"\r\n"
    for head in (post("/echo", "Transfer-Encoding: chunked"), HEALTH[:-2] + b"Transfer-Encoding: chunked\r\n\r\n"):
        with connect(hosted) as sock, pytest.raises((BrokenPipeError, ConnectionResetError)):
            sock.sendall(head + 1000 * chunk)


def test_five_hundred_who_say_next_to_nothing_keep_nobody_waiting(served):
    chance = random.Random(10)
    crowd = []
    for number in range(500):
        sock = connect(served)
        whole = post("/classify", "Content-Length: 3072") + BRIGHT
        sock.sendall(whole[: chance.randrange(1, len(whole))])
        crowd.append(sock)
        if number % 100 == 0:
            assert call(served, "POST", "/classify", BRIGHT, RAW)[1]["label"] == "bright"
    assert call(served, "GET", "/readyz")[0] == 200
    for sock in crowd:
        sock.close()


# -- those who go, and those who do not read


def in_flight(running) -> int:
    """Prompts that text is generated for."""
    return int(float(re.search(r"^shm_prompts_in_flight (\S+)", urlopen(running.metrics).read().decode(), re.M)[1]))


@pytest.mark.parametrize("streams", [True, False])
def test_who_hangs_up_cancels_his_prompt_streaming_or_not(prompted, tmp_path, streams):
    data = json.dumps({"prompt": f"until:{tmp_path / 'never'}", "stream": streams}).encode()
    with connect(prompted) as sock:
        sock.sendall(post("/prompt", "Content-Type: application/json", f"Content-Length: {len(data)}") + data)
        until(lambda: in_flight(prompted) == 1)
    until(lambda: in_flight(prompted) == 0)
    prompted.stop()


def test_who_reads_nothing_is_waited_for_by_nobody(prompted):
    data = json.dumps({"prompt": "repeat:" + "x" * 100, "sampling_steps": 2000, "stream": True}).encode()
    with connect(prompted) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(post("/prompt", "Content-Type: application/json", f"Content-Length: {len(data)}") + data)
        assert call(prompted, "POST", "/prompt", b'{"prompt": "on"}', JSON) == (200, {"response": "on "})
        prompted.stop()


# -- stops


STATES = {
    "nothing said": b"",
    "half a head": b"POST /echo HTT",
    "half a body": post("/echo", "Content-Type: application/json", "Content-Length: 100") + b"{",
    "half a chunk": post("/echo", "Content-Type: application/json", "Transfer-Encoding: chunked") + b"64\r\n{",
    "a body that nobody wants": HEALTH[:-2] + b"Content-Length: 100\r\n\r\nhalf",
    "a stream that goes on": None,
}


def test_sigterm_ends_it_whatever_callers_do(prompted):
    data = json.dumps({"prompt": "repeat sleep:0.001", "sampling_steps": 10_000_000, "stream": True}).encode()
    stream = post("/prompt", "Content-Type: application/json", f"Content-Length: {len(data)}") + data
    crowd = []
    for sent in STATES.values():
        for _ in range(3):
            sock = connect(prompted)
            sock.sendall(stream if sent is None else sent)
            crowd.append(sock)
        assert call(prompted, "GET", "/livez")[0] == 200
    prompted.stop()
    for sock in crowd:
        read_all(sock)
        sock.close()


def test_who_is_not_answered_when_the_server_stops_is_told_so(prompted, tmp_path):
    data = json.dumps({"prompt": f"until:{tmp_path / 'never'}"}).encode()
    with connect(prompted) as sock:
        sock.sendall(post("/prompt", "Content-Type: application/json", f"Content-Length: {len(data)}") + data)
        until(lambda: in_flight(prompted) == 1)
        prompted.process.send_signal(signal.SIGTERM)
        answer = read_all(sock)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert answer.endswith(b'{"error": "the server is stopping"}')
    prompted.ended()


def test_a_gateway_that_is_killed_is_started_again_and_the_lanes_go_on(prompted):
    from client import Prompts

    with Prompts(prompted) as client:
        for _ in range(3):
            (pid,) = gateways(prompted.pid)
            with connect(prompted) as sock:
                sock.sendall(HEALTH)
                read_until(sock, b'{"status": "ok"}')
                os.kill(pid, signal.SIGKILL)
                assert hung_up(sock)
            # Nobody is refused meanwhile: the server's process holds the socket.
            assert call(prompted, "POST", "/prompt", b'{"prompt": "on"}', JSON) == (200, {"response": "on "})
            assert client.ask("to be")[1] == "to be "
    prompted.stop()
    assert prompted.log.count("the process of http was ended by SIGKILL; it is started again in ") == 3


def test_a_server_that_is_killed_takes_its_gateway_with_it(prompted):
    (pid,) = gateways(prompted.pid)
    prompted.process.kill()
    until(lambda: ended(pid))
