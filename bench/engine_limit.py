"""The engine called in process, through the same Classifier: the limit of what a transport can reach.

    python -m bench.engine_limit --engine tensorflow        # reads orders from stdin, one JSON object a line

An order is {"batch": N, "seconds": S}, answered with how long each call took, or {"pictures": FILE}, answered with
the label of every picture and how far it is ahead of the second one. Other than the servers' it has no transport
around it; the thread, its settings and the alignment of the pixels are the same.
"""

from __future__ import annotations

import argparse
import gc
import mmap
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from shm_server.models import Classifier, load_classifier, warm_up

from .orders import OrderProcess, carry_out

MAX_BATCH = 32  # shm-server's default
BATCHES = tuple(1 << i for i in range(MAX_BATCH.bit_length()))
# Calls of each batch size before they count; `warm_up` has compiled for it before.
WARM_UP = 20
IMAGE = (3, 32, 32)


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

    def answer(order: dict[str, Any]) -> dict[str, Any]:
        nonlocal pictures
        if "pictures" not in order:
            return measure(classifier, pictures, order["batch"], order["seconds"])
        pictures = np.fromfile(order["pictures"], np.uint8).reshape(-1, *IMAGE)
        return label(classifier, pictures)

    carry_out(classifier.name, answer)


# -- in the benchmark


class EngineProcess(OrderProcess):
    """That process, as a member of the fleet."""

    def __init__(self, engine: str, log: Path) -> None:
        super().__init__("bench.engine_limit", "--engine", engine, log=log)

    def labels(self, pictures: Path) -> dict[str, Any]:
        """The labels of a file of pictures, which also are the ones that `measure` takes from now on."""
        return self.order({"pictures": str(pictures)})

    def measure(self, batch: int, seconds: float) -> dict[str, Any]:
        """Let it run alone for so long."""
        return self.order({"batch": batch, "seconds": seconds})


if __name__ == "__main__":
    main()
