"""Figures: what several sections draw alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from .contestants import COLOURS, REFERENCES
from .histogram import Histogram

# How to read what `tails` draws.
TAILS = (
    "Complementary CDFs on two log axes: the height of a curve at x is the part of the calls that take longer than x. "
    "Further left is faster, steeper is steadier."
)

# How the keys of rows begin that are drawn beside one of the same contestant.
SECOND = ("generating/", "changing/")


def subplots(rows: int, columns: int, **how: Any) -> tuple[Figure, np.ndarray]:
    """A figure, and its axes as rows and columns."""
    return plt.subplots(rows, columns, layout="constrained", squeeze=False, **how)


def tidy(axes: Axes) -> None:
    """A grid, and numbers that are written out: 1,000, not 10^3. When everything is drawn."""
    axes.grid(which="major", color="lightgray", linewidth=0.5)
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            low, high = axis.get_view_interval()
            axis.set_major_locator(LogLocator(subs=(1.0,) if high > 100 * low else (1.0, 2.0, 5.0)))
            axis.set_minor_formatter(NullFormatter())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))


def legend_below(figure: Figure, axes: Axes, columns: int) -> None:
    """One legend for the whole figure: that of `axes`."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns, fontsize=8)


def tails(section: dict[str, Any]) -> Figure:
    """Complementary CDFs."""
    figure, ((axes,),) = subplots(1, 1, figsize=(9, 6))
    draw_tails(axes, section["rows"])
    legend_below(figure, axes, 2)
    return figure


def draw_tails(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """A complementary CDF each."""
    for row in (row for row in rows if row["count"]):
        latency, exceeding = Histogram([row["histogram"]]).tail()
        # The last sample is exceeded by none: a curve ends at one in all of them.
        exceeding[-1] = 1 / row["count"]
        axes.step(latency, exceeding, style(row), where="post", label=row["label"], color=colour(row), linewidth=1.5)
    axes.set(xscale="log", yscale="log", xlabel="microseconds", ylabel="part of the calls that take longer")
    tidy(axes)
    for part, name in ((0.5, "p50"), (0.1, "p90"), (0.01, "p99"), (0.001, "p99.9")):
        axes.axhline(part, color="lightgray", linewidth=0.6, zorder=0)
        axes.text(1.0, part, f" {name}", transform=axes.get_yaxis_transform(), fontsize=8, va="center", color="gray")


def throughput_above_p99(axes: Any, rows: list[dict[str, Any]], level: str, name: str, title: str) -> None:
    """Two axes: calls per second, and the tail, against a level of the rows."""
    for label, mine in by_label(rows).items():
        x = [row[level] for row in mine]
        axes[0].plot(x, [row["calls_per_s"] for row in mine], "o-", label=label, color=colour(mine[0]))
        axes[1].plot(x, [row["latency_us"]["p99"] for row in mine], "o-", label=label, color=colour(mine[0]))
    for each, what in zip(axes, ("calls per second", "p99, microseconds"), strict=True):
        each.set(yscale="log", xlabel=name, ylabel=what, title=title)
        tidy(each)
        levels(each, [row[level] for row in rows])


def levels(axes: Axes, values: list[int], name: Callable[[int], str] = str) -> None:
    """A logarithmic x axis that shows these and no others."""
    axes.set_xscale("log", base=2)
    shown = sorted(set(values))
    axes.set_xticks(shown, [name(value) for value in shown])


def by_label(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    lines: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        lines.setdefault(row["label"], []).append(row)
    return lines


def colour(row: dict[str, Any]) -> str:
    return COLOURS.get(contestant(row).removesuffix("-one-core"), "gray")


def style(row: dict[str, Any]) -> str:
    """Of a line: dashed for what others are compared with, dotted for somebody's second one."""
    if contestant(row) in REFERENCES:
        return "--"
    return ":" if row["key"].endswith("-one-core") or row["key"].startswith(SECOND) else "-"


def contestant(row: dict[str, Any]) -> str:
    """The key of a contestant, also where a section has several rows for each: what/shm-spin."""
    return row["key"].rpartition("/")[2]
