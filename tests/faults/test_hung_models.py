"""A model that hangs: callers' deadlines end their waits, whoever asks is told, the other models go on, a stop ends."""

import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys

import pytest
from client import Client
from conftest import ROOT, until
from test_several_models import PATH, ask, run

from shm_server.layout import Op, Protocol, Status


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        return unused.getsockname()[1]


class Served:
    """A server of `hung` and `doubled`, and what it says of them."""

    def __init__(self, start, folder) -> None:
        self.fifo, self.ports = folder / "fifo", (free_port(), free_port())
        os.mkfifo(self.fifo)
        # A second is nothing for what is idle, and a test waits for it: on a busy machine it may be over now and then.
        flags = ["--answer-within", "1", "--http", str(self.ports[0]), "--metrics", str(self.ports[1])]
        flags += ["--generator", "stub_generators:computing", "--prompt-priority", "normal"]
        environment = ("env", f"PYTHONPATH={PATH}", f"HUNG={self.fifo}")
        self.server = start("stub_models:hung", "stub_models:doubled", *flags, prefix=environment)
        self.socket = self.server.socket

    def states(self) -> dict[str, str]:
        return {model["name"]: model["state"] for model in ask(self.socket, "models")}

    def health(self) -> tuple[int, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[0], timeout=60)
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())["parts"]

    def metrics(self) -> dict[str, float]:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[1], timeout=60)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        return {name: float(value) for name, value in re.findall(r'^shm_part_up\{part="(\w+)"\} (\S+)$', text, re.M)}

    def says(self, hung: str = "ready", stub: str = "ready") -> None:
        """Wait until it says this of `hung` and of the generator, and that `doubled` is ready."""
        states = {"hung": hung, "doubled": "ready", "stub": stub}
        until(lambda: self.states() == states)
        words = [{"ready": "up"}.get(state, state) for state in states.values()]
        parts = dict(zip(("hung", "doubled", "generator"), words, strict=True))
        until(lambda: self.health() == (200 if set(words) == {"up"} else 503, parts))
        until(lambda: self.metrics() == {part: float(word == "up") for part, word in parts.items()})


@pytest.fixture
def served(start, tmp_path):
    return Served(start, tmp_path)


@pytest.mark.parametrize("way", [-1, -2], ids=["waits", "keeps_the_gil"])
def test_a_model_that_hangs_is_said_to_be_not_answering_until_it_answers(served, shm_client, way):
    served.says("ready")
    with Client(served.socket, model=b"hung") as client:
        client.array(0)[0] = way
        client.submit(0, Op.RUN)
        served.says("not answering")
        assert run(served.socket, "doubled", [4]) == [8]
        if way == -1:  # who keeps the GIL shakes no hands either
            command = [shm_client, "call", "-socket", served.socket, "-timeout", "100ms", "hung", "x=1"]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode != 0
            assert "deadline" in done.stderr
        served.fifo.write_bytes(b"")  # waits for the reader, which waits for it
        assert client.wait()["status"] == Status.OK
        served.says("ready")
    assert "the process of hung is not answering: it has been busy for" in served.server.log
    assert "the process of hung answers again" in served.server.log
    served.server.stop()


def test_a_generator_that_hangs_in_a_step_is_said_to_be_not_answering_until_it_answers(served, tmp_path):
    prompt = f"await:{tmp_path / 'gate'} say:done".encode()
    with Client(served.socket, protocol=Protocol.STREAM) as client:
        client.slots[0, : len(prompt)] = list(prompt)
        client.submit(0, Op.RUN, extent=len(prompt), sampling_steps=9)
        served.says(stub="not answering")
        (tmp_path / "gate").touch()
        while (done := client.wait())["status"] == Status.MORE:
            client.controls["acknowledged"][0] += 1
        assert done["status"] == Status.OK
        served.says("ready")
    served.server.stop()


def test_a_server_whose_model_hangs_stops_all_the_same(served):
    with Client(served.socket, model=b"hung") as client:
        client.array(0)[0] = -1
        client.submit(0, Op.RUN)
        served.says("not answering")
        served.server.stop()
    assert "the process of hung did not stop within" in served.server.log


def test_a_model_in_the_servers_own_process_is_said_to_be_not_answering_too(tmp_path):
    program = """
import logging, sys
import stub_server
from shm_server import Server
from shm_server.runtime import logs

logs.configure()
sys.argv[3:] = [sys.argv[2]]
Server(stub_server.Gated(), sys.argv[1], answer_within=0.5).run()
"""
    path, gate = tmp_path / "sock", tmp_path / "gate"
    command = [sys.executable, "-c", program, str(path), str(gate)]
    server = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": PATH})
    try:
        until(path.exists)
        with contextlib.closing(Client(path)) as client:
            client.slots[0, :4] = list(b"gate")
            client.submit(0, Op.RUN)
            until(lambda: ask(path, "models")[0]["state"] == "not answering")
            gate.touch()
            assert client.wait()["status"] == Status.OK
            until(lambda: ask(path, "models")[0]["state"] == "ready")
        server.terminate()
        assert server.wait(60) == 0
    finally:
        server.kill()
        server.wait()
