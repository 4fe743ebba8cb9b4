"""SIGTERM, SIGINT and SIGHUP at every moment from the first line of `main` on: code 0, no file, no process left."""

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from client import Client
from conftest import ROOT, children, until

SERVE = [sys.executable, "-m", "shm_server.cli", "serve", "--engine", "none"]
OPENAI = ["--generator", "openai", "--base-url", "http://127.0.0.1:9/v1", "--generator-model", "x"]
OPENAI += ["--prompt-priority", "normal"]
# What happens in this order while a server starts; each is interrupted in a process of its own.
MOMENTS = [
    "import shm_server.cli.commands",
    "import argparse",
    "import numpy",
    "import shm_server._core",
    "import shm_server.cli.serve",
    "fcntl.flock",
    "import prometheus_client",
    "subprocess.Popen",
    "socket.bind",
    "os.chmod",
    "os.rename",
]


class Starting:
    """A server that gets signals at moments of its start (tests/moments), and says on stderr what it has to say."""

    def __init__(self, folder: Path, signals: str, *flags: str, command: list[str] | None = None, **how) -> None:
        folder.mkdir()
        self.folder, self.signals = folder, signals
        paths = os.pathsep.join([str(ROOT / "tests" / "moments"), str(ROOT)])
        environment = os.environ | {"SIGNALS": signals, "SIGNALS_TO": "serve", "PYTHONPATH": paths}
        self.log = folder.with_suffix(".log")
        with self.log.open("wb") as out:
            command = [*(command or SERVE), "--socket", str(folder / "sock"), *flags]
            self.process = subprocess.Popen(
                command, stdout=out, stderr=out, env=environment, cwd=ROOT, start_new_session=True, **how
            )

    def ended_well(self) -> None:
        try:
            assert self.process.wait(300) == 0, (self.signals, self.log.read_text())
            assert "Traceback" not in self.log.read_text(), self.signals
            assert os.listdir(self.folder) == [], self.signals
            until(lambda: not self.left())  # the generator's process has been killed, and waited for
        finally:
            for pid in self.left():
                os.kill(pid, signal.SIGKILL)

    def left(self) -> list[int]:
        """Processes of its session: the generator's is one."""
        pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        return [pid for pid in pids if session(pid) == self.process.pid and state(pid) != "Z"]


def stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return ["Z", "0", "0", "0"]


def state(pid: int) -> str:
    return stat(pid)[0]


def session(pid: int) -> int:
    return int(stat(pid)[3])


def flags_for(moment: str) -> list[str]:
    return ["--metrics", "1"] if moment == "import prometheus_client" else []  # it does not come to the port


def test_a_signal_at_any_moment_of_the_start_ends_the_server_with_0_and_leaves_nothing(tmp_path):
    names = ["SIGTERM", "SIGINT"]
    starting = [
        Starting(tmp_path / str(number), f"{moment}={names[number % 2]}", *flags_for(moment), *OPENAI)
        for number, moment in enumerate(MOMENTS)
    ]
    for each in starting:
        each.ended_well()
        assert f"{each.folder}/sock\n" not in each.log.read_text() or "stopped:" in each.log.read_text()


def test_three_signals_are_as_good_as_one(tmp_path):
    starting = [
        Starting(
            tmp_path / "start",
            "import numpy=SIGINT,import shm_server.models=SIGTERM,import shm_server.cli.serve=SIGTERM",
        ),
        Starting(tmp_path / "held", "fcntl.flock=SIGTERM,os.lstat=SIGTERM,os.remove=SIGINT"),
        Starting(tmp_path / "end", "os.rename=SIGTERM,os.remove=SIGTERM,os.remove=SIGINT"),
    ]
    for each in starting:
        each.ended_well()


def test_a_signal_while_a_worker_imports_a_framework(tmp_path):
    command = [word if word != "none" else "tensorflow" for word in SERVE]
    server = Starting(tmp_path / "s", "", "--generator", "none", command=command)
    try:
        until(lambda: any("tensorflow" in mapped(pid) for pid in children(server.process.pid)))
        server.process.send_signal(signal.SIGTERM)
    finally:
        server.ended_well()


def mapped(pid: int) -> str:
    """The files that a process has mapped, as the kernel lists them."""
    try:
        return Path(f"/proc/{pid}/maps").read_text()
    except OSError:  # it has ended
        return ""


def test_a_signal_at_a_random_moment_too(tmp_path):
    """So many audit events after the first line, instead of those that somebody has thought of."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    starting = [
        Starting(tmp_path / str(moment), f"{moment}|os.rename=SIGTERM", "--generator", "none")
        for moment in random.Random(seed).sample(range(1, 4000), 6)
    ]
    for each in starting:
        each.ended_well()


def test_what_nohup_ignores_stays_ignored(tmp_path):
    server = Starting(tmp_path / "s", "", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    try:
        until((server.folder / "sock").exists, 60)
        server.process.send_signal(signal.SIGHUP)
        with Client(server.folder / "sock") as client:
            client.submit(0)
            client.wait()
        server.process.send_signal(signal.SIGTERM)
    finally:
        server.ended_well()


def test_a_wish_for_new_models_while_it_starts_is_obeyed_once_it_serves(tmp_path):
    server = Starting(tmp_path / "s", "import numpy=SIGHUP,fcntl.flock=SIGHUP")
    try:
        until(lambda: "SIGHUP: every model is loaded again" in server.log.read_text())
        until((server.folder / "sock").exists)
        server.process.send_signal(signal.SIGTERM)
    finally:
        server.ended_well()


def test_a_generator_that_still_loads_ends_with_a_killed_server(tmp_path):
    """It waits for a file that never comes, with the signals of the terminal ignored."""
    program = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT / "tests")!r})
from conftest import until
from stub_generators import supervised
from shm_server.runtime import logs; logs.configure()
generator = supervised("endless")
until(lambda: generator.pid)
print(generator.pid, flush=True)
generator.wait_ready()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
        generator = int(server.stdout.readline())
        while b"loading the generator" not in (line := server.stderr.readline()):
            assert line
        os.kill(generator, signal.SIGINT)
        os.kill(generator, signal.SIGTERM)
        os.kill(generator, signal.SIGHUP)
        assert state(generator) != "Z"
        server.kill()
        server.wait()
        until(lambda: state(generator) == "Z", 60)
        assert b"the server's process is gone" in server.stderr.read()


def test_another_thread_obeys_while_the_main_thread_is_in_c():
    program = """
import ctypes
from shm_server.runtime import process
process.PATIENCE_SECONDS = 0.01
stop = process.Stop()
stop.clean_up = lambda: print("cleaned up", flush=True)
stop.install()
lock, lib = ctypes.create_string_buffer(64), ctypes.CDLL(None)
lib.pthread_mutex_lock(lock)
print("in C", flush=True)
lib.pthread_mutex_lock(lock)  # for ever, and no signal interrupts it
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout.readline() == "in C\n"
        process.terminate()
        assert process.communicate(timeout=60)[0] == "cleaned up\n"
        assert process.returncode == 0


FUTEX = {"x86_64": "202", "aarch64": "98"}  # the number of the system call


def test_a_server_in_a_program_of_ones_own_obeys_too_while_the_main_thread_is_in_c():
    """Also between its last look for signals and its sleep in epoll, which is a moment that no test can hit."""
    program = """
import ctypes, os, signal
from shm_server.runtime import process
lock, lib = ctypes.create_string_buffer(64), ctypes.CDLL(None)
lib.pthread_mutex_lock(lock)
with process.stopped_by_signals(lambda: print("stopped", flush=True), lambda: None):
    pass
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
assert signal.set_wakeup_fd(-1) == -1
with process.stopped_by_signals(lambda: lib.pthread_mutex_unlock(lock), lambda: None):
    child = os.fork()
    while not child:
        signal.pause()
    os.kill(child, signal.SIGTERM)
    assert os.waitpid(child, 0)[1] == signal.SIGTERM  # and that was the child's
    back = os.fork()
    if not back:
        raise SystemExit(5)  # through all that stands here
    assert os.waitpid(back, 0)[1] == 5 << 8
    stays = os.fork()
    while not stays:
        signal.pause()
    print("in C", flush=True)
    lib.pthread_mutex_lock(lock)
os.kill(stays, signal.SIGKILL)
print("went on", flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout.readline() == "in C\n"
        until(lambda: Path(f"/proc/{process.pid}/syscall").read_text().split()[0] == FUTEX[os.uname().machine])
        process.terminate()
        assert process.communicate(timeout=60)[0] == "went on\n"
        assert process.returncode == 0


def test_a_signal_to_a_child_that_was_just_forked_ends_it_and_not_the_server():
    program = """
import os, signal
from shm_server.runtime import process
stop = process.Stop()
stop.install()
stop.serving(lambda: print("the server was stopped"))
codes = set()
for _ in range(300):
    child = os.fork()
    while not child:
        signal.pause()
    os.kill(child, signal.SIGTERM)
    codes.add(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(codes, stop.asked)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.stdout == "{-15} 0\n", done.stderr


def test_a_stop_that_does_not_come_to_its_end_is_ended():
    program = """
import threading
from shm_server.runtime import logs, process
process.STOP_SECONDS = 0.01
logs.configure()
stop = process.Stop()
stop.clean_up = lambda: print("cleaned up", flush=True)
stop.install()
stop.serving(lambda: print("asked", flush=True))
print("serving", flush=True)
while True:
    threading.Event().wait()  # a model that does not return
"""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], **pipes, text=True, cwd=ROOT) as process:
        assert process.stdout.readline() == "serving\n"
        process.terminate()
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (1, "asked\ncleaned up\n")
        assert "the server did not stop within 0.01 s of SIGTERM: killed" in err


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root, for a PID namespace")
def test_as_process_1_it_obeys_signals_and_collects_orphans(tmp_path):
    command = ["unshare", "--pid", "--fork", "--mount-proc", *SERVE]
    server = Starting(tmp_path / "s", "", command=command)
    try:
        until((server.folder / "sock").exists, 60)
        (first,) = children(server.process.pid)
        (serving,) = children(first)
        orphan = ["nsenter", "-t", str(first), "-p", "sh", "-c", "sh -c 'read line' & echo $!"]
        with subprocess.Popen(orphan, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as started:
            started.stdout.readline()
        until(lambda: children(first) == [serving], 60)  # it read the end of the file, ended, and was collected
        os.kill(first, signal.SIGTERM)
    finally:
        server.ended_well()


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root, for a PID namespace")
def test_as_process_1_a_signal_while_it_starts(tmp_path):
    command = ["unshare", "--pid", "--fork", "--mount-proc", *SERVE]
    starting = [
        Starting(tmp_path / str(number), f"{moment}=SIGTERM", command=command)
        for number, moment in enumerate(["import shm_server.cli.commands", "import numpy", "os.rename"])
    ]
    for each in starting:
        each.ended_well()
