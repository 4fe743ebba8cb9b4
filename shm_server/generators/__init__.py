"""Generators: what answers a prompt, piece by piece, and the engines that do.

    generator = load_generator("tiny")                     # the bundled model; "gemma", "openai", "my.module:Poet"
    for piece in generate(generator, "Enter the King.", Sampling(steps=64, seed=1)):
        print(piece, end="", flush=True)

Generators see text and know nothing of transports. Whoever serves many prompts at once drives them
through `turns.Turns`, which is fair; `generate` is for one prompt alone.

An engine is one module of this package with a function `load(**options) -> Generator`, and one line in
ENGINES; what it needs is imported only when it is loaded. One of a user's own is MODULE:ATTRIBUTE, see
imported.py.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from shm_server.generators.errors import (
    ERRORS,
    Broken,
    GeneratorError,
    InvalidRequest,
    ModelError,
    NoGenerator,
    RateLimited,
    TimedOut,
    Unauthorized,
    Unavailable,
    status_of,
)
from shm_server.generators.sampling import Sampling, check_prompt

__all__ = [
    "ENGINES",
    "ERRORS",
    "Broken",
    "Generation",
    "Generator",
    "GeneratorError",
    "InvalidRequest",
    "Limits",
    "ModelError",
    "NoGenerator",
    "RateLimited",
    "Sampling",
    "TimedOut",
    "Unauthorized",
    "Unavailable",
    "check_prompt",
    "generate",
    "load_generator",
    "status_of",
]

MAX_NAME = 1000  # characters of a generator's name

# Every engine's module in this package, and the extra that installs what it needs.
ENGINES = {
    "tiny": ("tiny", "gemma"),
    "gemma": ("gemma", "gemma"),
    "openai": ("openai", "openai"),
}


@dataclass(frozen=True)
class Limits:
    """What a generator takes at most. None: it can not be known here, the endpoint decides."""

    prompt_tokens: int | None
    """Tokens of a prompt, with what the engine puts around it."""

    steps: int | None
    """Sampling steps after the shortest prompt. Prompt and steps together fit in prompt_tokens + 1."""


class Generation(Protocol):
    """One prompt being answered."""

    prompt_tokens: int
    """Tokens of the prompt; 0 when unknown."""

    tokens: int
    """Tokens generated so far, or pieces, where the engine tells no more."""

    finished: str | None
    """Why it ended, "stop" (the model was done) or "length" (the steps were used up); None before."""

    def step(self) -> str | None:
        """Does the next bit of work, at most one token, and returns its text.

        '' means that nothing can be shown yet: the prompt is still being read, or half a character is
        held back. None means that it has ended; so do `finished` and, from then on, every call.
        Pieces are whole characters. Raises GeneratorError when this call failed; it is closed then.
        """
        ...

    def close(self) -> None:
        """Ends it and frees what it holds, caches or a connection. Any number of times; see `Generator.concurrent`."""
        ...


@runtime_checkable
class Generator(Protocol):
    """Something that answers prompts."""

    name: str
    """Which model this is, and on what it runs, for people: 'gemma3-1b on JAX'."""

    note: str
    """What users should know before they trust a reply; '' for nothing."""

    limits: Limits

    concurrent: bool
    """How it wants to be called when several prompts are in flight.

    False: it computes. One thread, always the same, gives every generation its turn, one step each, and closes it.
    True: it waits for somebody else. Every generation wants a thread of its own; `close` comes from any.
    """

    def start(self, prompt: str, sampling: Sampling) -> Generation:
        """A generation that has not begun: work happens in `step`. Returns at once.

        Raises InvalidRequest for a prompt or parameters that can not be served.
        """
        ...


def generate(generator: Generator, prompt: str, sampling: Sampling | None = None) -> Iterator[str]:
    """The reply to `prompt` in non-empty pieces of whole characters, as they are generated.

    Closing the iterator cancels the rest and frees what it holds. Raises GeneratorError: InvalidRequest
    at once, the others while iterating, after the pieces that did come.
    """
    return _pieces(generator.start(prompt, sampling or Sampling()))


def _pieces(generation: Generation) -> Iterator[str]:
    try:
        while (piece := generation.step()) is not None:
            if piece:
                yield piece
    finally:
        generation.close()


def load_generator(engine: str = "tiny", **options: Any) -> Generator:
    """Loads an engine of ENGINES, or MODULE:ATTRIBUTE, ready to answer: whatever it compiles is compiled.

    The options are those of the engine's `load`, where they are described:

        tiny    context, threads
        gemma   checkpoint, tokenizer, architecture, chat, context, threads
        openai  base_url, model, timeout

    `threads` is as for `load_classifier`. Raises ModelError: an unknown engine (NoGenerator), something
    that is not installed, a checkpoint that can not be served.
    """
    if ":" in engine:
        from shm_server.generators import imported

        return _named(imported.load(engine, **options))
    if engine not in ENGINES:
        raise NoGenerator(f'unknown generator "{engine}": there are {", ".join(ENGINES)}, and MODULE:ATTRIBUTE')
    name, extra = ENGINES[engine]
    try:
        generator = importlib.import_module(f"{__name__}.{name}").load(**options)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith(__name__.partition(".")[0]):
            raise
        advice = f'pip install "shm-server[{extra}]"'
        raise ModelError(f'generator "{engine}" needs {error.name}: {advice}') from error
    return _named(generator)


def _named(generator: Generator) -> Generator:
    """`generator`, whose name goes into every welcome. Raises ModelError for one that is none."""
    name = generator.name
    if not isinstance(name, str) or not name.isprintable() or len(name) > MAX_NAME:
        raise ModelError(
            f"the generator's name is {name!a:.60}, must be a line of text of at most {MAX_NAME} characters"
        )
    return generator
