"""Time-outs of callers, in seconds, as points in time: in ns of `time.monotonic_ns`, which the server shares; 0 is
none.
"""

import time


def deadline_ns(timeout: float | None) -> int:
    return 0 if timeout is None else max(1, time.monotonic_ns() + int(timeout * 1e9))


def seconds(deadline: int) -> float | None:
    """Of `time.monotonic`, or None."""
    return deadline / 1e9 if deadline else None
