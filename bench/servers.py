"""The servers of a benchmark: started once, and stopped (SIGSTOP) while it is not their turn.

A server that spins would otherwise take a core from everybody else. A stopped process uses nothing at all.

    with Fleet(directory, engine="tensorflow", names=IMAGES) as fleet:
        with fleet.only("spinning") as server:
            ...                                   # server.pid, server.address("shm")
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from . import orders
from .engine_limit import EngineProcess
from .machine import die_with_parent, group_states
from .orders import OrderProcess
from .prompt_limit import PromptProcess

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 600.0  # eight at a time, also on a busy machine
STOP_SECONDS = 60.0

# Ours, by how they wait, and the gateway; then the baselines of bench/peers.
IMAGES = ("spinning", "default", "parked", "gateway", "uds", "grpc", "http")
# One that serves pictures and prompts by default; and those of bench/scripted.py, by how they wait.
PROMPTS = "prompts"
# The socket peer of rows, and servers of bench/rows.py: see `of`.
PACKETS = "packets"
UNTOUCHED, TOUCHED = "untouched", "touched"
# And such that have so many processes of bench.rows:one_ms.
REPLICAS = "replicas"
SCRIPTED = {"scripted-spinning": "inf", "scripted-default": "100", "scripted-parked": "0"}


class ServerError(Exception):
    """A server that did not start, or ended. Its text has the end of the server's log."""


class Server:
    """One server process, at an address for each of its transports; it logs each of them when clients can connect."""

    def __init__(self, name: str, command: list[str], addresses: dict[str, str], log: Path) -> None:
        self.name, self._addresses, self._log, self._begun = name, addresses, log, time.monotonic()
        with log.open("wb") as out:
            # A process group of its own: its generator's process is stopped with it. Should the benchmark be killed,
            # the kernel ends what is stopped in a group that has nobody left outside.
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out, stderr=out, preexec_fn=die_with_parent,
                process_group=0,
            )  # fmt: skip
        self.pid = self.process.pid

    def address(self, transport: str) -> str:
        return self._addresses[transport]

    def ready(self) -> bool:
        """Whether it has started. ServerError when it has ended, or takes too long."""
        log = self._log.read_text()
        if all(f"listening on {address}" in log for address in self._addresses.values()):
            return True
        self.check()
        if time.monotonic() > self._begun + START_SECONDS:
            raise ServerError(f"the server {self.name!r} did not start within {START_SECONDS:g} s:\n{self._tail()}")
        return False

    def check(self) -> None:
        """Raise ServerError when it has ended."""
        if self.process.poll() is not None:
            raise ServerError(f"the server {self.name!r} ended ({self.process.returncode}):\n{self._tail()}")

    def freeze(self) -> None:
        """Stop all of its processes. They stop a moment after the signal: only then does the kernel count them as such,
        which matters to others on this machine, and where the benchmark is killed.
        """
        self._signal(signal.SIGSTOP)
        end = time.monotonic() + STOP_SECONDS
        while set(group_states(self.pid).values()) - {"T"} and time.monotonic() < end:
            time.sleep(0.001)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # all of it has ended
            os.killpg(self.pid, number)

    @contextlib.contextmanager
    def pinned(self, cpu: int | None) -> Iterator[None]:
        """Keep all of its threads, and those that they start, on one core; None leaves them where they are."""
        if cpu is None:
            yield
            return
        everywhere = os.sched_getaffinity(self.pid)
        self._place({cpu})
        try:
            yield
        finally:
            self._place(everywhere)

    def _place(self, cpus: set[int]) -> None:
        for pid in group_states(self.pid):
            for thread in os.listdir(f"/proc/{pid}/task"):
                with contextlib.suppress(ProcessLookupError):  # it has ended
                    os.sched_setaffinity(int(thread), cpus)

    @property
    def serving(self) -> int:
        """The process that answers: of the pictures' model, where that has one of its own."""
        others = sorted(set(group_states(self.pid)) - {self.pid})
        return others[0] if others else self.pid

    def stop(self) -> None:
        self.thaw()
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self.process.wait()

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-12:])


class Fleet:
    """All servers, and the processes in which engines are called directly. Use as a context manager."""

    def __init__(
        self, directory: Path, engine: str, names: tuple[str, ...] = IMAGES, prompt_priority: str = "idle"
    ) -> None:
        self.engine_name, self._directory, self._prompt_priority = engine, directory, prompt_priority
        self._names = names
        self.servers: dict[str, Server] = {}
        self.engine: EngineProcess | None = None
        self.generator: PromptProcess | None = None

    def __enter__(self) -> Fleet:
        try:
            self.servers = {name: self._start(name) for name in self._names}
            if self.engine_name != "none":
                self.engine = EngineProcess(self.engine_name, self._directory / "engine.log")
            if PROMPTS in self._names:
                self.generator = PromptProcess(self._directory / "generator.log")
            self._freeze_all()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _freeze_all(self) -> None:
        """Each as soon as it is ready: it may spin, and others still load."""
        loading: list[Server | OrderProcess] = [*self.servers.values(), *self._in_process()]
        while loading:
            for process in [each for each in loading if each.ready()]:
                process.freeze()
                loading.remove(process)
            time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        for process in (*self.servers.values(), *self._in_process()):
            process.stop()

    def _in_process(self) -> list[OrderProcess]:
        return [each for each in (self.engine, self.generator) if each]

    @contextlib.contextmanager
    def only(self, name: str) -> Iterator[Server]:
        """Let the server of that name run, and no other."""
        server = self.servers[name]
        server.check()
        server.thaw()
        try:
            yield server
            server.check()
        finally:
            server.freeze()

    def _start(self, name: str) -> Server:
        path = self._directory / name
        shm, log = f"{path}.shm", Path(f"{path}.log")
        if name == "grpc":
            command = [
                *orders.PYTHON,
                "bench.peers.grpc_peer",
                "--socket",
                f"{path}.grpc",
                "--engine",
                self.engine_name,
            ]
            return Server(name, command, {"grpc": f"{path}.grpc"}, log)
        if name == "uds":
            command = [*orders.PYTHON, "bench.peers.uds_peer", "--socket", f"{path}.uds", "--engine", self.engine_name]
            return Server(name, command, {"uds": f"{path}.uds"}, log)
        if name == "http":
            at = f"127.0.0.1:{free_port()}"
            command = [*orders.PYTHON, "gunicorn", "--config", "bench/peers/gunicorn_settings.py", "--bind", at]
            command.append(f"bench.peers.flask_peer:application({self.engine_name!r})")
            return Server(name, command, {"http": f"http://{at}"}, log)
        if name == PACKETS:
            command = [*orders.PYTHON, "bench.packet_peer", "--socket", f"{path}.packets"]
            return Server(name, command, {"packets": f"{path}.packets"}, log)
        if name.startswith((UNTOUCHED, TOUCHED)):
            what, _, size = name.partition("-")
            command = [*orders.PYTHON, "bench.rows", "--socket", shm, "--bytes", size]
            command += ["--untouched"] if what == UNTOUCHED else []
            return Server(name, command, {"shm": shm}, log)
        if name.startswith(REPLICAS):
            command = [*orders.PYTHON, "shm_server.cli", "serve", "bench.rows:one_ms", "--socket", shm]
            return Server(name, [*command, "--replicas", name.rpartition("-")[2]], {"shm": shm}, log)
        if name in SCRIPTED:
            command = [*orders.PYTHON, "bench.scripted", "--socket", shm, "--spin", SCRIPTED[name]]
            command += ["--prompt-priority", self._prompt_priority]
            return Server(name, command, {"shm": shm}, log)
        command = [*orders.PYTHON, "shm_server.cli", "serve", "--engine", self.engine_name, "--socket", shm]
        command += ["--generator", "tiny" if name == PROMPTS else "none"]
        addresses = {"shm": shm}
        if name == "gateway":
            at = f"127.0.0.1:{free_port()}"
            return Server(name, [*command, "--http", at], {"http": f"http://{at}"}, log)
        if name == PROMPTS:
            command += ["--prompt-priority", self._prompt_priority]
        elif name != "default":
            command += ["--spin", {"spinning": "forever", "parked": "0"}[name]]
        return Server(name, command, addresses, log)


def of(kind: str, number: int) -> str:
    """The name of a server of rows of so many bytes, UNTOUCHED or TOUCHED, or of so many REPLICAS."""
    return f"{kind}-{number}"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
