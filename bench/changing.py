"""A server whose model is loaded again, and that is replaced by another one at the same path.

with ChangingServer("bench.rows:small", directory) as served:
    served.reload()
    served.take_over()
    ...                                  # served.server is the one that serves now
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from . import orders
from .machine import ROOT
from .servers import STOP_SECONDS, Server, ServerError


class ChangingServer:
    """`shm-server serve SOURCE`, as a context manager. ServerError when something is not replaced as it should be."""

    def __init__(self, source: str, directory: Path) -> None:
        self._path, self._directory, self._started = str(directory / "changing.shm"), directory, 0
        self._command = [*orders.PYTHON, "shm_server.cli", "serve", source, "--socket", self._path]
        self.server: Server | None = None

    def __enter__(self) -> ChangingServer:
        self.server = self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop()

    def reload(self) -> None:
        """Have the model loaded again, and wait until the new process serves."""
        command = [*orders.PYTHON, "shm_server.cli", "reload", "--socket", self._path]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise ServerError(f"a reload failed ({done.returncode}): {done.stdout}{done.stderr}")

    def take_over(self) -> None:
        """Start another server in this one's place, and wait until this one has left."""
        before, self.server = self.server, self._start("--takeover")
        try:
            code = before.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            before.stop()
            raise ServerError(f"{before.name!r} was taken over from and does not end") from None
        if code:
            before.check()

    def _start(self, *flags: str) -> Server:
        self._started += 1
        name = f"changing-{self._started}"
        server = Server(name, [*self._command, *flags], {"shm": self._path}, self._directory / f"{name}.log")
        try:
            while not server.ready():
                time.sleep(0.01)
        except ServerError:
            server.stop()
            raise
        return server
