"""Sends this process signals at chosen moments; Python imports it at its start where this folder is in PYTHONPATH.

$SIGNALS is "MOMENT=SIGNAL,MOMENT=SIGNAL,...": each signal is sent when its moment comes, in that order. A moment is the
start of an audit event (sys.addaudithook) and its first argument: "import numpy", "socket.bind", "os.rename", or a
number: so many events after `main` has taken the signals. "MOMENT|MOMENT" is whichever comes first.
$SIGNALS_TO names a word of the command line that the process must have.
"""

import os
import signal
import sys

_moments = [pair.rsplit("=", 1) for pair in os.environ.get("SIGNALS", "").split(",") if pair]
_events = 0


def _look(event: str, args: tuple) -> None:
    global _events
    if not _moments or os.environ["SIGNALS_TO"] not in sys.argv:
        return
    what = f"{event} {args[0] if args else ''}"
    _events += bool(_events) or what == "import shm_server.cli.commands"
    moments, number = _moments[0]
    if any(what.startswith(moment) or moment == str(_events) for moment in moments.split("|")):
        del _moments[0]
        os.kill(os.getpid(), getattr(signal, number))


if _moments:
    sys.addaudithook(_look)
