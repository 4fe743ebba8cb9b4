"""Echo of 3,072 bytes, one caller."""

from __future__ import annotations

from typing import Any

from .. import plots, tables
from ..bench import Bench
from ..contestants import ALL, FLOORS, ONE_CORE
from ..rounds import interleaved
from ..tally import Tally

TITLE = "Echo of 3,072 bytes, one caller"
QUESTION = "What does a transport alone cost, when nothing is computed?"
HOW = "One caller, call after call, 3,072 new bytes each time. " + plots.TAILS

CONTESTANTS = (*FLOORS, *ALL, *ONE_CORE)
# Round trips of the floors in a second, less than most machines do.
FLOOR_RATES = {"shm": 500_000, "socket": 25_000}


def measure(bench: Bench) -> dict[str, Any]:
    tallies = {each.key: Tally(each.key, each.label, op="echo") for each in CONTESTANTS}
    for each in interleaved(CONTESTANTS, bench.plan.rounds, bench.seed, "echo", bench.progress):
        if each in FLOORS:
            rounds = int(bench.plan.seconds * FLOOR_RATES[each.transport])
            tallies[each.key].add(bench.floor.run(each.transport, rounds, bench.plan.seconds))
        else:
            bench.call(tallies[each.key], each, "echo", seconds=bench.plan.seconds)
    return {"rows": [tally.row() for tally in tallies.values()]}


table = tables.latencies
plot = plots.tails
