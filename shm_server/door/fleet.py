"""The models that a server was told to serve, each with its supervisor: loaded again, and watched.

fleet = Fleet(find, start)
fleet.start()
fleet.reload("iris")                    # by name; None: all, and those that are new
"""

import logging
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from shm_server.door.supervisor import Supervisor
from shm_server.models import ModelError
from shm_server.runtime.describe import message

log = logging.getLogger(__name__)

# Seconds between two looks at the files of models.
WATCH_SECONDS = 1.0


@dataclass(frozen=True)
class Wanted:
    """A model that is to be served."""

    name: str
    """Under which it is served; empty: what it calls itself. At most one is so."""
    options: dict[str, object]
    """What its workers load, see worker/main.py."""
    replicas: int = 1
    mark: Hashable = None
    """Differs when its files do, or how it is to be served; None where that cannot be seen."""


@dataclass(frozen=True)
class Outcome:
    """What became of a model that was to be loaded again."""

    name: str
    before: str | None
    """The version that served; None for a model that is new."""
    after: str | None
    """The one that serves now; None where `error` says why there is none."""
    error: str = ""

    def __str__(self) -> str:
        if not self.error:
            return f"{self.name}: version {self.after}" + (f" in place of {self.before}" if self.before else ", new")
        return f"{self.name}: {self.error}" + (f"; version {self.before} goes on" if self.before else "")


class Fleet:
    """`find` says what is wanted, each time that it is asked; ModelError when that cannot be said. `start` makes a
    supervisor of it.
    """

    def __init__(self, find: Callable[[], Sequence[Wanted]], start: Callable[[Wanted], Supervisor]) -> None:
        self.supervisors: list[Supervisor] = []
        """In the order of their sources, then those that came later. It only grows."""
        self._find, self._start = find, start
        self._of: dict[str, Supervisor] = {}  # by the name in `Wanted`
        self._marks: dict[str, Hashable] = {}  # of what was loaded, or did not load
        self._lock = threading.Lock()  # one reload at a time

    def start(self) -> None:
        """Start what is wanted. `wait_ready` of each says when it is ready. ModelError."""
        for wanted in self._find():
            self._marks[wanted.name] = wanted.mark
            self._add(wanted.name, self._start(wanted))

    def reload(self, name: str | None = None) -> list[Outcome]:
        """Have new workers take over those of the model `name`, or of all; start those that there were none of.

        ModelError: it cannot be said what is wanted, or there is no such model; nothing has changed then. What is not
        wanted any more serves on: folders vanish by mistake, too.
        """
        with self._lock:
            wanted = [each for each in self._find() if name in (None, each.name or self._of[""].name)]
            if name is not None and not wanted:
                raise ModelError(f"there is no model {name!a:.100} to load again")
            return [self._load(each) for each in wanted]

    def _load(self, wanted: Wanted) -> Outcome:
        self._marks[wanted.name] = wanted.mark
        if there := self._of.get(wanted.name):
            return again(there, wanted.options, wanted.replicas)
        supervisor = self._start(wanted)
        try:
            supervisor.wait_ready()
        except ModelError as error:
            supervisor.stop()
            return _said(Outcome(wanted.name, None, None, message(error)))
        self._add(wanted.name, supervisor)
        return _said(Outcome(wanted.name, None, _version(supervisor)))

    def _add(self, name: str, supervisor: Supervisor) -> None:
        self._of[name] = supervisor
        self.supervisors.append(supervisor)

    def watch(self, ended: threading.Event) -> None:
        """Load again what changes on the disk, until `ended`. What changes still is left until it does not."""
        seen: dict[str, Hashable] = {}
        said = ""
        while not ended.wait(WATCH_SECONDS):
            try:
                now = {each.name: each.mark for each in self._find() if each.mark is not None}
                said = ""
            except ModelError as error:  # somebody is at it, or the folder is gone
                if message(error) != said:
                    said = message(error)
                    log.error("what is served goes on, and is not watched for now: %s", said)
                continue
            for name in sorted(now.keys() - {n for n, mark in self._marks.items() if mark == now.get(n)}):
                if seen.get(name) == now[name]:
                    try:
                        self.reload(name)
                    except ModelError as error:  # it went away this moment
                        log.error("not loaded again: %s", message(error))
            seen = now


def again(supervisor: Supervisor, options: dict[str, object] | None = None, replicas: int | None = None) -> Outcome:
    """Have new workers take over; None: with the same options, as many."""
    name, before = supervisor.name, _version(supervisor)
    try:
        supervisor.reload(options, replicas)
    except ModelError as error:
        return _said(Outcome(name, before, None, message(error)))
    return _said(Outcome(name, before, _version(supervisor)))


def _version(supervisor: Supervisor) -> str:
    return str(supervisor.model.get("version"))


def _said(outcome: Outcome) -> Outcome:
    if outcome.error:
        log.error("not loaded: %s", outcome)
    else:
        log.info("loaded: %s", outcome)
    return outcome
