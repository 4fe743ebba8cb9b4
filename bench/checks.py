"""What the benchmark must show (issues 2, 3 and 4), computed from a result. What is not met is printed like what is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def checks(results: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry a claim: what, wanted, measured, met. Claims whose sections were not run are left out."""
    sections = results["sections"]
    found = []
    for section, claim, wanted, at_least, figure in _CLAIMS:
        if section not in sections:
            continue
        try:
            value = figure(_Rows(sections[section]["rows"]))
        except (KeyError, ZeroDivisionError):  # a contestant failed
            found.append({"claim": claim, "wanted": _bound(wanted, at_least), "measured": None, "met": False})
            continue
        met = value >= wanted if at_least else value <= wanted
        found.append({"claim": claim, "wanted": _bound(wanted, at_least), "measured": value, "met": met})
    return found


class _Rows:
    """Rows by key."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = {row["key"]: row for row in rows}

    def us(self, key: str, percentile: str = "p50") -> float:
        return self._rows[key]["latency_us"][percentile]

    def value(self, key: str, name: str) -> float:
        return self._rows[key][name]


def _bound(wanted: float, at_least: bool) -> str:
    return f"{'at least' if at_least else 'at most'} {wanted:g}"


_CLAIMS: list[tuple[str, str, float, bool, Callable[[_Rows], float]]] = [
    ("echo", "echo, p50: Unix socket / shm spinning", 6, True, lambda r: r.us("uds") / r.us("shm-spin")),
    ("echo", "echo, p99: Unix socket / shm spinning", 20, True, lambda r: r.us("uds", "p99") / r.us("shm-spin", "p99")),
    ("echo", "echo, p50: HTTP / shm spinning", 200, True, lambda r: r.us("http") / r.us("shm-spin")),
    ("echo", "echo, p50: shm parked / Unix socket", 1, False, lambda r: r.us("shm-parked") / r.us("uds")),
    ("echo", "echo, p50: shm spinning / C to C", 1.5, False, lambda r: r.us("shm-spin") / r.us("floor")),
    ("echo", "echo, p99.9 of shm spinning, us", 50, False, lambda r: r.us("shm-spin", "p99.9")),
    ("classify", "classify, p50: what shm spinning adds, us", 3, False, lambda r: r.value("shm-spin", "added_us")),
    (
        "limit",
        "64 goroutines, of the engine's images/s: shm spinning",
        0.9,
        True,
        lambda r: r.value("shm-spin", "of_limit"),
    ),
    (
        "limit",
        "64 goroutines, of the engine's images/s: by default",
        0.9,
        True,
        lambda r: r.value("shm-default", "of_limit"),
    ),
    (
        "prompt",
        "first token, p50: what the lane adds spinning, us",
        5,
        False,
        lambda r: r.value("first/instant/shm-spin", "added_us"),
    ),
    (
        "prompt",
        "first token, p50: what the lane adds parked, us",
        100,
        False,
        lambda r: r.value("first/instant/shm-parked", "added_us"),
    ),
    ("prompt", "a token's way to Go, p50, parked, us", 20, False, lambda r: r.us("made/paced/shm-parked")),
]
