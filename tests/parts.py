"""A server of several parts, for tests: its fixture is `site`, of conftest.py."""

import json
import os
import re
import signal
from http.client import HTTPConnection
from urllib.request import urlopen

from client import connect, hello, read_reason
from conftest import workers

from shm_server.layout import FrameKind, Protocol, Reason

JSON = {"Content-Type": "application/json"}


class Site:
    """A server with a generator, HTTP and metrics (tests/stub_generators.py)."""

    def __init__(self, server) -> None:
        self.server = server
        self.metrics_port = int(re.search(r"metrics at http://127\.0\.0\.1:(\d+)", server.log)[1])
        self.port = int(re.search(r"listening on http://127\.0\.0\.1:(\d+)", server.log)[1])

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, dict]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body and json.dumps(body), JSON)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())

    def page(self) -> str:
        return urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=60).read().decode()

    def metrics(self) -> dict[str, float]:
        lines = [line.rsplit(" ", 1) for line in self.page().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, value in lines}

    def up(self) -> bool:
        return self.ask("GET", "/healthz")[0] == 200

    def starts(self) -> float:
        """How often the generator's process was started; once it counts, the end of the last one is known."""
        return self.metrics()["shm_worker_starts_total"]

    def crashes(self) -> float:
        return self.metrics()["shm_worker_crashes_total"]

    def refused(self) -> str:
        """What a client of the prompt lane is told that is refused because there is no generator."""
        with connect(self.server.socket) as sock:
            sock.sendall(hello(protocol=Protocol.STREAM))
            kind, reason, words = read_reason(sock)
        assert (kind, reason) == (FrameKind.REFUSAL, Reason.STARTING)
        return words

    def generator(self) -> int:
        (pid,) = workers(self.server.pid)
        return pid

    def kill(self) -> None:
        """Kill the generator's process."""
        os.kill(self.generator(), signal.SIGKILL)
