"""Throughput and the tail against how many processes call at a time."""

from __future__ import annotations

import contextlib
from itertools import product
from typing import Any

from .. import plots, tables
from ..bench import Bench
from ..contestants import SWEPT, Contestant
from ..histogram import Histogram
from ..load import LoadError
from ..rounds import interleaved
from ..tally import Tally

TITLE = "Throughput and p99 against client processes"
QUESTION = "How much gets through when several processes call, one goroutine each?"
HOW = "Processes that are connected and warm begin to classify at the same time. Both axes are logarithmic."

# Several classify as one batch only if the server gathers from several segments.
OP = "classify"


def measure(bench: Bench) -> dict[str, Any]:
    plan = bench.plan
    places = list(product(plan.processes, SWEPT))
    tallies = {(n, each): Tally(each.key, each.label, op=OP, processes=n) for n, each in places}
    for n, each in interleaved(places, plan.sweep_rounds, bench.seed, "processes", bench.progress):
        try:
            tallies[n, each].add(combined(together(bench, each, n, OP, seconds=plan.sweep_seconds)))
        except LoadError as error:
            tallies[n, each].add_failure(str(error))
    return {"rows": [tally.row() for tally in tallies.values()]}


def together(bench: Bench, contestant: Contestant, n: int, op: str, **flags: float) -> list[dict[str, Any]]:
    """The runs of `n` processes that measure at the same time."""
    with bench.fleet.only(contestant.server) as server, contextlib.ExitStack() as stack:
        runs = [stack.enter_context(bench.load.hold(contestant, server, op, **flags)) for _ in range(n)]
        for run in runs:
            run.release()
        return [run.result() for run in runs]


def combined(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Runs at the same time as one: the calls of all, in the time of one."""
    first = next((run for run in runs if run["errors"]), runs[0])
    batches: dict[str, int] = {}
    for run in runs:
        for size, calls in run.get("batches", {}).items():
            batches[size] = batches.get(size, 0) + calls
    return {
        "histogram": Histogram(run["histogram"] for run in runs).encode(),
        "count": sum(run["count"] for run in runs),
        "errors": sum(run["errors"] for run in runs),
        "first_error": first.get("first_error", ""),
        "wall_s": sum(run["wall_s"] for run in runs) / len(runs),
        "client": {name: sum(run["client"][name] for run in runs) for name in runs[0]["client"]},
        "server_cpu_s": runs[0]["server_cpu_s"],  # each saw the same process for the same time
        "batches": batches,
    }


def table(section: dict[str, Any]) -> str:
    return tables.sweep(section, "processes", "processes")


def plot(section: dict[str, Any]) -> plots.Figure:
    figure, axes = plots.subplots(1, 2, figsize=(11, 5))
    rows = [row for row in section["rows"] if row["count"]]
    plots.throughput_above_p99(axes[0], rows, "processes", "client processes", OP)
    plots.legend_below(figure, axes[0, 0], 3)
    return figure
