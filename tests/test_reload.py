"""Models that are loaded again, and servers that take over: what serves goes on until what comes is warm."""

import contextlib
import fcntl
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
import threading
from pathlib import Path

import numpy as np
import pytest
from client import Client, Prompts, connect, framed, hung_up, read_frame, read_reason
from conftest import ROOT, ServerProcess, children, ended, until

import shm_server
from shm_server.layout import FrameKind, Op, Protocol, Reason, Status

TESTS = ROOT / "tests"
SERVE = [sys.executable, "-m", "shm_server.cli", "serve"]

ADD = """
import numpy as np, shm_server

@shm_server.model(inputs={{"x": ("{datatype}", (1,))}}, outputs={{"y": ("{datatype}", (1,))}}, version="{number}")
def add(x):
    return (x + {number}).astype(x.dtype)
"""


def write(folder: Path, number: int, *, module: str = "adding", datatype: str = "INT32") -> None:
    """A model that adds `number`, which is its version too."""
    (folder / f"{module}.py").write_text(ADD.format(number=number, datatype=datatype))


@pytest.fixture
def serve(start, tmp_path):
    """serve(SOURCE, ...) runs the command with what stands in tests/ and in `tmp_path` to be imported."""
    path = os.pathsep.join(filter(None, [str(tmp_path), str(TESTS), os.environ.get("PYTHONPATH")]))
    prefix = ("env", f"PYTHONPATH={path}", "PYTHONDONTWRITEBYTECODE=1")
    return lambda *flags, **how: start(*flags, prefix=prefix, **how)


def reload(server: ServerProcess, *names: str) -> tuple[int, str]:
    """What `shm-server reload` exits with, and says."""
    command = [sys.executable, "-m", "shm_server.cli", "reload", "--socket", str(server.socket), *names]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    return done.returncode, done.stdout + done.stderr


def told_moved(client: Client) -> bool:
    kind, reason, message = read_reason(client.sock)
    assert (kind, message) == (FrameKind.GOODBYE, "another process serves the model from now on")
    assert hung_up(client.sock)
    return reason == Reason.MOVED


class Caller:
    """A client of a model of one number, which follows it when it moves."""

    def __init__(self, path: Path, model: str = "") -> None:
        self._path, self._model = path, model
        self.client = self._dial()

    def _dial(self) -> Client:
        return Client(self._path, model=self._model.encode())

    @property
    def version(self) -> str:
        return self.client.signature["version"]

    def call(self, x: int) -> int:
        self.client.array(0)[0] = x
        self.client.submit(0, Op.RUN)
        done = self.client.wait()
        assert done["status"] == Status.OK, self.client.message(done)
        return int(self.client.array(1)[0, 0])

    def follow(self) -> None:
        assert told_moved(self.client)
        self.client.close()
        self.client = self._dial()


def test_a_new_version_takes_over_when_it_is_warm_and_old_sessions_are_told(serve, tmp_path):
    write(tmp_path, 1)
    server = serve("adding:add", "stub_models:iris")
    (first, other) = children(server.pid)
    caller = Caller(server.socket)
    assert (caller.call(5), caller.version) == (6, "1")
    write(tmp_path, 2)
    assert reload(server, "add") == (0, "add: version 2 in place of 1\n")
    caller.follow()
    assert (caller.call(5), caller.version) == (7, "2")
    until(lambda: ended(first))
    assert other in children(server.pid), "another model was loaded again"
    server.stop()
    assert server.log.count("loaded: add: version 2 in place of 1") == 1
    assert server.log.count("the process of") == 0, "a worker that has moved is no crash"


def test_what_was_submitted_is_answered_or_left_to_the_next_worker(serve, tmp_path):
    """Whatever was taken has its answer before the goodbye."""
    write(tmp_path, 1)
    server = serve("adding:add")
    with Client(server.socket) as client:
        for slot in range(60):
            client.array(0)[slot] = slot
            client.submit(slot, Op.RUN)
        assert reload(server)[0] == 0
        assert told_moved(client)
        for number in range(60):
            done = client.wait()
            assert (done["status"], done["slot"]) == (Status.OK, number)
            assert client.array(1)[number, 0] == number + 1
    server.stop()


def test_a_version_that_does_not_load_leaves_the_old_one_and_says_why(serve, tmp_path):
    write(tmp_path, 1)
    server = serve("adding:add")
    caller = Caller(server.socket)
    for text, words in {
        "1 / 0\n": "adding: can not be imported: ZeroDivisionError: division by zero",
        "add = 5\n": "adding:add: expected a model with name",
        "import os; os._exit(3)\n": "the process of add ended with code 3",
    }.items():
        (tmp_path / "adding.py").write_text(text)
        code, said = reload(server, "add")
        assert code == 1
        assert said.startswith(f"add: {words}")
        assert said.endswith("; version 1 goes on\n")
        assert (caller.call(1), caller.version) == (2, "1")
    write(tmp_path, 3)
    assert reload(server)[0] == 0
    caller.follow()
    assert caller.call(1) == 4
    server.stop()


def test_another_signature_is_what_the_next_session_gets(serve, tmp_path):
    write(tmp_path, 1)
    server = serve("adding:add")
    caller = Caller(server.socket)
    write(tmp_path, 2, datatype="FP64")
    assert reload(server)[0] == 0
    caller.follow()
    assert caller.client.signature["inputs"] == [{"name": "x", "datatype": "FP64", "shape": [1]}]
    assert caller.call(1) == 3


def test_what_cannot_be_loaded_again_is_said_in_a_line(serve, echo_server):
    assert reload(echo_server, "iris") == (1, "shm-server reload: there is no model 'iris' to load again\n")
    code, said = reload(echo_server)
    assert (code, said) == (0, "this server has no model\n")
    nobody = Path(f"{echo_server.socket}.not")
    command = [sys.executable, "-m", "shm_server.cli", "reload", "--socket", str(nobody)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (1, f"shm-server reload: {nobody}: No such file or directory\n")


def test_sighup_loads_every_model_again(serve, tmp_path):
    write(tmp_path, 1)
    server = serve("adding:add", "stub_models:iris")
    caller = Caller(server.socket)
    write(tmp_path, 2)
    server.process.send_signal(signal.SIGHUP)
    caller.follow()
    assert caller.call(1) == 3
    until(lambda: "loaded: iris: version 1 in place of 1" in server.log)
    server.stop()


def test_a_prompt_in_flight_is_finished_before_its_session_moves(serve, tmp_path):
    gate = tmp_path / "gate"
    server = serve("--engine", "none", "--generator", "stub_generators:computing", "--prompt-priority", "normal")
    with Prompts(server) as busy, Prompts(server) as idle:
        busy.prompt(f"say:before until:{gate} say:after")
        assert busy.wait()["status"] == Status.MORE
        busy.controls[0]["acknowledged"] += 1
        (old,) = children(server.pid)
        assert reload(server) == (0, "stub: version 1 in place of 1\n")
        assert told_moved(idle)
        busy.prompt("say:late", slot=1)  # the next worker's
        gate.touch()
        assert told_moved(busy)
        assert busy.final() == (Status.OK, "beforeafter", "")
        assert not busy.answered
    until(lambda: ended(old))
    server.stop()


def onnx_version(folder: Path, number: int) -> None:
    """A whole version in a folder of versions: copied under another name, then renamed into place."""
    import onnx_files  # which needs onnx

    part = folder / f"{number}.part"
    part.mkdir(parents=True)
    onnx_files.write(part / "model.onnx", onnx_files.linear())
    part.rename(folder / str(number))


def version_of(server: ServerProcess, model: str) -> str | None:
    """What serves under that name, as the answer to `models` has it."""
    with connect(server.socket) as sock:
        sock.sendall(framed(FrameKind.QUESTION, b"models"))
        served = json.loads(read_frame(sock)[1])
    return next((each["version"] for each in served if each["name"] == model), None)


def test_a_watched_folder_serves_versions_and_models_as_they_appear(serve, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
    models = tmp_path / "models"
    onnx_version(models / "scores", 1)
    server = serve(str(models), "--watch")
    assert version_of(server, "scores") == "1"
    onnx_version(models / "scores", 2)
    until(lambda: version_of(server, "scores") == "2")
    onnx_version(models / "other", 7)
    until(lambda: version_of(server, "other") == "7")
    broken = models / "scores" / "3.part"
    broken.mkdir()
    (broken / "model.onnx").write_bytes(b"this is no ONNX")
    broken.rename(models / "scores" / "3")
    server.wait_for("not loaded: scores: ")
    assert version_of(server, "scores") == "2"
    models.rename(tmp_path / "away")
    server.wait_for("what is served goes on, and is not watched for now")
    assert version_of(server, "scores") == "2"
    (tmp_path / "away").rename(models)
    onnx_version(models / "scores", 4)
    until(lambda: version_of(server, "scores") == "4")
    assert server.log.count("not loaded: scores: ") == 1, "a broken version was tried again and again"
    server.stop()


def test_replicas_share_the_clients_and_one_that_dies_is_not_missed(serve):
    server = serve("stub_models:mortal", "--replicas", "2")
    workers = children(server.pid)
    assert len(workers) == 2
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(server.socket)) for _ in range(4)]
        first, second = (segments(pid) for pid in workers)
        assert first == second > 0
        clients[0].array(0)[0] = -9
        clients[0].submit(0, Op.RUN)
        assert all(hung_up(client.sock) for client in clients[::2]), "they take turns: every other one is there"
        for client in clients[1::2]:
            client.array(0)[0] = 5
            client.submit(0, Op.RUN)
            assert client.wait()["status"] == Status.OK
    until(lambda: "the process of mortal is back" in server.log)
    assert reload(server) == (0, "mortal: version 1 in place of 1\n")
    until(lambda: len(children(server.pid)) == 2 and not set(workers) & set(children(server.pid)))
    server.stop()


def segments(pid: int) -> int:
    return Path(f"/proc/{pid}/maps").read_text().count("shm-server-")


def test_no_call_of_a_python_client_fails_while_models_are_loaded_again_and_a_server_is_taken_over(serve, tmp_path):
    write(tmp_path, 1)
    server = serve("adding:add")
    counts, failures, over = [0] * 8, [], threading.Event()

    def call(number: int) -> None:
        try:
            while not over.is_set():
                x = np.array([number * 1000 + counts[number] % 1000], np.int32)
                assert client.model("add")(x)[0] - x[0] in (1, 2, 3)
                counts[number] += 1
        except BaseException as error:
            failures.append(error)

    def more() -> None:
        before = list(counts)
        until(lambda: failures or all(now > then + 20 for now, then in zip(counts, before, strict=True)))

    with shm_server.Client(str(server.socket)) as client:
        threads = [threading.Thread(target=call, args=(number,)) for number in range(len(counts))]
        for thread in threads:
            thread.start()
        more()
        for version in (2, 3):
            write(tmp_path, version)
            assert reload(server)[0] == 0
            more()
        new = serve("adding:add", "--takeover")
        assert server.process.wait(300) == 0
        more()
        over.set()
        for thread in threads:
            thread.join(300)
        assert client.model("add")(np.array([5], np.int32)).tolist() == [8]
    assert failures == []
    new.stop()


# -- takeover


def port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        return str(unused.getsockname()[1])


def test_a_server_takes_over_all_addresses_and_the_old_one_ends(serve, tmp_path):
    http, metrics, uds = port(), port(), tmp_path / "uds"
    flags = ["--http", http, "--metrics", metrics, "--uds", str(uds), "--generator", "stub_generators:computing"]
    flags += ["--engine", "none", "--prompt-priority", "normal"]
    old = serve(*flags)
    inode = os.stat(old.socket).st_ino
    with Client(old.socket) as calls, Client(old.socket, protocol=Protocol.STREAM) as prompts:
        calls.submit(0)
        calls.wait()
        new = serve(*flags, "--takeover")
        assert told_moved(calls)
        assert told_moved(prompts)
    assert old.ended()["echoes"] == 1
    assert os.stat(new.socket).st_ino == inode
    with Client(new.socket) as client:
        client.submit(0)
        client.wait()
    for address in ((http, "/healthz"), (metrics, "/metrics")):
        with socket.create_connection(("127.0.0.1", int(address[0])), timeout=60) as sock:
            sock.sendall(f"GET {address[1]} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            assert sock.recv(12) == b"HTTP/1.1 200" or sock.recv(0) == b""
    with connect(uds) as sock:
        sock.sendall(b"\0\0\0\3\0ab")
        assert sock.recv(7) == b"\0\0\0\3\0ab"
    assert new.stop()["echoes"] == 1
    assert sorted(path.name for path in tmp_path.iterdir() if "sock" in path.name or path.name.startswith("uds")) == []


def test_with_nobody_there_a_takeover_is_a_start(serve):
    server = serve("stub_models:iris", "--takeover")
    assert "there is nothing to take over" in server.log
    server.stop()


def taking_over(server: ServerProcess, serve_flags: list[str], tmp_path: Path) -> subprocess.Popen:
    """A server that loads its model for as long as it is left to, to take over."""
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    command = [*SERVE, "--takeover", "--socket", str(server.socket)]
    process = subprocess.Popen(
        [*command, *serve_flags], env=os.environ | {"PYTHONPATH": path}, cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    server.wait_for(f"{process.pid} loads its models, to take over")
    return process


def test_who_dies_while_it_takes_over_changes_nothing(serve, tmp_path):
    server = serve("stub_models:iris")
    with Client(server.socket) as client:
        for number in (signal.SIGKILL, signal.SIGTERM):
            slow = taking_over(server, ["--engine", "none", "--generator", "stub_generators:endless"], tmp_path)
            second = subprocess.run(
                [*SERVE, "--engine", "none", "--takeover", "--socket", str(server.socket)],
                capture_output=True,
                text=True,
                cwd=ROOT,
            )
            assert second.returncode == 1
            assert "another server is taking over from this one" in second.stderr
            slow.send_signal(number)
            slow.wait(60)
            slow.stderr.close()
            server.wait_for(f"{slow.pid} did not take over: this server goes on")
        client.submit(0)
        client.wait()
    with Client(server.socket) as client:
        client.submit(0)
        client.wait()
    server.stop()
    assert not os.path.exists(server.socket)
    assert not os.path.exists(f"{server.socket}.lock")


def test_a_server_that_stops_meanwhile_cannot_be_taken_over_from(serve, tmp_path):
    gate = tmp_path / "gate"
    server = serve("stub_models:iris")
    flags = ["--engine", "none", "--generator", "stub_generators:told", "--prompt-priority", "normal"]
    gate.write_text("wait")
    os.environ["STUB_TOLD"] = str(gate)
    try:
        new = taking_over(server, flags, tmp_path)
    finally:
        del os.environ["STUB_TOLD"]
    server.stop()
    gate.unlink()
    said = new.communicate(timeout=300)[1]
    assert new.returncode == 1
    assert f"the server that was to be taken over from, {server.pid}, has ended" in said.splitlines()[-1]
    assert not os.path.exists(server.socket)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_only_our_own_user_may_have_a_server_load_again_or_leave(start, open_folder):
    server = start("--engine", "none", "--allow-other-users", socket=open_folder / "sock")
    program = """
import os, sys
from client import connect, framed, read_reason
from shm_server.layout import FrameKind
os.setgid(65534); os.setuid(65534)
for question in (b"reload", b"takeover"):
    with connect(sys.argv[1]) as sock:
        sock.sendall(framed(FrameKind.QUESTION, question))
        print(read_reason(sock)[1].name)
"""
    command = [sys.executable, "-c", program, str(server.socket)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=TESTS, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.stdout.split() == ["FORBIDDEN", "FORBIDDEN"], done.stderr
    server.stop()


def test_the_end_of_its_terminal_ends_a_server(tmp_path):
    """SIGHUP of a terminal that is gone is no wish for new models."""
    ours, theirs = pty.openpty()

    def own() -> None:
        os.setsid()
        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)

    path, log = tmp_path / "sock", tmp_path / "log"
    command = [*SERVE, "--engine", "none", "--socket", str(path)]
    with log.open("wb") as out:
        server = subprocess.Popen(command, stdin=theirs, stdout=out, stderr=out, preexec_fn=own, cwd=ROOT)
    os.close(theirs)
    until(path.exists)
    os.kill(server.pid, signal.SIGHUP)  # the terminal is still there
    until(lambda: "SIGHUP: every model is loaded again" in log.read_text())
    os.close(ours)
    assert server.wait(300) == 0
    assert not path.exists()
