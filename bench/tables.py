"""Markdown tables, and those that several sections have."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def grid(head: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    """A table, without the columns that have nothing in them."""
    lines = [[str(cell) for cell in row] for row in [head, *rows]]
    filled = [i for i in range(len(lines[0])) if any(line[i] for line in lines[1:])]
    lines.insert(1, ["---", *["---:"] * (len(lines[0]) - 1)])
    return "\n".join("| " + " | ".join(line[i] for i in filled) + " |" for line in lines)


def number(value: float | None) -> str:
    """Three digits, or all before the point: 0.0123, 1.48, 63.5, 1,234."""
    if value is None:
        return ""
    if abs(value) >= 99.95:
        return f"{value:,.0f}"
    if abs(value) >= 9.995:
        return f"{value:.1f}"
    if abs(value) >= 0.995:
        return f"{value:.2f}"
    return f"{value:.3g}"


def pair(client: float | None, server: float | None) -> str:
    return f"{number(client)} / {number(server)}"


def latencies(section: dict[str, Any]) -> str:
    """A line a contestant, a column a percentile."""
    adds = any("added_us" in row for row in section["rows"])
    head = ["", "p50", "p90", "p99", "p99.9", "max", "calls/s", *(["added at p50"] if adds else []), "failed"]
    rows = []
    for row in section["rows"]:
        cells = [number(row.get("latency_us", {}).get(name)) for name in ("p50", "p90", "p99", "p99.9", "max")]
        cells.append(number(row.get("calls_per_s")))
        if adds:
            cells.append(f"{row['added_us']:+.1f} us, {row['added_percent']:+.1f}%" if "added_us" in row else "")
        rows.append([row["label"], *cells, row["errors"] or ""])
    return grid(head, rows) + "\n\nMicroseconds."


def sweep(section: dict[str, Any], level: str, head: str) -> str:
    """Rows of several levels: a line a contestant and operation, a column a level."""
    levels = sorted({row[level] for row in section["rows"]})
    lines: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for row in section["rows"]:
        lines.setdefault((row["op"], row["label"]), {})[row[level]] = row
    rows = [[op, label, *(_throughput(at.get(each)) for each in levels)] for (op, label), at in lines.items()]
    return grid(["", head, *levels], rows) + "\n\nCalls per second / p99 in microseconds."


def _throughput(row: dict[str, Any] | None) -> str:
    if not row or "latency_us" not in row:
        return f"failed: {row['first_error'][:40]}" if row else ""
    failed = f" ({row['errors']} failed)" if row["errors"] else ""
    return f"{number(row['calls_per_s'])} / {number(row['latency_us']['p99'])}{failed}"
