"""How long and how often each thing is measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """Numbers of a form of the benchmark. Times are seconds of one measured run; a round runs every contestant once."""

    name: str
    rounds: int  # of the latencies of one caller
    seconds: float
    warm_up: int  # calls before every run, which do not count
    callers: tuple[int, ...]  # goroutines
    processes: tuple[int, ...]
    sweep_rounds: int  # of everything that goes through several levels
    sweep_seconds: float
    loads: tuple[float, ...]  # offered, as parts of what the engine does at its largest batch
    load_seconds: float
    sizes: tuple[int, ...]  # bytes of a row
    replicas: tuple[int, ...]
    reloads: int
    takeovers: int
    change_seconds: float  # from one of those to the next
    syscall_seconds: float
    idle_seconds: float
    quiet_seconds: float  # of looking at what else the machine does


FULL = Plan(
    name="full",
    rounds=6,
    seconds=1.0,
    warm_up=1000,
    callers=(1, 2, 4, 16, 64, 256),
    processes=(1, 2, 4, 8),
    sweep_rounds=2,
    sweep_seconds=0.8,
    loads=(0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.1),
    load_seconds=1.5,
    sizes=(64, 1 << 10, 1 << 14, 1 << 17, 1 << 20, 1 << 22, 1 << 24),
    replicas=(1, 2),
    reloads=20,
    takeovers=5,
    change_seconds=2.2,
    syscall_seconds=1.0,
    idle_seconds=2.0,
    quiet_seconds=3.0,
)

QUICK = Plan(
    name="quick",
    rounds=1,
    seconds=0.1,
    warm_up=100,
    callers=(1, 32),
    processes=(2,),
    sweep_rounds=1,
    sweep_seconds=0.1,
    loads=(0.5,),
    load_seconds=0.15,
    sizes=(64, 1 << 20),
    replicas=(1, 2),
    reloads=1,
    takeovers=1,
    change_seconds=0.0,
    syscall_seconds=0.1,
    idle_seconds=0.1,
    quiet_seconds=0.3,
)
