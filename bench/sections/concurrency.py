"""Throughput and the tail against how many goroutines call at a time."""

from __future__ import annotations

from itertools import product
from typing import Any

from .. import plots, tables
from ..bench import Bench
from ..contestants import SWEPT
from ..rounds import interleaved
from ..tally import Tally

TITLE = "Throughput and p99 against concurrent goroutines"
QUESTION = "How much gets through when many goroutines of one process call, and how long does the slowest wait?"
HOW = "One client process; each goroutine calls again when it has its answer. Both axes are logarithmic."

OPS = ("echo", "classify")


def measure(bench: Bench) -> dict[str, Any]:
    plan = bench.plan
    places = list(product(OPS, plan.callers, SWEPT))
    tallies = {(op, callers, each): Tally(each.key, each.label, op=op, callers=callers) for op, callers, each in places}
    for op, callers, each in interleaved(places, plan.sweep_rounds, bench.seed, "concurrency", bench.progress):
        bench.call(tallies[op, callers, each], each, op, seconds=plan.sweep_seconds, callers=callers)
    return {"rows": [tally.row() for tally in tallies.values()]}


def table(section: dict[str, Any]) -> str:
    return tables.sweep(section, "callers", "goroutines")


def plot(section: dict[str, Any]) -> plots.Figure:
    figure, axes = plots.subplots(2, len(OPS), figsize=(11, 8))
    for column, op in zip(axes.T, OPS, strict=True):
        rows = [row for row in section["rows"] if row["op"] == op and row["count"]]
        plots.throughput_above_p99(column, rows, "callers", "goroutines", op)
    plots.legend_below(figure, axes[0, 0], 3)
    return figure
