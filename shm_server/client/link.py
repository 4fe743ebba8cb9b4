"""A model's session, made again when it has ended: by the next call, which dials."""

import threading
import time
from collections.abc import Callable

from shm_server.client.errors import ClientError, Closed, DeadlineExceeded, Moved, ServerGone
from shm_server.client.session import Session

# A call that is sent on so often, from one session to the next, has met a server that does nothing else.
MOST_MOVES = 16
# After a session that ended so soon we do not come back as fast.
TOO_SOON = 0.01


class Link:
    """`dial(deadline=...)` opens a session; `deadline` is of `time.monotonic`, None for none. Any thread may use it."""

    def __init__(self, dial: Callable[..., Session]) -> None:
        self._dial = dial
        self._dialling = threading.Lock()
        self._session: Session | None = None
        self._attempts = 0
        self._failure: ClientError | None = None  # of the last attempt
        self._closed = False
        self.dials = 0
        """Sessions that were opened."""

    def session(self, deadline: float | None = None) -> Session:
        """The session for a new call, a new one where the last has ended. Raises ClientError, not_run."""
        session = self._session
        if session is not None and not session.lane.over:
            return session
        attempts = self._attempts
        if not self._dialling.acquire(timeout=-1 if deadline is None else max(0.0, deadline - time.monotonic())):
            raise DeadlineExceeded("connecting took too long", not_run=True)
        try:
            if self._closed:
                raise Closed("the client was closed", not_run=True)
            session = self._session
            if session is not None and not session.lane.over:
                return session
            # Somebody has tried meanwhile, in vain; who had less time than we have said nothing of the server.
            if self._attempts != attempts and not isinstance(self._failure, DeadlineExceeded):
                raise self._failure.again()
            return self._connect(deadline)
        finally:
            self._dialling.release()

    def _connect(self, deadline: float | None) -> Session:
        last, self._session = self._session, None
        if last is not None:
            last.failure()  # closes its socket
            if time.monotonic() - last.opened < TOO_SOON:
                time.sleep(TOO_SOON)
        try:
            session = self._dialled(deadline)
        except ClientError as error:
            self._attempts += 1
            self._failure = error
            raise
        self.dials += 1
        self._session = session
        if self._closed:  # meanwhile; `close` may have come before there was this session
            session.close()
        return session

    def _dialled(self, deadline: float | None) -> Session:
        """Again where a server that has just been taken over from answers: who took over is there by now."""
        for _ in range(MOST_MOVES):
            try:
                return self._dial(deadline=deadline)
            except Moved:
                time.sleep(TOO_SOON)
        return self._dial(deadline=deadline)

    def close(self) -> None:
        self._closed = True
        if self._session is not None:
            self._session.close()

    def forget(self) -> None:
        """In a forked child."""
        self._dialling = threading.Lock()
        session, self._session = self._session, None
        if session is not None:
            session.forget()


def sent_on(session: Session) -> ServerGone:
    """The error of a call that no session of MOST_MOVES took."""
    return session.failure() if session.lane.over else ServerGone("shm-server hangs up each time", not_run=True)
