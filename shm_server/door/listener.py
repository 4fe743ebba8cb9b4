"""The Unix socket that clients connect to: one live server a path, a dead server's file replaced.

with Listener("/run/user/1000/shm-server.sock") as listener:      # the path is ours, nobody can connect
    ...                                                           # load a model
    listener.listen()                                             # the file appears, and somebody listens
"""

import contextlib
import errno
import fcntl
import logging
import os
import pwd
import socket
import stat
from collections.abc import Iterator

from shm_server.runtime import forked

log = logging.getLogger(__name__)

# Bytes of a path (unix(7): sun_path has 108, with a zero byte at its end).
MAX_PATH = 107


def default_socket() -> str:
    """Where a server listens that was given no path; the rule is in layout.md, and clients follow it too."""
    folder = os.environ.get("XDG_RUNTIME_DIR", "")
    own = os.path.isabs(folder) and os.path.isdir(folder)  # the user's own; everybody may create files in /tmp
    return os.path.join(folder if own else "/tmp", "shm-server.sock")


class SocketInUse(Exception):
    """Another server is live on the socket path."""


class Listener:
    """Holds `path` from construction to `close`. From `listen` on there is a socket there, and clients can connect.

    A lock on `path`.lock, held meanwhile, tells a stale socket file from a live server's also while that server is
    still loading its model. Raises SocketInUse, ValueError for what is no path of a socket, FileExistsError for a path
    where something else is, or another OSError; each names the path.
    """

    def __init__(self, path: str | os.PathLike, *, other_users: bool = False) -> None:
        self.path = os.fsdecode(path)
        self._at = _checked(self.path)
        self._mode = 0o666 if other_users else 0o600
        self._bound: tuple[int, int] | None = None  # device and inode of our socket file
        self._theirs = False  # are the files another server's?
        with _named(self.path):
            self._lock = _lock(f"{self._at}.lock", self.path)
            self.socket = None
            try:
                self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                _remove_stale(self._at, self.path)
            except BaseException:
                self.close()
                raise
        forked.close_in_child(self._leave_to_parent)

    @classmethod
    def adopt(cls, path: str, sock: socket.socket, lock: int, *, other_users: bool = False) -> "Listener":
        """One that another process hands over: `sock` listens at `path`, and `lock` is the descriptor of its lock.

        Both descriptors are ours from now on, what is at the path from `listen` on. ValueError when `sock` is another
        socket.
        """
        adopted = cls.__new__(cls)
        adopted.path, adopted._at = path, _checked(path)
        adopted._mode = 0o666 if other_users else 0o600
        adopted._bound, adopted._lock, adopted.socket, adopted._theirs = None, lock, sock, True
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if sock.family != socket.AF_UNIX or not listens:
            raise ValueError(f"{path}: expected a socket that listens there, got {sock}")
        forked.close_in_child(adopted._leave_to_parent)
        return adopted

    def descriptors(self) -> tuple[int, int]:
        """What `adopt` takes, in another process: the socket's and the lock's."""
        return self.socket.fileno(), self._lock

    def listen(self) -> None:
        """Let clients in; until now there was nothing at the path, unless it was handed over."""
        if self._theirs:
            with contextlib.suppress(FileNotFoundError):  # somebody has removed it, or that server has ended
                os.chmod(self._at, self._mode)
                self._bound = _identity(os.lstat(self._at))
            self._theirs = False
            log.info("listening on %s, in place of another server", self.path)
            return
        with _named(self.path):
            before = _vacant_beside(self._at)
            self.socket.bind(before)
            try:
                os.chmod(before, self._mode)
                found = os.lstat(before)
                self.socket.listen(128)
                self.socket.setblocking(False)
                os.rename(before, self._at)  # who finds it can connect
            except BaseException:
                os.unlink(before)
                raise
        self._bound = found.st_dev, found.st_ino
        log.info("listening on %s", self.path)

    def accept(self) -> tuple[socket.socket, None]:
        """The next client, which has said nothing yet. BlockingIOError when there is none."""
        return self.socket.accept()[0], None

    def close(self) -> None:
        """Stop listening and remove our files. Closing twice does nothing.

        Only what is ours: somebody may have cleaned the folder and another server may be live there by now. Our inodes
        cannot be another file's while the descriptors are open.
        """
        if self._lock < 0:
            return
        if self._theirs:
            self._close_descriptors()
            return
        with contextlib.suppress(OSError):  # the folder is gone, or is not ours to change any more
            if self._bound and _identity(os.lstat(self._at)) == self._bound:
                os.unlink(self._at)
        with contextlib.suppress(OSError):
            if _identity(os.lstat(f"{self._at}.lock")) == _identity(os.fstat(self._lock)):
                os.unlink(f"{self._at}.lock")
        self._close_descriptors()

    def give_up(self) -> None:
        """Leave the path to the process that has adopted it: `close` removes nothing. Take in nobody more."""
        self._theirs = True

    def _leave_to_parent(self) -> None:
        """In a forked child: the files are the parent's, and so is every connection."""
        if self._bound:
            forked.let_go(self.socket.getsockname())
        self._close_descriptors()

    def _close_descriptors(self) -> None:
        lock, self._lock = self._lock, -1
        if self.socket:
            self.socket.close()
        if lock >= 0:
            os.close(lock)

    def __enter__(self) -> "Listener":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _checked(path: str) -> str:
    """The absolute path where it fits, so that a model may change the working directory. ValueError for a bad one."""
    if not path:
        raise ValueError("the path of a socket is empty")
    if path.startswith("@"):
        raise ValueError(f"{path}: a socket needs a path, abstract names are not supported; a file is ./{path}")
    if "\0" in path:
        raise ValueError(f"{path!r}: a path with a zero byte")
    size = len(os.fsencode(path))
    if size > MAX_PATH:
        raise ValueError(f"{path}: {size} bytes, the path of a socket has at most {MAX_PATH}")
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, "there is no such folder for a socket", folder)
    if path.endswith("/") or os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, "is a folder: name a socket in it", path)
    absolute = os.path.join(os.getcwd(), path)
    return absolute if len(os.fsencode(absolute)) <= MAX_PATH else path


def _lock(name: str, path: str) -> int:
    """A descriptor that holds the lock file `name`. SocketInUse when somebody else does."""
    while True:
        # First without O_CREAT: with it the kernel refuses even root another user's file in /tmp (protected_regular).
        try:
            fd = os.open(name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            try:
                fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            except FileExistsError:
                continue
        except PermissionError as error:
            raise PermissionError(error.errno, f"is the lock of {_owner(name)}: use another path", name) from None
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise FileExistsError(errno.EEXIST, "is there already and is no lock file", name)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _identity(os.lstat(name)) == _identity(os.fstat(fd)):
                return fd
        except BlockingIOError:
            os.close(fd)
            raise SocketInUse(f"{path} is in use by a live server") from None
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # a server that stopped has removed it meanwhile


def _remove_stale(at: str, path: str) -> None:
    """Remove a socket that nobody answers on. SocketInUse when somebody does; FileExistsError for anything else.

    Other programs' sockets have no lock.
    """
    try:
        found = os.lstat(at)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        what = "a symbolic link: name what it points to" if stat.S_ISLNK(found.st_mode) else "no socket"
        raise FileExistsError(errno.EEXIST, f"is there already and is {what}", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # one that accepts nobody is live too
        try:
            probe.connect(at)
        except ConnectionRefusedError:
            os.unlink(at)
        except FileNotFoundError:
            return
        except PermissionError as error:
            raise PermissionError(error.errno, f"is a socket of {_owner(at)}: use another path", path) from None
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EPROTOTYPE):  # its queue is full; of another type
                raise
            raise SocketInUse(f"{path} is in use by a live server") from None
        else:
            raise SocketInUse(f"{path} is in use by a live server")


def _vacant_beside(at: str) -> str:
    """A name in the same folder to bind to before anybody may see the socket. The lock covers the first."""
    first = f"{at}.new"
    if len(os.fsencode(first)) <= MAX_PATH:
        _remove_stale(first, first)  # of a server that was killed within a few microseconds
        return first
    for last in "~-+=_,%^":
        if not os.path.lexists(at[:-1] + last):
            return at[:-1] + last
    raise FileExistsError(errno.EEXIST, "has no free name beside it for a socket that does not listen yet", at)


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Have an OSError name the path, whatever call it is of."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = path
        raise


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _owner(name: str) -> str:
    try:
        uid = os.lstat(name).st_uid
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"
    except OSError:
        return "another user"
