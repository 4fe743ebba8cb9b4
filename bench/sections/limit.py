"""64 goroutines through shared memory, beside the engine in process at the same batch sizes."""

from __future__ import annotations

from typing import Any

from .. import plots, tables
from ..bench import Bench
from ..contestants import DEFAULT, ENGINE, SPINNING, Contestant
from ..engine_limit import BATCHES, MAX_BATCH
from ..rounds import interleaved
from ..tally import Tally

TITLE = "Shared memory against the engine in process"
QUESTION = "How much of what the engine could do is left when 64 goroutines of another process feed it?"
HOW = (
    "The answers say how large their batches were; the limit is the engine in process that runs batches of those "
    "sizes, one after the other."
)

CALLERS = 64
CONTESTANTS = (SPINNING, DEFAULT)


def measure(bench: Bench) -> dict[str, Any]:
    plan = bench.plan
    fed = {each: Tally(each.key, each.label, op="classify", callers=CALLERS) for each in CONTESTANTS}
    engine = {size: Tally(ENGINE.key, f"the engine in process, batches of {size}", batch=size) for size in BATCHES}
    for each in interleaved((*CONTESTANTS, *BATCHES), max(1, plan.rounds // 2), bench.seed, "limit", bench.progress):
        if isinstance(each, Contestant):
            bench.call(fed[each], each, "classify", seconds=plan.sweep_seconds, callers=CALLERS)
        else:
            engine[each].add(bench.fleet.engine.measure(each, plan.sweep_seconds))
    alone = [tally.row() for tally in engine.values()]
    for row in alone:
        row["images_per_s"] = row["batch"] * row["calls_per_s"]
    speeds = {row["batch"]: row["images_per_s"] for row in alone}
    rows = [tally.row() for tally in fed.values()]
    for row in (row for row in rows if row["count"]):
        row["of_limit"] = row["calls_per_s"] / limit(row["batches"], speeds)
        row["of_largest"] = row["calls_per_s"] / speeds[MAX_BATCH]
    return {"rows": [*alone, *rows]}


def limit(batches: dict[str, int], speeds: dict[int, float]) -> float:
    """Images per second of an engine that runs the same batches, one after the other.

    `batches` are images by the size of the batch they were in, `speeds` images per second by bucket. A batch runs in
    the next power of two, here as in the server; `of_largest` is what is left where that is not allowed for.
    """
    images = busy = 0.0
    for text, count in batches.items():
        size = int(text)
        bucket = 1 << (size - 1).bit_length()
        images += count
        busy += count / size * bucket / speeds[bucket]
    return images / busy


def table(section: dict[str, Any]) -> str:
    rows = []
    for row in section["rows"]:
        speed, batch = row.get("images_per_s", row.get("calls_per_s")), row.get("mean_batch", row.get("batch"))
        shares = [f"{100 * row[name]:.1f}%" if name in row else "" for name in ("of_limit", "of_largest")]
        rows.append([row["label"], tables.number(speed), tables.number(batch), *shares])
    head = ["", "images/s", "mean batch", "of the engine with the same batches", "of the engine with full batches"]
    return tables.grid(head, rows)


def plot(section: dict[str, Any]) -> plots.Figure:
    figure, ((axes,),) = plots.subplots(1, 1, figsize=(8, 4.5))
    engine = [row for row in section["rows"] if row["key"] == ENGINE.key]
    axes.plot(
        [row["batch"] for row in engine], [row["images_per_s"] for row in engine], "o--", color="black",
        label="the engine in process",
    )  # fmt: skip
    for row in (row for row in section["rows"] if "of_limit" in row):
        label = f"{row['label']}, {CALLERS} goroutines: {100 * row['of_limit']:.0f}%"
        axes.plot(row["mean_batch"], row["calls_per_s"], "D", color=plots.colour(row), label=label)
    axes.set(xlabel="images in a batch", ylabel="images a second", ylim=(0, None))
    plots.tidy(axes)
    plots.levels(axes, [row["batch"] for row in engine])
    axes.legend(fontsize=8)
    return figure
