"""Whatever a model or a generator raises or returns is the answer to its call, and to nothing else."""

import http.client
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from client import IMAGE_BYTES, Client, connect, hello, hung_up, read_reason
from conftest import ROOT
from stub_generators import ERRORS, HOSTILE
from stub_server import Hostile
from test_flood import prompt_server
from test_prompt_lane import Prompts
from test_uds import packet, read_packet

from shm_server.layout import Op, Reason, Status

# Of Hostile.WAYS, in its order: what the caller reads.
SAID = [
    r"ValueError: \ud800 half a pair",
    r"ValueError: two lines\x1b[2J",
    "ValueError: xxxxx",
    "Unspeakable: (no message: its __str__ raised SystemExit)",
    "SystemExit: 3",
    "KeyboardInterrupt",
    "GeneratorExit",
    "StopIteration",
    "MemoryError",
    "BaseExceptionGroup: several (2 sub-exceptions)",
    "Named Line: oddly",
]
RIGHT = bytes([255]) * IMAGE_BYTES


def picture(number: int) -> bytes:
    return bytes([number]) * IMAGE_BYTES


@pytest.fixture(scope="module")
def transports(tmp_path_factory):
    """The folder of a server whose model is Hostile, on every transport, and its port for HTTP."""
    folder = tmp_path_factory.mktemp("hostile")
    command = [sys.executable, str(ROOT / "tests" / "stub_transports.py"), "hostile", str(folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        log = []
        while not any("http://" in line for line in log) or not any("/shm" in line for line in log):
            line = process.stderr.readline()
            assert line, "".join(log)
            log.append(line)
        (port,) = re.findall(r"http://127.0.0.1:(\d+)", "".join(log))
        yield folder, int(port)
        process.terminate()
        log += process.stderr.readlines()
        assert process.wait(60) == 0
    assert len(log) < 200, "a line a call, and no more"


def test_whatever_a_model_does_is_the_answer_to_that_batch(transports):
    folder, _ = transports
    assert len(SAID) == len(Hostile.WAYS)
    with Client(folder / "shm") as client, Client(folder / "shm") as other:
        for number, said in enumerate(SAID):
            client.slots[3] = number
            client.submit(3, Op.RUN)
            done = client.wait()
            message = client.message(done)
            assert done["status"] == Status.MODEL_ERROR
            assert message.startswith(said), (number, message)
            assert message.isprintable()
            for right in (other, client):
                right.slots[0] = 255
                right.submit(0, Op.RUN)
                done = right.wait()
                assert (done["status"], right.label(done)) == (Status.OK, 1)


def test_whatever_a_model_does_is_the_answer_to_that_request_over_http(transports):
    web = http.client.HTTPConnection("127.0.0.1", transports[1], timeout=60)

    def classify(pixels: bytes) -> tuple[int, dict]:
        web.request("POST", "/classify", pixels, {"Content-Type": "application/octet-stream"})
        answer = web.getresponse()
        return answer.status, json.loads(answer.read())

    for number, said in enumerate(SAID):
        status, answer = classify(picture(number))
        assert status == 500
        assert answer["error"].startswith(f"the model failed: {said}")
        status, answer = classify(RIGHT)
        assert (status, answer["label"]) == (200, "bright")
    web.close()


def test_whatever_a_model_does_ends_that_connection_only(transports):
    folder, _ = transports
    with connect(folder / "uds") as other:
        for number in range(len(SAID)):
            with connect(folder / "uds") as sock:
                sock.sendall(packet(1, picture(number)))
                assert hung_up(sock), number
            other.sendall(packet(1, RIGHT))
            assert read_packet(other) == (1, b"bright")


def prompts_said(number: int) -> str:
    kind = type(HOSTILE[number]).__name__
    if kind == "Broken":
        return r"\ud800 of an endpoint"
    return {"ValueError": r"ValueError: \ud800 half a pair"}.get(kind, kind)


@pytest.mark.parametrize("engine", ["computing", "waiting"])
def test_whatever_a_generator_does_is_the_answer_to_that_prompt(start, tmp_path, engine):
    server = prompt_server(start, tmp_path, engine)
    with Prompts(server) as client, Prompts(server) as other:
        for number in ERRORS:
            for prompt in (f"begun raise:{number}", f"start:{number}"):
                status, text, said = client.ask(prompt)
                assert status == (Status.BROKEN if "endpoint" in said else Status.MODEL_ERROR)
                assert text == ("begun " if prompt.startswith("begun") else "")
                assert said.startswith(prompts_said(number)), said
                assert said.isprintable()
            assert client.ask(f"begun close:{number}") == (Status.OK, "begun ", "")
            assert other.ask("to be") == (Status.OK, "to be ", "")
        for number in sorted(set(range(len(HOSTILE))) - set(ERRORS)):
            status, text, said = client.ask(f"begun give:{number} more")
            assert (status, text) == (Status.MODEL_ERROR, "begun ")
            assert "a step returned" in said
            assert other.ask("to be") == (Status.OK, "to be ", "")
    server.process.terminate()
    server.ended()


STARTED = """
import importlib.metadata, sys
import posix_ipc
from shm_server import Server
from shm_server.runtime import logs
from shm_server.session import segment
import stub_server

def fail(*arguments, **named):
    if fail.times:
        fail.times -= 1
        raise posix_ipc.PermissionsError("\\ud800 says posix_ipc")
    return memory(*arguments, **named)

logs.configure()
fail.times, memory = 2, posix_ipc.SharedMemory
posix_ipc.SharedMemory = fail
importlib.metadata.distribution = lambda name: 1 / 0      # the package is being replaced
Server(stub_server.Brightness(), sys.argv[1]).run()
"""


def test_what_a_library_raises_in_a_handshake_is_that_clients_refusal(start, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tests")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests'}")
    server = start(command=[sys.executable, "-c", STARTED, str(tmp_path / "sock")])
    for _ in range(2):
        with connect(server.socket) as sock:
            sock.sendall(hello())
            _, reason, message = read_reason(sock)
            assert (reason, message) == (Reason.NO_MEMORY, r"no segment: PermissionsError: \ud800 says posix_ipc")
    with Client(server.socket) as client:
        client.slots[0] = np.uint8(255)
        client.submit(0, Op.RUN)
        assert client.label(client.wait()) == 1
    server.stop()
