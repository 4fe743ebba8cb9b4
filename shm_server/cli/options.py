"""The flags of `shm-server`: what there is, and what fits together. What does not is one line, and exit code 2."""

import argparse
import itertools
import math
import os
from collections.abc import Callable
from types import ModuleType
from typing import NoReturn

from shm_server import __version__, generators, layout, models
from shm_server.cli.config import MAX_REPLICAS, MAX_THREADS
from shm_server.door import listener, server
from shm_server.door.worker_process import ANSWER_SECONDS
from shm_server.gateways import address, uds
from shm_server.gateways.address import Tcp, Unix
from shm_server.generators import imported
from shm_server.models import engines
from shm_server.runtime import logs
from shm_server.worker.call_lane import DEFAULT_MAX_BATCH, DEFAULT_SLOTS

DEFAULT_ENGINE = "tensorflow"  # of the bundled network
HTTP = Tcp(20200)
MAX_SESSIONS = 1 << 16
MAX_CONTEXT = 1 << 24
MAX_SECONDS = 86400

# The flags that are an engine's own, by the names of `load_generator`'s options.
GENERATOR_FLAGS = {
    "tiny": {"context": "context"},
    "gemma": {name: name for name in ("checkpoint", "tokenizer", "architecture", "chat", "context")},
    "openai": {"base_url": "base_url", "model": "generator_model", "timeout": "timeout"},
}


class Parser(argparse.ArgumentParser):
    """One whose errors are a line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


class Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Shows those defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


# -- what a value may be


def whole(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text!r:.40} is no whole number from {least} to {most}")
        return int(text)

    return parse


def power_of_two(text: str) -> int:
    value = whole(1, layout.MAX_SLOTS)(text)
    if value & (value - 1):
        raise argparse.ArgumentTypeError(f"{text} is not a power of two")
    return value


def number(text: str) -> float:
    """The number that a text is; NaN for none, which fits nowhere."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def spin(text: str) -> float:
    value = math.inf if text == "forever" else number(text)
    if text != "forever" and not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r:.40} is neither microseconds, 0 to 1e9, nor `forever`")
    return value


def seconds(text: str) -> float:
    value = number(text)
    if not 0 < value <= MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r:.40} is no number of seconds, more than 0 and at most {MAX_SECONDS}")
    return value


def name(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("it is empty")
    return text


def generator(text: str) -> str:
    names = (*generators.ENGINES, "none")
    if text not in names and not imported.SPEC.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r:.60} is none of {', '.join(names)}, and not MODULE:ATTRIBUTE")
    return text


def at(text: str) -> Tcp | Unix:
    try:
        return address.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def port(text: str) -> Tcp:
    found = at(text)
    if isinstance(found, Unix):
        raise argparse.ArgumentTypeError(f"{text!r:.80}: expected PORT or HOST:PORT")
    return found


# -- what there is


def log_flags(to: argparse.ArgumentParser) -> None:
    """The flags that stand before a command or after it; what is not given there must not hide what is given here."""
    to.add_argument("--log-level", choices=logs.LEVELS, default=argparse.SUPPRESS, help="default: info")
    to.add_argument("--log-format", choices=logs.FORMATS, default=argparse.SUPPRESS, help="default: text")


def parser(train: ModuleType) -> argparse.ArgumentParser:
    """`train` is the module of that command, which has its own flags."""
    top = Parser(prog="shm-server", description="Serve Python models through shared memory.")
    top.add_argument("--version", action="version", version=f"shm-server {__version__}")
    top.set_defaults(log_level="info", log_format="text")
    log_flags(top)
    commands = top.add_subparsers(dest="command", metavar="COMMAND")
    serve = commands.add_parser("serve", help="serve models until SIGTERM or SIGINT; SIGHUP has them loaded again",
        formatter_class=Defaults)  # fmt: skip
    serve_flags(serve)
    prompt_flags(serve.add_argument_group("prompts", "What answers prompts, in a process of its own."))
    log_flags(serve)
    reload = commands.add_parser("reload", help="have a server that runs load models again, without a gap",
        description="Each model is loaded beside the one that serves, and takes over when it is warm. One that does "
        "not load changes nothing. Code 1 says that one did not.", formatter_class=Defaults)  # fmt: skip
    reload.add_argument("name", nargs="?", default="", metavar="NAME", help="of a model; all of them without it")
    socket_flag(reload)
    log_flags(reload)
    trainer = commands.add_parser("train", help="train the bundled network on CIFAR-10", formatter_class=Defaults)
    train.add_arguments(trainer)
    log_flags(trainer)
    serve.set_defaults(check=lambda args: check(args, serve.error))
    return top


def socket_flag(to: argparse.ArgumentParser) -> None:
    to.add_argument("--socket", type=name, default=listener.default_socket(), metavar="PATH",
        help="Unix socket that the server listens on")  # fmt: skip


def serve_flags(serve: argparse.ArgumentParser) -> None:
    add = serve.add_argument
    add("sources", nargs="*", metavar="SOURCE",
        help="a model, in a process of its own: MODULE:ATTRIBUTE, a file, or a folder of models and their versions; "
        "with NAME= before it or not. The first is the default; without any the bundled network is")  # fmt: skip
    socket_flag(serve)
    add("--replicas", type=whole(1, MAX_REPLICAS), default=1, metavar="N",
        help="processes of each SOURCE; a client's session belongs to one")  # fmt: skip
    add(
        "--config",
        type=name,
        metavar="FILE",
        help="more models, each with its engine, threads, replicas, max_batch, slots: TOML, see cli/config.py",
    )
    add("--watch", action="store_true", help="load a SOURCE again when its files change, or a higher version appears")
    add("--takeover", action="store_true",
        help="load the models beside a server that runs at the same socket, then have it leave")  # fmt: skip
    add("--engine", choices=(*dict.fromkeys((*models.ENGINES, *engines.ENGINES)), "none"), metavar="ENGINE",
        help=f"what runs the model: {', '.join(models.ENGINES)}, or none: echo only (default: {DEFAULT_ENGINE}); of a "
        f"SOURCE that is a file: {', '.join(engines.ENGINES)} (default: the first that can)")  # fmt: skip
    add("--model", type=name, metavar="FILE", help="a .keras file; without it the bundled CIFAR-10 network")
    add("--model-threads", type=whole(1, MAX_THREADS), default=1, metavar="N", help="threads that each model may use")
    add("--max-batch", type=power_of_two, default=DEFAULT_MAX_BATCH, metavar="N", help="rows run at once at most")
    add("--slots", type=whole(1, layout.MAX_SLOTS), default=DEFAULT_SLOTS, metavar="N",
        help="slots of a session by default")  # fmt: skip
    add("--max-sessions", type=whole(1, MAX_SESSIONS), default=server.DEFAULT_MAX_SESSIONS, metavar="N",
        help="clients at a time")  # fmt: skip
    add("--spin", type=spin, default=server.DEFAULT_SPIN_US, metavar="US",
        help="microseconds to look for work before sleeping; 0 or `forever`")  # fmt: skip
    add("--answer-within", type=seconds, default=ANSWER_SECONDS, metavar="SECONDS",
        help="how long a model may have a batch before health says that it is not answering")  # fmt: skip
    add("--cpu", type=whole(0, 1 << 20), metavar="CPU", help="pin the thread that serves requests to this core")
    add("--allow-other-users", action="store_true", help="let processes of other users connect")
    add("--uds", nargs="?", type=name, const=uds.DEFAULT_SOCKET, metavar="PATH",
        help=f"serve the Unix-socket protocol too, on PATH or {uds.DEFAULT_SOCKET}")  # fmt: skip
    add("--http", nargs="?", type=at, const=HTTP, metavar="ADDRESS",
        help=f"serve HTTP + JSON too: PORT (of 127.0.0.1), HOST:PORT, [::1]:PORT, or unix:PATH; or {HTTP}")  # fmt: skip
    add("--grpc", type=port, metavar="ADDRESS",
        help="serve the Open Inference Protocol by gRPC too: PORT (of 127.0.0.1) or HOST:PORT")  # fmt: skip
    add("--metrics", type=port, metavar="ADDRESS", help="Prometheus metrics: PORT (of 127.0.0.1) or HOST:PORT")


def prompt_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--generator", type=generator, metavar="NAME",
        help=f"{', '.join(generators.ENGINES)}, none, or MODULE:ATTRIBUTE, a class, a function or an instance of your "
        "own; by default the bundled tiny model, but none with a SOURCE or --engine none")  # fmt: skip
    add("--prompt-spin", type=spin, metavar="US", help=f"as --spin, of that process; else {server.DEFAULT_SPIN_US}")
    add("--prompt-priority", choices=("idle", "normal"),
        help="idle, the default, leaves its core to whoever else wants it, also to other programs")  # fmt: skip
    add("--checkpoint", type=name, metavar="DIR", help="gemma: Orbax checkpoint; else $MODEL_CHECKPOINT")
    add("--tokenizer", type=name, metavar="FILE", help="gemma: its SentencePiece model; else $MODEL_TOKENIZER")
    add("--architecture", type=name, metavar="NAME",
        help="gemma: such as gemma3-1b; else what the checkpoint's shapes say")  # fmt: skip
    add("--chat", action="store_true", help="gemma: wrap prompts in the template of instruction-tuned checkpoints")
    add("--context", type=whole(1, MAX_CONTEXT), metavar="TOKENS",
        help="gemma, tiny: prompt and reply together; else 1024")  # fmt: skip
    add("--base-url", type=name, metavar="URL", help="openai: the endpoint, such as http://127.0.0.1:11434/v1; "
        "else $OPENAI_BASE_URL, where a password in it is not seen by ps. The key is $OPENAI_API_KEY")  # fmt: skip
    add("--generator-model", type=name, metavar="NAME", help="openai: the endpoint's name for its model")
    add("--timeout", type=seconds, metavar="SECONDS", help="openai: longest silence of the endpoint; else 60")


# -- what fits together


def check(args: argparse.Namespace, error: Callable[[str], NoReturn]) -> None:
    """Call `error` with what does not."""
    if args.cpu is not None and args.cpu not in os.sched_getaffinity(0):
        error(f"--cpu {args.cpu}: this process may run on {sorted(os.sched_getaffinity(0))}")
    if sources_given(args):
        if args.model:
            error("--model is for pictures: a SOURCE may be a file itself")
        if args.engine == "none":
            error("--engine none serves no SOURCE")
    else:
        if args.replicas > 1 or args.watch:
            error("--replicas and --watch are for a SOURCE, of which none is given")
        args.engine = args.engine or DEFAULT_ENGINE
        if args.engine not in (*models.ENGINES, "none"):
            error(f"--engine {args.engine} opens a SOURCE that is a file, of which none is given")
    if args.engine == "none" and args.model:
        error("--model is not for --engine none")
    if args.cpu is not None and args.replicas > 1:
        error(f"--cpu {args.cpu} pins a thread: --replicas {args.replicas} are not for one core")
    paths = {"socket": args.socket, "uds": args.uds, "http": args.http.path if isinstance(args.http, Unix) else None}
    for (one, first), (other, second) in itertools.combinations(((n, p) for n, p in paths.items() if p), 2):
        if os.path.abspath(first) == os.path.abspath(second):
            error(f"--{one} and --{other} are both {second}")
    ports = {name: getattr(args, name) for name in ("http", "grpc", "metrics") if getattr(args, name)}
    for (one, first), (other, second) in itertools.combinations(ports.items(), 2):
        if first == second:
            error(f"--{one} and --{other} are both {first}")
    engine = generator_of(args)
    ours = GENERATOR_FLAGS.get(engine, {}).values()
    others = {flag for flags in GENERATOR_FLAGS.values() for flag in flags.values()} - {*ours}
    if engine == "none":
        others |= {"prompt_spin", "prompt_priority"}
    for flag in sorted(others):
        if _given(getattr(args, flag)):
            error(f"--{flag.replace('_', '-')} is not for --generator {engine}")


def sources_given(args: argparse.Namespace) -> bool:
    """Are there models of the user's, and not the bundled network?"""
    return bool(args.sources or args.config)


def _given(value: object) -> bool:
    return value is not None and value is not False  # 0 is given


def generator_of(args: argparse.Namespace) -> str:
    return args.generator or ("none" if sources_given(args) or args.engine == "none" else "tiny")


def generator_options(args: argparse.Namespace) -> dict[str, object] | None:
    """Arguments of `load_generator`; None for no stream lane."""
    engine = generator_of(args)
    if engine == "none":
        return None
    given = {option: getattr(args, flag) for option, flag in GENERATOR_FLAGS.get(engine, {}).items()}
    options = {option: value for option, value in given.items() if _given(value)}
    if engine in ("tiny", "gemma"):
        options["threads"] = args.model_threads
    return {"engine": engine} | options
