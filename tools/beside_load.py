#!/usr/bin/env python3
"""Run a command several times on a machine that is kept busy: a test that looks at a clock fails here first.

    tools/beside_load.py make test                       # five times, beside a busy loop for each core
    tools/beside_load.py --runs 1 --stress make test     # once, under stress-ng --cpu 4 --vm 1

It stops at the first run that fails, and exits with that run's code. The load ends with it, whatever way it ends.
"""

import argparse
import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

BUSY_LOOP = [sys.executable, "-c", "while True: pass"]
STRESS = ["stress-ng", "--quiet", "--cpu", "4", "--vm", "1"]
PR_SET_PDEATHSIG = 1  # prctl(2)


def end_with_parent() -> None:
    """In the load's process: no busy loop outlives this script, not even its kill -9."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextlib.contextmanager
def running(commands: list[list[str]]) -> Iterator[None]:
    """Keep the commands running, in this session: autogroup would give those of another one a share of their own."""
    processes = [subprocess.Popen(command, preexec_fn=end_with_parent) for command in commands]
    try:
        yield
        ended = [process.args for process in processes if process.poll() is not None]
        if ended:
            raise RuntimeError(f"the load ended by itself: {ended[0]}")
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="how often (default 5)")
    parser.add_argument("--stress", action="store_true", help=f"the load is {' '.join(STRESS)}")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what to run, with its arguments")
    args = parser.parse_args()
    if not args.command or args.runs < 1:
        parser.error("a command, and a number of runs of at least 1")
    if args.stress and not shutil.which(STRESS[0]):
        parser.error("stress-ng is not installed")
    return args


def main() -> int:
    args = arguments()
    loops = len(os.sched_getaffinity(0))
    load = [STRESS] if args.stress else [BUSY_LOOP] * loops
    name = " ".join(STRESS) if args.stress else f"{loops} busy loops"
    for run in range(1, args.runs + 1):
        begun = time.monotonic()
        with running(load):
            code = subprocess.run(args.command).returncode
        lasted = time.monotonic() - begun
        print(f"== run {run} of {args.runs} beside {name}: exit code {code} after {lasted:.0f} s", flush=True)
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
