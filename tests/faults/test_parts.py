"""When the generator's process is slow or gone: counters do not fall, and health says which part it is."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from http.client import HTTPConnection
from pathlib import Path
from urllib.request import urlopen

import pytest
from client import Client
from conftest import ROOT, until
from test_prompt_lane import Prompts

from shm_server.counters import GAUGES, HELP
from shm_server.layout import LaneKind, Status

JSON = {"Content-Type": "application/json"}


class Site:
    """A server with a generator, HTTP and metrics (tests/stub_generators.py)."""

    def __init__(self, server) -> None:
        self.server = server
        self.metrics_port = int(re.search(r"metrics at http://127\.0\.0\.1:(\d+)", server.log)[1])
        self.port = int(re.search(r"listening on http://127\.0\.0\.1:(\d+)", server.log)[1])

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, dict]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body and json.dumps(body), JSON)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())

    def prompt(self, count: int) -> None:
        with Prompts(self.server) as client:
            for _ in range(count):
                assert client.ask("to be")[0] == Status.OK

    def page(self) -> str:
        return urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=60).read().decode()

    def metrics(self) -> dict[str, float]:
        lines = [line.rsplit(" ", 1) for line in self.page().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in lines}

    def generator(self) -> int:
        (pid,) = Path(f"/proc/{self.server.pid}/task/{self.server.pid}/children").read_text().split()
        return int(pid)


@pytest.fixture
def site(start, tmp_path):
    stub = str(ROOT / "tests" / "stub_generators.py")
    return Site(start(command=[sys.executable, stub, str(tmp_path / "sock"), "computing", "0", "0"]))


def test_a_dead_generators_counters_stay_and_health_names_it(site):
    assert site.ask("GET", "/healthz") == (
        200,
        {"status": "ok", "model": "none", "classes": [], "parts": {"generator": "up"}},
    )
    site.prompt(3)
    until(lambda: site.metrics()["shm_prompts_total"] == 3)
    before = site.metrics()
    assert before['shm_part_up{part="generator"}'] == 1
    os.kill(site.generator(), signal.SIGKILL)
    site.server.wait_for("the generator's process ended")
    after = site.metrics()
    fallen = [name for name in before if name.endswith("_total") and after[name] < before[name]]
    assert fallen == []
    assert after["shm_prompts_total"] == 3
    assert after["shm_prompts_in_flight"] == after["shm_prompts_waiting"] == 0
    assert after['shm_part_up{part="generator"}'] == 0
    status, said = site.ask("GET", "/healthz")
    assert status == 503
    assert (said["status"], said["parts"]) == ("degraded", {"generator": "down"})
    assert site.ask("POST", "/echo", {"prompt": "still here"}) == (200, {"echo_prompt": "still here"})


def test_a_generator_that_does_not_answer_leaves_the_counters_as_they_were(site):
    site.prompt(1)
    until(lambda: site.metrics()["shm_prompts_total"] == 1)
    os.kill(site.generator(), signal.SIGSTOP)
    try:
        pages = []
        scrapes = [threading.Thread(target=lambda: pages.append(site.metrics())) for _ in range(4)]
        for scrape in scrapes:
            scrape.start()
        for scrape in scrapes:
            scrape.join(60)
        assert [page["shm_prompts_total"] for page in pages] == [1] * 4
    finally:
        os.kill(site.generator(), signal.SIGCONT)
    site.prompt(1)
    until(lambda: site.metrics()["shm_prompts_total"] == 2)  # the late answer was not taken for a new one


def test_every_counter_has_a_help(site):
    with Client(site.server.socket, kind=LaneKind.PROMPT), Client(site.server.socket) as client:
        client.submit(0)
        client.wait()
        site.prompt(1)
        page = site.page()
    named = {name.removesuffix("_total") for name in re.findall(r"^# HELP shm_(\w+)", page, re.MULTILINE)}
    assert named >= {"echoes", "prompts", "sessions", "spin_hits", "views"}
    assert named - {"model_batches", "part_up"} <= {*HELP, *GAUGES}, "say in shm_server/counters.py what it counts"


def test_a_sessions_counters_do_not_fall_while_it_ends(echo_server):
    """Sessions come and go while somebody counts: each of their counters is in the total, or its session's own."""
    program = """
import sys, threading
sys.path.insert(0, TESTS)
from client import Client
from shm_server import Server
server = Server(None, sys.argv[1])
thread = threading.Thread(target=server.run); thread.start()
over, fallen, last = threading.Event(), [], 0
def count():
    global last
    while not over.is_set():
        now = server.counters().get("echoes", 0)
        if now < last: fallen.append((last, now))
        last = now
counter = threading.Thread(target=count); counter.start()
from conftest import until
import os
until(lambda: os.path.exists(sys.argv[1]))
sys.setswitchinterval(1e-5)
for _ in range(100):
    with Client(sys.argv[1], slots=1) as client:
        client.submit(0); client.wait()
over.set(); counter.join(); server.stop(); thread.join()
print(fallen, server.counters()["echoes"])
""".replace("TESTS", repr(str(ROOT / "tests")))
    path = f"{echo_server.socket}.2"
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.stdout == "[] 100\n", done.stderr


def test_the_generator_gives_way_only_when_it_is_ready():
    """What runs before, under SCHED_IDLE beside two busy processes, took a minute; the server waits for it."""
    program = """
import gc, os, socket, sys, threading
sys.path.insert(0, TESTS)
import stub_generators
from shm_server import generator_process

def policies():
    return {os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task")}

class Pipe(socket.socket):
    def send(self, data, *flags):
        print(data.decode(), policies() == {os.SCHED_OTHER})
        return super().send(data, *flags)

collect = gc.collect
gc.collect = lambda: (print("collect", policies() == {os.SCHED_OTHER}), collect())
give_way = generator_process.give_way
generator_process.give_way = lambda: (give_way(), print("serving", policies() == {os.SCHED_IDLE}))
busy = threading.Thread(target=threading.Event().wait, daemon=True)  # a library's: it gives way too
busy.start()
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
ours.send(b"stop")
settings = {"spin_us": 0, "idle": True, "max_sessions": 1}
generator_process.serve(stub_generators.load("computing"), Pipe(fileno=theirs.detach()), settings)
""".replace("TESTS", repr(str(ROOT / "tests")))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.stdout.split("\n") == ["collect True", "ready True", "serving True", ""], done.stderr
