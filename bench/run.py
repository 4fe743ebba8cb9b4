"""Measure everything side by side, in one run.

    python -m bench.run                     # about sixteen minutes
    python -m bench.run --quick             # about one; proves that it works, its numbers are rough
    python -m bench.run --only echo         # one section, may be given several times

Writes results.json, RESULTS.md and a plot for each section to --output. `python -m bench.publish DIR` puts them into
the READMEs.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from shm_server.models import ENGINES

from . import load, machine, pictures, report
from .bench import Bench
from .floor import Floor
from .plan import FULL, QUICK, Plan
from .rounds import Progress
from .sections import SECTIONS
from .servers import IMAGES, ROOT, Fleet, ServerError

BUILD = ROOT / "build" / "bench"


def arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench.run", description="Measure shared memory beside its alternatives.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="the form of about a minute")
    parser.add_argument(
        "--only", action="append", choices=SECTIONS, metavar="SECTION", help=f"of {', '.join(SECTIONS)}"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="build/bench/full or build/bench/quick by default")
    parser.add_argument("--engine", choices=ENGINES, default="tensorflow", help="what runs the model")
    parser.add_argument(
        "--prompt-priority", choices=("idle", "normal"), default="idle", help="as of shm-server serve, for all of them"
    )
    parser.add_argument("--seed", type=int, default=20261123, help="of payloads and of the order in each round")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None, quick: Plan = QUICK) -> int:
    """`quick` is the plan of --quick."""
    args = arguments(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are ended
    plan = quick if args.quick else FULL
    names = [name for name in SECTIONS if not args.only or name in args.only]
    output = args.output or BUILD / plan.name
    output.mkdir(parents=True, exist_ok=True)
    head = machine.header(plan.quiet_seconds) | {
        "form": plan.name, "plan": dataclasses.asdict(plan), "seed": args.seed, "engine": args.engine,
        "flags": sys.argv[1:] if argv is None else argv, "sections": names,
    }  # fmt: skip
    if machine.busy(head):
        print(f"bench: this machine is busy, {head['idle_before_percent']:g}% idle: expect noise", file=sys.stderr)
    try:
        results = measure(args, plan, names, head)
    except (ServerError, OSError, RuntimeError) as error:
        print(f"\nbench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return write(results, output)


def measure(args: argparse.Namespace, plan: Plan, names: list[str], head: dict[str, Any]) -> dict[str, Any]:
    progress = Progress()
    progress.say("start")
    BUILD.mkdir(parents=True, exist_ok=True)
    program = BUILD / "load"
    load.build(ROOT, program)
    floor = Floor(ROOT, BUILD)
    begun, ticks = time.monotonic(), machine.cpu_times()
    needed = [SECTIONS[name].servers(plan) for name in names if hasattr(SECTIONS[name], "servers")]
    servers = tuple(dict.fromkeys(itertools.chain(IMAGES, *needed)))
    # Sockets' paths are short: at most 107 bytes.
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as directory,
        Fleet(Path(directory), args.engine, servers, args.prompt_priority) as fleet,
    ):
        images, labels, seen = pictures.make(args.seed, Path(directory), fleet.engine)
        caller = load.Load(program, images, labels, args.seed, plan.warm_up)
        bench = Bench(plan, args.seed, fleet, caller, floor, progress, Path(directory))
        sections = {name: SECTIONS[name].measure(bench) for name in names}
        head |= {"model": fleet.engine.name, "labels": seen}
        if fleet.generator:
            head["generator"] = fleet.generator.name
    progress.end()
    head |= {
        "go": machine.go_version(program, load.go(ROOT)),
        "seconds": round(time.monotonic() - begun),
        "steal_percent": machine.steal_percent(ticks, machine.cpu_times()),
    }
    return {"header": head, "sections": sections}


def write(results: dict[str, Any], output: Path) -> int:
    """The files, and the short form on stdout. 1 when a call failed or an answer was wrong."""
    temporary = output / "results.json.tmp"
    temporary.write_text(json.dumps(results).replace('{"key": ', '\n{"key": ') + "\n")  # a line for each row
    os.replace(temporary, output / "results.json")
    text = report.markdown(results)
    (output / "RESULTS.md").write_text(text)
    pictures = [file.name for file in report.draw(results, output)]
    print(text)
    print(f"results.json, RESULTS.md, {', '.join(pictures)} are in {output}")
    failed = sum(row["errors"] for section in results["sections"].values() for row in section["rows"])
    if failed:
        print(f"bench: {failed} calls failed, see above", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
