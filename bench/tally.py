"""What the runs of one row of a table come to, over all rounds."""

from __future__ import annotations

from collections import Counter
from typing import Any

from .histogram import Histogram


def part(run: dict[str, Any], name: str) -> dict[str, Any]:
    """A second histogram of a run as a run of its own. How many a second it was says nothing: it has no time."""
    histogram = run[name]
    return {"histogram": histogram, "count": len(Histogram([histogram])), "errors": 0, "wall_s": 0.0}


class Tally:
    """Adds up runs. `row()` is a row of results.json."""

    def __init__(self, key: str, label: str, **what: Any) -> None:
        self._head = {"key": key, "label": label, **what}
        self._runs: list[dict[str, Any]] = []
        self._latency = Histogram()
        self._lateness: list[str] = []

    def add(self, run: dict[str, Any]) -> None:
        """A result of `load`, or one of the same shape."""
        self._runs.append(run)
        self._latency.merge(run["histogram"])
        if "lateness" in run:
            self._lateness.append(run["lateness"])

    def add_failure(self, why: str) -> None:
        """A run that measured nothing counts as one error."""
        self._runs.append({"count": 0, "errors": 1, "first_error": why, "wall_s": 0.0})

    def _sum(self, name: str) -> float:
        return sum(run.get(name, 0) for run in self._runs)

    def row(self) -> dict[str, Any]:
        count, wall = int(self._sum("count")), self._sum("wall_s")
        row = {**self._head, "count": count, "errors": int(self._sum("errors"))}
        if row["errors"]:
            row["first_error"] = next(run["first_error"] for run in self._runs if run.get("first_error"))
        if not count:
            return row
        row |= {
            "latency_us": self._latency.summary(),
            "histogram": self._latency.encode(),
            "calls_per_s": count / wall if wall else None,
            "per_round": [self._round(run) for run in self._runs if run["count"]],
        }
        if any("client" in run for run in self._runs):
            row |= self._usage(count)
        batches = self._batches()
        if batches:
            row["batches"] = {str(size): calls for size, calls in sorted(batches.items())}
            row["mean_batch"] = count / sum(calls / size for size, calls in batches.items())
        if self._lateness:
            row["unfinished"] = int(self._sum("unfinished"))
            row["in_time_per_s"] = self._sum("in_time") / sum(run["lasting_s"] for run in self._runs if run["count"])
            row["sender_late_us"] = Histogram(self._lateness).summary()
        return row

    def _usage(self, count: int) -> dict[str, Any]:
        """A call's share of what both sides used, waiting included, and the client's own counters."""
        clients = [run["client"] for run in self._runs if "client" in run]
        stats: Counter[str] = Counter()
        for run in self._runs:
            stats.update(run.get("stats", {}))
        return {
            "client_cpu_us": 1e6 * sum(each["user_s"] + each["sys_s"] for each in clients) / count,
            "server_cpu_us": 1e6 * self._sum("server_cpu_s") / count,
            "stats": dict(stats),
        }

    def _batches(self) -> dict[int, int]:
        """Calls by the size of the batch that they were run in."""
        total: Counter[int] = Counter()
        for run in self._runs:
            total.update({int(size): calls for size, calls in (run.get("batches") or {}).items()})
        return total

    @staticmethod
    def _round(run: dict[str, Any]) -> dict[str, float]:
        latency = Histogram([run["histogram"]])
        rate = run["count"] / run["wall_s"] if run["wall_s"] else None
        return {"p50": latency.us(50), "p99": latency.us(99), "calls_per_s": rate}
