import numpy as np

from bench.histogram import Histogram


def test_samples_keep_three_digits_from_a_nanosecond_to_a_minute():
    for ns in (1, 1_234, 5_678_901, 59_900_000_000):
        assert abs(Histogram.of(np.array([ns])).us(50) * 1000 - ns) <= ns / 1000


def test_encoding_and_merging_lose_no_sample():
    first, second = np.arange(1, 1001), np.arange(100_000, 102_000, 2)
    both = Histogram([Histogram.of(first).encode(), Histogram.of(second).encode()])
    together = Histogram.of(np.concatenate([first, second]))
    assert len(both) == 2000
    assert both.summary() == together.summary()


def test_a_sample_beyond_the_highest_value_counts_as_the_highest():
    histogram = Histogram.of(np.array([10**12, 0]))
    assert len(histogram) == 2
    assert histogram.max_us() >= 59_000_000


def test_the_tail_falls_from_one_to_nothing():
    latency, exceeding = Histogram.of(np.array([1000] * 90 + [2000] * 9 + [50_000])).tail()
    assert latency.round(1).tolist() == [1.0, 2.0, 50.0]
    assert np.allclose(exceeding, [0.1, 0.01, 0.0])
