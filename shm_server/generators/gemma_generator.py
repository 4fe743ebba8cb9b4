"""Gemma networks that answer prompts, on JAX.

Prompts in flight take turns, one token each. They are not batched: on this path a reply depends on
nothing but its own prompt and seed, to the last bit, and one prompt alone is as fast as can be.
"""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

from shm_server.generators import Limits
from shm_server.generators.errors import InvalidRequest
from shm_server.generators.sampling import Sampling, check_prompt
from shm_server.models.errors import ModelError
from shm_server.models.lean import UNUSED, without
from shm_server.models.quiet import quiet_imports

with quiet_imports():
    # Orbax tells of its every step, as a warning where something is merely slow; Grain warns at its import.
    import absl.logging

    absl.logging.set_verbosity(absl.logging.ERROR)

    import jax
    import numpy as np

    with without(*UNUSED):
        import tensorflow  # noqa: F401 -- which Kauldron imports

    from shm_server.generators.architectures import ARCHITECTURES, build
    from shm_server.generators.checkpoint import Checkpoint
    from shm_server.generators.decoder import CHUNKS, MAX_TOP_K, Decoder, Draw
    from shm_server.generators.vocabulary import TextStream, Vocabulary
    from shm_server.models.xla import use_threads

log = logging.getLogger(__name__)

# Gemma's embedding has at most so many rows more than the vocabulary has pieces: Gemma 2 pads
# 256,000 to 256,128.
MAX_PADDING = 128

# Parameters up to which a CPU computes in float32 what is stored as bfloat16.
MAX_WIDENED = 100_000_000


def load(
    checkpoint: Path,
    vocabulary: Vocabulary,
    tokenizer: Path,
    *,
    architecture: str | None,
    context: int,
    threads: int,
    name: str | None,
    note: str,
    temperature: float,
    top_k: int,
) -> GemmaGenerator:
    """See `gemma.load`; `vocabulary` is of the file `tokenizer`."""
    if context < CHUNKS[-1] or context % CHUNKS[-1]:
        raise ModelError(f"the context is {context} tokens, must be a multiple of {CHUNKS[-1]}")
    if architecture is not None and architecture not in ARCHITECTURES:
        raise ModelError(f'unknown architecture "{architecture}": there are {", ".join(ARCHITECTURES)}')
    use_threads(threads)
    keep_compiled()
    stored = Checkpoint(checkpoint, architecture)
    model = build(stored.architecture)
    padding = model.config.num_embed - vocabulary.size
    if not 0 <= padding <= MAX_PADDING:
        raise ModelError(
            f"{tokenizer} does not fit {checkpoint}: it has {vocabulary.size} tokens, "
            f"{stored.architecture} has {model.config.num_embed}"
        )
    return GemmaGenerator(
        model,
        widened(stored.load(model)),
        vocabulary,
        context=context,
        serial=threads == 1,
        name=f"{name or stored.architecture} on JAX",
        note=note,
        temperature=temperature,
        top_k=top_k,
    )


def widened(params: dict[str, Any]) -> dict[str, Any]:
    """`params` as float32 where that is faster: small networks on a CPU."""
    size = sum(array.size for array in jax.tree.leaves(params))
    if jax.default_backend() != "cpu" or size > MAX_WIDENED:
        return params
    return jax.tree.map(lambda array: array.astype(np.float32), params)


def keep_compiled() -> None:
    """Keeps what JAX compiles in the user's cache folder, for the next start; nothing where there can be none.

    JAX_COMPILATION_CACHE_DIR, if set, says where; JAX reads it itself.
    """
    if jax.config.jax_compilation_cache_dir is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shm-server" / "jax"
        try:
            cache.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=cache).close()  # a read-only file system, a full disk
        except OSError as error:
            log.warning("what is compiled is not kept for the next start: %s: %s", cache, error.strerror)
            return
        jax.config.update("jax_compilation_cache_dir", str(cache))
    # JAX leaves out what compiles in less than a second: here that adds up.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


class GemmaGenerator:
    """A Generator."""

    concurrent = False

    def __init__(
        self,
        model,
        params,
        vocabulary: Vocabulary,
        *,
        context: int,
        serial: bool = False,
        name: str,
        note: str = "",
        temperature: float,
        top_k: int,
    ):
        """Compiles, and answers a prompt of each size to warm up. See `load`."""
        self.name, self.note = name, note
        self.limits = Limits(prompt_tokens=context - 1, steps=context - 2)
        self.vocabulary = vocabulary
        self._context = context
        self._temperature, self._top_k = temperature, top_k
        drawable = np.zeros(model.config.num_embed, bool)
        drawable[: vocabulary.size] = vocabulary.drawable()
        self.decoder = Decoder(model, params, drawable, context=context, serial=serial)
        self._warm_up()

    def start(self, prompt: str, sampling: Sampling) -> GemmaGeneration:
        """See `Generator.start`."""
        check_prompt(prompt)
        # Reading a megabyte takes seconds, during which nobody else has a token: refuse first what cannot fit.
        if len(prompt) > self._context * self.vocabulary.longest:
            raise InvalidRequest(f"the prompt has {len(prompt)} characters, the model takes {self._context - 1} tokens")
        tokens = self.vocabulary.encode(prompt)
        room = self._context - len(tokens)
        if room < 1:
            raise InvalidRequest(f"the prompt has {len(tokens)} tokens, the model takes {self._context - 1}")
        if sampling.steps > room:
            raise InvalidRequest(
                f"sampling_steps is {sampling.steps}, but beside the {len(tokens)} tokens of the prompt "
                f"the context of {self._context} has room for {room}"
            )
        if sampling.top_k is not None and sampling.top_k > MAX_TOP_K:
            raise InvalidRequest(f"top_k is {sampling.top_k}, must be 0 to {MAX_TOP_K}")
        temperature = self._temperature if sampling.temperature is None else sampling.temperature
        top_k = self._top_k if sampling.top_k is None else sampling.top_k
        seed = secrets.randbits(64) if sampling.seed is None else sampling.seed
        return GemmaGeneration(self, tokens, sampling.steps, (temperature, top_k, seed))

    def _warm_up(self) -> None:
        for size in CHUNKS:
            generation = GemmaGeneration(self, [self.vocabulary.encode("a")[0]] * (size - 1), 2, (1.0, 1, 0))
            while generation.step() is not None:
                pass


class GemmaGeneration:
    """A Generation. It holds a cache from its first step until it ends or is closed."""

    def __init__(self, generator: GemmaGenerator, tokens: list[int], steps: int, draw: tuple[float, int, int]):
        self.prompt_tokens, self.tokens = len(tokens), 0
        self.finished: str | None = None
        self._decoder = generator.decoder
        self._stops = generator.vocabulary.stops
        self._text = TextStream(generator.vocabulary)
        self._steps = steps
        self._draw = draw
        self._work = self._run(tokens)

    def step(self) -> str | None:
        """See `Generation.step`."""
        piece = next(self._work, None)
        if self.finished:
            self.close()
        return piece

    def close(self) -> None:
        """See `Generation.close`."""
        self._work.close()

    def _run(self, tokens: list[int]) -> Generator[str, None, None]:
        """What each step does; the cache is a local of it, so that it goes with it."""
        decoder, draw = self._decoder, Draw.of(*self._draw)
        state = decoder.fresh()
        *chunks, last = decoder.chunks(tokens)
        for chunk in chunks:
            state, token = decoder.read(state, chunk, draw)
            jax.block_until_ready(token)
            yield ""
        state, token = decoder.read(state, last, draw)
        while True:
            drawn = int(token)
            if drawn in self._stops:
                self.finished = "stop"
                return
            self.tokens += 1
            if self.tokens == self._steps:
                self.finished = "length"
            yield self._text.add(drawn)
            state, token = decoder.next(state, token, draw)
