"""The Unix socket that clients connect to: one live server a path, a dead server's file replaced."""

import errno
import fcntl
import logging
import os
import socket
from pathlib import Path

log = logging.getLogger(__name__)


def default_socket() -> str:
    """Where a server listens that was given no path; the rule is in layout.md, and clients follow it too."""
    folder = os.environ.get("XDG_RUNTIME_DIR", "")
    own = os.path.isabs(folder) and os.path.isdir(folder)  # the user's own; everybody may create files in /tmp
    return os.path.join(folder if own else "/tmp", "shm-server.sock")


class SocketInUse(Exception):
    """Another server is live on the socket path."""


class Listener:
    """Holds `path`, bound, from construction to `close`; clients can connect once `listen` was called.

    A lock on `path`.lock, held meanwhile, tells a stale socket file from a live server's also while that server is
    still loading its model. Raises SocketInUse, FileExistsError for a file that is no socket, or another OSError.
    """

    def __init__(self, path: str | os.PathLike, *, other_users: bool = False) -> None:
        self.path = Path(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                self._bind(other_users)
            except BaseException:
                os.close(self._lock)
                raise
        except BaseException:
            self.socket.close()
            raise

    def _bind(self, other_users: bool) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SocketInUse(f"{self.path} is in use by a live server") from None
        if self.path.is_socket():
            self._unlink_stale()
        elif self.path.exists():
            raise FileExistsError(errno.EEXIST, "is there already and is no socket", str(self.path))
        before = os.umask(0o111 if other_users else 0o177)
        try:
            self.socket.bind(str(self.path))
        finally:
            os.umask(before)
        self.socket.setblocking(False)

    def _unlink_stale(self) -> None:
        """Other programs' sockets have no lock: ask whether somebody answers."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(self.path))
            except ConnectionRefusedError:
                self.path.unlink()
            else:
                raise SocketInUse(f"{self.path} is in use by a live server")

    def listen(self) -> None:
        """Let clients in; until now they were refused."""
        self.socket.listen(128)
        log.info("listening on %s", self.path)

    def accept(self) -> tuple[socket.socket, bytes]:
        """The next client, which has said nothing yet. BlockingIOError when there is none."""
        return self.socket.accept()[0], b""

    def close(self) -> None:
        """Stop listening and remove the socket file: ours, the lock says so. Closing twice does nothing."""
        if self.socket.fileno() < 0:
            return
        self.socket.close()
        self.path.unlink(missing_ok=True)
        os.close(self._lock)

    def __enter__(self) -> "Listener":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
