"""Latencies in nanoseconds, kept by HdrHistogram: the same encoding as bench/go prints, so that runs can be merged."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from hdrh.histogram import HdrHistogram

# As in bench/go/internal/measure/recorder.go.
HIGHEST_NS = 60_000_000_000
DIGITS = 3

PERCENTILES = (50.0, 90.0, 99.0, 99.9)


class Histogram:
    """Samples in nanoseconds, to three significant digits."""

    def __init__(self, encoded: Iterable[str] = ()) -> None:
        self._hdr = HdrHistogram(1, HIGHEST_NS, DIGITS)
        for each in encoded:
            self.merge(each)

    @classmethod
    def of(cls, samples: np.ndarray) -> Histogram:
        """A histogram of nanoseconds."""
        made = cls()
        values, counts = np.unique(samples, return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            made._hdr.record_value(min(max(1, value), HIGHEST_NS), count)
        return made

    def merge(self, encoded: str) -> None:
        """Add the samples of an encoded histogram."""
        self._hdr.decode_and_add(encoded.encode())

    def encode(self) -> str:
        return self._hdr.encode().decode()

    def __len__(self) -> int:
        return self._hdr.get_total_count()

    def us(self, percentile: float) -> float:
        """The latency, in microseconds, that so many percent of the samples do not exceed."""
        return self._hdr.get_value_at_percentile(percentile) / 1000

    def max_us(self) -> float:
        return self._hdr.get_max_value() / 1000

    def summary(self) -> dict[str, float]:
        """p50, p90, p99, p99.9 and max in microseconds, and how many samples there are."""
        row = {f"p{percentile:g}": self.us(percentile) for percentile in PERCENTILES}
        return {**row, "max": self.max_us(), "count": len(self)}

    def tail(self) -> tuple[np.ndarray, np.ndarray]:
        """The complementary CDF: latencies in microseconds, ascending, and which part of the samples exceeds each."""
        steps = [
            (item.value_iterated_to, item.count_added_in_this_iter_step) for item in self._hdr.get_recorded_iterator()
        ]
        values, counts = (np.array(column, float) for column in zip(*steps, strict=True))
        return values / 1000, 1 - np.cumsum(counts) / counts.sum()
