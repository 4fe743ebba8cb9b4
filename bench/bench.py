"""What every section works with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .contestants import Contestant
from .floor import Floor
from .load import Load, LoadError
from .plan import Plan
from .rounds import Progress
from .servers import Fleet
from .tally import Tally


@dataclass
class Bench:
    """The plan, and all that is needed to carry it out."""

    plan: Plan
    seed: int
    fleet: Fleet
    load: Load
    floor: Floor
    progress: Progress
    directory: Path  # for what is gone at the end

    def call(self, tally: Tally, contestant: Contestant, op: str, **flags: float | str) -> dict[str, Any] | None:
        """One run of a contestant while every other server is frozen, added to `tally`; None when it failed.

        A failure is a result: it is printed, and the benchmark goes on. A server that ends is not, and raises.
        """
        cpu = contestant.apart[1] if contestant.apart else contestant.cpu
        with self.fleet.only(contestant.server) as server, server.pinned(cpu):
            try:
                run = self.load.run(contestant, server, op, **flags)
            except LoadError as error:
                tally.add_failure(str(error))
                return None
        if "rate" in flags:
            run["lasting_s"] = flags["seconds"]
        tally.add(run)
        return run
