"""How many log lines of a kind there may be: a few a second, then their number.

A client can cause a line with each request; they must not fill a disk, nor hide what happens besides. A kind is a
logger and a template, so templates are constant. Texts that are none are bounded as lines of their logger.
"""

import logging

# Lines a second.
OF_A_KIND, OF_A_LOGGER = 5, 100
KINDS = 1000  # that are remembered; there are more only where somebody logs texts that are no templates

Kind = tuple[str, int, str]  # logger, level, template; 0 and "" for all lines of a logger


class _Count:
    """The lines of a kind in the current second, and those that were too many since that was last said."""

    __slots__ = ("excess", "kind", "since", "taken")

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.since, self.taken, self.excess = 0.0, 0, 0

    def take(self, limit: int, now: float) -> bool:
        if now - self.since >= 1:
            self.since, self.taken = now, 0
        self.taken += 1
        self.excess += self.taken > limit
        return self.taken <= limit


class Limit:
    """Not for two threads at a time."""

    def __init__(self) -> None:
        self._counts: dict[Kind, _Count] = {}
        self.exceeded: set[_Count] = set()

    def admits(self, record: logging.LogRecord, now: float) -> bool:
        """May this line be written? If not, it is counted. `now` in seconds."""
        kind = (record.name, record.levelno, record.msg[:200] if isinstance(record.msg, str) else "")
        count, of_logger = self._counts.get(kind), self._count((record.name, 0, ""))
        if count is None and of_logger.take(OF_A_LOGGER, now):
            count = self._count(kind)
        if count is not None and count.take(OF_A_KIND, now):
            return True
        self.exceeded.add(count or of_logger)
        return False

    def excess(self, now: float) -> list[tuple[Kind, int]]:
        """Lines that were not admitted, of kinds whose second is over. They are counted anew from here on."""
        over = [each for each in self.exceeded if now - each.since >= 1]
        self.exceeded.difference_update(over)
        counts = [(each.kind, each.excess) for each in over]
        for each in over:
            each.excess = 0
        return counts

    def _count(self, kind: Kind) -> _Count:
        if kind not in self._counts:
            if len(self._counts) >= KINDS:
                self._counts = {count.kind: count for count in self.exceeded}
            self._counts[kind] = _Count(kind)
        return self._counts[kind]
