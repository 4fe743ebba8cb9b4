"""The life of a worker, as the process has it that started it."""

import errno
import itertools
import os
import signal
import socket
import threading

import pytest
from client import Prompts, hung_up
from conftest import children, ended, until
from stub_generators import supervised

from shm_server import wire
from shm_server.door import supervisor as supervision
from shm_server.door.replica import Backoff
from shm_server.door.supervisor import Supervisor
from shm_server.door.worker_process import WorkerProcess
from shm_server.generators import ModelError, NoGenerator
from shm_server.layout import Protocol, Reason, Status
from shm_server.session.doorbell import LaneRequest, Refused


@pytest.fixture
def supervisor():
    """supervisor(NAME, ...): see stub_generators.supervised."""
    running: list[Supervisor] = []

    def start(name: str, **serving) -> Supervisor:
        running.append(supervised(name, **serving))
        return running[-1]

    yield start
    for each in running:
        each.stop()


def test_a_worker_that_ends_again_and_again_is_started_after_ever_longer_waits():
    backoff = Backoff()
    assert [backoff.after(0) for _ in range(11)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30]
    assert backoff.after(29.9) == 30
    assert [backoff.after(served) for served in (30, 0, 0)] == [0.1, 0.2, 0.4]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"engine": "stub_generators:broken"}, ModelError, "this generator is broken"),
        ({"engine": "stub_generators:nothing"}, NoGenerator, "stub_generators has no nothing"),
        ({"engine": "stub_generators:os._exit", "status": 5}, ModelError, "the generator's process ended with code 5"),
    ],
)
def test_a_first_worker_that_does_not_load_says_why_and_is_not_started_again(options, error, words):
    supervisor = Supervisor(Protocol.STREAM, options, spin_us=0, max_sessions=1)
    with pytest.raises(ModelError, match=words) as raised:
        supervisor.wait_ready()
    assert type(raised.value) is error
    assert (supervisor.alive, supervisor.pid) == (False, None)
    assert supervisor.counters()["worker_starts"] == 1
    with socket.socket() as client, pytest.raises(Refused):
        supervisor.send(client, LaneRequest(Protocol.STREAM))
    supervisor.stop()


def opened(one: Supervisor) -> Prompts:
    """A session of its worker's."""
    ours, theirs = socket.socketpair()
    with theirs:
        one.send(theirs, LaneRequest(Protocol.STREAM))
    return Prompts(ours)


def ask(one: Supervisor, prompt: str) -> str:
    """The reply."""
    with opened(one) as client:
        status, text, _ = client.ask(prompt)
        assert status == Status.OK
        return text


def test_a_first_worker_that_is_killed_while_it_loads_is_said(supervisor):
    loading = supervisor("endless")
    until(lambda: loading.pid)
    with pytest.raises(Refused, match="the generator's process is loading"):
        ask(loading, "to be")
    os.kill(loading.pid, signal.SIGKILL)
    with pytest.raises(ModelError, match="the generator's process was ended by SIGKILL"):
        loading.wait_ready()


def test_a_stop_while_it_loads_is_one_at_once_and_so_is_one_between_two_workers(supervisor, caplog):
    loading = supervisor("endless")
    until(lambda: loading.pid)
    pid = loading.pid
    loading.stop()
    assert ended(pid)
    away = supervisor("computing", backoff=Backoff(first=1e6, most=1e6))
    away.wait_ready()
    os.kill(away.pid, signal.SIGKILL)
    until(lambda: away.pid is None)
    assert not away.alive
    with socket.socket() as client, pytest.raises(Refused, match="SIGKILL; it is being started again") as refused:
        away.send(client, LaneRequest(Protocol.STREAM))
    assert refused.value.reason == Reason.STARTING
    away.stop()
    assert away.counters()["worker_starts"] == 1
    assert "did not stop within" not in caplog.text


def test_only_so_many_load_at_a_time_and_who_waits_can_be_stopped(supervisor, monkeypatch):
    monkeypatch.setattr("shm_server.door.replica.LOADING", threading.BoundedSemaphore(1))
    loading = supervisor("endless")
    until(lambda: loading.pid)
    stopped, second, third = (supervisor("computing") for _ in range(3))
    stopped.stop()
    with pytest.raises(ModelError, match="the server is stopping"):
        stopped.wait_ready()
    assert (stopped.pid, second.pid, third.pid) == (None, None, None)
    loading.stop()
    second.wait_ready()
    third.wait_ready()
    first = second.pid
    another = supervisor("endless")  # whose turn it is
    until(lambda: another.pid)
    os.kill(first, signal.SIGKILL)  # what was there does not wait for its turn
    until(lambda: second.alive and second.pid != first)


def test_a_stop_that_comes_while_a_process_is_being_started_ends_it_too(supervisor, monkeypatch, caplog):
    started = []

    def start(*what: object) -> WorkerProcess:
        until(lambda: running and running[0]._stopping)
        started.append(WorkerProcess(*what))
        return started[0]

    running: list[Supervisor] = []
    monkeypatch.setattr("shm_server.door.replica.WorkerProcess", start)
    running.append(supervisor("endless"))
    running[0].stop()
    assert ended(started[0].pid)
    assert "did not stop within" not in caplog.text


def test_a_stop_ends_a_worker_and_counts_no_crash(supervisor):
    stopped = supervisor("waiting")
    stopped.wait_ready()
    pid = stopped.pid
    assert ask(stopped, "to be") == "to be "
    stopped.stop()
    assert ended(pid)
    stopped.stop()
    counters = stopped.counters()
    assert (counters["worker_starts"], counters["worker_crashes"]) == (1, 0)


def test_however_often_a_stop_is_asked_for_a_worker_is_told_once(supervisor, monkeypatch):
    """It reads nothing after that: what it leaves unread is an error to whoever waits for its last words."""
    told = []
    send = WorkerProcess.send
    monkeypatch.setattr(WorkerProcess, "send", lambda *args, **how: (told.append(type(args[1])), send(*args, **how)))
    one = supervisor("computing")
    one.wait_ready()
    for ask in (one.ask_to_stop, one.stop, one.stop):
        ask()
    assert told.count(wire.Stop) == 1


def test_a_process_that_cannot_be_started_is_an_error_and_tried_again_after_a_crash(supervisor, monkeypatch):
    with pytest.raises(ModelError, match="could not be started: TooLong: a Load of"):
        supervisor("x" * wire.MAX_PACKET).wait_ready()
    one, others = supervisor("computing"), set(children(os.getpid()))
    one.wait_ready()
    first, pidfd_open = one.pid, os.pidfd_open
    failures = [OSError(errno.EMFILE, "Too many open files")] * 3

    def narrow(pid: int) -> int:
        if failures:
            raise failures.pop()
        return pidfd_open(pid)

    monkeypatch.setattr(os, "pidfd_open", narrow)
    os.kill(first, signal.SIGKILL)
    until(lambda: one.alive and one.pid != first)
    assert failures == []
    assert set(children(os.getpid())) - others - {first} == {one.pid}, "a process was left that nobody watches"
    assert ask(one, "to be") == "to be "


def test_a_worker_that_says_what_is_no_message_is_killed_and_started_again(supervisor, monkeypatch):
    receive, lies = wire.receive, itertools.chain([b"\x63{}"], itertools.repeat(None))

    def heard(sock, *kinds, **how):
        if wire.Ready in kinds and len(kinds) > 1 and (lie := next(lies)):
            wire.decode(lie, kinds)
        return receive(sock, *kinds, **how)

    monkeypatch.setattr(wire, "receive", heard)
    liar = supervisor("computing")
    with pytest.raises(
        ModelError, match="it cannot be understood: Malformed: expected Ready or Failed or Counters, got"
    ):
        liar.wait_ready()


def test_a_worker_that_ended_is_seen_though_a_child_of_its_own_lives(supervisor, tmp_path):
    """It has the pipe open, whose end of file does not come."""
    forking = supervisor("computing")
    forking.wait_ready()
    first = forking.pid
    try:
        assert ask(forking, f"fork:{tmp_path / 'gate'} to be") == "to be "
        os.kill(first, signal.SIGKILL)
        until(lambda: forking.alive and forking.pid != first)
        assert ask(forking, "to be") == "to be "
    finally:
        (tmp_path / "gate").touch()


def test_a_worker_that_has_moved_and_hangs_is_killed_and_its_callers_hear_of_it(supervisor, monkeypatch, caplog):
    monkeypatch.setitem(supervision.LEAVE_SECONDS, Protocol.STREAM, 0.5)
    one = supervisor("computing")
    one.wait_ready()
    first, client = one.pid, opened(one)
    client.prompt("say:on hang")
    assert client.wait()["status"] == Status.MORE
    one.reload()
    assert one.alive
    assert one.pid != first
    assert ask(one, "say:new") == "new"
    until(lambda: ended(first))
    assert hung_up(client.sock)
    client.close()
    assert f"has moved and does not end: {first} is killed" in caplog.text
    assert one.counters()["worker_crashes"] == 0


def test_a_stop_while_a_new_version_loads_ends_all_of_it(supervisor, monkeypatch, tmp_path):
    monkeypatch.setenv("STUB_TOLD", str(tmp_path / "told"))
    one = supervisor("told")
    one.wait_ready()
    first = one.pid
    (tmp_path / "told").write_text("wait")
    raised = []

    def reload() -> None:
        with pytest.raises(ModelError) as error:
            one.reload()
        raised.append(error)

    reloading = threading.Thread(target=reload)
    reloading.start()
    until(lambda: len(children(os.getpid())) >= 2 and one._coming and one._coming[0].pid)
    second = one._coming[0].pid
    one.stop()
    reloading.join(300)
    assert raised
    assert ended(first)
    assert ended(second)
