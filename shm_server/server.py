"""The server: a classifier behind the image lane, a generator behind the prompt lane."""

import collections
import logging
import os

from .control import Control
from .generator_process import GeneratorProcess
from .image_lane import DEFAULT_MAX_BATCH, DEFAULT_SLOTS, ImageDispatcher
from .layout import LaneKind
from .listener import Listener, default_socket
from .models import Classifier

log = logging.getLogger(__name__)

# A sleeping core of a virtual machine takes 30 to 60 us to wake. A spin of about that long costs at most twice what
# the better of spinning and sleeping costs (Karlin et al., "Empirical Studies of Competitive Spinning", 1991).
DEFAULT_SPIN_US = 100.0
DEFAULT_MAX_SESSIONS = 256


class Server(Control):
    """Serves `classifier` to every client of the Unix socket at `path`, through shared memory.

    classifier    a `shm_server.models.Classifier`; None serves echo only
    path          of the Unix socket, or a Listener; a stale file is replaced, a live server's is not (SocketInUse).
                  Without it `default_socket()`
    spin_us       microseconds to look for work before sleeping; 0 never spins, inf keeps a core for it
    max_batch     images run at once at most, a power of two
    slots         of a session whose client asks for no number
    max_sessions  clients at a time
    allow_other_users   let peers of other users in; their segments are sealed memfds
    cpu           pin the data thread to this core
    generator     a GeneratorProcess that is ready; None offers no prompt lane. The caller stops it

    `run` serves in the calling thread until `stop` is called from a signal handler or another thread.
    """

    def __init__(
        self,
        classifier: Classifier | None,
        path: str | os.PathLike | Listener | None = None,
        *,
        spin_us: float = DEFAULT_SPIN_US,
        max_batch: int = DEFAULT_MAX_BATCH,
        slots: int = DEFAULT_SLOTS,
        max_sessions: int = DEFAULT_MAX_SESSIONS,
        allow_other_users: bool = False,
        cpu: int | None = None,
        generator: GeneratorProcess | None = None,
    ) -> None:
        images = ImageDispatcher(classifier, spin_us=spin_us, max_batch=max_batch, slots=slots)
        if not isinstance(path, Listener):
            path = Listener(default_socket() if path is None else path, other_users=allow_other_users)
        super().__init__(
            images,
            path,
            max_sessions=max_sessions,
            allow_other_users=allow_other_users,
            cpu=cpu,
            forwards={LaneKind.PROMPT: generator} if generator else None,
        )
        self._generator = generator

    def all_counters(self) -> dict[str, int]:
        """`counters` with those of the generator's process added."""
        counters = collections.Counter(self.counters())
        if self._generator:
            counters.update(self._generator.counters())
        return dict(counters)
