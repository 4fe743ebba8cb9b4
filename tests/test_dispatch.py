"""The two loops of a server, with real rings and sockets in this process: stops at any moment, orders, guards."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading

import pytest
from client import Client, connect, framed, hello, read_frame, read_reason
from conftest import ROOT, until
from stub_server import Brightness

from shm_server import Server
from shm_server.door.listener import Listener
from shm_server.layout import FrameKind, Op, Reason, Status
from shm_server.models.classified import Classified
from shm_server.worker.call_lane import CallDispatcher
from shm_server.worker.control import Control


class Images(CallDispatcher):
    """Counts how often its thread waits, and fails there once `broken` is set."""

    def __init__(self, model=None) -> None:
        super().__init__(Classified(model), spin_us=0, max_batch=4, slots=8, echo_only=model is None)
        self.waits, self.broken = 0, False

    @property
    def wait(self):
        return self._wait

    def _wait(self, limit: int):
        self.waits += 1
        if self.broken:
            raise OSError(9, "Bad file descriptor")
        return self.poller.next(limit)


class Narrow:
    """A poller whose `add` fails once, as the kernel does beyond fs.epoll.max_user_watches."""

    def __init__(self, poller) -> None:
        self.poller, self.failures = poller, [OSError(28, "No space left on device")]

    def __getattr__(self, name: str) -> object:
        return getattr(self.poller, name)

    def add(self, lane) -> None:
        if self.failures:
            raise self.failures.pop()
        self.poller.add(lane)


@pytest.fixture
def serve(tmp_path):
    """serve(dispatcher) runs a Control in a thread of this process; the list that it returns gets what `run` raises."""
    with contextlib.ExitStack() as stack:

        def start(dispatcher: CallDispatcher) -> list[BaseException]:
            listener = Listener(tmp_path / "sock")
            control, failed = Control(dispatcher, listener, max_sessions=4), []

            def run() -> None:
                try:
                    control.run()
                except BaseException as error:
                    failed.append(error)

            thread = threading.Thread(target=run)
            thread.start()
            stack.callback(thread.join)
            stack.callback(control.stop)
            until((tmp_path / "sock").exists)
            return failed

        yield start


@pytest.mark.parametrize("stops", [1, 2])
def test_a_stop_that_comes_before_the_data_thread_runs_ends_it_at_once(stops):
    dispatcher = Images()
    for _ in range(stops):
        dispatcher.stop()
    dispatcher.run()
    dispatcher.stop()  # and one that comes after it does nothing


def test_orders_are_carried_out_in_turn_and_one_that_fails_keeps_no_other_from_it():
    dispatcher, done = Images(), []
    dispatcher.post(lambda: done.append(1))
    dispatcher.post(lambda: 1 / 0)
    dispatcher.post(lambda: sys.exit(3))
    dispatcher.post(lambda: done.append(2))
    dispatcher.post(lambda: dispatcher.post(lambda: (done.append(3), dispatcher.stop())))
    dispatcher.run()
    assert done == [1, 2, 3]


def test_orders_that_post_orders_keep_the_data_thread_from_no_session():
    dispatcher, carried_out = Images(), itertools.count(1)

    def again() -> None:
        if next(carried_out) < 100:
            dispatcher.post(again)
        else:
            dispatcher.stop()

    dispatcher.post(again)
    dispatcher.run()
    assert dispatcher.waits >= 100, "between two of them there is a pass over the sessions"


def test_a_server_that_is_stopped_before_it_runs_serves_nobody_and_leaves_nothing(tmp_path):
    server = Server(None, tmp_path / "sock")
    server.stop()
    server.stop()
    server.run()
    server.stop()
    assert os.listdir(tmp_path) in ([], ["sock.lock"])


def test_a_task_that_fails_because_the_server_stops_is_answered_with_that(tmp_path):
    """As a takeover is, whose sockets a stop has closed meanwhile."""
    begun, stopped, listening = threading.Event(), threading.Event(), threading.Event()
    server = Server(None, tmp_path / "sock")

    def task(*_: object) -> None:
        begun.set()
        stopped.wait()
        raise OSError(9, "Bad file descriptor")

    server.tasks["take"] = task
    server.when_listening = listening.set
    running = threading.Thread(target=server.run)
    running.start()
    listening.wait()
    with connect(tmp_path / "sock") as sock:
        sock.sendall(framed(FrameKind.QUESTION, b"take"))
        begun.wait()
        server.stop()
        running.join()
        stopped.set()
        assert read_reason(sock) == (FrameKind.REFUSAL, Reason.DRAINING, "the server is stopping")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_the_middle_of_a_handshake_is_obeyed_after_it(tmp_path, number):
    """Raised in the control thread itself, while it allots a segment."""
    program = f"""
import signal, sys
from shm_server import Server
from shm_server.session import segment
allot = segment.allot
def interrupted(*arguments):
    signal.raise_signal({int(number)})
    return allot(*arguments)
segment.allot = interrupted
Server(None, sys.argv[1]).run()
"""
    path = tmp_path / "sock"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stderr:
            if "listening" in line:
                break
        with connect(path) as sock:
            sock.sendall(hello())
            assert read_frame(sock)[0] == FrameKind.WELCOME
            assert read_reason(sock)[1] == Reason.DRAINING
        assert process.wait(60) == 0
        assert "Traceback" not in process.stderr.read()
    assert not path.exists()


def test_a_socket_that_cannot_be_watched_is_that_clients_end(serve, tmp_path):
    dispatcher = Images(Brightness())
    dispatcher.poller = Narrow(dispatcher.poller)
    serve(dispatcher)
    with connect(tmp_path / "sock") as lost:
        lost.sendall(hello())
        assert read_frame(lost)[0] == FrameKind.WELCOME
        assert read_reason(lost)[1:] == (
            Reason.NO_MEMORY,
            "its socket cannot be watched: OSError: [Errno 28] No space left on device",
        )
    with Client(tmp_path / "sock") as good:
        good.submit(0, Op.RUN)
        assert good.wait()["status"] == Status.OK


def test_a_data_thread_that_fails_ends_the_server_and_its_clients_read_why(serve, tmp_path):
    dispatcher = Images()
    failed = serve(dispatcher)
    with Client(tmp_path / "sock") as client:
        client.submit(0)
        client.wait()
        dispatcher.broken = True
        dispatcher.poller.wake()
        assert read_reason(client.sock)[1:] == (Reason.INTERNAL, "the server failed; its log says why")
    until(lambda: failed)
    assert [str(error) for error in failed] == ["[Errno 9] Bad file descriptor"]
