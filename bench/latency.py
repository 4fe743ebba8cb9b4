"""One caller's latency, side by side: how far is a call from Go to Python from the least that the machine allows?

    .venv/bin/python bench/latency.py [--rounds 5] [--json FILE] [--readme]

In each round every contestant runs once, in a shuffled order (the seed is printed), so that a drift of the machine
hits all alike; the servers of the others are stopped meanwhile. The figures are medians, over the rounds, of each
percentile. Warm-up is not counted: 500 to 20,000 calls a run. --readme writes the table to README.md, between its
markers.
"""

import argparse
import contextlib
import json
import platform
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
CLIENT = ROOT / "bin" / "shm-client"
PERCENTILES = (50, 90, 99, 99.9)
NOTE = """Microseconds, medians of {rounds} interleaved rounds; one caller, nothing pinned, one model thread. {machine},
{date}, commit {commit}. `make bench-latency` measures again and writes this table."""


@contextlib.contextmanager
def server(folder: Path, *flags: str) -> Iterator[Callable[[], contextlib.AbstractContextManager]]:
    """A server that is stopped (SIGSTOP) except inside `with awake():`. Yields `awake`."""
    path = folder / f"s{len(list(folder.iterdir()))}"
    command = [sys.executable, "-m", "shm_server.cli", "--log-level", "info", "serve", "--socket", str(path), *flags]
    with (folder / "log").open("ab") as log, subprocess.Popen(command, stderr=log, cwd=ROOT) as process:
        while subprocess.run([CLIENT, "ping", "-socket", path], capture_output=True).returncode:
            if process.poll() is not None:
                raise SystemExit(f"the server ended:\n{(folder / 'log').read_text()}")
            time.sleep(0.2)
        process.send_signal(signal.SIGSTOP)

        @contextlib.contextmanager
        def awake() -> Iterator[Path]:
            process.send_signal(signal.SIGCONT)
            yield path
            process.send_signal(signal.SIGSTOP)

        yield awake
        process.send_signal(signal.SIGCONT)
        process.terminate()


def from_go(awake: Callable, calls: int, *flags: str) -> list[float]:
    with awake() as path:
        command = [CLIENT, "echo", "-socket", path, "-n", str(calls), *flags]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = dict(re.findall(r"(p[\d.]+) ([\d.]+) us", printed))
    return [float(found[f"p{p:g}"]) for p in PERCENTILES]


def in_c(program: Path, way: str, calls: int) -> list[float]:
    printed = subprocess.run([program, way, str(calls)], capture_output=True, check=True).stdout
    return list(np.percentile(np.array(printed.split(), float) / 1000, PERCENTILES))


def in_process(calls: int) -> list[float]:
    """The engine alone: `scores` of one picture, a new one each time, the best class taken."""
    classifier = in_process.classifier
    pictures = np.random.default_rng(1).integers(0, 256, (64, 1, 3, 32, 32), np.uint8)
    samples = np.empty(calls)
    for i in range(-500, calls):
        begun = time.perf_counter()
        classifier.scores(pictures[i % 64]).argmax()
        samples[i] = time.perf_counter() - begun
    return list(np.percentile(samples * 1e6, PERCENTILES))


def measure(rounds: int, seed: int, engine: str) -> dict[str, list[float]]:
    from shm_server.models import load_classifier, warm_up

    in_process.classifier = load_classifier(engine)
    warm_up(in_process.classifier, [1])
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        floor = folder / "pingpong"
        source = ROOT / "bench" / "floor" / "pingpong.c"
        subprocess.run(["cc", "-std=gnu11", "-O2", "-Wall", "-o", floor, source], check=True)
        spinning = stack.enter_context(server(folder, "--engine", "none", "--spin", "forever"))
        parked = stack.enter_context(server(folder, "--engine", "none", "--spin", "0"))
        model = stack.enter_context(server(folder, "--engine", engine, "--spin", "forever"))
        contestants = {
            "C to C, shared memory: the floor": lambda: in_c(floor, "shm", 200_000),
            "echo, both sides spinning": lambda: from_go(spinning, 200_000, "-spin", "forever"),
            "C to C, Unix socket, both sides sleeping": lambda: in_c(floor, "socket", 20_000),
            "echo, both sides sleeping": lambda: from_go(parked, 20_000, "-spin", "0"),
            f"classify, {engine} called in process": lambda: in_process(5_000),
            f"classify from Go, {engine}, both sides spinning": lambda: from_go(
                model, 5_000, "-classify", "-spin", "forever"
            ),
        }
        results: dict[str, list[list[float]]] = {name: [] for name in contestants}
        order = random.Random(seed)
        for number in range(rounds):
            for contestant in order.sample(list(contestants), len(contestants)):
                print(f"round {number + 1} of {rounds}: {contestant}", file=sys.stderr)
                results[contestant].append(contestants[contestant]())
    return {name: [statistics.median(column) for column in zip(*runs, strict=True)] for name, runs in results.items()}


def table(results: dict[str, list[float]]) -> str:
    rows = ["| what, 3,072 bytes each time | p50 | p90 | p99 | p99.9 |", "| --- | --- | --- | --- | --- |"]
    rows += [f"| {name} | " + " | ".join(f"{value:.3g}" for value in values) + " |" for name, values in results.items()]
    return "\n".join(rows)


def machine() -> str:
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    cores = subprocess.run(["nproc"], capture_output=True, text=True).stdout.strip()
    return f"{cpu[1] if cpu else platform.machine()}, {cores} cores, Linux {platform.release()}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--engine", default="tensorflow")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--readme", action="store_true", help="write the table to README.md")
    args = parser.parse_args()
    print(f"seed {args.seed}, load before: {Path('/proc/loadavg').read_text().split()[0]}", file=sys.stderr)
    results = measure(args.rounds, args.seed, args.engine)
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    note = NOTE.format(
        rounds=args.rounds, machine=machine(), date=time.strftime("%Y-%m-%d"), commit=commit.stdout.strip()
    )
    text = f"{table(results)}\n\n{note}"
    print(text)
    if args.json:
        args.json.write_text(json.dumps({"note": note, "percentiles": PERCENTILES, "us": results}, indent=1) + "\n")
    if args.readme:
        readme = ROOT / "README.md"
        begin, end = "<!-- results:begin -->\n", "<!-- results:end -->"
        before, rest = readme.read_text().split(begin)
        readme.write_text(f"{before}{begin}{text}\n{end}{rest.split(end)[1]}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
