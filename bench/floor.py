"""The floors: bench/floor/pingpong.c, two C processes that move the same bytes with nothing around it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from .histogram import Histogram


class Floor:
    """The compiled program."""

    def __init__(self, root: Path, directory: Path) -> None:
        self._program = directory / "pingpong"
        source = root / "bench" / "floor" / "pingpong.c"
        compiler = os.environ.get("CC", "cc")
        subprocess.run(
            [compiler, "-std=gnu11", "-O2", "-Wall", "-Wextra", "-o", str(self._program), str(source)], check=True
        )

    def run(self, way: str, rounds: int, seconds: float) -> dict[str, Any]:
        """So many round trips over `shm` or `socket`, or wake-ups (`wake`), or for so long, like what `Load.run` gives.

        Its warm-up is in the program.
        """
        command = [str(self._program), way, str(rounds), str(seconds)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + 300)
        samples = np.array(done.stdout.split(), np.int64)
        return {
            "histogram": Histogram.of(samples).encode(),
            "count": len(samples),
            "errors": 0,
            "wall_s": float(samples.sum()) / 1e9,
        }
