"""The command `shm-server`."""

import argparse
import contextlib
import gc
import importlib
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from types import ModuleType

from . import __version__, generators, layout, listener, logs, models, server, train, uds
from .generator_process import GeneratorProcess
from .image_lane import DEFAULT_MAX_BATCH, DEFAULT_SLOTS, buckets
from .serialized import Serialized

HTTP_PORT = 20200  # of http.py, which can only be imported with its extra

log = logging.getLogger(__name__)


def spin(text: str) -> float:
    if text == "forever":
        return float("inf")
    value = float(text)
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text}: microseconds from 0, or `forever`")
    return value


def power_of_two(text: str) -> int:
    value = int(text)
    if value < 1 or value & (value - 1):
        raise argparse.ArgumentTypeError(f"{text} is not a power of two")
    return value


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


def port(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is no port: 1 to 65535")
    return value


class Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Shows those defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


def log_flags(to: argparse.ArgumentParser) -> None:
    """The flags that stand before a command or after it; what is not given there must not hide what is given here."""
    to.add_argument("--log-level", choices=logs.LEVELS, default=argparse.SUPPRESS, help="default: info")
    to.add_argument("--log-format", choices=logs.FORMATS, default=argparse.SUPPRESS, help="default: text")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="shm-server", description="Serve Python models through shared memory.")
    top.add_argument("--version", action="version", version=f"shm-server {__version__}")
    top.set_defaults(log_level="info", log_format="text")
    log_flags(top)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    show = Defaults
    serve = commands.add_parser("serve", help="serve a model until SIGTERM or SIGINT", formatter_class=show)
    add = serve.add_argument
    add("--socket", default=listener.default_socket(), metavar="PATH", help="Unix socket to listen on")
    add(
        "--engine", choices=(*models.ENGINES, "none"), default="tensorflow", help="what runs the model; none: echo only"
    )
    add("--model", metavar="FILE", help="a .keras file; without it the bundled CIFAR-10 network. "
        "With --generator openai the endpoint's name for its model")  # fmt: skip
    add("--model-threads", type=positive, default=1, metavar="N", help="threads that each model may use")
    add(
        "--max-batch",
        type=power_of_two,
        default=DEFAULT_MAX_BATCH,
        metavar="N",
        help="images run at once at most",
    )
    add("--slots", type=positive, default=DEFAULT_SLOTS, metavar="N", help="slots of a session by default")
    add("--max-sessions", type=positive, default=server.DEFAULT_MAX_SESSIONS, metavar="N", help="clients at a time")
    add("--spin", type=spin, default=server.DEFAULT_SPIN_US, metavar="US",
        help="microseconds to look for work before sleeping; 0 or `forever`")  # fmt: skip
    add("--cpu", type=int, metavar="CPU", help="pin the thread that serves requests to this core")
    add("--allow-other-users", action="store_true", help="let processes of other users connect")
    add("--uds", nargs="?", const=uds.DEFAULT_SOCKET, metavar="PATH",
        help=f"serve the Unix-socket protocol too, on PATH or {uds.DEFAULT_SOCKET}")  # fmt: skip
    add("--http", nargs="?", type=port, const=HTTP_PORT, metavar="PORT",
        help=f"serve HTTP + JSON too, on 127.0.0.1:PORT or {HTTP_PORT}")  # fmt: skip
    add("--metrics", type=port, metavar="PORT", help="Prometheus metrics on 127.0.0.1:PORT")

    add = serve.add_argument_group("prompts", "What answers prompts, in a process of its own.").add_argument
    add("--generator", choices=(*generators.ENGINES, "none"),
        help="by default the bundled tiny model, but none with --engine none")  # fmt: skip
    add("--prompt-spin", type=spin, default=server.DEFAULT_SPIN_US, metavar="US", help="as --spin, of that process")
    add("--checkpoint", metavar="DIR", help="gemma: Orbax checkpoint; else $MODEL_CHECKPOINT")
    add("--tokenizer", metavar="FILE", help="gemma: its SentencePiece model; else $MODEL_TOKENIZER")
    add("--architecture", metavar="NAME", help="gemma: such as gemma3-1b; else what the checkpoint's shapes say")
    add("--chat", action="store_true", help="gemma: wrap prompts in the template of instruction-tuned checkpoints")
    add("--context", type=positive, metavar="TOKENS", help="gemma, tiny: prompt and reply together; else 1024")
    add("--base-url", metavar="URL", help="openai: the endpoint, such as http://127.0.0.1:11434/v1; "
        "else $OPENAI_BASE_URL, where a password in it is not seen by ps. The key is $OPENAI_API_KEY")  # fmt: skip
    add("--timeout", type=float, metavar="SECONDS", help="openai: longest silence of the endpoint; else 60")
    log_flags(serve)
    serve.set_defaults(run=run_serve)

    trainer = commands.add_parser("train", help="train the bundled network on CIFAR-10", formatter_class=show)
    train.add_arguments(trainer)
    log_flags(trainer)
    trainer.set_defaults(run=train.run)
    return top


def model_file(args: argparse.Namespace) -> str | None:
    """What --model says about the classifier."""
    return None if args.generator == "openai" else args.model


def load(args: argparse.Namespace) -> models.Classifier | None:
    """The classifier that the flags ask for, warm."""
    if args.engine == "none":
        return None
    begun = time.perf_counter()
    log.info("loading %s with %s", model_file(args) or "the bundled model", args.engine)
    classifier = models.load_classifier(args.engine, model_file(args), threads=args.model_threads)
    models.warm_up(classifier, buckets(args.max_batch))
    log.info("%s is warm after %.1f s", classifier.name, time.perf_counter() - begun)
    return classifier


# The flags that are an engine's own, by the names of its options.
GENERATOR_FLAGS = {
    "tiny": ("context",),
    "gemma": ("checkpoint", "tokenizer", "architecture", "chat", "context"),
    "openai": ("base_url", "model", "timeout"),
}


def generator_options(args: argparse.Namespace) -> dict[str, object] | None:
    """Arguments of `load_generator`; None for no prompt lane. ValueError for a flag that the engine does not have."""
    engine = args.generator or ("none" if args.engine == "none" else "tiny")
    ours = GENERATOR_FLAGS.get(engine, ())
    for name in {name for names in GENERATOR_FLAGS.values() for name in names} - {"model", *ours}:
        if getattr(args, name):
            raise ValueError(f"--{name.replace('_', '-')} is not for --generator {engine}")
    if engine == "none":
        return None
    options = {name: getattr(args, name) for name in ours if getattr(args, name)}
    if engine != "openai":
        options["threads"] = args.model_threads
    return {"engine": engine} | options


@contextlib.contextmanager
def generator(args: argparse.Namespace) -> Iterator[GeneratorProcess | None]:
    """The process of the generator that the flags ask for, which loads; `wait_ready` before it is used."""
    options = generator_options(args)
    if options is None:
        yield None
        return
    process = GeneratorProcess(
        options, spin_us=args.prompt_spin, max_sessions=args.max_sessions, allow_other_users=args.allow_other_users
    )
    try:
        yield process
    finally:
        process.stop()


def ready(process: GeneratorProcess | None, args: argparse.Namespace) -> GeneratorProcess | None:
    """The process once it has its model. Should the default one have none, that is said, and there are no prompts."""
    try:
        if process:
            process.wait_ready()
    except models.ModelError as error:
        if args.generator:
            raise
        log.warning("no prompts: %s", error)
        return None
    return process


def optional(name: str) -> ModuleType:
    """A module of ours that needs the extra of the same name."""
    try:
        return importlib.import_module(f"shm_server.{name}")
    except ModuleNotFoundError as error:
        raise ValueError(f'--{name} needs {error.name}: pip install "shm-server[{name}]"') from error


def run_serve(args: argparse.Namespace) -> int:
    if args.cpu is not None and args.cpu not in os.sched_getaffinity(0):
        raise ValueError(f"--cpu {args.cpu}: this process may run on {sorted(os.sched_getaffinity(0))}")
    if args.engine == "none" and model_file(args):
        raise ValueError("--engine none takes no --model")
    generator_options(args)
    if args.slots > layout.MAX_SLOTS:
        raise ValueError(f"slots must be 1 to {layout.MAX_SLOTS}, not {args.slots}")
    with contextlib.ExitStack() as stack:
        # Sockets and modules first: what is in use or missing is said before the model is loaded. Until the sockets
        # listen, clients are refused.
        shm = stack.enter_context(listener.Listener(args.socket, other_users=args.allow_other_users))
        packets = None
        if args.uds:
            packets = stack.enter_context(listener.Listener(args.uds, other_users=args.allow_other_users))
        web = optional("http").bind(args.http) if args.http else None
        if args.metrics:
            optional("metrics")
        loading = stack.enter_context(generator(args))  # meanwhile
        classifier = load(args)
        prompts = ready(loading, args)
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
            generator=prompts,
        )
        others = [uds.Server(classifier, packets)] if packets else []
        others += [optional("http").Server(classifier, web, prompts, on_failure=serving.stop)] if web else []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: serving.stop())
        if args.metrics:
            optional("metrics").export(serving, args.metrics)
        gc.collect()
        gc.freeze()  # what is loaded by now stays: no collection walks over it while a request waits
        # Threads share the GIL with the data thread; they hand it over after 0.1 ms, not after 5.
        sys.setswitchinterval(1e-4)
        for other in others:
            other.start()
            stack.callback(other.stop)
        serving.run()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # we are going: a second one must not change how we exit
    log.info("stopped: %s", ", ".join(f"{name} {value}" for name, value in serving.counters().items() if value))
    return 0


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    logs.configure(args.log_level, args.log_format)
    try:
        return args.run(args)
    except (models.ModelError, listener.SocketInUse, ValueError, OSError) as error:
        logs.say(f"shm-server {args.command}: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
