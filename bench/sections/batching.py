"""Images per second, batch size and latency against offered load: an open loop."""

from __future__ import annotations

import statistics
from typing import Any

from .. import plots, tables
from ..bench import Bench
from ..contestants import DEFAULT, GRPC, HTTP, SPINNING, UDS
from ..engine_limit import MAX_BATCH
from ..rounds import interleaved
from ..tables import number
from ..tally import Tally

TITLE = "Batching against offered load"
QUESTION = "How many images a second get through, in batches of what size, and how late?"
HOW = (
    "Open loop: calls are due at a fixed rate, whoever still waits, up to where a contestant cannot follow. "
    "Latencies count from when a call was due."
)

CONTESTANTS = (SPINNING, DEFAULT, UDS, GRPC, HTTP)
# Goroutines that carry the calls; as many can be under way at a time.
CALLERS = 256
# Below this part of the offered load a contestant is overloaded, and is spared higher loads.
KEEPS_UP = 0.9


def measure(bench: Bench) -> dict[str, Any]:
    plan = bench.plan
    capacity = bench.fleet.engine.measure(MAX_BATCH, max(0.3, plan.seconds))["images_per_s"]
    tallies: dict[tuple[float, str], Tally] = {}
    for turn in range(plan.sweep_rounds):
        overloaded = set()
        for load in plan.loads:
            there = [each for each in CONTESTANTS if each not in overloaded]
            for each in interleaved(there, 1, bench.seed, f"batching at {load:g}, {turn + 1}", bench.progress):
                rate = load * capacity
                tally = tallies.setdefault(
                    (load, each.key), Tally(each.key, each.label, op="classify", load=load, rate=rate)
                )
                run = bench.call(tally, each, "classify", seconds=plan.load_seconds, rate=rate, callers=CALLERS)
                if run is None or run["in_time"] < KEEPS_UP * rate * plan.load_seconds:
                    overloaded.add(each)
    order = [each.key for each in CONTESTANTS]
    rows = [tallies[place].row() for place in sorted(tallies, key=lambda place: (order.index(place[1]), place[0]))]
    return {"rows": rows, "capacity": capacity}


def table(section: dict[str, Any]) -> str:
    rows = []
    for row in section["rows"]:
        latency = row.get("latency_us", {})
        rows.append([
            row["label"], number(row["rate"]), number(row.get("in_time_per_s")), number(row.get("mean_batch")),
            number(latency.get("p50")), number(latency.get("p99")), row.get("unfinished") or "", row["errors"] or "",
        ])  # fmt: skip
    head = ["", "offered/s", "answered/s", "mean batch", "p50 us", "p99 us", "given up", "failed"]
    text = f"The engine in process does {number(section['capacity'])} images/s in batches of {MAX_BATCH}."
    return f"{tables.grid(head, rows)}\n\n{text}{_lateness(section)}"


def _lateness(section: dict[str, Any]) -> str:
    """How good the sender was: what it adds is in everybody's latency."""
    late = [row["sender_late_us"] for row in section["rows"] if "sender_late_us" in row and not row["unfinished"]]
    if not late:
        return ""
    p50, p99 = (statistics.median(each[name] for each in late) for name in ("p50", "p99"))
    return f" The sender woke up {number(p50)} us at p50 and {number(p99)} us at p99 after a call was due."


def plot(section: dict[str, Any]) -> plots.Figure:
    figure, ((answered,), (size,), (tail,)) = plots.subplots(3, 1, figsize=(8, 10), sharex=True)
    rows = [row for row in section["rows"] if row["count"]]
    for label, mine in plots.by_label(rows).items():
        rates, colour = [row["rate"] for row in mine], plots.colour(mine[0])
        answered.plot(rates, [row["in_time_per_s"] for row in mine], "o-", label=label, color=colour)
        if all("mean_batch" in row for row in mine):
            size.plot(rates, [row["mean_batch"] for row in mine], "o-", label=label, color=colour)
        tail.plot(rates, [row["latency_us"]["p99"] for row in mine], "o-", label=label, color=colour)
    answered.axhline(section["capacity"], color="black", linestyle="--", linewidth=0.8)
    answered.annotate(
        f"the engine in process, batches of {MAX_BATCH}", (0.01, section["capacity"]), (0, 4),
        xycoords=answered.get_yaxis_transform(), textcoords="offset points", fontsize=8,
    )  # fmt: skip
    answered.set(ylabel="images answered a second", ylim=(0, 1.25 * section["capacity"]))
    size.set(ylabel="mean batch")
    tail.set(ylabel="p99 from when due, microseconds", yscale="log", xlabel="images offered a second", xscale="log")
    for axes in (answered, size, tail):
        plots.tidy(axes)
    plots.legend_below(figure, answered, 2)
    return figure
