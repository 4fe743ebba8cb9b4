"""Supervision of a model: its replicas, whom a client goes to, and a new version in place of the old.

prompts = Supervisor(Protocol.STREAM, {"engine": "tiny"}, spin_us=100.0, max_sessions=256)
prompts.wait_ready()
Server(None, path, generator=prompts).run()
prompts.stop()
"""

import collections
import itertools
import logging
import socket
import sys
import threading
from collections.abc import Sequence

from shm_server import wire
from shm_server.door.replica import BATCH_SECONDS, REPLY_SECONDS, Backoff, Replica
from shm_server.door.worker_process import ANSWER_SECONDS
from shm_server.generators import ModelError, Unavailable
from shm_server.layout import Protocol, Reason
from shm_server.runtime import logs, process
from shm_server.session.doorbell import LaneRequest, Refused
from shm_server.worker.counters import GAUGES

log = logging.getLogger(__name__)

LEAVE_SECONDS = {Protocol.CALL: BATCH_SECONDS, Protocol.STREAM: REPLY_SECONDS}


class Supervisor:
    """Has the workers of a model, from now until `stop`. What is asked of it comes from any thread.

    protocol    of the model
    options     what a worker loads, see worker/main.py
    name        under which it is served; None: what the model calls itself
    called      what the process is, in sentences
    spin_us     as for the server
    max_sessions, allow_other_users   as for the server; sessions of each replica
    part        what it is called where health is asked for; None: its name, or "generator"
    cpu         pin the data threads to this core
    idle        leave the core to whoever else wants it, see `main.give_way`
    replicas    how many processes serve it; each client belongs to one
    backoff     how long to wait before a worker is started again; of each replica when there are several
    answer_within   see WorkerProcess
    """

    def __init__(
        self,
        protocol: Protocol,
        options: dict[str, object],
        *,
        spin_us: float,
        max_sessions: int,
        name: str | None = None,
        called: str = "the generator's process",
        allow_other_users: bool = False,
        part: str | None = None,
        cpu: int | None = None,
        idle: bool = False,
        replicas: int = 1,
        backoff: Backoff | None = None,
        answer_within: float = ANSWER_SECONDS,
    ) -> None:
        process.open_standard_descriptors()
        self.protocol, self.called, self.options = protocol, called, options
        self._name, self._part, self._backoff, self._answer_within = name, part, backoff, answer_within
        self._serving = {"max_sessions": max_sessions, "allow_other_users": allow_other_users}
        self._serving |= {"spin_us": spin_us, "idle": idle, "cpu": cpu}
        self._turn = itertools.count()
        self._reloads = 0
        self._retired: collections.Counter[str] = collections.Counter()  # counters of replicas that have ended
        # A client is passed on, or the replicas are exchanged: none goes to one that was told that its model has moved.
        self._switching = threading.Lock()
        self._reloading = threading.Lock()
        self._stopping = False
        self._coming: Sequence[Replica] = ()  # of a reload, while they load
        self._leaving: Sequence[Replica] = ()  # which have moved
        self._replicas = self._started(options, replicas)

    def _started(self, options: dict[str, object], count: int) -> Sequence[Replica]:
        path = [str(folder) for folder in sys.path]
        load = wire.Load(self.protocol.name, options, dict(self._serving), logs.settings(), path)
        how = {"leave": LEAVE_SECONDS[self.protocol], "answer_within": self._answer_within}
        return tuple(Replica(load, self.called, self._backoff or Backoff(), **how) for _ in range(count))

    def wait_ready(self) -> None:
        """Wait until the first workers have their model and are warm; once. ModelError with its own words if one
        cannot.
        """
        for each in self._replicas:
            each.wait_ready()

    @property
    def name(self) -> str:
        """Under which the model is served; what it calls itself is known once it is ready."""
        return self._name or str(self.model.get("name", ""))

    @property
    def part(self) -> str:
        """What it is called where health is asked for."""
        return self._part or (self.name if self.protocol == Protocol.CALL else "generator")

    @property
    def model(self) -> dict[str, object]:
        """The model's metadata; empty until it is ready."""
        return self._replicas[0].model

    @property
    def alive(self) -> bool:
        """Is there a worker that serves?"""
        return any(each.alive for each in self._replicas)

    @property
    def pids(self) -> list[int]:
        """The workers' processes, without those that have moved."""
        return [pid for each in self._replicas if (pid := each.pid) is not None]

    @property
    def state(self) -> str:
        """`ready`, `starting` or `not answering`, as layout.md has it in the answer to `models`."""
        if any(each.answers for each in self._replicas):
            return "ready"
        return "not answering" if self.alive else "starting"

    @property
    def pid(self) -> int | None:
        """The first of them; None when there is none."""
        return next(iter(self.pids), None)

    def send(self, client: socket.socket, request: LaneRequest) -> None:
        """Pass a client on. Refused when there is no worker, or it takes nothing."""
        try:
            self._pass(wire.Client(**vars(request) | {"protocol": int(request.protocol)}), client)
        except Unavailable as error:
            raise Refused(Reason.DRAINING if self._stopping else Reason.STARTING, str(error)) from error

    def _pass(self, message: wire.Client, passed: socket.socket) -> None:
        """To the replica whose turn it is, of those that serve, and answer if some do."""
        with self._switching:
            if self._stopping:
                raise Unavailable("the server is stopping")
            serving = [each for each in self._replicas if each.answers]
            serving = serving or [each for each in self._replicas if each.alive] or self._replicas
            serving[next(self._turn) % len(serving)].send(message, passed)

    def counters(self) -> dict[str, int]:
        """Counters of all its workers by name, also of those that have ended. They do not fall."""
        with self._switching:
            self._retire()
            replicas, totals = (*self._replicas, *self._leaving), collections.Counter(self._retired)
        for each in replicas:
            totals.update(each.counters())
        totals.update(reloads=self._reloads)
        return dict(totals)

    def reload(self, options: dict[str, object] | None = None, replicas: int | None = None) -> None:
        """Have new workers, which load `options`, or the same once more, take over from the old ones: without a gap.
        `replicas` is how many; None: as many.

        It returns when they serve. The old ones tell their clients, answer what they have, and end by themselves.
        ModelError when a new one does not load: then the old ones go on as if nothing had been asked.
        """
        with self._reloading:
            options = self.options if options is None else options
            coming = self._coming = self._started(options, replicas or len(self._replicas))
            try:
                if self._stopping:  # which did not see them
                    raise ModelError("the server is stopping")
                for each in coming:
                    each.wait_ready()
            except ModelError:
                for each in coming:
                    each.stop()
                raise
            finally:
                self._coming = ()
            with self._switching:
                leaving, self._replicas, self.options = self._replicas, coming, options
                self._retire()
                self._leaving = (*self._leaving, *leaving)
                self._reloads += 1
            for each in leaving:
                each.move()
            if self._stopping:
                for each in coming:
                    each.ask_to_stop()

    def _retire(self) -> None:
        """Let go of replicas that have ended; `_switching` is held."""
        for each in [each for each in self._leaving if each.ended]:
            self._retired.update({name: value for name, value in each.counters().items() if name not in GAUGES})
            self._leaving = tuple(other for other in self._leaving if other is not each)

    def move(self) -> None:
        """Have the workers tell their clients that others serve them, answer what they have, and end."""
        with self._switching:
            self._stopping = True
        for each in self._coming:
            each.ask_to_stop()
        for each in self._replicas:
            each.move()

    def join(self) -> None:
        """Wait until no worker is left, after `move`."""
        for each in (*self._replicas, *self._leaving):
            each.join()

    def ask_to_stop(self) -> None:
        """Have the workers finish what is in flight and end; `stop` waits for it. In a signal handler, too."""
        self._stopping = True
        for each in (*self._replicas, *self._leaving, *self._coming):
            each.ask_to_stop()

    def stop(self) -> None:
        """Have the workers finish what is in flight and end; kill those that do not, or are still loading."""
        self.ask_to_stop()
        for each in (*self._replicas, *self._leaving, *self._coming):
            each.stop()
