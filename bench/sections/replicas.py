"""One process of a model, or several."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .. import plots, tables
from ..bench import Bench
from ..contestants import DEFAULT
from ..load import LoadError
from ..plan import Plan
from ..rounds import interleaved
from ..rows import SMALL_BYTES
from ..servers import REPLICAS, of
from ..tally import Tally
from .processes import combined, together

TITLE = "Replicas"
QUESTION = "How much more do several processes of a model answer than one?"
HOW = (
    "The model computes for 1 ms of its thread's CPU time and takes one row at a time. There are as many client "
    "processes as replicas, of four goroutines each, and the server hands its sessions to the replicas in turn."
)

CALLERS = 4  # of a client: its replica always has the next row


def servers(plan: Plan) -> tuple[str, ...]:
    return tuple(of(REPLICAS, n) for n in plan.replicas)


def measure(bench: Bench) -> dict[str, Any]:
    plan = bench.plan
    tallies = {n: Tally(f"{n}/{DEFAULT.key}", _label(n), replicas=n, callers=n * CALLERS) for n in plan.replicas}
    for n in interleaved(plan.replicas, plan.rounds, bench.seed, "replicas", bench.progress):
        each = replace(DEFAULT, server=of(REPLICAS, n))
        flags = {"seconds": plan.seconds, "callers": CALLERS, "bytes": SMALL_BYTES, "warmup": min(plan.warm_up, 100)}
        try:
            # The CPU time of the server's first process says nothing: the replicas compute.
            tallies[n].add(combined(together(bench, each, n, "call", observe=False, **flags)))
        except LoadError as error:
            tallies[n].add_failure(str(error))
    rows = [tally.row() for tally in tallies.values()]
    one = rows[0].get("calls_per_s")
    for row in rows:
        if one and row["count"]:
            row["of_one"] = row["calls_per_s"] / one
    return {"rows": rows}


def _label(n: int) -> str:
    return "1 replica" if n == 1 else f"{n} replicas"


def table(section: dict[str, Any]) -> str:
    rows = []
    for row in section["rows"]:
        latency = row.get("latency_us", {})
        cells = (row.get("calls_per_s"), row.get("of_one"), latency.get("p50"), latency.get("p99"))
        rows.append([row["label"], *map(tables.number, cells), row["errors"] or ""])
    return tables.grid(["", "calls/s", "of one replica", "p50 us", "p99 us", "failed"], rows)


def plot(section: dict[str, Any]) -> plots.Figure:
    """Bars: calls a second, that of each round as a point."""
    figure, ((axes,),) = plots.subplots(1, 1, figsize=(6, 4.5))
    rows = [row for row in section["rows"] if row["count"]]
    for place, row in enumerate(rows):
        axes.bar(place, row["calls_per_s"], width=0.5, color="#4393c3")
        speeds = [each["calls_per_s"] for each in row["per_round"]]
        axes.plot([place] * len(speeds), speeds, "o", color="black", markersize=3)
        said = f"{tables.number(row['calls_per_s'])}, {row['of_one']:.2f} of one" if place else ""
        axes.annotate(said, (place, max(speeds)), (0, 6), textcoords="offset points", ha="center", fontsize=9)
    axes.set(ylabel="calls a second; points: rounds")
    axes.margins(y=0.12)
    plots.tidy(axes)
    axes.set_xticks(range(len(rows)), [row["label"] for row in rows])
    axes.grid(axis="x", visible=False)
    return figure
