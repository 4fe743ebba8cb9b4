"""The prompt lane, from a client's side: real processes, a generator that does as it is told."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from client import Client, Prompts, connect, hello, hung_up, read_reason
from conftest import ROOT, children, ended, until

from shm_server.layout import CompletionFlag, FrameKind, Op, Protocol, Reason, ServerState, Status, SubmissionFlag


@pytest.fixture(params=["computing", "waiting"])
def engine(request):
    return request.param


@pytest.fixture
def server(start, tmp_path, engine):
    return start(command=[sys.executable, str(ROOT / "tests" / "stub_generators.py"), str(tmp_path / "sock"), engine])


def generator_pid(server) -> int:
    """The process that a stub server started."""
    (child,) = children(server.pid)
    return child


def test_a_prompt_is_answered(server):
    with Prompts(server) as client:
        assert client.ask("to be or not") == (Status.OK, "to be or not ", "")
        assert client.ask("say:ü say:€ say:𝄞") == (Status.OK, "ü€𝄞", "")
        assert client.signature["name"] == "stub"
        assert (client.signature["inputs"][0]["name"], client.signature["outputs"][0]["name"]) == ("prompt", "text")
    assert server.stop()["sessions"] == 0


def test_text_comes_while_it_is_generated(server, tmp_path):
    with Prompts(server) as client:
        client.prompt(f"one await:{tmp_path / 'read'} two")
        more = client.wait()
        assert more["status"] == Status.MORE
        assert client.progress[0]["extent"] == len("one ")
        client.controls[0]["acknowledged"] = 1
        (tmp_path / "read").touch()
        assert client.wait()["status"] == Status.MORE
        assert bytes(client.replies[0, : client.progress[0]["extent"]]) == b"one two "
        assert client.final()[:2] == (Status.OK, "one two ")


def test_the_checksum_of_an_echo_through_the_prompt_lane(server):
    with Prompts(server) as client:
        client.slots[3, :200] = 7
        client.submit(3, Op.ECHO, extent=200)
        done = client.wait()
        assert (done["status"], done["extent"]) == (Status.OK, 200)
        assert bytes(client.replies[3, :200]) == bytes([7]) * 200


def test_parameters_reach_the_generator(server):
    given = SubmissionFlag.WITH_TEMPERATURE | SubmissionFlag.WITH_TOP_K | SubmissionFlag.WITH_SEED
    with Prompts(server) as client:
        fields = {"sampling_steps": 5, "temperature": 0.5, "top_k": 3, "seed": 2**64 - 1}
        assert client.ask("params", flags=given, **fields)[1] == f"5 0.5 3 {2**64 - 1}"
        assert client.ask("params", **fields)[1] == "5 None None None"
        assert client.ask("repeat", sampling_steps=4)[1] == "...."


@pytest.mark.parametrize(
    ("prompt", "fields", "message"),
    [
        ("", {}, "the prompt is empty"),
        (b"ab\xff", {}, "the prompt is no UTF-8: invalid start byte at byte 2"),
        (b"\xed\xa0\x80", {}, "the prompt is no UTF-8"),
        ("x", {"sampling_steps": 0}, "sampling_steps is 0"),
        ("x", {"temperature": -1.0, "flags": SubmissionFlag.WITH_TEMPERATURE}, "temperature is -1"),
        ("x", {"temperature": float("nan"), "flags": SubmissionFlag.WITH_TEMPERATURE}, "temperature is nan"),
    ],
)
def test_what_cannot_be_asked_fails_that_call_only(server, prompt, fields, message):
    with Prompts(server) as client:
        status, text, said = client.ask(prompt, **fields)
        assert (status, text) == (Status.INVALID, "")
        assert message in said
        assert client.ask("on")[0] == Status.OK


@pytest.mark.parametrize("kind", ["InvalidRequest", "Unavailable", "Unauthorized", "RateLimited", "TimedOut", "Broken"])
def test_each_of_a_generators_errors_has_its_status_and_the_text_so_far_stands(server, kind):
    expected = {"InvalidRequest": Status.INVALID}.get(kind)
    with Prompts(server) as client:
        status, text, said = client.ask(f"some text fail:{kind}")
        assert (status.name.replace("_", "").lower() == kind.lower()) or status == expected
        assert (text, said) == ("some text ", f"it is {kind}")
        assert client.ask("on")[0] == Status.OK


def test_a_bug_in_a_generator_fails_that_call_and_is_logged(server):
    with Prompts(server) as client:
        for prompt in ("some bug", "start-bug"):
            status, _, said = client.ask(prompt)
            assert status == Status.MODEL_ERROR
            assert said.startswith("ZeroDivisionError: a bug")
        assert client.ask("on")[0] == Status.OK
    server.wait_for("Traceback")


def test_a_reply_that_is_full_ends_at_a_character(server):
    with Prompts(server, input_extent=64, output_extent=3840) as client:
        room = 3840
        status, text, _ = client.ask("say:x repeat:€€€€", sampling_steps=100_000)
        assert status == Status.OK
        assert client.done["flags"] == CompletionFlag.TRUNCATED
        assert text == "x" + "€" * ((room - 1) // 3)
        assert client.ask("on")[0] == Status.OK


def test_slots_and_replies_are_as_large_as_asked(server):
    with Prompts(server, slots=3, input_extent=100_000, output_extent=1 << 20) as client:
        assert client.lane["slot_count"] == 3
        assert [int(tensor["dims"][0]) for tensor in client.tensors] == [100_000, 1 << 20]
        long = "w" * 99_998
        assert client.ask(long)[1] == long + " "


def test_a_client_may_cancel_between_any_two_tokens(server):
    with Prompts(server) as client:
        for taken in range(6):
            client.prompt("repeat", sampling_steps=1_000_000)
            for _ in range(taken):
                assert client.wait()["status"] == Status.MORE
                client.controls[0]["acknowledged"] += 1
            client.controls[0]["cancel"] = 1
            status, text, _ = client.final()
            assert status == Status.CANCELLED
            assert text == "." * len(text)
            assert len(text) >= taken


def test_a_deadline_ends_a_prompt(server, tmp_path):
    with Prompts(server) as client:
        soon = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + 100_000_000
        status, text, _ = client.ask("repeat", sampling_steps=100_000_000, deadline=soon)
        # either may come first where the generator is fast: the reply is full, or the time is up
        assert status == Status.DEADLINE_EXCEEDED or client.done["flags"] == CompletionFlag.TRUNCATED
        for seconds in (0.1, 1, 10, 60):  # until it has begun before its deadline, on however slow a machine
            soon = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + int(seconds * 1e9)
            status, text, _ = client.ask(f"begun until:{tmp_path / 'never'} never", deadline=soon)
            assert status == Status.DEADLINE_EXCEEDED
            if text:
                break
        assert text == "begun "


@pytest.mark.parametrize("engine", ["waiting"], indirect=True)
def test_an_endpoint_that_says_nothing_keeps_nobody_from_giving_up(server):
    with Prompts(server) as client:
        client.prompt("hang")
        assert client.ask("other", slot=2)[1] == "other "
        client.prompt("hang", slot=1, deadline=time.clock_gettime_ns(time.CLOCK_MONOTONIC) + 100_000_000)
        assert client.final()[0] == Status.DEADLINE_EXCEEDED
        client.controls[0]["cancel"] = 1
        assert client.final()[0] == Status.CANCELLED


def test_prompts_take_turns_and_the_wait_is_told(server, tmp_path, engine):
    places = 4 if engine == "computing" else 8
    with Prompts(server, slots=8) as client:
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        for slot in range(8):
            client.prompt(f"begun until:{tmp_path / 'go'} done", slot=slot, submitted=now)
        first = set()
        while len(first) < places:
            more = client.wait()
            assert more["status"] == Status.MORE
            client.controls[more["slot"]]["acknowledged"] += 1
            first.add(int(more["slot"]))
        begun = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        (tmp_path / "go").touch()
        waits = {}
        for _ in range(8):
            assert client.final()[:2] == (Status.OK, "begun done ")
            waits[int(client.done["slot"])] = int(client.done["queue_ns"])
    for slot, wait in waits.items():  # who has a place has it before the others' turn can come
        assert (wait < begun - now) == (slot in first)


def test_a_client_that_goes_away_leaves_nothing_behind(server):
    for _ in range(6):  # more than max_sessions
        client = Prompts(server)
        client.prompt("repeat", sampling_steps=100_000_000)
        client.wait()
        client.close()
    with Prompts(server) as client:
        assert client.ask("on")[1] == "on "
    pid = generator_pid(server)
    until(lambda: "memfd" not in Path(f"/proc/{pid}/maps").read_text())
    until(lambda: "/dev/shm/shm-server" not in Path(f"/proc/{pid}/maps").read_text())


def test_a_client_that_breaks_the_protocol_is_told(server):
    with Prompts(server) as client:
        client.submit(0, 3, extent=5)
        kind, reason, message = read_reason(client.sock)
        assert (kind, reason) == (FrameKind.GOODBYE, Reason.PROTOCOL)
        assert "unknown op: 3" in message
    with Prompts(server) as client:
        client.prompt("x", flags=8)
        assert "unknown flags: 8" in read_reason(client.sock)[2]


def test_too_many_sessions_are_refused_by_the_generators_process(server):
    clients = [Prompts(server) for _ in range(4)]
    sock = connect(server.socket)
    sock.sendall(hello(protocol=Protocol.STREAM))
    assert read_reason(sock)[1] == Reason.TOO_MANY_SESSIONS
    sock.close()
    for client in clients:
        client.close()


def test_stopping_finishes_the_prompts_in_flight(server, tmp_path):
    with Prompts(server) as client:
        client.prompt(f"begun until:{tmp_path / 'draining'} ended")
        assert client.wait()["status"] == Status.MORE
        client.controls[0]["acknowledged"] = 1
        server.process.send_signal(signal.SIGTERM)
        until(lambda: client.header["server_state"] == ServerState.DRAINING)
        (tmp_path / "draining").touch()
        assert client.final()[:2] == (Status.OK, "begun ended ")
        assert read_reason(client.sock)[:2] == (FrameKind.GOODBYE, Reason.DRAINING)
    server.ended()


def test_stopping_ends_a_prompt_that_takes_too_long(server):
    with Prompts(server) as client:
        client.prompt("begun " + "sleep:0.05 " * 1000)
        assert client.wait()["status"] == Status.MORE
        client.controls[0]["acknowledged"] = 1
        server.process.send_signal(signal.SIGTERM)
        assert client.final()[:2] == (Status.DRAINING, "begun ")
    server.ended()


@pytest.mark.parametrize("how", ["die", "kill"])
def test_the_image_lane_goes_on_without_the_generators_process(server, how):
    with Prompts(server) as client, Client(server.socket) as images:
        if how == "kill":
            os.kill(generator_pid(server), signal.SIGKILL)
        else:
            client.prompt("die")
        assert hung_up(client.sock)
        server.wait_for("ended with code 7; it is started again" if how == "die" else "was ended by SIGKILL; it is")
        images.submit(0)
        assert images.wait()["status"] == Status.OK
        server.wait_for("the generator's process is back")
        images.submit(1)
        assert images.wait()["status"] == Status.OK
    with Prompts(server) as client:
        assert client.ask("on") == (Status.OK, "on ", "")
    server.stop()


def test_the_generators_process_ends_with_a_server_that_is_killed(server):
    pid = generator_pid(server)
    with Prompts(server) as client:
        client.prompt("repeat", sampling_steps=10)
        server.process.kill()
        until(lambda: ended(pid))


def test_a_server_without_a_generator_offers_no_prompt_lane(start):
    server = start("--engine", "none")
    sock = connect(server.socket)
    sock.sendall(hello(protocol=Protocol.STREAM))
    assert read_reason(sock)[1:] == (Reason.NO_SUCH_MODEL, "this server has no stream model")
    sock.close()


def test_the_generators_process_leaves_its_core_to_others(start, tmp_path, engine):
    command = [sys.executable, str(ROOT / "tests" / "stub_generators.py"), str(tmp_path / "sock"), engine]
    server = start(command=command, prefix=("env", "STUB_IDLE=1"))
    with Prompts(server) as client:
        client.ask("on")
    threads = os.listdir(f"/proc/{generator_pid(server)}/task")
    assert {os.sched_getscheduler(int(thread)) for thread in threads} == {os.SCHED_IDLE}
    assert os.sched_getscheduler(server.pid) == os.SCHED_OTHER


def test_the_go_command_prints_a_reply_as_it_comes(server, shm_client):
    command = [shm_client, "prompt", "--socket", server.socket, "--steps", "3", "--seed", "5", "--stats"]
    done = subprocess.run([*command, "two", "words", "repeat"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "two words ...\n")
    assert done.stderr.startswith("stub: first text after")
    done = subprocess.run([*command, "-"], input="params", capture_output=True, text=True, check=True)
    assert done.stdout == "3 None None 5\n"
    with subprocess.Popen(
        [*command, "begun " + "sleep:0.05 " * 1000], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        assert running.stdout.read(6) == b"begun "
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 130
        assert running.stderr.read() == b"shm-client: ended by SIGINT\n"
    done = subprocess.run([*command, "some fail:RateLimited"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "some \n")
    assert "refuses more requests for now: it is RateLimited" in done.stderr


def test_the_go_command_tells_who_answers_prompts(server, start, shm_client, tmp_path):
    done = subprocess.run([shm_client, "info", "--socket", server.socket], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("prompts  stub\n")
    other = start("--engine", "none", socket=tmp_path / "other")
    done = subprocess.run([shm_client, "info", "--socket", other.socket], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("prompts  none: this server has no stream model\n")
