"""Classify, one caller, beside the engine called in process."""

from __future__ import annotations

from typing import Any

from .. import plots, tables
from ..bench import Bench
from ..contestants import ALL, ENGINE
from ..rounds import interleaved
from ..tally import Tally

TITLE = "Classify, one caller"
QUESTION = "What does a transport add to what the model takes?"
HOW = (
    "As echo, with pictures, beside the engine called in process. A model's own time grows when its core has slept, so "
    "what a slow transport adds is not all its own."
)


def measure(bench: Bench) -> dict[str, Any]:
    tallies = {each.key: Tally(each.key, each.label, op="classify") for each in (ENGINE, *ALL)}
    for each in interleaved((ENGINE, *ALL), bench.plan.rounds, bench.seed, "classify", bench.progress):
        if each is ENGINE:
            tallies[each.key].add(bench.fleet.engine.measure(1, bench.plan.seconds))
        else:
            bench.call(tallies[each.key], each, "classify", seconds=bench.plan.seconds)
    limit, *rows = (tally.row() for tally in tallies.values())
    for row in rows:
        if row["count"]:
            row["added_us"] = row["latency_us"]["p50"] - limit["latency_us"]["p50"]
            row["added_percent"] = 100 * row["added_us"] / limit["latency_us"]["p50"]
    return {"rows": [limit, *rows]}


table = tables.latencies
plot = plots.tails
