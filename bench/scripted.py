"""A generator whose own time is known: none at all, or so long for each token. What is left is the prompt lane's.

    python -m bench.scripted --socket PATH --spin forever     # a server of it, without a classifier

The prompt says what it does, and the sampling steps how often:

    instant ...      the words that follow, over and over, a piece each, at once
    paced 500        a piece each 500 us, busy meanwhile; it is the moment at which it was made, see `stamp`
"""

from __future__ import annotations

import argparse
import itertools
import logging
import signal
import time
from collections.abc import Iterator

from shm_server import Server
from shm_server.door.supervisor import Supervisor
from shm_server.generators import Limits, Sampling, check_prompt
from shm_server.layout import Protocol

MAX_SESSIONS = 4


class Script:
    """One prompt that is followed."""

    prompt_tokens = tokens = 0
    finished = None

    def __init__(self, pieces: Iterator[str]) -> None:
        self._pieces = pieces

    def step(self) -> str | None:
        piece = next(self._pieces, None)
        if piece is None:
            self.finished = "length"
        return piece

    def close(self) -> None:
        pass


class Scripted:
    """The generator."""

    name, note, limits, concurrent = "scripted", "", Limits(None, None), False

    def start(self, prompt: str, sampling: Sampling) -> Script:
        check_prompt(prompt)
        verb, *words = prompt.split()
        if verb == "instant":
            return Script(itertools.islice(itertools.cycle([f"{word} " for word in words]), sampling.steps))
        if verb == "paced":
            return Script(paced(float(words[0]), sampling.steps))
        raise ValueError(f"no script: {prompt}")


def paced(us: float, steps: int) -> Iterator[str]:
    due = 0
    for _ in range(steps):
        while time.monotonic_ns() < due:
            pass
        due = time.monotonic_ns() + int(us * 1000)
        yield stamp()


def stamp() -> str:
    """This moment, in nanoseconds of CLOCK_MONOTONIC."""
    return f"{time.monotonic_ns()} "


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.scripted")
    parser.add_argument("--socket", required=True, metavar="PATH")
    parser.add_argument("--spin", type=float, required=True, metavar="US", help="of the prompt lane; inf: always")
    parser.add_argument("--prompt-priority", choices=("idle", "normal"), default="idle", help="as of shm-server serve")
    args = parser.parse_args()
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    idle = args.prompt_priority == "idle"
    options = {"engine": "bench.scripted:Scripted"}
    generator = Supervisor(Protocol.STREAM, options, spin_us=args.spin, max_sessions=MAX_SESSIONS, idle=idle)
    try:
        generator.wait_ready()
        # The call lane, which nobody uses, takes no core from the prompts.
        server = Server(None, args.socket, spin_us=0, max_sessions=MAX_SESSIONS, generator=generator)
        signal.signal(signal.SIGTERM, lambda *_: server.stop())
        server.run()
    finally:
        generator.stop()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
