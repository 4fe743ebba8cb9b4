"""Clients that are merely busy, or mad, delay nobody for long: others are answered, and SIGTERM is obeyed.

The flood is a client in C (flood.c), which keeps its ring full. Answers are counted, time is not looked at.
"""

import contextlib
import itertools
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from client import Client, connect, hello, hung_up, read_reason
from conftest import ROOT, until, workers
from test_hostile_clients import assert_serves

from shm_server import layout
from shm_server.layout import Op, Protocol, Reason, Status
from shm_server.worker.control import MAX_GREETING

ANSWERS = 20  # a victim must get, while the flood goes on
IMAGE, PROMPT = Protocol.CALL, Protocol.STREAM


@pytest.fixture(scope="module")
def flood_program(tmp_path_factory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler, "a C compiler is needed, as for the server"
    program = tmp_path_factory.mktemp("flood") / "flood"
    source = Path(__file__).with_name("flood.c")
    native = ROOT / "shm_server" / "native"
    subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-I", native, source, "-o", program], check=True)
    return program


@pytest.fixture
def flood(flood_program):
    """flood(server, op, mode) starts a client that floods, and waits until it does, or has come `begun` times."""
    running = []

    def start(server, op: int, mode: str, *, lane=IMAGE, slots: int = layout.MAX_SLOTS, begun: int = 20):
        command = [flood_program, server.socket, *(str(int(x)) for x in (lane, op, slots)), mode, str(begun)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout.readline() == "flooding\n", server.log
        return process

    yield start
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


@contextlib.contextmanager
def going_on(*floods: subprocess.Popen):
    """Every flood is there before and after what is done meanwhile."""
    assert all(each.poll() is None for each in floods)
    yield
    assert all(each.poll() is None for each in floods), "the flood ended"


def assert_answered(client: Client, answers: int = ANSWERS) -> None:
    for i in range(answers):
        op = (Op.ECHO, Op.RUN)[i % 2]
        client.submit(i % 8, op)
        done = client.wait()
        assert (done["slot"], done["status"]) == (i % 8, Status.OK)


def test_a_busy_client_keeps_nobody_from_answers_and_the_server_from_no_stop(start, flood):
    server = start(stub="brightness")
    with Client(server.socket) as victim, Client(server.socket) as late:
        for op in (Op.ECHO, Op.RUN):
            for mode in ("abide", "expired"):
                busy = flood(server, op, mode)
                with going_on(busy):
                    assert_answered(victim)
                    assert_answered(late)
                busy.kill()
                busy.wait()
        floods = [flood(server, op, mode) for op in (Op.ECHO, Op.RUN) for mode in ("abide", "ignore")]
        with going_on(*floods):
            assert_answered(victim)
        server.process.send_signal(signal.SIGTERM)
        counters = server.ended()
    assert counters["protocol_faults"] == 0
    assert min(counters[name] for name in ("echoes", "calls", "expired")) > ANSWERS


def test_many_busy_clients_hide_nothing_of_what_others_ask_and_break(start, flood):
    server = start(stub="brightness")
    with Client(server.socket) as victim, Client(server.socket) as bad, Client(server.socket) as worse:
        floods = [flood(server, op, "ignore", slots=1000) for op in (Op.ECHO, Op.RUN) * 3]
        with going_on(*floods):
            assert_answered(victim)
            before = server.descriptors()
            with Client(server.socket) as brief:
                assert_serves(brief)
            until(lambda: server.descriptors() <= before)  # fewer where a handshake had not quite ended
            bad.sock.sendall(b"X")
            assert read_reason(bad.sock)[1:] == (Reason.PROTOCOL, "byte 88 on the doorbell is no bell")
            worse.submit(0, extent=1)
            assert read_reason(worse.sock)[1:] == (Reason.PROTOCOL, "submission 0: extent beyond the bound: 1")
            assert_answered(victim)


def test_clients_that_come_and_go_or_read_nothing_keep_nobody_from_answers(start, flood):
    server = start(stub="brightness")
    with Client(server.socket) as victim:
        floods = [flood(server, Op.ECHO, mode, slots=8) for mode in ("breaking", "connecting", "half", "deaf")]
        with going_on(*floods):
            assert_answered(victim)
            with Client(server.socket) as late:
                assert_answered(late)
        server.process.send_signal(signal.SIGTERM)
        server.ended()


def test_sessions_of_65536_slots_that_come_and_go_keep_nobody_from_answers(start, flood):
    server = start(stub="brightness")
    with Client(server.socket) as victim:
        busy = flood(server, Op.ECHO, "connecting", begun=2)
        with going_on(busy):
            assert_answered(victim)
        server.stop()


def test_silent_clients_make_room_for_one_that_says_hello(start):
    server = start("--engine", "none")
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(connect(server.socket)) for _ in range(2 * MAX_GREETING)]
        with Client(server.socket) as client:
            assert_serves(client)
        for sock in silent[:MAX_GREETING]:
            assert hung_up(sock)
        until(lambda: re.search("made room|said no hello", server.log))
        server.stop()
        for sock in silent[MAX_GREETING:]:
            with contextlib.suppress(EOFError):  # on a slow machine its time was up
                assert read_reason(sock)[1] == Reason.DRAINING


# ---- out of descriptors


def limit_descriptors(pid: int, more: int | None) -> None:
    """Let the process `pid` open `more` descriptors than it has; None: as many as it could before."""
    most = limit = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
    if more is not None:
        used = set(map(int, os.listdir(f"/proc/{pid}/fd")))
        free = (number for number in range(most) if number not in used)  # a new one has the lowest of these
        limit = next(itertools.islice(free, more, None))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, most))


def test_out_of_descriptors_clients_wait_or_are_refused_and_those_that_are_in_are_served(start):
    server = start("--engine", "none")
    with Client(server.socket) as good:
        assert_serves(good)  # the handshake is over
        idle = server.descriptors()
        # Each is said at its first time; later the log is spared. posix_ipc has words of its own.
        for more, said in enumerate(("accept: .*Too many open files", "no segment: .*maximum number of files", "", "")):
            with contextlib.ExitStack() as stack:
                limit_descriptors(server.pid, more)
                for _ in range(5):
                    sock = stack.enter_context(connect(server.socket))
                    sock.sendall(hello())
                until(lambda words=said: re.search(words, server.log))
                assert_serves(good)
                limit_descriptors(server.pid, None)
                with Client(server.socket) as late:
                    assert_serves(late)
                assert_serves(good)
            until(lambda: server.descriptors() == idle)
    server.stop()


# ---- the prompt lane


class Asking(Client):
    def __init__(self, server) -> None:
        super().__init__(server.socket, protocol=PROMPT, slots=8)

    def answered(self, answers: int = 4) -> None:
        """Asks and echoes in turn; every answer must come."""
        for i in range(answers):
            text = f"prompt {i} ".encode()
            self.slots[1, : len(text)] = list(text)
            self.controls[1]["acknowledged"] = self.controls[1]["cancel"] = 0
            self.submit(1, Op.RUN, extent=len(text), sampling_steps=8)
            while (done := self.wait())["status"] == Status.MORE:
                self.controls[1]["acknowledged"] += 1
            assert (done["status"], bytes(self.replies[1, : done["extent"]])) == (Status.OK, text)
            self.submit(2, Op.ECHO, extent=7)
            done = self.wait()
            assert (done["slot"], done["status"]) == (2, Status.OK)


def prompt_server(start, tmp_path, engine: str):
    program = str(ROOT / "tests" / "stub_generators.py")
    return start(command=[sys.executable, program, str(tmp_path / "sock"), engine, "0"])


def ask_over_http(server, text: str) -> str:
    (url,) = re.findall(r"listening on (http://\S+)", server.log)
    body = json.dumps({"prompt": text}).encode()
    asked = urllib.request.Request(f"{url}/prompt", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return json.load(answer)["response"]


@pytest.mark.parametrize("engine", ["computing", "waiting"])
def test_a_busy_client_of_the_prompt_lane_keeps_nobody_from_answers(start, flood, tmp_path, engine):
    server = prompt_server(start, tmp_path, engine)
    with Asking(server) as victim:
        for mode in ("expired", "cancel", "empty", "invalid"):
            busy = flood(server, Op.RUN, mode, lane=PROMPT, slots=4000)
            with going_on(busy):
                victim.answered()
            busy.kill()
            busy.wait()
        floods = [flood(server, op, "ignore", lane=PROMPT, slots=4000) for op in (Op.RUN, Op.ECHO)]
        with going_on(*floods):
            victim.answered()
            assert ask_over_http(server, "over HTTP") == "over HTTP "
        server.process.send_signal(signal.SIGTERM)
        server.ended()


def test_a_client_that_is_lost_on_its_way_to_the_generator_is_hung_up_on(start, tmp_path):
    """The kernel closes a passed socket for which the receiver has no descriptor."""
    server = prompt_server(start, tmp_path, "computing")
    (generator,) = workers(server.pid)
    with Asking(server) as victim:
        victim.answered(1)
        limit_descriptors(generator, 0)
        with connect(server.socket) as lost:
            lost.sendall(hello(protocol=PROMPT))
            assert hung_up(lost)
        server.wait_for("a client was lost")
        victim.answered(1)
        limit_descriptors(generator, None)
        with Asking(server) as late:
            late.answered(1)
    server.stop()
