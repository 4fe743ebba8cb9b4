"""Keeps a framework's start-up chatter off stderr."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator

# How absl's C++ logging begins an information or warning line, e.g. 'I0000 00:00:1795477335.268300', and
# what TensorFlow 2.18 calls an error where there is no GPU, and XLA a program of its own cache that names tuning
# flags ("prefer-no-scatter") among the processor's features.
_CHATTER = re.compile(
    rb"[IW]\d{4} \d\d:\d\d:|WARNING: All log messages before absl::InitializeLog|"
    rb"E\d{4} .*(Unable to register cu|Loading XLA:CPU AOT result)"
)


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """While it lasts, stderr goes through a file; at its end all but the chatter is passed on.

    TensorFlow logs from its static initializers, to the descriptor itself, before any setting can
    tell it not to.  From then on TF_CPP_MIN_LOG_LEVEL does, unless the user has set it otherwise.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # errors reach Python as exceptions anyway
    sys.stderr.flush()
    with os.fdopen(os.memfd_create("stderr"), "w+b") as held, os.fdopen(os.dup(2), "wb") as stderr:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr.fileno(), 2)
            held.seek(0)
            stderr.writelines(line for line in held if not _CHATTER.match(line))
