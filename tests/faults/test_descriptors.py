"""Descriptors: what a model's child does not keep, and what stands where stdin, stdout or stderr is closed."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
from client import Client, connect, hung_up
from conftest import ROOT, ended, until

from shm_server.door.listener import Listener
from shm_server.layout import Op, Status

# Every transport and a generator's process; the model forks at its first picture, as argv[3] says. The child
# lives until the file argv[2] is there, where it does not return to the server's code.
FORKING = """
import multiprocessing, os, subprocess, sys, time
sys.path.insert(0, TESTS)
import stub_server
from stub_generators import supervised
from shm_server import Server
from shm_server.door.listener import Listener
from shm_server.gateways import metrics
from shm_server.gateways.address import Tcp, bind
from shm_server.gateways.hosted import Gateway
from shm_server.runtime import logs

folder, gate, way = sys.argv[1:]

def live():
    while not os.path.exists(gate): time.sleep(0.01)

class Forking(stub_server.Brightness):
    child = None
    def scores(self, pixels):
        if not self.child:
            self.child = True
            if way == "multiprocessing":
                process = multiprocessing.get_context("fork").Process(target=live)
                process.start()
                self.child = process.pid
            elif way == "exec":
                self.child = subprocess.Popen(["sleep", "1000"], close_fds=False).pid
            else:
                self.child = os.fork()
                if not self.child and way == "exit":
                    sys.exit(3)
            if self.child:
                print("child", self.child, flush=True)
        return super().scores(pixels)

if __name__ == "__main__":
    logs.configure()
    process = supervised("computing", spin_us=0)
    process.wait_ready()
    model = Forking()
    server = Server(model, folder + "/sock", generator=process)
    at = bind(Tcp(0))
    served = {"socket": folder + "/sock"}
    packets = Listener(folder + "/uds")
    others = [Gateway("uds", packets, served), Gateway("http", at, served), metrics.Server(server, bind(Tcp(0)))]
    print(f"http://{Tcp.of(at)}", flush=True)
    for other in others: other.start()
    server.run()
    for other in others: other.stop()
    process.stop()
""".replace("TESTS", repr(str(ROOT / "tests")))


def open_files(pid: int) -> list[str]:
    folder, found = Path(f"/proc/{pid}/fd"), []
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.append(os.readlink(folder / name))
    return found


@pytest.fixture
def forking(tmp_path):
    """forking(WAY) starts the program above: the server, and a call that classifies and says the child's pid."""
    started: list[subprocess.Popen] = []
    children: list[int] = []
    gate = tmp_path / "gate"

    def start(way: str) -> tuple[subprocess.Popen, Client, int]:
        command = [sys.executable, "-c", FORKING, str(tmp_path), str(gate), way]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        started.append(server)
        url = server.stdout.readline().strip()
        until((tmp_path / "sock").exists, 60)
        client = Client(tmp_path / "sock")
        client.others = [connect(tmp_path / "uds"), urlopen(f"{url}/healthz")]
        client.others.append(connect(tmp_path / "sock"))  # which says no hello
        client.submit(0, Op.RUN)
        assert client.wait(60)["status"] == Status.OK
        children.append(int(server.stdout.readline().split()[1]))
        return server, client, children[-1]

    yield start
    gate.touch()
    for pid in children:  # which hold its stdout, too
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("way", ["multiprocessing", "exec"])
def test_a_child_of_the_model_keeps_no_socket_and_no_lock(start, forking, tmp_path, way):
    server, client, child = forking(way)
    until(lambda: not [name for name in open_files(child) if name.startswith("socket:") or ".lock" in name], 60)
    os.kill(child, 0)
    server.kill()
    server.wait()
    assert hung_up(client.sock)  # and not when the child ends
    assert hung_up(client.others[0])
    again = start("--engine", "none", socket=tmp_path / "sock")
    with Client(again.socket) as other:
        other.submit(0)
        assert other.wait()["status"] == Status.OK
    os.kill(child, 0)  # it lived all the while


def test_a_child_keeps_no_connection_that_was_being_accepted_when_it_was_forked(tmp_path):
    listener = Listener(tmp_path / "sock")
    listener.listen()
    client = connect(tmp_path / "sock")
    listener.socket.setblocking(True)
    accepted, _ = listener.socket.accept()  # and nobody was told yet
    child = os.fork()
    if not child:
        time.sleep(1000)
    try:
        accepted.close()
        listener.close()
        assert hung_up(client)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize("way", ["return", "exit"])
def test_a_child_that_comes_back_from_the_model_answers_nobody_and_ends(forking, way):
    server, client, child = forking(way)
    until(lambda: ended(child))
    for _ in range(3):
        client.submit(1, Op.RUN)
        assert client.wait(60)["status"] == Status.OK
    assert client.completions[client.head % len(client.completions)]["turn"] != 1  # no answer too many
    server.terminate()
    assert server.wait(60) == 0


def test_a_child_that_is_terminated_does_not_stop_the_server(forking):
    server, client, child = forking("multiprocessing")
    os.kill(child, signal.SIGTERM)
    until(lambda: ended(child))
    client.submit(1, Op.RUN)
    assert client.wait(60)["status"] == Status.OK
    server.terminate()
    assert server.wait(60) == 0


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- >&- 2>&-"])
def test_with_closed_standard_descriptors_no_socket_gets_their_numbers(tmp_path, closed):
    """The log lines of a model that fails would go to a client else."""
    commands = {
        "command": ["-m", "shm_server.cli", "serve", "--engine", "none", "--socket", str(tmp_path / "command")],
        "program": [str(ROOT / "tests" / "stub_server.py"), "raising", str(tmp_path / "program")],
    }
    for name, command in commands.items():
        shell = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, *command]
        output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "stdin": subprocess.DEVNULL}
        server = subprocess.Popen(shell, cwd=ROOT, **output)
        try:
            until((tmp_path / name).exists, 60)
            standard = [os.readlink(f"/proc/{server.pid}/fd/{number}") for number in range(3)]
            assert standard == ["/dev/null"] * 3
            with Client(tmp_path / name) as client:
                client.slots[0] = 0
                client.submit(0, Op.RUN)
                assert client.wait(60)["status"] == Status.MODEL_ERROR
                client.submit(0)
                assert client.wait(60)["status"] == Status.OK
            server.terminate()
            assert server.wait(60) == 0
        finally:
            server.kill()
            server.wait()
    assert os.listdir(tmp_path) == []
