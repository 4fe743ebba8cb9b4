"""Runs of bench/go's `load`: one process that calls one server and prints what it measured."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .contestants import Contestant
from .machine import die_with_parent
from .servers import Server

# What a run may take beyond its own time: connecting, warming up, and the last calls of an overloaded server.
PATIENCE_SECONDS = 300.0


class LoadError(Exception):
    """A run that measured nothing. Its text says why."""


class Load:
    """The program, and what all of its runs have in common."""

    def __init__(self, program: Path, pictures: Path, labels: Path, seed: int, warm_up: int) -> None:
        self.program, self.pictures, self.labels, self.seed, self.warm_up = program, pictures, labels, seed, warm_up

    def run(self, contestant: Contestant, server: Server, op: str, **flags: float | str) -> dict[str, Any]:
        """One run, from start to end. `flags` are load's own: seconds, calls, callers, rate."""
        with self.hold(contestant, server, op, **flags) as run:
            return run.go()

    @contextlib.contextmanager
    def hold(
        self,
        contestant: Contestant,
        server: Server,
        op: str,
        observe: bool = True,
        until_stopped: bool = False,
        **flags: float | str,
    ) -> Iterator[Run]:
        """A run that is connected and warm, and waits to be let go. `observe`: it reads what the server uses.
        `until_stopped`: `Run.stop` ends it, or else its time does.
        """
        command = [
            str(self.program), "-hold", "-transport", contestant.transport, "-op", op,
            "-address", server.address(contestant.transport), "-spin", contestant.spin,
            "-seed", str(self.seed), "-warmup", str(self.warm_up),
        ]  # fmt: skip
        if observe:
            command += ["-server", str(server.serving)]
        if op == "classify":
            command += ["-pictures", str(self.pictures), "-labels", str(self.labels)]
        if until_stopped:
            command.append("-until-line")
        if contestant.apart:
            command += ["-core", str(contestant.apart[0])]
        for name, value in flags.items():
            command += [f"-{name}", str(value) if isinstance(value, str | int) else f"{value:g}"]
        run = Run(command, flags.get("seconds", 0.0) + PATIENCE_SECONDS, contestant.cpu)
        try:
            run.wait_until_ready()
            yield run
        finally:
            run.end()


class Run:
    """A started `load`."""

    def __init__(self, command: list[str], seconds: float, cpu: int | None = None) -> None:
        def prepare() -> None:
            die_with_parent()
            if cpu is not None:
                os.sched_setaffinity(0, {cpu})

        self._seconds, self._command = seconds, command
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, preexec_fn=prepare)
        self.pid = self._process.pid

    def wait_until_ready(self) -> None:
        if self._process.stdout.readline() != "ready\n":
            raise LoadError(self._why())

    def release(self) -> None:
        """Let it begin to measure."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def stop(self) -> None:
        """Have it stop before its time is over. Of a run that was started with `until_stopped`."""
        self.release()

    def wait_until_measured(self) -> None:
        """Until it has printed its result. It does not end before `result` is called."""
        if not select.select([self._process.stdout], [], [], self._seconds)[0]:
            raise LoadError(f"no end after {self._seconds:g} s: {' '.join(self._command)}")

    def result(self) -> dict[str, Any]:
        """What it measured, also when calls failed: then `errors` is not 0."""
        self.wait_until_measured()
        try:
            out, errors = self._process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise LoadError(f"it does not end: {' '.join(self._command)}") from None
        if not out.strip():
            raise LoadError(errors.strip() or "it printed nothing")
        return json.loads(out.splitlines()[-1])

    def go(self) -> dict[str, Any]:
        self.release()
        return self.result()

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()

    def _why(self) -> str:
        try:
            _, errors = self._process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            return "it did not become ready"
        return errors.strip() or f"it ended with {self._process.returncode}"


def build(root: Path, program: Path) -> None:
    """Compile bench/go."""
    subprocess.run([go(root), "build", "-o", str(program), "./load"], cwd=root / "bench" / "go", check=True)


def go(root: Path) -> str:
    """The Go command: the one in $GO, the one that make put into .venv, or the one on PATH."""
    own = root / ".venv" / "bin" / "go"
    return os.environ.get("GO") or (str(own) if own.exists() else "go")
