"""Rows from 64 bytes to 16 MiB, looked at by the model or not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from .. import plots, tables
from ..bench import Bench
from ..contestants import GRPC, MEMCPY, PACKETS, ROWS_FLOOR, SPINNING, Contestant
from ..plan import Plan
from ..rounds import interleaved
from ..servers import PACKETS as PACKETS_SERVER
from ..servers import TOUCHED, UNTOUCHED, of
from ..tally import Tally

TITLE = "Rows of every size"
QUESTION = "What does a call cost that carries 64 bytes, or 16 MiB?"
HOW = (
    "One caller with one slot; the model gives back the row that it gets. Untouched, nobody looks at the row. Touched, "
    "the model reads all of it and writes it to its output: a copy, and what memcpy takes for as many bytes is what it "
    "is compared with, in one process that fills the row and looks at the copy as the caller does. From C to C the "
    "copy is another process's, which has to fetch the row from the core that wrote it. A call is Reserve, "
    "View, Run and View; what the caller writes before and compares after is not timed. The socket and gRPC carry the "
    "row there and back, which is their call; their models copy nothing. The socket's peer is the benchmark's own, as "
    "the server's protocol ends at 1 MiB. A row of 32 bytes, untouched, with each side pinned to a core, is there to "
    "be read beside what other libraries print, often the half of a round trip; one reading of the clock is in it."
)

CORES = sorted(os.sched_getaffinity(0))
APART = (CORES[0], CORES[-1])
PINNED, PINNED_BYTES = "pinned", 32
PAIR = (
    replace(ROWS_FLOOR, label="C to C, 32 bytes, each on a core", apart=APART),
    replace(SPINNING, label="Go to Python, 32 bytes, each on a core", server=of(UNTOUCHED, PINNED_BYTES), apart=APART),
)
TOUCHERS = (MEMCPY, ROWS_FLOOR, SPINNING, PACKETS, GRPC)
FLOORS = (MEMCPY.key, ROWS_FLOOR.key)
COMPARED = {"of_memcpy": MEMCPY.key, "of_floor": ROWS_FLOOR.key}
# Round trips in a second, less than most machines do.
FLOOR_RATE = 500_000
# Rows of a warm-up.
WARM_UP_BYTES = 64 << 20

Place = tuple[str, int, Contestant]


def servers(plan: Plan) -> tuple[str, ...]:
    kinds = (of(kind, size) for size in plan.sizes for kind in (UNTOUCHED, TOUCHED))
    return (PACKETS_SERVER, of(UNTOUCHED, PINNED_BYTES), *kinds)


def places(plan: Plan) -> Iterator[Place]:
    """What is measured: untouched, touched or pinned; how many bytes; who."""
    yield from ((PINNED, PINNED_BYTES, each) for each in PAIR)
    for size in plan.sizes:
        yield UNTOUCHED, size, replace(SPINNING, label="shm, untouched", server=of(UNTOUCHED, size))
        for each in TOUCHERS:
            yield TOUCHED, size, replace(each, server=of(TOUCHED, size)) if each is SPINNING else each


def measure(bench: Bench) -> dict[str, Any]:
    everything = list(places(bench.plan))
    tallies = {
        (what, size, each): Tally(f"{what}/{size}/{each.key}", each.label, what=what, bytes=size)
        for what, size, each in everything
    }
    seconds = bench.plan.seconds / 2
    for place in interleaved(everything, max(1, bench.plan.rounds // 2), bench.seed, "size", bench.progress):
        what, size, each = place
        if each.key in FLOORS:
            way = each.transport if what == TOUCHED else UNTOUCHED
            tallies[place].add(bench.floor.rows(way, size, int(seconds * FLOOR_RATE), seconds, each.apart))
        else:
            row_bytes = size if what == TOUCHED else 0
            warm_up = min(bench.plan.warm_up, max(4, WARM_UP_BYTES // size))
            bench.call(tallies[place], each, "call", seconds=seconds, bytes=row_bytes, slots=1, warmup=warm_up)
    rows = [tally.row() for tally in tallies.values()]
    _compare(rows)
    return {"rows": rows}


def _compare(rows: list[dict[str, Any]]) -> None:
    """How many times a copy of as many bytes takes: within a process, and by another one in C."""
    for name, key in COMPARED.items():
        medians = {row["bytes"]: row["latency_us"]["p50"] for row in rows if row["key"].endswith(f"/{key}")}
        for row in rows:
            if row["what"] == TOUCHED and row["count"]:
                row[name] = row["latency_us"]["p50"] / medians[row["bytes"]]


def table(section: dict[str, Any]) -> str:
    rows = [row for row in section["rows"] if row["what"] != PINNED]
    sizes = sorted({row["bytes"] for row in rows})
    head = ["", *map(size_name, sizes)]
    lines: dict[str, dict[int, dict[str, Any]]] = {}
    for row in rows:
        lines.setdefault(_label(row), {})[row["bytes"]] = row
    latencies = [[label, *(_p50_p99(at.get(size)) for size in sizes)] for label, at in lines.items()]

    def ratios(name: str) -> str:
        rows = [[label, *(tables.number(at.get(size, {}).get(name)) for size in sizes)] for label, at in lines.items()]
        return tables.grid(head, [row for row in rows if any(row[1:])])

    return "\n\n".join([
        "**p50 / p99, in microseconds**", tables.grid(head, latencies),
        "**p50 by that of memcpy in one process**", ratios("of_memcpy"),
        "**p50 by that of a copy from C to C**", ratios("of_floor"),
        "**32 bytes, untouched, each side pinned to a core**",
        tables.latencies({"rows": [row for row in section["rows"] if row["what"] == PINNED]}),
    ])  # fmt: skip


def _label(row: dict[str, Any]) -> str:
    touched = row["what"] == TOUCHED and plots.contestant(row) in (SPINNING.key, ROWS_FLOOR.key)
    return f"{row['label']}; touched" if touched else row["label"]


def _p50_p99(row: dict[str, Any] | None) -> str:
    if not row or "latency_us" not in row:
        return f"failed: {row['first_error'][:40]}" if row else ""
    return tables.pair(row["latency_us"]["p50"], row["latency_us"]["p99"])


def size_name(size: int) -> str:
    """64 B, 16 KiB, 4 MiB."""
    for unit, name in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= unit:
            return f"{size / unit:g} {name}"
    return f"{size} B"


def plot(section: dict[str, Any]) -> plots.Figure:
    """p50 against the bytes of a row; and that by memcpy's."""
    figure, ((latency, ratio),) = plots.subplots(1, 2, figsize=(13, 5.5))
    rows = [{**row, "label": _label(row)} for row in section["rows"] if row["count"]]
    for label, mine in plots.by_label([row for row in rows if row["what"] != PINNED]).items():
        style = plots.style(mine[0]) if mine[0]["what"] == TOUCHED else ":"
        sizes = [row["bytes"] for row in mine]
        how = {"label": label, "color": plots.colour(mine[0]), "linestyle": style, "marker": "o", "markersize": 4}
        latency.plot(sizes, [row["latency_us"]["p50"] for row in mine], **how)
        if mine[0]["what"] == TOUCHED and plots.contestant(mine[0]) != MEMCPY.key:
            ratio.plot(sizes, [row["of_memcpy"] for row in mine], **how)
    for row in (row for row in rows if row["what"] == PINNED):
        how = {"color": plots.colour(row), "marker": "*", "markersize": 11, "linestyle": "none", "label": row["label"]}
        latency.plot([row["bytes"]], [row["latency_us"]["p50"]], **how)
    ratio.axhline(1.3, color="black", linewidth=0.8, linestyle="--")
    ratio.annotate(
        "1.3",
        (1, 1.3),
        (2, 0),
        xycoords=ratio.get_yaxis_transform(),
        textcoords="offset points",
        va="center",
        fontsize=8,
    )
    latency.set(yscale="log", ylabel="p50, microseconds", xlabel="bytes of a row")
    ratio.set(yscale="log", ylabel="p50 by that of memcpy", xlabel="bytes of a row")
    for axes in (latency, ratio):
        plots.tidy(axes)
        plots.levels(axes, [row["bytes"] for row in rows if row["what"] != PINNED], size_name)
    plots.legend_below(figure, latency, 4)
    return figure
