"""Log lines, written by a thread of their own: no thread that serves ever waits for a descriptor.

    logs.configure("info", "text")                                    # once a process
    logging.getLogger(__name__).warning("refused a client: %s", why)  # anywhere

Lines go through a queue to stderr. Where stderr takes nothing (a pipe that nobody reads), the queue fills up, what
comes then is dropped and counted, and the count is written once lines flow again; an exit does not wait for them.
Lines of one kind, which is a logger and a template, come a few a second, then "N more like it".

The formatter for JSON is ours: it is ten lines over `json`, and the core depends on NumPy and posix-ipc only.
"""

import fcntl
import json
import logging
import logging.handlers
import math
import os
import queue
import select
import sys
import threading
import time
from datetime import datetime

from shm_server.runtime import process
from shm_server.runtime.log_limit import Limit

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("text", "json")
# Lines that wait at most; with MAX_LINE they bound the memory. A server in trouble says some tens a second.
MAX_WAITING = 1000
# Characters of a line. A traceback of a framework has some thousand.
MAX_LINE = 16 << 10
# How long an exit waits for a stderr that takes nothing, and for one that is merely slow.
STUCK_SECONDS, SLOW_SECONDS = 1.0, 10.0
# A pipe that is ready takes so many bytes without blocking, and in one piece beside those of other processes (pipe(7)).
PIPE_BYTES = 4096
# A client's text must not look like lines of ours or command a terminal.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code != 9} | {10: "\\n", 13: "\\r"}
_CONTROLS_IN_TRACEBACKS = {code: text for code, text in _CONTROLS.items() if code != 10}

_form = "text"
_handler: "_Handler | None" = None


def configure(level: str = "info", form: str = "text") -> None:
    """Have this process log to stderr from now on, as this module does. Also what Python itself would write there:
    warnings, and exceptions that end a thread."""
    global _form, _handler
    _form = form
    root = logging.getLogger()
    root.setLevel(level.upper())
    if _handler is None:
        process.open_standard_descriptors()
        # A descriptor of its own: models/quiet.py points 2 elsewhere for a while.
        _handler = _Handler(fcntl.fcntl(2, fcntl.F_DUPFD_CLOEXEC, 3))
        root.addHandler(_handler)
        os.register_at_fork(after_in_child=_handler.write_at_once)
        logging.captureWarnings(True)
        threading.excepthook = _thread_failed
        sys.unraisablehook = _unraisable
    _handler.setFormatter(_Json() if form == "json" else _Text())


def configured() -> bool:
    """Does anybody handle this process's log lines?"""
    return bool(logging.getLogger().handlers)


def settings() -> dict[str, str]:
    """Arguments of `configure` for a process whose lines are to look like this one's."""
    return {"level": logging.getLevelName(logging.getLogger().getEffectiveLevel()).lower(), "form": _form}


def say(text: str, level: int = logging.ERROR) -> None:
    """Write a line for whoever started the command: in text format as it is, without date and level."""
    record = logging.LogRecord("shm_server", level, "", 0, "%s", (text,), None)
    record.bare = True
    if _handler:
        _handler.enqueue(_handler.prepare(record))
    elif sys.stderr:
        print(text, file=sys.stderr)


def flush() -> None:
    """Wait until every line is written, or stderr takes none. For the end of a process, also one by os._exit."""
    if _handler:
        _handler.flush()


class _Text(logging.Formatter):
    """2026-11-25 16:30:01 INFO message, then the traceback if there is one."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record)[: 2 * MAX_LINE]

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = record.message.translate(_CONTROLS)
        return record.message if getattr(record, "bare", False) else super().formatMessage(record)

    def formatException(self, info) -> str:
        return super().formatException(info).translate(_CONTROLS_IN_TRACEBACKS)


class _Json(logging.Formatter):
    """An object a line: time (ISO 8601), level, logger, process, message, and exception if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage()[:MAX_LINE],
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)[-MAX_LINE:]
        return json.dumps(line)


class _Handler(logging.handlers.QueueHandler):
    """Puts formatted lines into a queue, which a thread of its own writes to the descriptor `fd`."""

    def __init__(self, fd: int) -> None:
        # SimpleQueue may be used in a signal handler that interrupts a `put`. It has no bound: `enqueue` has one.
        super().__init__(queue.SimpleQueue())
        self._fd, self._poll = fd, select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._dropped = 0
        # Not the handler's lock, which logging.shutdown holds while it waits in `flush`. A signal handler may log too.
        self._counting = threading.RLock()
        self._limit = Limit()
        threading.Thread(target=self._run, name="log", daemon=True).start()

    # -- any thread

    def emit(self, record: logging.LogRecord) -> None:
        with self._counting:
            waited_for = bool(self._limit.exceeded)
            admitted = record.levelno < logging.INFO or self._limit.admits(record, time.monotonic())
            if self._limit.exceeded and not waited_for and self.queue is not None:
                self.queue.put(None)  # in a second the thread has a number to say
        if admitted:
            super().emit(record)

    def prepare(self, record: logging.LogRecord) -> str:
        return self.format(record)  # a string: the record may hold on to a slot's pixels

    def enqueue(self, item: str) -> None:
        if self.queue is None:
            self._write(item)
        elif self.queue.qsize() < MAX_WAITING:
            self.queue.put(item)
        else:
            with self._counting:
                self._dropped += 1

    def handleError(self, record: logging.LogRecord) -> None:
        """The line cannot be formatted, or `str` of an argument raises. logging would write a traceback to stderr."""
        text = record.msg if isinstance(record.msg, str) else type(record.msg).__name__
        self.enqueue(self._line(logging.ERROR, f"a line that cannot be formatted: {text!r:.200}"))

    def flush(self) -> None:
        if self.queue is None:
            return
        written = threading.Event()
        self.queue.put(written)
        end = stuck = time.monotonic()
        while not written.wait(0.02):
            now = time.monotonic()
            if self._poll.poll(0):
                stuck = now
            if now - stuck > STUCK_SECONDS or now - end > SLOW_SECONDS:
                return

    def write_at_once(self) -> None:
        """In a forked child, which has no thread to write: it serves nobody, and may wait."""
        self.queue, self._counting = None, threading.RLock()

    # -- the thread that writes

    def _run(self) -> None:
        while True:
            try:
                item = self.queue.get(timeout=1.0 if self._limit.exceeded else None)
            except queue.Empty:
                item = None
            if isinstance(item, threading.Event):
                self._say_excess(math.inf)
                item.set()
            elif item is not None:
                self._write(item)
            self._say_excess(time.monotonic())
            if self._dropped and not self.queue.qsize():
                with self._counting:
                    dropped, self._dropped = self._dropped, 0
                self._write(self._line(logging.WARNING, f"{dropped} log lines were dropped: stderr took none"))

    def _say_excess(self, now: float) -> None:
        if not self._limit.exceeded:
            return
        with self._counting:
            counts = self._limit.excess(now)
        for (logger, level, text), count in counts:
            like = f"{count} more like it: {text}" if text else f"{count} more lines of {logger}"
            self._write(self._line(level or logging.WARNING, like))

    def _line(self, level: int, text: str) -> str:
        return self.format(logging.LogRecord(__name__, level, "", 0, "%s", (text,), None))

    def _write(self, text: str) -> None:
        """Wait until the descriptor takes it. What it refuses (nobody reads the pipe any more, a full disk) is lost."""
        line = f"{text}\n".encode(errors="backslashreplace")
        while line:
            self._poll.poll()
            try:
                line = line[os.write(self._fd, line[:PIPE_BYTES]) :]
            except BlockingIOError:
                continue
            except OSError:
                return


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_type is not SystemExit:
        name = failed.thread.name if failed.thread else "?"
        info = (failed.exc_type, failed.exc_value, failed.exc_traceback)
        logging.getLogger(__name__).error("an exception ended the thread %s", name, exc_info=info)


def _unraisable(failed: "sys.UnraisableHookArgs") -> None:
    info = (failed.exc_type, failed.exc_value, failed.exc_traceback)
    logging.getLogger(__name__).error("%s", failed.err_msg or "an exception was ignored", exc_info=info)
