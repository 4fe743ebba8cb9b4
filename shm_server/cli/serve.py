"""`shm-server serve`: claim every address, load the models, serve until a signal, leave nothing behind."""

import argparse
import contextlib
import gc
import importlib
import logging
import sys
import time
from types import ModuleType

from shm_server import models
from shm_server.cli import options
from shm_server.door import server
from shm_server.door.listener import Listener
from shm_server.door.supervisor import Supervisor
from shm_server.gateways import tcp, uds
from shm_server.gateways.serialized import Serialized
from shm_server.layout import Protocol
from shm_server.models.source import resolve
from shm_server.runtime.process import Stop
from shm_server.worker.call_lane import buckets

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
    with stop.held():
        shm = stack.enter_context(Listener(args.socket, other_users=args.allow_other_users))
    packets = web = scraped = None
    if args.uds:
        with stop.held():
            packets = stack.enter_context(Listener(args.uds, other_users=args.allow_other_users))
    if args.http:
        http = _optional("http")
        web = stack.enter_context(tcp.bind(args.http))
    if args.metrics:
        metrics = _optional("metrics")
        scraped = stack.enter_context(tcp.bind(args.metrics))
    common = {"max_sessions": args.max_sessions, "allow_other_users": args.allow_other_users}
    generator, workers = None, []
    for source in resolve(args.sources):
        with stop.held():
            worker = Supervisor(
                Protocol.CALL,
                options.source_options(args, source),
                name=source.name,
                called=f"the process of {source.name}",
                spin_us=args.spin,
                **common,
            )
            stack.callback(worker.stop)
        workers.append(worker)
    if loads := options.generator_options(args):
        with stop.held():
            generator = Supervisor(
                Protocol.STREAM,
                loads,
                spin_us=server.DEFAULT_SPIN_US if args.prompt_spin is None else args.prompt_spin,
                idle=args.prompt_priority != "normal",
                **common,
            )
            stack.callback(generator.stop)
    classifier = None if workers else _classifier(args)  # meanwhile
    for worker in workers:
        worker.wait_ready()
    generator = _ready(generator, args)
    if classifier and (packets or web):
        classifier = Serialized(classifier)
    serving = server.Server(
        classifier,
        shm,
        spin_us=args.spin,
        max_batch=args.max_batch,
        slots=args.slots,
        max_sessions=args.max_sessions,
        allow_other_users=args.allow_other_users,
        cpu=args.cpu,
        workers=workers,
        generator=generator,
    )
    stop.serving(serving.stop)
    others = [uds.Server(classifier, packets)] if packets else []
    others += [http.Server(classifier, web, generator, workers, on_failure=serving.stop)] if web else []
    others += [metrics.Server(serving, scraped)] if scraped else []
    gc.collect()
    gc.freeze()  # what is loaded by now stays: no collection walks over it while a request waits
    # Threads share the GIL with the data thread; they hand it over after 0.1 ms, not after 5.
    sys.setswitchinterval(1e-4)
    for other in others:
        other.start()
        stack.callback(other.stop)
    serving.run()


def _classifier(args: argparse.Namespace) -> models.Classifier | None:
    """The one that the flags ask for, warm."""
    if args.engine == "none":
        return None
    begun = time.perf_counter()
    log.info("loading %s with %s", args.model or "the bundled model", args.engine)
    classifier = models.load_classifier(args.engine, args.model, threads=args.model_threads)
    models.warm_up(classifier, buckets(args.max_batch))
    log.info("%s is warm after %.1f s", classifier.name, time.perf_counter() - begun)
    return classifier


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


def _optional(name: str) -> ModuleType:
    """A module of ours that needs the extra of the same name."""
    try:
        return importlib.import_module(f"shm_server.gateways.{name}")
    except ModuleNotFoundError as error:
        raise ValueError(f'--{name} needs {error.name}: pip install "shm-server[{name}]"') from error
