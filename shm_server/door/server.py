"""The server: a model behind the call lane, workers of others, a generator behind the stream lane."""

import collections
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from shm_server.door.listener import Listener, SocketInUse, default_socket
from shm_server.door.supervisor import Supervisor
from shm_server.door.worker_process import ANSWER_SECONDS
from shm_server.layout import Reason
from shm_server.models import Classifier
from shm_server.models.classified import Classified
from shm_server.models.protocol import Model
from shm_server.runtime import logs, process
from shm_server.worker.call_lane import DEFAULT_MAX_BATCH, DEFAULT_SLOTS
from shm_server.worker.control import Control
from shm_server.worker.device_lane import dispatcher_of
from shm_server.worker.dispatch import MOVED

log = logging.getLogger(__name__)

# A sleeping core of a virtual machine takes 30 to 60 us to wake. A spin of about that long costs at most twice what
# the better of spinning and sleeping costs (Karlin et al., "Empirical Studies of Competitive Spinning", 1991).
DEFAULT_SPIN_US = 100.0
DEFAULT_MAX_SESSIONS = 256


class Counted(Protocol):
    def counters(self) -> dict[str, int]: ...


class Server(Control):
    """Serves `model` to every client of the Unix socket at `path`, through shared memory.

    model         a `shm_server.models.Model`, or a `Classifier` of pictures; None serves echo only
    path          of the Unix socket, or a Listener; without it `default_socket()`
    spin_us       microseconds to look for work before sleeping; 0 never spins, inf keeps a core for it
    max_batch     rows run at once at most, a power of two; never more than the model's own
    slots         of a session whose client asks for no number
    max_sessions  clients at a time
    allow_other_users   let peers of other users in; their segments are sealed memfds
    cpu           pin the data thread to this core
    workers       Supervisors of other models that are ready, also those that are appended later; the caller stops them.
                  Without `model` the first is the default
    generator     the Supervisor of a generator that is ready; None offers no stream lane. The caller stops it
    answer_within   seconds that `model` may have a batch before it counts as not answering; a Supervisor knows its own

    `run` claims the path and serves in the calling thread until `stop` is called. In the main thread it is the whole
    program, like the command: SIGTERM, SIGINT and SIGHUP stop it unless the program has handlers of its own, and a path
    that cannot be had is SystemExit with one line. In other threads it is what Listener raises: SocketInUse, ValueError
    or OSError. Lines are logged to stderr unless the program has configured logging.
    """

    def __init__(
        self,
        model: Model | Classifier | None,
        path: str | os.PathLike | Listener | None = None,
        *,
        spin_us: float = DEFAULT_SPIN_US,
        max_batch: int = DEFAULT_MAX_BATCH,
        slots: int = DEFAULT_SLOTS,
        max_sessions: int = DEFAULT_MAX_SESSIONS,
        allow_other_users: bool = False,
        cpu: int | None = None,
        workers: Sequence[Supervisor] = (),
        generator: Supervisor | None = None,
        answer_within: float = ANSWER_SECONDS,
    ) -> None:
        process.open_standard_descriptors()
        served = model if isinstance(model, Model) else Classified(model)
        calls = dispatcher_of(served, spin_us=spin_us, max_batch=max_batch, slots=slots, echo_only=model is None)
        self._path = default_socket() if path is None else path
        super().__init__(
            calls,
            path if isinstance(path, Listener) else None,
            max_sessions=max_sessions,
            allow_other_users=allow_other_users,
            cpu=cpu,
        )
        self._workers, self._generator = workers, generator
        self.handed_over = False
        """Did `run` return because of `hand_over`?"""
        self._answer_within = answer_within
        self.gateways: Sequence[Counted] = ()
        """Whose counters are told with ours."""
        self.at_end: Callable[[], None] = lambda: None
        """Called when no client is left, before the counters are logged: to stop the workers, whose they are too."""
        self.questions["models"] = self.models
        self.questions["health"] = lambda: {"parts": self.parts()}

    def run(self) -> None:
        """Serve until `stop`; then drain, say goodbye to every client and remove the socket file."""
        if not logs.configured():
            logs.configure()
        with process.stopped_by_signals(self.stop, self.wake):
            try:
                with self._source or Listener(self._path, other_users=self.allow_other_users) as self._source:
                    super().run()
                    self.at_end()
            except (SocketInUse, ValueError, OSError) as error:
                if self._failure or isinstance(self._path, Listener) or not process.is_main_thread():
                    raise
                raise SystemExit(f"shm-server: {process.words(error)}") from None
            said = (f"{name} {value}" for name, value in self.all_counters().items() if value)
            log.info("stopped: %s", ", ".join(said))

    @property
    def forwards(self) -> Sequence[Supervisor]:
        return (*self._workers, self._generator) if self._generator else tuple(self._workers)

    def hand_over(self) -> None:
        """Leave the path to a process that has adopted its listener: let in nobody more, tell every client that its
        model has moved, and have `run` return. Any thread, while `run` runs.
        """
        self.post(self._hand_over)

    def _hand_over(self) -> None:
        self.handed_over = True
        self._epoll.unregister(self._source.socket)
        for fd in tuple(self._greeting):
            self._refuse(fd, Reason.MOVED, MOVED)
        self.dispatcher.move()

    def state(self) -> str:
        """Of our own model: `ready` or `not answering`. Any thread."""
        return "ready" if self.dispatcher.busy_ns < self._answer_within * 1e9 else "not answering"

    def parts(self) -> dict[str, str]:
        """What this server was asked to serve with: each `up`, `down` or `not answering`. Any thread."""
        states = {} if self.dispatcher.echo_only else {"classifier": self.state()}
        states |= {worker.part: worker.state for worker in self.forwards}
        words = {"ready": "up", "starting": "down"}
        return {name: words.get(state, state) for name, state in states.items()}

    def models(self) -> list[dict[str, object]]:
        """What is served, as layout.md's "Question and answer" says it. Any thread."""
        own = self.dispatcher
        found = [] if own.echo_only else [(own.metadata(), own.protocol, self.state())]
        found += [(worker.model, worker.protocol, worker.state) for worker in self.forwards]
        return [
            {**model, "outputs": [_unlabelled(tensor) for tensor in model["outputs"]]}
            | {"protocol": protocol.name.lower(), "state": state}
            for model, protocol, state in found
        ]

    def all_counters(self) -> dict[str, int]:
        """`counters` with those of the workers and the gateways added. Any thread."""
        counters = collections.Counter(self.counters())
        for each in (*self.forwards, *self.gateways):
            counters.update(each.counters())
        return dict(counters)


def _unlabelled(tensor: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in tensor.items() if key != "labels"}
