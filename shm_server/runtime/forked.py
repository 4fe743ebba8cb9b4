"""What a forked child must not keep.

A model may fork (multiprocessing does). A child that kept the server's descriptors would hold its lock and its clients'
connections after the server is gone. So who opens such things says how to close them:

    forked.close_in_child(self._abandon)

Descriptors are not inherited by programs that a model starts: Python opens all of them close-on-exec.
"""

import contextlib
import os
import socket
import stat
import weakref
from types import MethodType

_closing: weakref.WeakKeyDictionary[object, object] = weakref.WeakKeyDictionary()  # functions by their objects


def close_in_child(close: MethodType) -> None:
    """Have each child that this process forks call `close`, a method, as long as its object lives; one an object."""
    _closing[close.__self__] = close.__func__


def let_go(address: object) -> None:
    """In a forked child: let go of the socket that listens at `address`, as `getsockname` has it, and its connections.

    Found by their local address among the descriptors: a connection that another thread was accepting at the moment of
    the fork stands in nobody's table yet, and libraries keep theirs where we cannot see them. /dev/null takes their
    numbers, so that who closes one of them later closes nothing else.
    """
    with open(os.devnull, "r+b", buffering=0) as nothing:
        for fd in map(int, os.listdir("/proc/self/fd")):
            if _local_address(fd) == address:
                os.dup2(nothing.fileno(), fd, inheritable=False)


def _local_address(fd: int) -> object:
    try:
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            with socket.socket(fileno=os.dup(fd)) as copy:
                return copy.getsockname()
    except OSError:  # it was closed meanwhile: the one that listed them
        pass
    return None


def _close() -> None:
    for owner, close in list(_closing.items()):
        with contextlib.suppress(OSError):  # the next ones must be closed too
            close(owner)


os.register_at_fork(after_in_child=_close)
