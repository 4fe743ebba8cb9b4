"""Generators that need no framework, for tests: the prompt says what to do. See `Script`.

A server has them as `stub_generators:computing`, or what else stands under "what a server loads". Run as a program
this is such a server: stub_generators.py SOCKET NAME [HTTP_PORT [METRICS_PORT]].
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from shm_server import Server, generators
from shm_server.door.replica import Backoff
from shm_server.door.supervisor import Supervisor
from shm_server.gateways.address import Tcp, bind
from shm_server.gateways.hosted import Gateway
from shm_server.generators import Limits, Sampling
from shm_server.layout import Protocol
from shm_server.runtime import logs


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise SystemExit("no text")


# What a generator may raise, and what it may return for a text.
HOSTILE = (
    ValueError("\ud800 half a pair"),
    Unspeakable(),
    SystemExit(3),
    KeyboardInterrupt(),
    GeneratorExit(),
    MemoryError(),
    BaseExceptionGroup("several", [SystemExit(), KeyboardInterrupt()]),
    generators.Broken("\ud800 of an endpoint"),
    "half a pair: \ud800",
    b"bytes",
    7,
)
ERRORS = [number for number, each in enumerate(HOSTILE) if isinstance(each, BaseException)]


class Script:
    """Follows a prompt's words, one a step: `say:TEXT`, `sleep:SECONDS`, `await:FILE` and `until:FILE` until it exists,
    the former within one step, the latter step by step, `fail:KIND`, `hang` until it is closed, `bug`, `die`,
    `fork:FILE`, `repeat` says "." for each sampling step. A prompt `start-bug` raises in `start`. `params` says the
    sampling. `raise:N` raises and `give:N` returns what HOSTILE has; `close:N` and a prompt `start:N` raise it in
    `close` and in `start`.
    """

    prompt_tokens = tokens = 0
    finished = _raised = None

    def __init__(self, prompt: str, sampling: Sampling) -> None:
        generators.check_prompt(prompt)
        self._sampling = sampling
        self._closed = threading.Event()
        self._steps = self._follow(prompt.split())

    def _follow(self, words):
        for word in words:
            verb, _, rest = word.partition(":")
            if verb == "say":
                yield rest
            elif verb == "sleep":
                time.sleep(float(rest))
                yield ""
            elif verb == "await":
                while not os.path.exists(rest):
                    time.sleep(0.001)
                yield ""
            elif verb == "until":
                while not os.path.exists(rest):
                    time.sleep(0.001)
                    yield ""
            elif verb == "fail":
                raise getattr(generators, rest)(f"it is {rest}")
            elif verb == "hang":
                self._closed.wait()
                raise generators.Broken("closed")
            elif verb == "bug":
                raise ZeroDivisionError("a bug " + "é" * 500)
            elif verb == "repeat":
                for _ in range(self._sampling.steps):
                    yield rest or "."
            elif verb == "raise":
                raise HOSTILE[int(rest)]
            elif verb == "give":
                yield HOSTILE[int(rest)]
            elif verb == "close":
                self._raised = HOSTILE[int(rest)]
            elif verb == "fork":  # a child that has what we have, until the file exists
                if not os.fork():
                    signal.alarm(600)  # should the test be killed
                    while not os.path.exists(rest):
                        time.sleep(0.001)
                    os._exit(0)
                yield ""
            elif verb == "die":
                os._exit(7)
            elif verb == "params":
                s = self._sampling
                yield f"{s.steps} {s.temperature} {s.top_k} {s.seed}"
            else:
                yield word + " "

    def step(self):
        piece = next(self._steps, None)
        if piece is None:
            self.finished = "stop"
        return piece

    def close(self) -> None:
        self._closed.set()
        if self._raised:
            raise self._raised


class Stub:
    name, note, limits = "stub", "It does as it is told.", Limits(None, None)

    def __init__(self, concurrent: bool) -> None:
        self.concurrent = concurrent

    def start(self, prompt: str, sampling: Sampling) -> Script:
        if prompt == "start-bug":
            raise ZeroDivisionError("a bug in start")
        if prompt.startswith("start:"):
            raise HOSTILE[int(prompt.partition(":")[2])]
        return Script(prompt, sampling)


# -- what a server loads


def computing() -> Stub:
    return Stub(concurrent=False)


def waiting() -> Stub:
    return Stub(concurrent=True)


def endless() -> Stub:
    threading.Event().wait()


def broken() -> Stub:
    raise generators.ModelError("this generator is broken")


def told() -> Stub:
    """Loads as the file $STUB_TOLD says: "die", "fail" or "wait" until it says otherwise; well while there is none."""
    while True:
        try:
            how = Path(os.environ["STUB_TOLD"]).read_text()
        except FileNotFoundError:
            return computing()
        if how == "die":
            os._exit(7)
        if how == "fail":
            raise generators.ModelError("it was told to fail")
        time.sleep(0.001)


def supervised(name: str, **serving) -> Supervisor:
    """One of these in a process of its own; a server that is kept busy would let an idle one have no core at all."""
    serving = {"spin_us": 100.0, "max_sessions": 4, "idle": False, "backoff": Backoff(first=0.01, most=0.05)} | serving
    return Supervisor(Protocol.STREAM, {"engine": f"stub_generators:{name}"}, **serving)


def serve(socket: str, engine: str, http_port: int | None = None, metrics_port: int | None = None) -> None:
    """A server with a prompt lane and no classifier, and HTTP on a port if there is one."""
    logs.configure()
    generator = supervised(engine, idle=bool(os.environ.get("STUB_IDLE")))
    generator.wait_ready()
    server = Server(None, socket, generator=generator)
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    web = None
    if http_port is not None:
        web = Gateway("http", bind(Tcp(http_port)), {"socket": socket})
        web.start()
    if metrics_port is not None:
        from shm_server.gateways import metrics

        metrics.Server(server, bind(Tcp(metrics_port))).start()

    def end() -> None:  # before the counters are logged, as the command has it
        if web:
            web.stop()
        generator.stop()

    server.at_end = end
    server.run()


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
