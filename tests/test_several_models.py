"""`shm-server serve SOURCE...`: each model in a process of its own, found by its name at one socket."""

import http.client
import json
import os
import socket
import subprocess
import sys

import pytest
from client import Client, connect, framed, hello, hung_up, read_frame, read_reason
from conftest import ROOT, children, until

from shm_server.layout import FrameKind, Op, Protocol, Reason, Status

TESTS = ROOT / "tests"
PATH = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))


@pytest.fixture
def serve(start):
    """serve(SOURCE, ...) runs the command with what stands in tests/ to be imported."""
    return lambda *sources: start(*sources, prefix=("env", f"PYTHONPATH={PATH}"))


def ask(path, question: str) -> object:
    with connect(path) as sock:
        sock.sendall(framed(FrameKind.QUESTION, question.encode()))
        kind, body, _ = read_frame(sock)
        assert kind == FrameKind.ANSWER, body
        assert hung_up(sock)
        return json.loads(body)


def run(path, model: str, x: list) -> list:
    """What the model's one output is for its one input."""
    with Client(path, model=model.encode()) as client:
        client.array(0)[2] = x
        client.submit(2, Op.RUN)
        done = client.wait()
        assert done["status"] == Status.OK, client.message(done)
        return client.array(1)[2].tolist()


def test_each_model_is_found_by_its_name_and_the_first_without_one(serve):
    server = serve("stub_models:iris", "twice=stub_models:doubled", "other=stub_models:mortal")
    assert len(children(server.pid)) == 3
    assert run(server.socket, "iris", [1, 2, 3, 4]) == run(server.socket, "", [1, 2, 3, 4]) == [10, 20, 30]
    assert run(server.socket, "twice", [7]) == [14]
    assert run(server.socket, "other", [3]) == [3]
    with connect(server.socket) as sock:
        sock.sendall(hello(model=b"doubled"))  # which is served under another name
        said = "there is no call model 'doubled': there are 'iris', 'twice', 'other'"
        assert read_reason(sock) == (FrameKind.REFUSAL, Reason.NO_SUCH_MODEL, said)
    with connect(server.socket) as sock:
        sock.sendall(hello(protocol=Protocol.STREAM))
        assert read_reason(sock)[1:] == (Reason.NO_SUCH_MODEL, "this server has no stream model")
    server.stop()


def test_a_client_may_ask_which_models_there_are(serve):
    prompts = ("--generator", "stub_generators:computing", "--prompt-priority", "normal")
    server = serve("stub_models:pair", "stub_models:iris", *prompts)
    pair, iris, prompts = ask(server.socket, "models")
    assert (pair["name"], pair["version"], pair["protocol"], pair["state"]) == ("pair", "1", "call", "ready")
    assert pair["inputs"][1] == {"name": "b", "datatype": "FP64", "shape": [5]}
    assert iris["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [3]}]
    assert (prompts["name"], prompts["protocol"]) == ("stub", "stream")
    with connect(server.socket) as sock:
        sock.sendall(framed(FrameKind.QUESTION, b"the time\n"))
        assert read_reason(sock) == (FrameKind.REFUSAL, Reason.MALFORMED, "unknown question 'the time\\n'")


@pytest.mark.parametrize("size", [0, 1025, 2**32 - 1])
def test_a_question_of_no_length_or_too_much_is_refused(echo_server, size):
    with connect(echo_server.socket) as sock:
        sock.sendall(framed(FrameKind.QUESTION, b"", size=size))
        assert read_reason(sock) == (FrameKind.REFUSAL, Reason.MALFORMED, f"a question of {size} bytes")
    assert ask(echo_server.socket, "models") == []


def test_a_model_that_dies_in_a_batch_hurts_its_own_callers_only_and_is_back_by_itself(serve):
    server = serve("stub_models:mortal", "stub_models:doubled")
    with Client(server.socket, model=b"doubled") as other:
        for deaths in range(1, 4):
            with Client(server.socket) as victim:
                victim.array(0)[0] = -9
                victim.submit(0, Op.RUN)
                assert hung_up(victim.sock)
            other.array(0)[0] = 5
            other.submit(0, Op.RUN)
            assert other.wait()["status"] == Status.OK
            until(lambda deaths=deaths: server.log.count("the process of mortal is back") == deaths)
            assert run(server.socket, "mortal", [deaths]) == [deaths]
    assert server.log.count("the process of mortal was ended by SIGKILL; it is started again in") == 3
    server.stop()


BAD = {
    "no_such_module:other": "no module 'no_such_module'",
    "stub_models:nothing": "stub_models has no 'nothing'",
    "stub_models:LABELS": "expected a model with name",
    "nothing.onnx": "nothing.onnx: no such file or folder",
    "raises_at_import:other": "raises_at_import: can not be imported: ZeroDivisionError: division by zero",
    "leaves_at_import:other": "leaves_at_import: can not be imported: SystemExit: 7",
    "too_large:rows": "rows: expected a segment of at most 1073741824 bytes, got 1610",
    "too_large:labels": "labels: expected a signature that takes at most 65496 bytes of a welcome, got ",
    "too_many:tensors": "ModelError: expected at most 24 tensors, got 24 inputs and 1 outputs",
}
TOO_LARGE = """
import shm_server

half = 3 << 28
x, y = {"x": ("UINT8", (half,))}, {"y": ("UINT8", (half,))}
rows = shm_server.model(inputs=x, outputs=y, name="rows")(lambda x: x)
words = tuple(f"word number {number}" for number in range(4000))
labels = shm_server.model(inputs={"x": ("FP32", (4000,))}, outputs={"y": ("FP32", (4000,), words)})(lambda x: x)
"""
TOO_MANY = """
import shm_server

many = {f"x{number}": ("FP32", (1,)) for number in range(24)}
tensors = shm_server.model(inputs=many, outputs={"y": ("FP32", (1,))})(lambda **x: x["x0"])
"""


@pytest.mark.parametrize("source", BAD)
def test_a_source_that_is_no_model_ends_the_command_with_a_line(tmp_path, source):
    (tmp_path / "raises_at_import.py").write_text("1 / 0\n")
    (tmp_path / "leaves_at_import.py").write_text("import sys\nsys.exit(7)\n")
    (tmp_path / "too_large.py").write_text(TOO_LARGE)
    (tmp_path / "too_many.py").write_text(TOO_MANY)
    command = [sys.executable, "-m", "shm_server.cli", "serve", "stub_models:iris", source]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), PATH])}
    done = subprocess.run(
        [*command, "--socket", str(tmp_path / "sock")], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode != 0
    last = done.stderr.splitlines()[-1]
    assert last.startswith("shm-server serve: ")
    assert BAD[source] in last
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "sock").exists()


def test_health_names_each_model(serve):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    server = serve("stub_models:mortal", "stub_models:iris", "--http", str(port))

    def health() -> tuple[int, dict]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())["parts"]

    assert health() == (200, {"mortal": "up", "iris": "up"})
    with Client(server.socket) as victim:
        victim.array(0)[0] = -9
        victim.submit(0, Op.RUN)
        assert hung_up(victim.sock)
    until(lambda: server.log.count("the process of mortal is back") == 1)
    assert health() == (200, {"mortal": "up", "iris": "up"})
    server.stop()
