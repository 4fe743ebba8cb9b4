"""The header of a result: on what it was measured, with which versions, and how quiet it was."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import subprocess
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
QUIET_PERCENT = 95.0  # idle, of all cores
PACKAGES = (
    "numpy", "tensorflow", "keras", "jax", "gemma", "openvino", "grpcio", "protobuf", "flask", "gunicorn",
    "hdrhistogram",
)  # fmt: skip


def header(quiet_seconds: float) -> dict[str, Any]:
    """Everything that is known before the first server starts."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _output("git", "rev-parse", "--short", "HEAD") or "unknown",
        "dirty": bool(_output("git", "status", "--porcelain")),
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "hypervisor": "hypervisor" in (_field("/proc/cpuinfo", "flags") or "").split(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "not readable",
        "idle_driver": _read("/sys/devices/system/cpu/cpuidle/current_driver") or "not readable",
        "clock": _read("/sys/devices/system/clocksource/clocksource0/current_clocksource") or "not readable",
        "pinning": "none, but for the rows that say so",
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "load_average": os.getloadavg(),
        "idle_before_percent": round(100 * idle_share(quiet_seconds), 1),
    }


def busy(head: dict[str, Any]) -> bool:
    """Whether something else ran before the start: then it is in the numbers."""
    return head["idle_before_percent"] < QUIET_PERCENT


def idle_share(seconds: float) -> float:
    """Which part of all cores was idle while we slept for so long: what else the machine was doing."""
    before = cpu_times()
    time.sleep(seconds)
    after = cpu_times()
    total = sum(after.values()) - sum(before.values())
    return (after["idle"] - before["idle"]) / total if total else 1.0


def cpu_times() -> dict[str, int]:
    """Ticks of all cores since boot. `steal` is what the host gave to others while we wanted to run."""
    user, nice, system, idle, iowait, irq, softirq, steal = map(int, _read("/proc/stat").split()[1:9])
    return {"busy": user + nice + system + irq + softirq, "idle": idle + iowait, "steal": steal}


def steal_percent(before: dict[str, int], after: dict[str, int]) -> float:
    """Of the time between two readings."""
    total = sum(after.values()) - sum(before.values())
    return round(100 * (after["steal"] - before["steal"]) / total, 2) if total else 0.0


def die_with_parent() -> None:
    """In a child before exec: a benchmark that is killed leaves nobody behind, least of all stopped processes."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def go_version(program: Path, go: str = "go") -> dict[str, str]:
    """Versions built into a Go program: of the language and of its modules."""
    words = [line.split() for line in _output(go, "version", "-m", str(program)).splitlines()]
    found = {"go": words[0][1].removeprefix("go")} if words else {}
    return found | {line[1].rpartition("/")[2]: line[2] for line in words if line[:1] == ["dep"] and len(line) > 2}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _field(path: str, name: str) -> str | None:
    for line in _read(path).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def group_states(group: int) -> dict[int, str]:
    """The processes of a group that have not ended, and their states: "T" for one of which every thread has stopped."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(_fields(stat)[2]) != group:
                continue
            states = {_fields(each)[0] for each in stat.parent.glob("task/*/stat")} - {"Z", "X"}
        except OSError:  # it has ended
            continue
        if states:
            found[int(stat.parent.name)] = next(iter(states - {"T"}), "T")
    return found


def _fields(stat: Path) -> list[str]:
    """What proc(5) says of a process or thread, from its state on."""
    return stat.read_text().rpartition(")")[2].split()
