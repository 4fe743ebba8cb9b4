"""A process of ours that carries out orders: one JSON object a line in, one out. It is frozen while it has none."""

from __future__ import annotations

import json
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .machine import ROOT, die_with_parent

# What starts a module as a process; tests put another model in it.
PYTHON = [sys.executable, "-m"]


class OrderProcess:
    """`python -m module` of ours, seen from the benchmark. It says what it is called as soon as it is ready."""

    def __init__(self, module: str, *args: str, log: Path) -> None:
        self._log = log
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                [*PYTHON, module, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                text=True, cwd=ROOT, preexec_fn=die_with_parent,
            )  # fmt: skip
        self.name = ""

    def ready(self) -> bool:
        """Whether it has said that it is. RuntimeError when it has ended."""
        if not self.name and select.select([self.process.stdout], [], [], 0)[0]:
            self.name = self._read()["ready"]
        return bool(self.name)

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def order(self, order: dict[str, Any]) -> Any:
        """Let it run alone until it has answered."""
        self.process.send_signal(signal.SIGCONT)
        try:
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
            return self._read()
        finally:
            self.freeze()

    def _read(self) -> Any:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a process of the benchmark ended:\n{self._log.read_text(errors='replace')[-2000:]}")
        return json.loads(line)


def carry_out(name: str, answer: Callable[[dict[str, Any]], Any]) -> None:
    """That process: say that it is ready, and answer orders until there are no more."""
    print(json.dumps({"ready": name}), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
