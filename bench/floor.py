"""The floors, bench/floor: two C processes that move the same bytes with nothing around it; and a copy of them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from .histogram import Histogram

SOURCES = ("pingpong.c", "rows.c")


class Floor:
    """The compiled programs. What a run gives is like what `Load.run` gives; its warm-up is in the program."""

    def __init__(self, root: Path, directory: Path) -> None:
        self._pingpong, self._rows = (_compiled(root / "bench" / "floor" / name, directory) for name in SOURCES)

    def run(self, way: str, rounds: int, seconds: float) -> dict[str, Any]:
        """So many round trips over `shm` or `socket`, or wake-ups (`wake`), or for so long."""
        return _run([self._pingpong, way, rounds, seconds], seconds)

    def rows(
        self, way: str, size: int, rounds: int, seconds: float, apart: tuple[int, int] | None = None
    ) -> dict[str, Any]:
        """So many copies of a row of `size` bytes, or for so long: `memcpy`, `touched` or `untouched`, see rows.c. With
        `apart` each process is pinned to a core.
        """
        return _run([self._rows, way, size, rounds, seconds, *(apart or ())], seconds)


def _compiled(source: Path, directory: Path) -> Path:
    program = directory / source.stem
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, "-std=gnu11", "-O2", "-Wall", "-Wextra", "-o", str(program), str(source)], check=True)
    return program


def _run(command: list[object], seconds: float) -> dict[str, Any]:
    done = subprocess.run([*map(str, command)], check=True, capture_output=True, text=True, timeout=seconds + 300)
    samples = np.array(done.stdout.split(), np.int64)
    return {
        "histogram": Histogram.of(samples).encode(),
        "count": len(samples),
        "errors": 0,
        "wall_s": float(samples.sum()) / 1e9,
    }
