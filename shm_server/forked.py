"""What a forked child must not keep.

A model may fork (multiprocessing does). A child that kept the server's descriptors would hold its lock and its clients'
connections after the server is gone. So who opens such things says how to close them:

    forked.close_in_child(self._abandon)

Descriptors are not inherited by programs that a model starts: Python opens all of them close-on-exec.
"""

import contextlib
import os
import weakref
from types import MethodType

_closing: weakref.WeakKeyDictionary[object, object] = weakref.WeakKeyDictionary()  # functions by their objects


def close_in_child(close: MethodType) -> None:
    """Have each child that this process forks call `close`, a method, as long as its object lives; one an object."""
    _closing[close.__self__] = close.__func__


def _close() -> None:
    for owner, close in list(_closing.items()):
        with contextlib.suppress(OSError):  # the next ones must be closed too
            close(owner)


os.register_at_fork(after_in_child=_close)
