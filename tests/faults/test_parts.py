"""When the generator's process is slow or gone: counters do not fall, and health says which part it is."""

import os
import re
import signal
import subprocess
import sys
import threading

from client import Client
from conftest import ROOT, until
from test_prompt_lane import Prompts

from shm_server.layout import Protocol, Status
from shm_server.worker.counters import GAUGES, HELP


def prompt(site, count: int) -> None:
    with Prompts(site.server) as client:
        for _ in range(count):
            assert client.ask("to be")[0] == Status.OK


def test_a_dead_generators_counters_stay_and_health_names_it(site, told):
    assert site.ask("GET", "/healthz") == (
        200,
        {"status": "ok", "model": "none", "classes": [], "parts": {"generator": "up"}},
    )
    prompt(site, 3)
    until(lambda: site.metrics()["shm_prompts_total"] == 3)
    before = site.metrics()
    assert before['shm_part_up{part="generator"}'] == 1
    told.write_text("wait")
    site.kill()
    site.server.wait_for("the generator's process was ended by SIGKILL")
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
    prompt(site, 1)
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
    prompt(site, 1)
    until(lambda: site.metrics()["shm_prompts_total"] == 2)  # the late answer was not taken for a new one


def test_every_counter_has_a_help(site):
    with Client(site.server.socket, protocol=Protocol.STREAM), Client(site.server.socket) as client:
        client.submit(0)
        client.wait()
        prompt(site, 1)
        page = site.page()
    named = {name.removesuffix("_total") for name in re.findall(r"^# HELP shm_(\w+)", page, re.MULTILINE)}
    assert named >= {"echoes", "prompts", "sessions", "spin_hits", "views"}
    assert named - {"model_batches", "part_up"} <= {*HELP, *GAUGES}, "say in worker/counters.py what it counts"


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
from shm_server import wire
from shm_server.worker import main as worker
from shm_server.worker.prompt_lane import PromptDispatcher

def policies():
    return {os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task")}

class Pipe(socket.socket):
    def send(self, packet, *flags):
        said = wire.decode(packet, wire.MESSAGES)
        print(type(said).__name__, policies() == {os.SCHED_OTHER})
        return super().send(packet, *flags)

collect = gc.collect
gc.collect = lambda: (print("collect", policies() == {os.SCHED_OTHER}), collect())
give_way = worker.give_way
worker.give_way = lambda: (give_way(), print("serving", policies() == {os.SCHED_IDLE}))
busy = threading.Thread(target=threading.Event().wait, daemon=True)  # a library's: it gives way too
busy.start()
ours, theirs = wire.pair()
wire.send(ours, wire.Stop())
dispatcher = PromptDispatcher(stub_generators.computing(), spin_us=0)
worker.serve(dispatcher, Pipe(fileno=theirs.detach()), idle=True, max_sessions=1)
""".replace("TESTS", repr(str(ROOT / "tests")))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.stdout.split("\n") == ["collect True", "Ready True", "serving True", "Counters False", ""], done.stderr
