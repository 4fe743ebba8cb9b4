"""A worker: the process that has a model and serves its lanes.

A model that is slow, holds the GIL or dies hurts its own callers only: each is in a process of its own. It gets its
clients from the server's process (wire.py) and shares nothing else with it: when it dies, its clients see the end of
their sessions, the other models go on, and supervisor.py starts another.
"""

import contextlib
import errno
import gc
import logging
import os
import select
import socket
import sys
import threading
import time

from shm_server import wire
from shm_server.generators import ModelError, NoGenerator, load_generator
from shm_server.layout import Protocol
from shm_server.models import load_classifier, warm_up
from shm_server.models.checking import trial
from shm_server.models.classified import Classified
from shm_server.models.quiet import quiet_imports
from shm_server.models.source import Source
from shm_server.runtime import logs
from shm_server.runtime.describe import message
from shm_server.session.doorbell import LaneRequest
from shm_server.worker.control import Control
from shm_server.worker.device_lane import dispatcher_of
from shm_server.worker.dispatch import Dispatcher
from shm_server.worker.prompt_lane import PromptDispatcher

log = logging.getLogger(__name__)


KINDS = (wire.Client, wire.AskCounters, wire.Move, wire.Stop)


class Inbox:
    """The worker's end of the wire: a `control.Source` of clients."""

    control: Control
    """Whose counters are asked for."""

    def __init__(self, pipe: socket.socket, dispatcher: Dispatcher) -> None:
        self.socket, self._dispatcher = pipe, dispatcher

    def listen(self) -> None:
        """Nothing to do: clients come when they are sent."""

    def accept(self) -> tuple[socket.socket, LaneRequest]:
        """The next client, and what it asks for: the server has read its hello.

        BlockingIOError: there is none, or the message was something else; EOFError: there will be none; another
        OSError: this one was lost; Malformed.
        """
        try:
            said, passed = wire.receive(self.socket, *KINDS, flags=socket.MSG_DONTWAIT)
        except EOFError:
            wire.orphaned()  # before the thread that watches for it does
        except wire.Malformed as error:
            if error.passed:
                error.passed.close()
            raise
        if isinstance(said, wire.Client):
            return passed, LaneRequest(**vars(said) | {"protocol": Protocol(said.protocol)})
        if isinstance(said, wire.Stop):
            raise EOFError("no client will come any more")
        if isinstance(said, wire.Move):
            self._dispatcher.move()
        else:
            wire.send(self.socket, wire.Counters(self.control.counters()), flags=socket.MSG_DONTWAIT)
        raise BlockingIOError(errno.EAGAIN, "that was no client")

    def close(self) -> None:
        """Nothing to do: nobody comes after a Stop, and the last counters are still to be said."""


def give_way() -> None:
    """Have every thread of this process leave its core to whoever else wants it.

    SCHED_IDLE (sched(7)): one that wakes up takes the core at once. Niceness would only make our share smaller; a
    thread that is about to classify still waited for the end of our time slice, up to 8 ms. Where nobody leaves a core
    idle, next to nothing is generated: clients and servers that spin for ever want a core each beside ours.
    """
    seen: set[str] = set()
    while more := set(os.listdir("/proc/self/task")) - seen:  # a new thread inherits it from a seen one
        for thread in more:
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.sched_setscheduler(int(thread), os.SCHED_IDLE, os.sched_param(0))
        seen |= more


def load_stream(options: dict, spin_us: float) -> Dispatcher:
    """`options` are the arguments of `load_generator`."""
    log.info("loading the generator: %s", options["engine"])
    generator = load_generator(**options)
    log.info("prompts: %s%s", generator.name, f". {generator.note}" if generator.note else "")
    return PromptDispatcher(generator, spin_us=spin_us)


def load_call(options: dict, spin_us: float) -> Dispatcher:
    """`options`: `source`, the fields of a `Source`, or `classifier`, the file of one, None for the bundled network;
    `engine` and `threads` as to load it; `max_batch` and `slots` as for the server.
    """
    load = load_classified if "classifier" in options else load_source
    return load(options, {"spin_us": spin_us, "max_batch": options["max_batch"], "slots": options["slots"]})


def load_classified(options: dict, serving: dict) -> Dispatcher:
    path, engine, begun = options["classifier"], options["engine"], time.perf_counter()
    log.info("loading %s with %s", path or "the bundled model", engine)
    classifier = load_classifier(engine, path, threads=options["threads"])
    dispatcher = dispatcher_of(Classified(classifier), **serving)
    warm_up(classifier, dispatcher.batches)
    log.info("%s is warm after %.1f s", classifier.name, time.perf_counter() - begun)
    return dispatcher


def load_source(options: dict, serving: dict) -> Dispatcher:
    source, begun = Source(**options["source"]), time.perf_counter()
    log.info("loading %s from %s", source.name, source.place)
    model = source.load(engine=options["engine"], threads=options["threads"])
    version = source.version if source.is_file else None  # what is in Python says its own
    dispatcher = dispatcher_of(model, name=source.name, version=version, **serving)
    trial(model)  # which takes memory for some rows: what is too large has been refused
    dispatcher.warm_up()
    took = time.perf_counter() - begun
    log.info("%s, version %s, is warm on %s after %.1f s", source.name, dispatcher.version, model.platform, took)
    return dispatcher


LOADERS = {Protocol.STREAM.name: load_stream, Protocol.CALL.name: load_call}


def serve(
    dispatcher: Dispatcher,
    pipe: socket.socket,
    *,
    idle: bool,
    max_sessions: int,
    allow_other_users: bool = False,
    cpu: int | None = None,
) -> None:
    """Say that the model is ready, and serve until the server's process says stop."""
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(1e-4)
    inbox = Inbox(pipe, dispatcher)
    others = {"max_sessions": max_sessions, "allow_other_users": allow_other_users}
    inbox.control = Control(dispatcher, inbox, cpu=cpu, **others)
    wire.send(pipe, wire.Ready(dict(dispatcher.metadata())))
    if idle:  # not before: the server waits for us, and beside two busy processes we would get no core for a minute
        give_way()
    inbox.control.run()
    counters = inbox.control.counters()
    wire.send(pipe, wire.Counters(counters))
    said = ", ".join(f"{name} {value}" for name, value in counters.items() if value)
    log.info("%s: %s", dispatcher.called, said)


def _watch_server(pipe: socket.socket) -> None:
    """A thread that sees the server die, whatever the others are in: a model that loads, or does not return."""
    gone = select.poll()
    gone.register(pipe, 0)  # hanging up is always reported
    gone.poll()
    wire.orphaned()


def main(fd: int) -> int:
    """Serve at the end `fd` of a wire; the exit code."""
    pipe, load, _ = wire.begin(fd, wire.Load)
    sys.path += [folder for folder in load.path if folder not in sys.path]
    for name in ("absl", "jax", "matplotlib"):  # which accelerators there are not, which fonts there are
        logging.getLogger(name).setLevel(logging.ERROR)
    threading.Thread(target=_watch_server, args=(pipe,), name="server-watch", daemon=True).start()
    spin_us = load.serving.pop("spin_us")
    try:
        with quiet_imports():
            dispatcher = LOADERS[load.protocol](load.options, spin_us)
    except (ModelError, ValueError, OSError) as error:
        wire.send(pipe, wire.Failed(message(error), isinstance(error, NoGenerator)))
        return 1
    try:
        serve(dispatcher, pipe, **load.serving)
    except BaseException:
        log.exception("the process of %s failed", dispatcher.name)
        logs.flush()
        os._exit(1)  # now: no thread of a model, or of a client that reads nothing, is waited for
    return 0
