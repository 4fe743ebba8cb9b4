"""The engine called in process, through the same Classifier: the limit of what a transport can reach.

    python -m bench.engine_limit --engine tensorflow        # reads orders from stdin, one JSON object a line

An order is {"batch": N, "seconds": S}, answered with how long each call took, or {"pictures": FILE}, answered with
the label of every picture and how far it is ahead of the second one. Other than the servers' it has no transport
around it; the thread, its settings and the alignment of the pixels are the same.
"""

from __future__ import annotations

import argparse
import gc
import json
import mmap
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from shm_server.models import Classifier, load_classifier, warm_up

from .machine import ROOT, die_with_parent

MAX_BATCH = 32  # shm-server's default
BATCHES = tuple(1 << i for i in range(MAX_BATCH.bit_length()))
# Calls of each batch size before they count; `warm_up` has compiled for it before.
WARM_UP = 20
IMAGE = (3, 32, 32)
READY_SECONDS = 180.0


# -- in a process of its own


def measure(classifier: Classifier, pictures: np.ndarray, batch: int, seconds: float) -> dict[str, Any]:
    """Call the engine for so long, with other pictures at each call; putting them in place is not timed."""
    from .histogram import Histogram

    # Page-aligned, as a batch in the slots.
    pixels = np.frombuffer(mmap.mmap(-1, batch * 3072), np.uint8).reshape(batch, *IMAGE)
    scores, now = classifier.scores, time.perf_counter_ns
    samples = np.zeros(1 + int(seconds * 1e6), np.int64)  # no call takes less than a microsecond
    count, at, label, expected = -WARM_UP, 0, 0, _best(classifier, pictures)
    end = 0.0
    while True:
        if count == 0:
            end = time.perf_counter() + seconds
        rows = np.arange(at, at + batch) % len(pictures)
        pixels[:] = pictures[rows]
        at += batch
        begun = now()
        label = scores(pixels).argmax(axis=1)  # the servers look for the best class too
        took = now() - begun
        if (label != expected[rows]).any():
            raise RuntimeError(f"a batch of {batch} gives other labels than single pictures")
        if count >= 0:
            samples[count] = took
        count += 1
        if count > 0 and (time.perf_counter() >= end or count == len(samples)):
            break
    latency = Histogram.of(samples[:count])
    busy = float(samples[:count].sum()) / 1e9
    return {
        "histogram": latency.encode(),
        "count": count,
        "errors": 0,
        "images_per_s": count * batch / busy,
        "wall_s": busy,  # in the engine; putting pictures in place is not its work
    }


def label(classifier: Classifier, pictures: np.ndarray) -> dict[str, Any]:
    """The label of each picture, alone in its batch, and the score by which it leads."""
    scores = np.concatenate([classifier.scores(pictures[i : i + 1].copy()) for i in range(len(pictures))])
    ranked = np.sort(scores, axis=1)
    names = [classifier.class_names[best] for best in scores.argmax(axis=1)]
    return {"labels": names, "margins": (ranked[:, -1] - ranked[:, -2]).tolist()}


def _best(classifier: Classifier, pictures: np.ndarray) -> np.ndarray:
    return np.array([classifier.scores(picture[np.newaxis].copy())[0].argmax() for picture in pictures])


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.engine_limit")
    parser.add_argument("--engine", required=True)
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the benchmark ends us
    classifier = load_classifier(args.engine, threads=1)
    warm_up(classifier, BATCHES)
    gc.collect()
    gc.freeze()
    pictures = np.zeros((1, *IMAGE), np.uint8)
    print(json.dumps({"ready": classifier.name, "classes": list(classifier.class_names)}), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "pictures" in order:
            pictures = np.fromfile(order["pictures"], np.uint8).reshape(-1, *IMAGE)
            answer = label(classifier, pictures)
        else:
            answer = measure(classifier, pictures, order["batch"], order["seconds"])
        print(json.dumps(answer), flush=True)


# -- in the benchmark


class EngineProcess:
    """That process, as a member of the fleet: frozen while it is not its turn."""

    def __init__(self, engine: str, log: Path) -> None:
        command = [sys.executable, "-m", "bench.engine_limit", "--engine", engine]
        self._log = log
        with log.open("wb") as errors:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                cwd=ROOT, preexec_fn=die_with_parent,
            )  # fmt: skip
        self.name = ""

    def wait_until_ready(self) -> None:
        self.name = self._read()["ready"]

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def labels(self, pictures: Path) -> dict[str, Any]:
        """The labels of a file of pictures, which also are the ones that `measure` takes from now on."""
        return self._order({"pictures": str(pictures)})

    def measure(self, batch: int, seconds: float) -> dict[str, Any]:
        """Let it run alone for so long."""
        return self._order({"batch": batch, "seconds": seconds})

    def _order(self, order: dict[str, Any]) -> dict[str, Any]:
        self.process.send_signal(signal.SIGCONT)
        try:
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
            return self._read()
        finally:
            self.freeze()

    def _read(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the engine's process ended:\n{self._log.read_text(errors='replace')[-2000:]}")
        return json.loads(line)


if __name__ == "__main__":
    main()
