"""Rounds: each visits everybody once, in an order of its own, so that what drifts on a machine hits all alike."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


class Progress:
    """One line on stderr that says what is measured; where that is no terminal, a line every ten seconds."""

    def __init__(self) -> None:
        self._begun, self._said, self._terminal = time.monotonic(), 0.0, sys.stderr.isatty()

    def say(self, what: str) -> None:
        now = time.monotonic()
        if not self._terminal and self._said and now - self._said < 10:
            return
        self._said = now
        seconds = int(now - self._begun)
        line = f"[{seconds // 60}:{seconds % 60:02}] {what}"
        before, end = ("\r\033[K", "") if self._terminal else ("", "\n")
        print(f"{before}{line}", end=end, file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._terminal:
            print(file=sys.stderr)


def interleaved(contestants: Sequence[T], rounds: int, seed: int, name: str, progress: Progress) -> Iterator[T]:
    """Every contestant in every round. The order comes from the seed and the section's name."""
    order = random.Random(f"{seed}/{name}")
    for number in range(rounds):
        for each in order.sample(contestants, len(contestants)):
            what = ", ".join(map(str, each)) if isinstance(each, tuple) else each
            progress.say(f"{name}, round {number + 1} of {rounds}: {what}")
            yield each
