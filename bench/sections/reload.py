"""Calls while their model is loaded again, and while another server takes over."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from typing import Any

from .. import plots, tables
from ..bench import Bench
from ..changing import ChangingServer
from ..contestants import DEFAULT
from ..load import LoadError
from ..rows import SMALL_BYTES
from ..tally import Tally

TITLE = "Reloads and takeovers"
QUESTION = "What do callers notice when their model is loaded again, and when another server takes over?"
HOW = (
    "16 goroutines of one client call a small model, which costs nothing but a process. It is loaded again twenty "
    "times, and the whole server is replaced five times, in a random order, every two seconds or so. Before and after, "
    "nothing is. " + plots.TAILS
)

CALLERS = 16
QUIET, CHANGING = "quiet", "changing"
LABELS = {QUIET: "nothing is replaced", CHANGING: "reloads and takeovers"}
# Of a run without any, by those of other sections.
QUIET_TURNS = 5
# A run that is stopped when everything has been replaced.
LONGEST_SECONDS = 3600.0


def measure(bench: Bench) -> dict[str, Any]:
    tallies = {what: Tally(f"{what}/{DEFAULT.key}", label, callers=CALLERS) for what, label in LABELS.items()}
    flags = {"callers": CALLERS, "bytes": SMALL_BYTES}
    changes: list[dict[str, Any]] = []
    with ChangingServer("bench.rows:small", bench.directory) as served:
        for number, what in enumerate((QUIET, CHANGING, QUIET)):
            bench.progress.say(f"reload, {number + 1} of 3: {LABELS[what]}")
            try:
                if what == QUIET:
                    seconds = QUIET_TURNS * bench.plan.seconds
                    with bench.load.hold(DEFAULT, served.server, "call", False, seconds=seconds, **flags) as run:
                        tallies[what].add(run.go())
                else:
                    seconds = LONGEST_SECONDS
                    with bench.load.hold(DEFAULT, served.server, "call", False, True, seconds=seconds, **flags) as run:
                        run.release()
                        changes = list(_change(bench, served))
                        run.stop()
                        tallies[what].add(run.result())
            except LoadError as error:
                tallies[what].add_failure(str(error))
    rows = [tally.row() for tally in tallies.values()]
    if changes:
        rows[1]["s_each"] = lasting(changes) / len(changes)
    return {"rows": rows, "changes": changes}


def _change(bench: Bench, served: ChangingServer) -> Iterator[dict[str, Any]]:
    """Everything that is replaced, one after the other: what, when, and how long it took until it had been."""
    plan = bench.plan
    every = [*[served.reload] * plan.reloads, *[served.take_over] * plan.takeovers]
    random.Random(f"{bench.seed}/reload").shuffle(every)
    begun = time.monotonic()
    for number, change in enumerate(every):
        time.sleep(max(0.0, begun + number * plan.change_seconds - time.monotonic()))
        at = time.monotonic()
        change()
        yield {"what": change.__name__, "at_s": at - begun, "took_s": time.monotonic() - at}


def table(section: dict[str, Any]) -> str:
    return f"{tables.latencies(section)} {_changes(section['changes'])}"


def _changes(changes: list[dict[str, Any]]) -> str:
    if not changes:
        return "Nothing was replaced."
    took: dict[str, list[float]] = {}
    for each in changes:
        took.setdefault(each["what"], []).append(each["took_s"])
    said = " and ".join(
        f"{len(took[what])} {name}{'s' * (len(took[what]) > 1)} (p50 {statistics.median(took[what]):.2f} s)"
        for what, name in (("reload", "reload"), ("take_over", "takeover"))
        if what in took
    )
    return f"{said} in {lasting(changes):.1f} s."


def lasting(changes: list[dict[str, Any]]) -> float:
    """Seconds from the first one's begin to the last one's end."""
    return changes[-1]["at_s"] + changes[-1]["took_s"]


plot = plots.tails
