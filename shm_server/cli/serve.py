"""`shm-server serve`: claim every address, load the models, serve until a signal, leave nothing behind."""

import argparse
import contextlib
import dataclasses
import gc
import importlib
import importlib.util
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from types import ModuleType

from shm_server import models
from shm_server.cli import config, options
from shm_server.door import fleet, server
from shm_server.door.fleet import Fleet, Outcome, Wanted
from shm_server.door.listener import Listener
from shm_server.door.supervisor import Supervisor
from shm_server.door.takeover import Handover, Takeover
from shm_server.gateways import address
from shm_server.gateways.address import Tcp, Unix
from shm_server.gateways.hosted import Gateway
from shm_server.layout import Protocol, Reason
from shm_server.runtime.describe import message
from shm_server.runtime.process import Stop
from shm_server.session import doorbell
from shm_server.session.doorbell import Refused

log = logging.getLogger(__name__)


def run(args: argparse.Namespace, stop: Stop) -> int:
    args.check(args)
    stack = contextlib.ExitStack()
    stop.clean_up = stack.close
    try:
        _serve(args, stop, stack)
    finally:
        stop.leaving()
        stack.close()
    return 0


def _serve(args: argparse.Namespace, stop: Stop, stack: contextlib.ExitStack) -> None:
    # Addresses and modules first: what is in use or missing is said before a model is loaded.
    claims = Claims(args, stop, stack)
    shm = claims.listener("socket", args.socket)
    gateways = _gateways(args, claims)
    metrics, scraped = (_metrics(), claims.port("metrics", args.metrics)) if args.metrics else (None, None)
    found = Fleet(lambda: _wanted(args), lambda wanted: _supervisor(args, wanted))
    generator = None
    with stop.held():
        stack.callback(lambda: _stop_all(found.supervisors))
        found.start()
    if loads := options.generator_options(args):
        with stop.held():
            generator = Supervisor(
                Protocol.STREAM,
                loads,
                spin_us=server.DEFAULT_SPIN_US if args.prompt_spin is None else args.prompt_spin,
                idle=args.prompt_priority != "normal",
                **_limits(args),
            )
            stack.callback(generator.stop)
    for each in found.supervisors:
        each.wait_ready()
    generator = _ready(generator, args)
    # With models in processes of their own it has nothing to look for: what it spun would be a core that they want.
    common = {"spin_us": 0 if found.supervisors else args.spin, "slots": args.slots} | _limits(args)
    serving = server.Server(None, shm, workers=found.supervisors, generator=generator, **common)
    stop.serving(serving.stop)
    serving.gateways = gateways
    scrapes = metrics.Server(serving, scraped) if scraped else None
    serving.when_listening = claims.confirm
    serving.tasks["takeover"] = Handover(claims.addresses, serving.hand_over).converse
    reloading = Reloading(found, generator)
    serving.tasks["reload"] = reloading.answer
    stop.reloading(reloading.all)
    if args.watch:
        ended = threading.Event()
        stack.callback(ended.set)
        threading.Thread(target=found.watch, args=(ended,), name="watch", daemon=True).start()
    gc.collect()
    gc.freeze()  # what is loaded by now stays: no collection walks over it while a request waits
    # Threads hand the GIL over after 0.1 ms, not after 5.
    sys.setswitchinterval(1e-4)
    if scrapes:
        scrapes.start()
        stack.callback(scrapes.stop)
    stack.callback(lambda: _stop_all(gateways))
    for gateway in gateways:
        gateway.start()

    def end() -> None:
        if serving.handed_over:
            _leave(serving.forwards, gateways, stop)
            return
        _stop_all(gateways)  # whose calls in hand the workers still answer
        _stop_all(serving.forwards)

    serving.at_end = end
    serving.run()


def _gateways(args: argparse.Namespace, claims: "Claims") -> list[Gateway]:
    """Those that the flags name, each at its address, which is claimed."""
    served, gateways = {"socket": os.path.abspath(args.socket)}, []
    if args.uds:
        gateways.append(Gateway("uds", claims.listener("uds", args.uds), served))
    if args.http:
        _needs("http", "starlette", "uvicorn", "httptools", "uvloop", "PIL")
        gateways.append(Gateway("http", claims.at("http", args.http), served))
    if args.grpc:
        _needs("grpc", "grpc")  # protobuf is said by the process that wants it
        gateways.append(Gateway("grpc", claims.port("grpc", args.grpc), served))
    return gateways


def _metrics() -> ModuleType:
    _needs("metrics", "prometheus_client")
    return importlib.import_module("shm_server.gateways.metrics")


def _needs(extra: str, *modules: str) -> None:
    """ValueError unless they are there; they are not imported."""
    for name in modules:
        if importlib.util.find_spec(name) is None:
            raise ValueError(f'--{extra} needs {name}: pip install "shm-server[{extra}]"')


def _leave(supervisors: Sequence[Supervisor], gateways: Sequence[Gateway], stop: Stop) -> None:
    """Another server has our addresses: what is in hand is answered, by workers and gateways. A signal cuts it."""
    stop.serving(lambda: [each.ask_to_stop() for each in (*gateways, *supervisors)])
    for each in gateways:
        each.move()
    for each in supervisors:
        if each.protocol == Protocol.CALL:
            each.move()
    for each in gateways:  # whose prompts in hand the generator still answers
        each.join()
    for each in supervisors:
        if each.protocol == Protocol.STREAM:
            each.move()
    for each in supervisors:
        each.join()


class Claims:
    """The addresses that the flags name: each claimed for the first time, or taken over from a server that has it."""

    def __init__(self, args: argparse.Namespace, stop: Stop, stack: contextlib.ExitStack) -> None:
        self.addresses: dict[str, Listener | socket.socket] = {}
        self._stop, self._stack, self._other_users = stop, stack, args.allow_other_users
        self._from: Takeover | None = None
        if args.takeover:
            with stop.held():
                self._from = _takeover(args.socket)
                stack.callback(self._from.close) if self._from else None

    def listener(self, name: str, path: str) -> Listener:
        take = self._from and (lambda: self._from.listener(name, path, other_users=self._other_users))
        return self._claim(name, take, lambda: Listener(path, other_users=self._other_users))

    def port(self, name: str, at: Tcp) -> socket.socket:
        take = self._from and (lambda: self._from.port(name, str(address.resolved(at))))
        return self._claim(name, take, lambda: address.bind(at))

    def at(self, name: str, at: Tcp | Unix) -> Listener | socket.socket:
        return self.listener(name, at.path) if isinstance(at, Unix) else self.port(name, at)

    def _claim(self, name: str, take: Callable | None, claim: Callable) -> Listener | socket.socket:
        with self._stop.held():
            self.addresses[name] = self._stack.enter_context((take and take()) or claim())
        return self.addresses[name]

    def confirm(self) -> None:
        """We let clients in: whoever had the addresses may leave."""
        if self._from:
            self._from.confirm()


def _takeover(path: str) -> Takeover | None:
    try:
        return Takeover(path)
    except (FileNotFoundError, ConnectionRefusedError):
        log.info("no server is at %s: there is nothing to take over", path)
        return None
    except Refused as refusal:
        raise ValueError(f"{path}: its server hands nothing over: {refusal}") from refusal


class Reloading:
    """Has models loaded again when somebody asks: the fleet's, and the generator."""

    def __init__(self, found: Fleet, generator: Supervisor | None) -> None:
        self._fleet, self._generator = found, generator

    def all(self) -> None:
        """For SIGHUP: every model; the log says what became of it."""
        log.info("SIGHUP: every model is loaded again")
        try:
            self._reload(None)
        except models.ModelError as error:
            log.error("nothing was loaded again: %s", message(error))

    def answer(self, sock: socket.socket, name: str) -> None:
        """A `control.Task`: layout.md, "Question and answer"."""
        try:
            outcomes = self._reload(name or None)
        except models.ModelError as error:
            raise Refused(Reason.NO_SUCH_MODEL, message(error)) from error
        sock.setblocking(True)
        doorbell.send_answer(sock, [dataclasses.asdict(each) for each in outcomes])

    def _reload(self, name: str | None) -> list[Outcome]:
        generator = self._generator
        if name and generator and name == generator.name:
            return [fleet.again(generator)]
        outcomes = self._fleet.reload(name) if name or self._fleet.supervisors else []
        return [*outcomes, *([fleet.again(generator)] if generator and not name else [])]


def _wanted(args: argparse.Namespace) -> list[Wanted]:
    """What the flags, and the file that they name, want now."""
    if args.engine == "none":
        return []
    if not options.sources_given(args):
        loads = {"classifier": args.model, "engine": args.engine, "threads": args.model_threads}
        return [Wanted("", loads | {"max_batch": args.max_batch, "slots": args.slots})]
    found = []
    for entry in config.entries(args):
        loads, mark = dataclasses.asdict(entry), entry.source.mark()
        replicas = loads.pop("replicas")
        if mark is not None or args.config:
            mark = (mark, *dataclasses.astuple(entry)[1:])
        found.append(Wanted(entry.source.name, loads, replicas, mark))
    return found


def _supervisor(args: argparse.Namespace, wanted: Wanted) -> Supervisor:
    return Supervisor(
        Protocol.CALL,
        wanted.options,
        name=wanted.name or None,
        part=None if wanted.name else "classifier",
        called=f"the process of {wanted.name or 'the classifier'}",
        spin_us=args.spin,
        cpu=args.cpu,
        replicas=wanted.replicas,
        **_limits(args),
    )


def _limits(args: argparse.Namespace) -> dict[str, object]:
    """What is the same for the server and for each worker."""
    names = "max_sessions", "allow_other_users", "answer_within"
    return {name: getattr(args, name) for name in names}


def _stop_all(all_: Sequence[Supervisor | Gateway]) -> None:
    for each in all_:  # side by side: each may take seconds
        each.ask_to_stop()
    for each in all_:
        each.stop()


def _ready(generator: Supervisor | None, args: argparse.Namespace) -> Supervisor | None:
    """The one whose worker has its model. Should the default have none, that is said, and there are no prompts."""
    try:
        if generator:
            generator.wait_ready()
    except models.ModelError as error:
        if args.generator:
            raise
        log.warning("no prompts: %s", error)
        return None
    return generator
