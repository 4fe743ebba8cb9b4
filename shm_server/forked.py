"""What a forked child must not keep.

A model may fork (multiprocessing does). A child that kept the server's descriptors would hold its lock and its clients'
connections after the server is gone. So who opens such things says how to close them:

    forked.close_in_child(self._abandon)

Descriptors are not inherited by programs that a model starts: Python opens all of them close-on-exec.
"""

import contextlib
import os
import weakref
from collections.abc import Callable

_closing: list[weakref.WeakMethod] = []


def close_in_child(close: Callable[[], None]) -> None:
    """Have each child that this process forks call `close`, a bound method, as long as its object lives."""
    _closing.append(weakref.WeakMethod(close, _closing.remove))


def _close() -> None:
    for method in list(_closing):
        if close := method():
            with contextlib.suppress(OSError):  # the next ones must be closed too
                close()


os.register_at_fork(after_in_child=_close)
