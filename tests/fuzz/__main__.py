"""Every fuzzer, one after the other: python tests/fuzz --help.

ring.c                  the C core's rings, streams and headers, under sanitizers, led by coverage (guided.h)
messages.py             first messages at the door, and packets of the wire
hostile_sessions.py     sessions of a real server, beside honest ones
Go's                    completions, texts, frames, signatures and headers, as the client reads them
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from ring_fuzzer import CORPUS, build_ring_fuzzer  # noqa: E402
from sanitizers import ROOT  # noqa: E402

# How many runs of each are as long as one of the first, roughly. (Go fails where a bound in time ends within a run.)
GO_TARGETS = {
    "session": {"FuzzCompletions": 1, "FuzzStream": 2},
    "doorbell": {"FuzzFrame": 10, "FuzzModels": 10},
    "segment": {"FuzzCheck": 10},
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/fuzz", description="A seed repeats a run, but for Go's.")
    parser.add_argument("--seed", type=lambda text: int(text, 0), default=int.from_bytes(os.urandom(4), "little"))
    parser.add_argument("--descriptors", type=int, default=10_000_000, help="that the C core reads, and headers")
    parser.add_argument("--messages", type=int, default=300_000, help="of the door's, and as many of the wire's")
    parser.add_argument("--sessions", type=int, default=10_000, help="hostile ones with a real server")
    parser.add_argument("--go-runs", type=int, default=100_000, help="of FuzzCompletions; of the quicker ones more")
    return parser.parse_args()


def run(title: str, *command: object, cwd: Path = ROOT) -> None:
    print(f"== {title}", flush=True)
    subprocess.run(list(map(str, command)), cwd=cwd, check=True)


def main() -> None:
    args = arguments()
    folder = ROOT / "build" / "fuzz"
    found = folder / "found"
    found.mkdir(parents=True, exist_ok=True)
    fuzzer = build_ring_fuzzer(folder)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), str(ROOT)])
    print(f"tapes that go somewhere new are in {found}")
    run("the C core", fuzzer, args.seed, args.descriptors, CORPUS, found, cwd=folder)
    run("messages", sys.executable, HERE / "messages.py", args.seed, args.messages)
    run("hostile sessions", sys.executable, HERE / "hostile_sessions.py", args.seed, args.sessions)
    for package, targets in GO_TARGETS.items():
        for target, times in targets.items():
            command = [
                os.environ.get("GO", "go"),
                "test",
                f"./internal/{package}",
                "-run",
                "^$",
                "-fuzz",
                f"^{target}$",
            ]
            run(f"Go: {target}", *command, "-fuzztime", f"{times * args.go_runs}x", cwd=ROOT / "go-shm-client")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(f"fuzz: ended with {error.returncode}: {' '.join(map(str, error.cmd))}")
