"""README, "From Python": `Server(model).run()` does about signals, logs and addresses what the command does."""

import os
import signal
import subprocess
import sys

import pytest
from client import Client
from conftest import ROOT, until

HEAD = """
import os, signal, sys, threading
from shm_server import Server, SocketInUse
class Dark:
    name = "dark"
    class_names = ("dark",)
    def scores(self, pixels):
        return pixels.mean(axis=(1, 2, 3), dtype="float32")[:, None] * 0 + 1
"""


def program(text: str, path) -> list[str]:
    return [sys.executable, "-c", HEAD + text, str(path)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_it_in_good_order(tmp_path, number):
    text = "Server(Dark(), sys.argv[1]).run()\nprint(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)"
    command = program(text, tmp_path / "s")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as server:
        until((tmp_path / "s").exists, 60)
        with Client(tmp_path / "s") as client:
            client.submit(0)
            client.wait(60)
        server.send_signal(number)
        out, err = server.communicate(timeout=60)
    assert server.returncode == 0
    assert out == "True\n"  # what was there before is there again
    assert f"INFO listening on {tmp_path}/s" in err
    assert "INFO stopped: echoes 1" in err
    assert os.listdir(tmp_path) == []


def test_a_program_with_handlers_and_logging_of_its_own_keeps_them(tmp_path):
    command = program(
        """
import logging
logging.basicConfig(format="mine %(message)s", level="INFO")
server = Server(Dark(), sys.argv[1])
signal.signal(signal.SIGTERM, lambda *_: (print("my handler", flush=True), server.stop()))
server.run()
""",
        tmp_path / "s",
    )
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as server:
        until((tmp_path / "s").exists, 60)
        server.terminate()
        out, err = server.communicate(timeout=60)
    assert server.returncode == 0
    assert out == "my handler\n"
    assert [line for line in err.splitlines() if not line.startswith("mine ")] == []


def test_a_handler_of_the_programs_own_is_called_although_the_server_sleeps(tmp_path):
    """The signal is another thread's, as far as the kernel is concerned: the main thread sleeps on in epoll."""
    command = program(
        """
import os, threading, time
def handler(*_):
    print(threading.current_thread() is threading.main_thread(), flush=True)
    server.stop()
signal.signal(signal.SIGTERM, handler)
server = Server(Dark(), sys.argv[1])
def kill():
    sleeps = 0
    while sleeps < 50:  # looks in a row at which the main thread slept
        time.sleep(0.001)
        with open(f"/proc/self/task/{os.getpid()}/stat") as stat:
            sleeps = sleeps + 1 if stat.read().rpartition(")")[2].split()[0] == "S" else 0
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
server.when_listening = threading.Thread(target=kill).start
server.run()
""",
        tmp_path / "s",
    )
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr


@pytest.mark.parametrize("path", ["sock", "folder/", "x" * 108])
def test_an_address_that_cannot_be_had_is_one_line_and_code_1(echo_server, tmp_path, path):
    done = subprocess.run(
        program("Server(Dark(), sys.argv[1]).run()", tmp_path / path if path != "folder/" else tmp_path),
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"shm-server: {tmp_path}")
    if path == "sock":
        assert line == f"shm-server: {echo_server.socket} is in use by a live server"


def test_a_thread_of_a_program_gets_an_exception(echo_server):
    text = """
said = []
def serve():
    try: Server(Dark(), sys.argv[1]).run()
    except SocketInUse as error: said.append(str(error))
thread = threading.Thread(target=serve); thread.start(); thread.join()
print(*said)
"""
    done = subprocess.run(program(text, echo_server.socket), capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.stdout == f"{echo_server.socket} is in use by a live server\n", done.stderr


def test_it_serves_in_a_thread_and_leaves_the_programs_signals_alone(tmp_path):
    text = """
server = Server(Dark(), sys.argv[1])
thread = threading.Thread(target=server.run); thread.start()
sys.stdin.readline()
print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, flush=True)
server.stop(); thread.join()
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(program(text, tmp_path / "s"), **pipes, text=True, cwd=ROOT) as server:
        until((tmp_path / "s").exists, 60)
        out, _ = server.communicate("\n", timeout=60)
    assert out == "True\n"
    assert os.listdir(tmp_path) == []
