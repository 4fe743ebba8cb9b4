"""Generators called in process, through the same `Turns`: what the prompt lane is measured against.

    python -m bench.prompt_limit        # reads orders from stdin, one JSON object a line

An order names a generator, "tiny" or "scripted", and has prompts, each with text, steps and seed. {"reply": true} is
answered with the text of each reply and how many pieces it had; {"seconds": S} with histograms of the time to the first
piece and of the time by the piece after it, or, "stamped", of the time since a piece was made.
"""

from __future__ import annotations

import gc
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from shm_server.generators import Generator, Sampling, load_generator
from shm_server.generators.turns import Turns
from shm_server.models.quiet import quiet_imports

from .histogram import Histogram
from .orders import OrderProcess, carry_out
from .scripted import Scripted

# Replies before they count.
WARM_UP = 3


# -- in a process of its own


def speak(turns: Turns, prompt: dict[str, Any]) -> tuple[int, list[tuple[str, int]]]:
    """When a prompt was put in line, and the pieces of its reply and when they came; nanoseconds."""
    now, pieces = time.monotonic_ns, []
    begun = now()
    job = turns.add(prompt["text"], Sampling(steps=prompt["steps"], seed=prompt["seed"]))
    while not turns.idle:
        for _, piece in turns.round():
            if piece is not None:
                pieces.append((piece, now()))
    if job.error:
        raise job.error
    return begun, pieces


def reply(turns: Turns, prompts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each prompt is answered."""
    replies = [[piece for piece, _ in speak(turns, prompt)[1]] for prompt in prompts]
    return [{"reply": "".join(pieces), "pieces": len(pieces)} for pieces in replies]


def measure(turns: Turns, prompts: list[dict[str, Any]], seconds: float, stamped: bool) -> dict[str, Any]:
    """Let the generator answer for so long, one prompt at least."""
    first, later = [], []
    for prompt in prompts[:WARM_UP]:
        speak(turns, prompt)
    end = time.monotonic() + seconds
    while not first or time.monotonic() < end:
        begun, pieces = speak(turns, prompts[len(first) % len(prompts)])
        first.append(pieces[0][1] - begun)
        if stamped:
            later += [came - int(piece) for piece, came in pieces]
        else:
            later.append((pieces[-1][1] - pieces[0][1]) // (len(pieces) - 1))
    histograms = [Histogram.of(np.array(samples, np.int64)).encode() for samples in (first, later)]
    return {
        "histogram": histograms[0], "pieces": histograms[1], "count": len(first), "errors": 0, "wall_s": seconds,
    }  # fmt: skip


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the benchmark ends us
    with quiet_imports():
        tiny = load_generator("tiny", threads=1)
    generators: dict[str, Generator] = {"tiny": tiny, "scripted": Scripted()}
    turns = {name: Turns(generator) for name, generator in generators.items()}
    gc.collect()
    gc.freeze()

    def answer(order: dict[str, Any]) -> Any:
        mine = turns[order["generator"]]
        if order.get("reply"):
            return reply(mine, order["prompts"])
        return measure(mine, order["prompts"], order["seconds"], order["stamped"])

    carry_out(tiny.name, answer)


# -- in the benchmark


class PromptProcess(OrderProcess):
    """That process, as a member of the fleet."""

    def __init__(self, log: Path) -> None:
        super().__init__("bench.prompt_limit", log=log)

    def reply(self, generator: str, prompts: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The reply to each prompt, and how many pieces it has."""
        return self.order({"generator": generator, "prompts": prompts, "reply": True})

    def measure(
        self, generator: str, prompts: list[dict[str, Any]], seconds: float, stamped: bool = False
    ) -> dict[str, Any]:
        """Let it run alone for so long: a result of `load`'s shape."""
        return self.order({"generator": generator, "prompts": prompts, "seconds": seconds, "stamped": stamped})


if __name__ == "__main__":
    main()
