"""Starting, stopping, killing: what is left behind, and what the others are told."""

import contextlib
import fcntl
import multiprocessing
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest
from client import Client, connect, hello, hung_up, read_frame, read_reason
from conftest import ROOT, until
from stub_server import GATE

from shm_server import layout
from shm_server.layout import FrameKind, Op, Reason, Status

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user or mount a tmpfs")


def shm_entries(server) -> list[str]:
    """Names of its segments that are still there."""
    return [name for name in os.listdir("/dev/shm") if name.startswith(f"shm-server-{server.pid}-")]


def unread(sock) -> int:
    """Bytes that the other side has not received yet."""
    return struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0]


def serve_fails(*flags: str, prefix: tuple[str, ...] = ()) -> str:
    """Run `shm-server serve` that must fail; its one line on stderr."""
    command = [*prefix, sys.executable, "-m", "shm_server.cli", "serve", "--engine", "none", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 1, done
    lines = [line for line in done.stderr.splitlines() if " INFO " not in line]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_sigterm_answers_what_is_in_flight_then_says_goodbye_and_exits_0(start, tmp_path):
    server = start(str(tmp_path / "gate"), stub="gated")
    with Client(server.socket) as client:
        client.slots[5] = 255
        client.slots[5, : len(GATE)] = list(GATE)
        client.submit(5, Op.RUN)
        server.wait_for("in the model")
        client.submit(6, Op.RUN)  # in the ring
        server.process.send_signal(signal.SIGTERM)
        until(lambda: not server.socket.exists())
        (tmp_path / "gate").touch()
        first, second = client.wait(), client.wait()
        assert (first["slot"], first["status"], client.label(first)) == (5, Status.OK, 1)
        assert (second["slot"], second["status"]) == (6, Status.OK)
        assert client.header["server_state"] == layout.ServerState.DRAINING
        assert read_reason(client.sock)[:2] == (FrameKind.GOODBYE, Reason.DRAINING)
        assert hung_up(client.sock)
    assert server.ended()["calls"] == 2
    assert not server.socket.exists()


def test_a_client_that_floods_a_stopping_server_is_refused_and_cannot_keep_it(start):
    server = start(stub="brightness")
    with Client(server.socket) as client:
        for slot in range(8):
            client.submit(slot)
        server.process.send_signal(signal.SIGTERM)
        statuses, end = set(), time.monotonic() + 30
        while Status.DRAINING not in statuses and time.monotonic() < end:
            try:
                done = client.wait(1)
                statuses.add(Status(done["status"]))
                client.submit(int(done["slot"]))
            except (TimeoutError, OSError):
                break
    assert server.process.wait(300) == 0
    assert statuses <= {Status.OK, Status.DRAINING}


def test_a_client_in_mid_handshake_is_told_that_the_server_stops(echo_server):
    with connect(echo_server.socket) as sock:
        sock.sendall(hello()[:20])
        until(lambda: not unread(sock))
        echo_server.stop()
        assert read_reason(sock)[:2] == (FrameKind.REFUSAL, Reason.DRAINING)


def test_a_killed_server_leaves_no_memory_and_its_socket_file_is_replaced(start):
    server = start("--engine", "none")
    with Client(server.socket) as client:
        client.submit(0)
        client.wait()
        assert shm_entries(server) == []  # nameless already while it is in use
        server.process.kill()
        server.process.wait()
        assert hung_up(client.sock)
        assert server.socket.exists()
        again = start("--engine", "none", socket=server.socket)
        with Client(again.socket) as other:
            other.submit(0)
            assert other.wait()["status"] == Status.OK
            assert other.welcome["epoch"] != client.welcome["epoch"]
    assert shm_entries(server) == shm_entries(again) == []


@pytest.mark.parametrize("moment", ["idle", "in the ring", "in the model", "while filling"])
def test_a_killed_client_is_dropped_with_all_its_memory(start, tmp_path, moment):
    server = start(str(tmp_path / "gate"), stub="gated")
    before = server.descriptors(), server.mappings()
    script = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from client import Client
c = Client({str(server.socket)!r})
if {moment!r} == "in the model": c.slots[0, :{len(GATE)}] = list({GATE!r})
if {moment!r} == "in the ring": c.ring = lambda: None
if {moment!r} != "idle": c.submit(0, 2)
if {moment!r} == "while filling": c.slots[:] = 1
print("ready", flush=True)
sys.stdin.read()
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script], **pipes, cwd=ROOT) as victim:
        assert victim.stdout.readline() == b"ready\n"
        if moment == "in the model":
            server.wait_for("in the model")
        victim.kill()
    (tmp_path / "gate").touch()
    until(lambda: (server.descriptors(), server.mappings()) == before)
    with Client(server.socket) as client:
        client.submit(0, Op.RUN)
        assert client.wait()["status"] == Status.OK


def test_a_hundred_clients_come_and_go_without_a_trace(echo_server):
    def held() -> tuple:
        with Client(echo_server.socket):
            return echo_server.descriptors(), echo_server.mappings(), shm_entries(echo_server)

    held()  # first use of whatever is made lazily
    until(lambda: "closed" in echo_server.log)
    before = held()  # it was closed before this one was welcomed
    for number in range(100):
        with Client(echo_server.socket, slots=1 + number % 64) as client:
            client.submit(0)
            client.wait()
    until(lambda: held() == before)
    assert echo_server.stop()["echoes"] == 100


def test_more_sessions_than_allowed_are_refused_and_a_place_is_free_again_later(start):
    server = start("--engine", "none", "--max-sessions", "2")
    with Client(server.socket), Client(server.socket), connect(server.socket) as sock:
        sock.sendall(hello())
        assert read_reason(sock) == (FrameKind.REFUSAL, Reason.TOO_MANY_SESSIONS, "all 2 sessions are taken")
    until(lambda: server.log.count("closed") == 2)
    with Client(server.socket) as client:
        client.submit(0)
        assert client.wait()["status"] == Status.OK


def test_a_server_out_of_descriptors_goes_on_when_some_are_free(start):
    server = start("--engine", "none", prefix=("prlimit", "--nofile=40:40"))
    held = [connect(server.socket) for _ in range(60)]
    until(lambda: "Too many open files" in server.log)
    for sock in held:
        sock.close()
    with Client(server.socket) as client:
        client.submit(0)
        assert client.wait()["status"] == Status.OK


def test_a_path_in_use_by_a_live_server_is_an_error_at_once(echo_server):
    line = serve_fails("--socket", str(echo_server.socket))
    assert line == f"shm-server serve: {echo_server.socket} is in use by a live server"
    with Client(echo_server.socket) as client:
        client.submit(0)
        client.wait()


def test_a_path_in_use_by_another_program_is_an_error_too(tmp_path):
    path = tmp_path / "other"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        assert "is in use by a live server" in serve_fails("--socket", str(path))
    assert path.is_socket()


def test_a_file_that_is_no_socket_is_never_replaced(tmp_path):
    path = tmp_path / "precious"
    path.write_text("data")
    assert "is there already and is no socket" in serve_fails("--socket", str(path))
    assert path.read_text() == "data"


def test_a_socket_in_a_missing_folder_is_one_clear_line(tmp_path):
    assert f"{tmp_path}/no: there is no such folder for a socket" in serve_fails(
        "--socket", str(tmp_path / "no" / "sock")
    )


@needs_root
def test_a_dev_shm_that_is_too_small_is_a_refusal_and_no_crash(start):
    mount = 'mount -t tmpfs -o size=128k none /dev/shm && exec "$@"'
    server = start("--engine", "none", prefix=("unshare", "-m", "sh", "-c", mount, "sh"))
    with connect(server.socket) as sock:
        sock.sendall(hello())  # 64 slots need 220 KB
        kind, reason, text = read_reason(sock)
    assert (kind, reason) == (FrameKind.REFUSAL, Reason.NO_MEMORY)
    assert "No space left on device" in text
    with Client(server.socket, slots=8) as client:
        client.submit(7)
        assert client.wait()["status"] == Status.OK


def connect_as_nobody(path: Path) -> list:
    """Shake hands as the user nobody, in a forked process; what that got, and how shrinking its segment went."""

    def child(answer) -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        with connect(path) as sock:
            with contextlib.suppress(BrokenPipeError):  # refused before it has said anything
                sock.sendall(hello())
            kind, body, fds = read_frame(sock)
        if not fds:
            answer.put([kind, body[layout.reason_body.itemsize :].decode()])
            return
        try:
            os.ftruncate(fds[0], 0)
            answer.put([kind, "shrunk"])
        except OSError as error:
            answer.put([kind, error.strerror])

    fork = multiprocessing.get_context("fork")
    answer = fork.SimpleQueue()
    process = fork.Process(target=child, args=(answer,))
    process.start()
    process.join()
    assert process.exitcode == 0
    return answer.get()


@needs_root
def test_a_peer_of_another_user_is_refused_unless_it_is_allowed(start, open_folder):
    server = start("--engine", "none", socket=open_folder / "sock")
    os.chmod(server.socket, 0o666)  # past the file's mode, to the check of the peer's user
    why = "user 65534 may not connect: start the server with --allow-other-users"
    assert connect_as_nobody(server.socket) == [FrameKind.REFUSAL, why]
    server.stop()
    server = start("--engine", "none", "--allow-other-users", socket=open_folder / "sock")
    # and what it gets is sealed: it cannot shrink the segment under the server
    assert connect_as_nobody(server.socket) == [FrameKind.WELCOME, "Operation not permitted"]


def test_only_our_own_user_can_open_the_socket_by_default(echo_server):
    assert echo_server.socket.stat().st_mode & 0o777 == 0o600


def test_an_allowed_segment_is_sealed_against_shrinking_and_growing(start):
    server = start("--engine", "none", "--allow-other-users")
    with Client(server.socket) as client:
        seals = fcntl.fcntl(client.fd, fcntl.F_GET_SEALS)
        assert seals & (fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW) == fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
        client.submit(0)
        assert client.wait()["status"] == Status.OK


def test_an_idle_server_sleeps(echo_server):
    def switches() -> int:
        total = 0
        for task in Path(f"/proc/{echo_server.pid}/task").iterdir():
            for line in (task / "status").read_text().splitlines():
                if "ctxt_switches" in line:
                    total += int(line.split()[1])
        return total

    with Client(echo_server.socket) as client:
        client.submit(0)
        client.wait()

        def not_one_thread_ran_for_a_second() -> bool:
            before = switches()
            time.sleep(1)
            return switches() == before

        until(not_one_thread_ran_for_a_second)


def test_np_views_of_an_engine_that_keeps_them_are_reported_and_do_not_end_the_server(start):
    server = start(stub="greedy")
    with Client(server.socket) as client:
        client.submit(0, Op.RUN)
        client.wait()
    server.wait_for("the model still holds a view of its slots")
    with Client(server.socket) as client:
        client.slots[1] = np.uint8(255)
        client.submit(1, Op.RUN)
        assert client.label(client.wait()) == 1


@needs_root
def test_a_read_only_tmp_is_no_obstacle_or_one_line(start, tmp_path):
    folder = Path("/dev/shm") / f"test-{os.getpid()}"  # pytest's own lies in /tmp
    folder.mkdir()
    try:
        # As it is, but read-only.
        mount = " && ".join(f"mount --bind {d} {d} && mount -o remount,bind,ro {d}" for d in ("/tmp", "/var/tmp"))
        mount += f' && cd {folder} && exec "$@"'  # where files may be made: this checkout may lie in /tmp
        prefix = ("unshare", "-m", "sh", "-c", mount, "sh")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        server = start("--engine", "none", "--http", port, prefix=prefix, socket=folder / "sock")
        with Client(server.socket) as client:
            client.submit(0)
            assert client.wait()["status"] == Status.OK
        server.stop()
        assert os.listdir(folder) == []
        line = serve_fails("--socket", "/tmp/sock", prefix=prefix)
        assert line == "shm-server serve: /tmp/sock.lock: Read-only file system"
    finally:
        shutil.rmtree(folder)


@needs_root
@pytest.mark.parametrize("home", ["unset", "/nonexistent"])
def test_a_user_that_nobody_knows_is_served_and_leaves_nothing(tmp_path, home):
    """As `docker run --user 12345` has it. Libraries ask for a home and a name, and some make a folder called ~."""
    program = """
import getpass, os, sys
from pathlib import Path
from shm_server import cli
import shm_server.cli.commands
shm_server.cli.commands.run = lambda argv, stop: print(Path.home(), getpass.getuser(), os.path.expanduser("~")) or 0
sys.exit(cli.main([]))
"""
    os.chmod(tmp_path, 0o777)
    known = {name: value for name, value in os.environ.items() if name not in ("HOME", "LOGNAME", "USER")}
    known |= {"PYTHONPATH": str(ROOT)} | ({} if home == "unset" else {"HOME": home})
    # This repository may be root's: it may be read, and nothing written.
    caps = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    command = ["setpriv", "--reuid", "12345", "--clear-groups", *caps, sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path, env=known)
    assert done.stdout == "/nonexistent 12345 /nonexistent\n", done.stderr
    assert os.listdir(tmp_path) == []
