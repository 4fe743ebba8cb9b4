"""The socket's file and its lock: claimed early, seen when somebody listens, removed by nobody but their owner."""

import contextlib
import errno
import multiprocessing
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from client import Client, connect
from conftest import ROOT, until

from shm_server import SocketInUse
from shm_server.door.listener import MAX_PATH, Listener, default_socket
from shm_server.layout import Status
from shm_server.runtime.process import words

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
fork = multiprocessing.get_context("fork")


def answers(path: Path) -> bool:
    with Client(path) as client:
        client.submit(0)
        return client.wait()["status"] == Status.OK


def refused(path: str | os.PathLike) -> str:
    """What a claim of the path that must fail says."""
    with pytest.raises((SocketInUse, ValueError, OSError)) as raised:
        Listener(path)
    said = words(raised.value)
    assert "\n" not in said
    return said


def test_the_survivor_of_a_cleaned_folder_is_reachable(start, tmp_path):
    first = start("--engine", "none")
    for name in ("sock", "sock.lock"):
        (tmp_path / name).unlink()
    second = start("--engine", "none", socket=first.socket)
    first.stop()
    assert answers(second.socket)
    assert sorted(os.listdir(tmp_path)) == ["server-0.log", "server-1.log", "sock", "sock.lock"]
    second.stop()
    assert sorted(os.listdir(tmp_path)) == ["server-0.log", "server-1.log"]


def make_file(path: Path) -> None:
    path.write_text("precious")


@pytest.mark.parametrize("there", ["nothing", "a file", "a folder", "another's socket", "no folder", "a new folder"])
def test_a_stopping_server_removes_only_what_is_its_own(tmp_path, there):
    folder = tmp_path / "run"
    folder.mkdir()
    path = folder / "sock"
    with Listener(path) as listener, socket.socket(socket.AF_UNIX) as other:
        listener.listen()
        path.unlink()
        {
            "nothing": lambda: None,
            "a file": lambda: make_file(path),
            "a folder": path.mkdir,
            "another's socket": lambda: other.bind(str(path)),
            "no folder": lambda: folder.rename(tmp_path / "moved"),
            "a new folder": lambda: (folder.rename(tmp_path / "moved"), folder.mkdir(), make_file(path)),
        }[there]()
    assert path.exists() == (there not in ("nothing", "no folder"))
    if path.is_file():
        assert path.read_text() == "precious"


def test_there_is_a_file_once_somebody_listens_and_a_dead_servers_goes_before(tmp_path):
    path = tmp_path / "sock"
    for name in ("sock", "sock.new"):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(tmp_path / name))
    with Listener(path) as listener:
        assert not path.exists()
        assert "in use by a live server" in refused(path)
        seen = []
        rename, os.rename = os.rename, lambda *names: (seen.append(path.exists()), connect(names[0]), rename(*names))
        try:
            listener.listen()
        finally:
            os.rename = rename
        assert seen == [False]  # and somebody could connect by then
        connect(path).close()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert sorted(os.listdir(tmp_path)) == ["sock", "sock.lock"]
    assert os.listdir(tmp_path) == []


def test_the_file_appears_when_a_server_has_loaded(start, tmp_path):
    """Whoever finds it can connect at once; a killed server's file does not stand there while the next one loads."""
    path = tmp_path / "sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    gate = tmp_path / "gate"
    program = f"""
import os, time
from shm_server import Server
from shm_server.door.listener import Listener
with Listener({str(path)!r}) as listener:
    print("claimed", flush=True)
    while not os.path.exists({str(gate)!r}): time.sleep(0.01)
    Server(None, listener).run()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=ROOT) as server:
        assert server.stdout.readline() == b"claimed\n"
        assert not path.exists()
        gate.touch()
        until(path.exists, 60)
        assert answers(path)
        server.terminate()
        assert server.wait(60) == 0


def test_another_users_server_finds_a_file_that_everybody_may_use(tmp_path):
    with Listener(tmp_path / "sock", other_users=True) as listener:
        listener.listen()
        assert stat.S_IMODE((tmp_path / "sock").stat().st_mode) == 0o666


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("", "the path of a socket is empty"),
        ("@name", "@name: a socket needs a path, abstract names are not supported; a file is ./@name"),
        ("a\0b", "a path with a zero byte"),
        ("FOLDER/" + "x" * 108, "bytes, the path of a socket has at most 107"),
        ("FOLDER/missing/sock", "FOLDER/missing: there is no such folder for a socket"),
        ("FOLDER/file/sock", "FOLDER/file: there is no such folder for a socket"),
        ("FOLDER", "FOLDER: is a folder: name a socket in it"),
        ("FOLDER/new/", "FOLDER/new: there is no such folder for a socket"),
        ("FOLDER/file", "FOLDER/file: is there already and is no socket"),
        ("FOLDER/link", "FOLDER/link: is there already and is a symbolic link: name what it points to"),
        ("FOLDER/dangling", "FOLDER/dangling: is there already and is a symbolic link"),
        ("FOLDER/pipe", "FOLDER/pipe: is there already and is no socket"),
        ("FOLDER/live", "FOLDER/live is in use by a live server"),
        ("FOLDER/datagrams", "FOLDER/datagrams is in use by a live server"),
        ("FOLDER/full", "FOLDER/full is in use by a live server"),
        ("FOLDER/locked", "FOLDER/locked.lock: is there already and is no lock file"),
        ("FOLDER/linked", "FOLDER/linked.lock: Too many levels of symbolic links"),
    ],
)
def test_what_cannot_be_a_socket_is_said_in_one_line_and_nothing_stays(tmp_path, path, why):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("nothing")
    (tmp_path / "linked.lock").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "locked.lock")
    with contextlib.ExitStack() as stack:
        for name, kind, backlog in (("live", 1, 8), ("full", 1, 0), ("datagrams", 2, None)):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
            sock.bind(str(tmp_path / name))
            if backlog is not None:
                sock.listen(backlog)
        stack.enter_context(connect(tmp_path / "full"))
        before = sorted(os.listdir(tmp_path))
        assert why.replace("FOLDER", str(tmp_path)) in refused(path.replace("FOLDER", str(tmp_path)))
        assert sorted(os.listdir(tmp_path)) == before
        assert (tmp_path / "file").read_text() == "precious"


def test_the_command_says_it_too(tmp_path):
    path = str(tmp_path / ("x" * 108))
    command = [sys.executable, "-m", "shm_server.cli", "serve", "--engine", "none", "--socket", path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr == f"shm-server serve: {path}: {len(path)} bytes, the path of a socket has at most 107\n"


@pytest.mark.parametrize("size", [MAX_PATH - 4, MAX_PATH - 3, MAX_PATH])
def test_the_longest_path_works(tmp_path, size):
    path = f"{tmp_path}/{'x' * (size - len(str(tmp_path)) - 1)}"
    assert len(path) == size
    with Listener(path) as listener:
        listener.listen()
        connect(path).close()
    assert os.listdir(tmp_path) == []


def test_a_relative_path_stays_where_it_was_when_the_model_changes_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Listener("sock") as listener:
        os.chdir("/")
        listener.listen()
        connect(tmp_path / "sock").close()
    assert os.listdir(tmp_path) == []


def test_the_default_is_the_users_own_folder_where_there_is_one(tmp_path, monkeypatch):
    for folder, path in (
        (str(tmp_path), f"{tmp_path}/shm-server.sock"),
        (f"{tmp_path}/missing", "/tmp/shm-server.sock"),
        ("relative", "/tmp/shm-server.sock"),
        ("", "/tmp/shm-server.sock"),
    ):
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        assert default_socket() == path
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert default_socket() == "/tmp/shm-server.sock"


def as_nobody(path: Path) -> str:
    """What a claim of the path says to the user nobody."""

    def child(answer) -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        try:
            Listener(path).close()
            answer.put("it is theirs")
        except (SocketInUse, OSError) as error:
            answer.put(words(error))

    answer = fork.SimpleQueue()
    process = fork.Process(target=child, args=(answer,))
    process.start()
    process.join()
    assert process.exitcode == 0
    return answer.get()


@needs_root
def test_what_another_user_left_is_named(open_folder):
    shared = open_folder / "shared"
    shared.mkdir()
    os.chmod(shared, 0o1777)
    path = shared / "sock"
    os.close(os.open(f"{path}.lock", os.O_CREAT, 0o600))
    assert as_nobody(path) == f"{path}.lock: is the lock of user root: use another path"
    Path(f"{path}.lock").unlink()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        os.chmod(path, 0o666)
    assert as_nobody(path) == f"{path}: {os.strerror(errno.EPERM)}"  # it may not be removed from a sticky folder
    os.chmod(path, 0o600)
    assert as_nobody(path) == f"{path}: is a socket of user root: use another path"
    path.unlink()
    os.chmod(shared, 0o755)
    assert as_nobody(path) == f"{path}.lock: {os.strerror(errno.EACCES)}"
    assert os.listdir(shared) == []


@needs_root
def test_root_may_use_a_lock_of_another_user_in_tmp(tmp_path):
    """protected_regular refuses it to whoever opens it with O_CREAT."""
    os.chmod(tmp_path, 0o1777)
    lock = tmp_path / "sock.lock"
    lock.touch()
    os.chown(lock, 65534, 65534)
    with Listener(tmp_path / "sock") as listener:
        listener.listen()
    assert os.listdir(tmp_path) == []


def test_a_lock_that_comes_and_goes_has_one_holder_at_a_time(tmp_path):
    """Several processes claim and leave the same path; who has it makes a file that must not be there yet."""

    def claim(path: Path, turns: int) -> None:
        while turns:
            with contextlib.suppress(SocketInUse), Listener(path) as listener:
                os.close(os.open(f"{path}.mine", os.O_CREAT | os.O_EXCL))
                listener.listen()
                os.unlink(f"{path}.mine")
                turns -= 1

    processes = [fork.Process(target=claim, args=(tmp_path / "sock", 100)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0] * 4
    assert os.listdir(tmp_path) == []
