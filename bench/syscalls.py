"""How many system calls a process makes: counted by perf, or else by strace. Never while a latency is measured.

perf counts in the kernel and slows nobody down; strace stops the process at each call, which can change how often
the two sides find each other asleep. Results say which one counted.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

_PERF = ["perf", "stat", "-x", ",", "-e", "raw_syscalls:sys_enter"]
_STRACE = ["strace", "-c", "-f", "-qq"]
# Until both have attached to every thread.
ATTACH_SECONDS = 0.3


def tool() -> str | None:
    """ "perf" or "strace": which of them is there, and permitted."""
    for name, probe in (("perf", [*_PERF, "true"]), ("strace", [*_STRACE, "true"])):
        if shutil.which(name):
            done = subprocess.run(probe, capture_output=True, text=True)
            if done.returncode == 0 and "not supported" not in done.stderr:
                return name
    return None


@contextlib.contextmanager
def counted(name: str, pids: dict[str, int], directory: Path) -> Iterator[dict[str, int]]:
    """Count the system calls of all threads of these processes, by their names; the numbers are there at the end."""
    calls: dict[str, int] = {}
    files = {who: directory / f"syscalls.{pid}" for who, pid in pids.items()}
    tools = []
    for who, pid in pids.items():
        command = [*(_PERF if name == "perf" else _STRACE), "-o", str(files[who]), "-p", str(pid)]
        tools.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    time.sleep(ATTACH_SECONDS)
    try:
        yield calls
    finally:
        for each in tools:
            each.send_signal(signal.SIGINT)
        for each in tools:
            each.wait(60)
    for who, file in files.items():
        calls[who] = parse(name, file.read_text())
        file.unlink()


def parse(name: str, text: str) -> int:
    """The total in what the tool wrote."""
    if name == "perf":
        found = re.search(r"^(\d+),[^,]*,raw_syscalls:sys_enter", text, re.MULTILINE)
    else:  # % time, seconds, usecs/call, calls, errors where there are any, "total"
        found = re.search(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?total$", text, re.MULTILINE)
    return int(found[1]) if found else 0
