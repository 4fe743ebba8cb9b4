"""The generator's process is killed, at each step of its life: who is told what, and it is back by itself."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from client import Client
from conftest import ROOT, ended, until, workers
from test_prompt_lane import Prompts

from shm_server.layout import Status

CYCLES = 20


def end_of(client: Client) -> None:
    """Wait until the server has hung up on a client; bells come before that."""
    try:
        while client.sock.recv(4096):
            continue
    except ConnectionResetError:  # bells of ours were left unread
        return


def test_a_worker_that_is_killed_amid_prompts_is_back_each_time(site, tmp_path):
    never, over_http = tmp_path / "never", []

    def ask() -> None:
        over_http.append(site.ask("POST", "/prompt", {"prompt": f"begun until:{never}"}))

    for cycle in range(CYCLES):
        with Prompts(site.server) as client, Client(site.server.socket) as images:
            assert client.ask("to be") == (Status.OK, "to be ", "")
            until(lambda cycle=cycle: site.metrics()["shm_prompts_total"] == 3 * cycle + 1)
            client.prompt(f"begun until:{never}")
            assert client.wait()["status"] == Status.MORE
            asking = threading.Thread(target=ask)
            asking.start()
            until(lambda: site.metrics()["shm_prompts_in_flight"] == 2)
            site.kill()
            end_of(client)
            asking.join()
            until(lambda cycle=cycle: site.starts() == cycle + 2 and site.up())
            images.submit(0)
            assert images.wait()["status"] == Status.OK
    assert [status for status, _ in over_http] == [503] * CYCLES
    assert all(answer["error"].startswith("shm-server is gone: ") for _, answer in over_http)
    metrics = site.metrics()
    assert metrics["shm_worker_starts_total"] == CYCLES + 1
    assert metrics["shm_worker_crashes_total"] == CYCLES
    assert metrics["shm_prompts_total"] == 3 * CYCLES
    assert metrics["shm_prompts_in_flight"] == 0
    assert "the generator's process was ended by SIGKILL; it is started again in " in site.server.log
    site.server.stop()


def test_while_it_is_away_everybody_is_told_that_it_comes_back(site, told):
    told.write_text("wait")
    site.kill()
    until(lambda: site.starts() == 2)
    words = "the generator's process was ended by SIGKILL; it is being started again"
    assert site.refused() == words
    for stream in (False, True):
        assert site.ask("POST", "/prompt", {"prompt": "on", "stream": stream}) == (
            503,
            {"error": f"shm-server refused: {words}"},
        )
    status, health = site.ask("GET", "/healthz")
    assert (status, health["status"], health["parts"]) == (503, "degraded", {"generator": "down"})
    assert site.metrics()['shm_part_up{part="generator"}'] == 0
    with Client(site.server.socket) as images:
        images.submit(0)
        assert images.wait()["status"] == Status.OK
    told.unlink()
    until(lambda: site.up())
    assert site.metrics()['shm_part_up{part="generator"}'] == 1
    with Prompts(site.server) as client:
        assert client.ask("on") == (Status.OK, "on ", "")
    assert site.ask("POST", "/prompt", {"prompt": "on"}) == (200, {"response": "on "})


@pytest.mark.parametrize(
    ("how", "logged"),
    [
        ("die", "the generator's process ended with code 7; it is started again in "),
        ("fail", "it was told to fail; it is started again in "),
    ],
)
def test_a_worker_that_does_not_load_again_is_tried_until_it_does(site, told, how, logged):
    told.write_text(how)
    site.kill()
    until(lambda: site.crashes() >= 4)
    site.server.wait_for(logged)
    assert site.refused() == (
        "the generator's process did not load, as the server's log says; it is being started again"
    )
    assert not site.up()
    told.unlink()
    until(lambda: site.up())
    with Prompts(site.server) as client:
        assert client.ask("on") == (Status.OK, "on ", "")
    metrics = site.metrics()
    assert metrics["shm_worker_starts_total"] == metrics["shm_worker_crashes_total"] + 1


def test_a_worker_that_is_killed_while_it_loads_again_is_started_once_more(site, told):
    told.write_text("wait")
    site.kill()
    for count in range(2, 6):
        until(lambda count=count: site.starts() == count)
        site.kill()
        until(lambda count=count: site.crashes() == count)
    told.unlink()
    until(lambda: site.up())
    assert site.metrics()["shm_worker_crashes_total"] == 5


def test_a_signal_while_it_loads_again_ends_the_server_at_once(site, told):
    told.write_text("wait")
    site.kill()
    until(lambda: site.starts() == 2)
    loading = site.generator()
    site.server.stop()
    assert ended(loading)
    assert "Traceback" not in site.server.log
    assert "did not stop within" not in site.server.log


def test_a_server_that_is_killed_while_it_loads_again_leaves_no_process(site, told):
    told.write_text("wait")
    site.kill()
    until(lambda: site.starts() == 2)
    loading = site.generator()
    site.server.process.kill()
    until(lambda: ended(loading))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_it_loads_for_the_first_time_ends_the_command_at_once(tmp_path, number):
    """It would load for ever."""
    flags = ["--engine", "none", "--generator", "stub_generators:endless", "--socket", str(tmp_path / "sock")]
    command = [sys.executable, "-m", "shm_server.cli", "serve", *flags]
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ | {"PYTHONPATH": path}, text=True) as server:
        for line in server.stderr:
            if "loading the generator: stub_generators:endless" in line:
                break
        (loading,) = workers(server.pid)
        server.send_signal(number)
        assert server.wait(300) == 0
        assert ended(loading)
        said = server.stderr.read()
    assert "Traceback" not in said
    assert "did not stop within" not in said
    assert not Path(tmp_path / "sock").exists()
