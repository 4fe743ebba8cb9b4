"""What the benchmark must show (issues 2, 3, 4, 9, 10), computed from a result; what is not met is printed too."""

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
        self._all, self._rows = rows, {row["key"]: row for row in rows}

    def us(self, key: str, percentile: str = "p50") -> float:
        return self._rows[key]["latency_us"][percentile]

    def speed(self, key: str, op: str, callers: int) -> float:
        """Calls a second of a row of "concurrency". KeyError where there is none, or it failed."""
        at = {"key": key, "op": op, "callers": callers}
        found = next((row for row in self._all if at.items() <= row.items()), {})
        return found["calls_per_s"]

    def value(self, key: str, name: str) -> float:
        return self._rows[key][name]

    def by_size(self, what: str, key: str) -> dict[int, dict[str, Any]]:
        """The rows of one contestant of "size", by their bytes. KeyError when there are none, or one failed."""
        found = {row["bytes"]: row for row in self._rows.values() if row["key"] == f"{what}/{row.get('bytes')}/{key}"}
        if not found or not all(row["count"] for row in found.values()):
            raise KeyError(key)
        return found


def _unevenness(rows: dict[int, dict[str, Any]]) -> float:
    medians = [row["latency_us"]["p50"] for row in rows.values()]
    return max(medians) / min(medians)


def _worst(rows: dict[int, dict[str, Any]], name: str) -> float:
    return max(row[name] for size, row in rows.items() if size >= LARGE_BYTES)


# From here on what a call costs besides the copy is a small part of it.
LARGE_BYTES = 1 << 20


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
    ("classify", "classify, p50: Flask / the HTTP gateway", 3, True, lambda r: r.us("http") / r.us("http-gateway")),
    (
        "concurrency",
        "64 HTTP callers, images/s: the gateway / Flask",
        5,
        True,
        lambda r: r.speed("http-gateway", "classify", 64) / r.speed("http", "classify", 64),
    ),
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
    (
        "size",
        "rows that nobody touches, p50: the slowest size / the fastest",
        1.1,
        False,
        lambda r: _unevenness(r.by_size("untouched", "shm-spin")),
    ),
    (
        "size",
        "rows of 1 MiB and more that are touched, p50: shm spinning / memcpy",
        1.3,
        False,
        lambda r: _worst(r.by_size("touched", "shm-spin"), "of_memcpy"),
    ),
    (
        "size",
        "rows of 1 MiB and more that are touched, p50: shm spinning / C to C",
        1.3,
        False,
        lambda r: _worst(r.by_size("touched", "shm-spin"), "of_floor"),
    ),
    (
        "replicas",
        "a model of 1 ms, calls/s: two replicas / one",
        1.7,
        True,
        lambda r: r.value("2/shm-default", "of_one"),
    ),
    (
        "reload",
        "calls that failed among reloads and takeovers",
        0,
        False,
        lambda r: r.value("changing/shm-default", "errors"),
    ),
    (
        "reload",
        "reloads and takeovers, one after the other: s each",
        2.4,
        False,
        lambda r: r.value("changing/shm-default", "s_each"),
    ),
]
