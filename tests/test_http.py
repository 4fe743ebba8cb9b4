"""HTTP + JSON against real servers: the gateway in a process of its own, beside the other ways in."""

import base64
import http.client
import io
import json
import os
import re
import signal
import socket
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from client import Client, connect, hung_up
from conftest import ROOT, ServerProcess
from PIL import Image
from stub_server import GATE

from shm_server import SocketInUse
from shm_server.gateways.address import Tcp, bind
from shm_server.gateways.hosted import Gateway
from shm_server.layout import Op

STUB = ROOT / "tests" / "stub_transports.py"
JSON = {"Content-Type": "application/json"}
RAW = {"Content-Type": "application/octet-stream"}
BRIGHT = bytes([255]) * 3072


class Web:
    """A server's HTTP, over one kept-alive connection."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        server.wait_for(f"listening on {server.socket}")  # the last that it says before it serves
        self.port = int(re.search(r"listening on http://127\.0\.0\.1:(\d+)", server.log)[1])
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def __call__(self, method: str, path: str, body: bytes | None = None, headers=()) -> tuple[int, dict]:
        """Status and JSON of the answer."""
        self.connection.request(method, path, body, dict(headers))
        answer = self.connection.getresponse()
        assert answer.headers["Content-Type"] == "application/json"
        return answer.status, json.loads(answer.read())


@pytest.fixture
def web(start, tmp_path):
    """web(KIND) starts a server with a model of stub_transports.py."""

    def _web(kind: str, port: int = 0) -> Web:
        command = [sys.executable, str(STUB), kind, str(tmp_path), str(port)]
        return Web(start(command=command, socket=tmp_path / "shm"))

    return _web


def png(*colour: int, size=(50, 40)) -> bytes:
    file = io.BytesIO()
    Image.new("RGBA" if len(colour) == 4 else "RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def jpeg(*colour: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(file, "JPEG")
    return file.getvalue()


def test_each_request_has_its_answer_over_one_connection(web):
    call = web("guarded")
    assert call("GET", "/healthz") == (
        200,
        {"status": "ok", "model": "brightness", "classes": ["dark", "bright"], "parts": {"classifier": "up"}},
    )
    first = call.connection.sock
    assert first is not None, "the connection was closed"
    prompt = 'à "quoted"\n☃ \U0001f600 ' + base64.b64encode(os.urandom(3072)).decode()
    assert call("POST", "/echo", json.dumps({"prompt": prompt}).encode(), JSON) == (200, {"echo_prompt": prompt})
    assert call("POST", "/echo", b'{"prompt": "", "more": 1}', JSON) == (200, {"echo_prompt": ""})
    status, answer = call("POST", "/classify", BRIGHT, RAW)
    assert (status, answer) == (200, {"label": "bright", "score": 1.0, "scores": {"dark": 0.0, "bright": 1.0}})
    assert list(answer["scores"]) == ["dark", "bright"], "the model's order"
    assert call.connection.sock is first, "kept alive"


def test_pictures_and_pixels_are_told_apart_by_type_or_by_their_bytes(web):
    call = web("guarded")
    exactly = png(0, 0, 0)
    exactly += bytes(3072 - len(exactly))  # a PNG file may have anything behind its end
    for body, headers, label in (
        (png(255, 255, 255), {"Content-Type": "image/png"}, "bright"),
        (png(0, 0, 0), {"Content-Type": "image/png"}, "dark"),
        (png(0, 0, 0, 0), {"Content-Type": "image/png"}, "bright"),  # transparent is white
        (jpeg(250, 250, 250), {"Content-Type": "image/jpeg"}, "bright"),
        (jpeg(0, 0, 0), {"Content-Type": "image/png"}, "dark"),  # a wrong name does no harm
        (png(0, 0, 0), {}, "dark"),
        (jpeg(255, 255, 255), RAW, "bright"),
        (png(0, 0, 0), {"Content-Type": "application/x-www-form-urlencoded"}, "dark"),  # curl --data-binary
        (BRIGHT, {}, "bright"),
        (BRIGHT, {"Content-Type": "application/x-www-form-urlencoded"}, "bright"),
        (exactly, {}, "dark"),
        (b"\xff\xd8" + bytes(3070), RAW, "dark"),
        (b"\xff\xd8\xff" + bytes(3069), RAW, "dark"),  # pixels, as declared, though they begin as a JPEG
    ):
        status, answer = call("POST", "/classify", body, headers)
        assert (status, answer.get("label")) == (200, label), (answer, headers, body[:10])


ERRORS = {
    "no JSON": ("POST", "/echo", b"{", JSON, 400, "expected a JSON object"),
    "no prompt": ("POST", "/echo", b"{}", JSON, 400, '"prompt" of type str'),
    "a prompt that is no text": ("POST", "/echo", b'{"prompt": 3}', JSON, 400, '"prompt" of type str'),
    "JSON that is no object": ("POST", "/echo", b'["prompt"]', JSON, 400, "expected a JSON object"),
    "JSON that is no UTF-8": ("POST", "/echo", b'{"prompt": "\xff"}', JSON, 400, "expected a JSON object"),
    "JSON without an end": ("POST", "/echo", b"[" * 200_000, JSON, 400, "expected a JSON object"),
    "no body": ("POST", "/echo", b"", JSON, 400, "expected a JSON object"),
    "an echo of another type": ("POST", "/echo", b"x", {"Content-Type": "text/plain"}, 415, "send application/json"),
    "an echo of no type": ("POST", "/echo", b"{}", {}, 415, "no content type"),
    "a broken PNG": ("POST", "/classify", png(1, 2, 3)[:60], {"Content-Type": "image/png"}, 400, "no readable picture"),
    "a PNG in name only": ("POST", "/classify", BRIGHT, {"Content-Type": "image/png"}, 400, "no readable picture"),
    "a broken JPEG": ("POST", "/classify", jpeg(1, 2, 3)[:200], {}, 400, "no readable picture"),
    "a pixel too few": ("POST", "/classify", bytes(3071), RAW, 400, "raw pixels must be 3072"),
    "a pixel too many": ("POST", "/classify", bytes(3073), RAW, 400, "3073 bytes"),
    "no picture": ("POST", "/classify", b"", {}, 400, "0 bytes"),
    "another type": (
        "POST",
        "/classify",
        BRIGHT,
        {"Content-Type": "image/heic"},
        415,
        "image/heic: send one of image/png",
    ),
    "JSON to classify": ("POST", "/classify", b"{}", JSON, 415, "application/json: send one of image/png"),
    "too large": ("POST", "/classify", bytes((16 << 20) + 1), RAW, 413, "more than 16777216 bytes"),
    "far too large": ("POST", "/classify", bytes(40 << 20), RAW, 413, "more than 16777216 bytes"),
    "too many pixels": ("POST", "/classify", png(0, size=(9000, 8000)), {}, 413, "9000 x 8000"),
    "no such path": ("GET", "/nowhere", None, {}, 404, "not found"),
    "no such method": ("GET", "/classify", None, {}, 405, "not allowed"),
    "a method of nobody": ("DELETE", "/healthz", None, {}, 405, "not allowed"),
}


def test_each_error_is_json_with_its_status_and_says_why(web):
    call = web("guarded")
    for case, (method, path, body, headers, status, why) in ERRORS.items():
        got, answer = call(method, path, body, headers)
        assert (got, list(answer)) == (status, ["error"]), case
        assert why in answer["error"], case
    assert call("POST", "/classify", BRIGHT, RAW)[0] == 200
    assert "Traceback" not in call.server.log


def test_a_body_in_chunks_is_taken_and_bounded(web):
    call = web("guarded")
    assert call("POST", "/classify", iter([BRIGHT[:1000], BRIGHT[1000:]]), RAW)[1]["label"] == "bright"
    with socket.create_connection(("127.0.0.1", call.port), timeout=60) as sock:
        sock.sendall(b"POST /classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(17):
            sock.sendall(b"100000\r\n" + bytes(1 << 20) + b"\r\n")
        sock.sendall(b"0\r\n\r\n")
        with sock.makefile("rb") as answer:
            assert b" 413 " in answer.readline()


def test_a_405_says_what_is_allowed(web):
    call = web("none")
    call.connection.request("GET", "/echo")
    answer = call.connection.getresponse()
    assert answer.status == 405
    assert "POST" in answer.headers["Allow"]


def test_a_model_that_raises_is_a_500_with_its_message_and_the_server_goes_on(web):
    call = web("raising")
    status, answer = call("POST", "/classify", bytes(3072), RAW)
    assert status == 500
    assert answer["error"].startswith("the model failed: ValueError: a black picture éé")
    assert call("POST", "/classify", BRIGHT, RAW)[1]["label"] == "bright"
    call.server.wait_for("Traceback")
    assert call.server.log.count("Traceback") == 1


def test_without_a_model_there_is_echo_and_a_503(web):
    call = web("none")
    assert call("GET", "/healthz")[1] == {"status": "ok", "model": "none", "classes": [], "parts": {}}
    assert call("POST", "/echo", b'{"prompt": "x"}', JSON) == (200, {"echo_prompt": "x"})
    status, answer = call("POST", "/classify", BRIGHT, RAW)
    assert status == 503
    assert "no model" in answer["error"]


def test_every_transport_serves_the_one_model_at_once_and_never_two_threads_are_in_it(web, tmp_path):
    call = web("guarded")  # its model fails when two threads are in it
    failures, answered = [], []

    def run(work) -> None:
        try:
            for _ in range(50):
                answered.append(work())
        except BaseException as error:
            failures.append(error)

    def over_http():
        own = Web(call.server)

        def work():
            assert own("POST", "/classify", BRIGHT, RAW)[1]["label"] == "bright"
            return "http"

        return work

    def over_uds():
        sock = connect(tmp_path / "uds")

        def work():
            sock.sendall(b"\x00\x00\x0c\x01\x01" + BRIGHT)
            assert sock.recv(100) == b"\x00\x00\x00\x07\x01bright"
            return "uds"

        return work

    with Client(tmp_path / "shm") as client:

        def over_shm():
            client.slots[0] = 255
            client.submit(0, Op.RUN)
            assert client.label(client.wait()) == 1
            return "shm"

        works = [over_shm] + [make() for make in (over_http, over_http, over_uds, over_uds)]
        threads = [threading.Thread(target=run, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures
    assert Counter(answered) == {"shm": 50, "uds": 100, "http": 100}
    assert "Traceback" not in call.server.log


def test_sigterm_answers_what_is_in_flight_and_everything_ends_with_0(web, tmp_path):
    call = web("gated")
    idle = Web(call.server)
    assert idle("GET", "/healthz")[0] == 200
    uds = connect(tmp_path / "uds")
    uds.sendall(b"\x00\x00\x00\x02\x00x")
    assert uds.recv(100) == b"\x00\x00\x00\x02\x00x"  # an echo: it has been accepted
    call.connection.request("POST", "/classify", GATE + BRIGHT[len(GATE) :], RAW)
    call.server.wait_for("in the model")
    uds.sendall(b"\x00\x00\x0c\x01\x01" + BRIGHT)
    call.server.process.send_signal(signal.SIGTERM)
    (tmp_path / "gate").touch()
    assert uds.recv(100) == b"\x00\x00\x00\x07\x01bright"
    assert hung_up(uds)
    assert json.loads(call.connection.getresponse().read())["label"] == "bright"
    assert hung_up(idle.connection.sock)
    assert call.server.process.wait(60) == 0, call.server.log
    assert "threads left: []" in call.server.log
    assert "Traceback" not in call.server.log
    assert not (tmp_path / "uds").exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", call.port))


def test_a_port_in_use_is_one_clear_error():
    with bind(Tcp(0)) as held:
        held.listen()
        with pytest.raises(SocketInUse, match=r"127\.0\.0\.1:\d+ is in use by another server"):
            bind(Tcp.of(held))
        with pytest.raises(OSError, match=r"192\.0\.2\.1:0: Cannot assign"):
            bind(Tcp(0, "192.0.2.1"))


def test_nobody_can_connect_before_the_server_starts_and_a_port_lost_meanwhile_is_said():
    with bind(Tcp(0)) as held:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(held.getsockname())
        with bind(Tcp.of(held)) as again:  # bound twice: nobody listens yet
            held.listen()
            with pytest.raises(SocketInUse):
                Gateway("http", again, {}).start()


def test_a_port_is_free_again_at_once(web):
    call = web("none")
    assert call("GET", "/healthz")[0] == 200
    call.server.stop()
    again = web("none", call.port)
    assert again.port == call.port
    assert again("GET", "/healthz")[0] == 200


def test_no_request_is_logged(web):
    call = web("guarded")
    call("POST", "/classify", BRIGHT, RAW)  # the gateway opens its session
    call.server.wait_for("opened")
    before = call.server.log
    for _ in range(3):
        call("POST", "/classify", BRIGHT, RAW)
    assert call.server.log == before


def test_models_know_no_transport():
    for path in Path(ROOT / "shm_server" / "models").glob("*.py"):
        assert not re.search(r"flask|gunicorn|import socket|\buds\b", path.read_text()), path
