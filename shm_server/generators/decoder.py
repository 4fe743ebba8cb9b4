"""A Gemma network compiled for one prompt at a time, token by token.

    decoder = Decoder(model, params, drawable, context=1024)       # compiles all that it ever runs
    state = decoder.fresh()
    for chunk in decoder.chunks(prompt_tokens):
        state, token = decoder.read(state, chunk, draw)
    while wanted:
        state, token = decoder.next(state, token, draw)

Everything is compiled ahead for fixed shapes: a call of another shape would be an error, not a
compilation. A state is the cache of keys and values; each call consumes the one it is given and
returns its successor in the same memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from gemma import gm

# A prompt is read in chunks of these sizes, a chunk a step, so that a long prompt delays nobody's next
# token by more than 256 tokens' worth. The last chunk is padded to the smallest size that holds it.
CHUNKS = (16, 64, 256)

# The best tokens that are sorted out of the vocabulary, each step, when any are: top_k is at most so many.
MAX_TOP_K = 256

# XLA orders operations so that some can run side by side, and hands those to its pool even where that is one thread. In
# this order none can: no switch of threads for a token instead of two (getrusage), and 470 us instead of 600.
SERIAL = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}

State = dict[str, Any]


class Draw(NamedTuple):
    """How a prompt's tokens are drawn, on the device."""

    key: jax.Array  # uint32 (2,): the seed
    temperature: jax.Array  # float32 (): 0 for the most probable
    top_k: jax.Array  # int32 (): 0 for all

    @classmethod
    def of(cls, temperature: float, top_k: int, seed: int) -> Draw:
        """From Python's numbers; `seed` below 2^64."""
        return cls(
            *jax.device_put(
                (np.array([seed >> 32, seed & 0xFFFFFFFF], np.uint32), np.float32(temperature), np.int32(top_k))
            )
        )


class Decoder:
    """See the module. One call at a time."""

    def __init__(
        self,
        model: gm.nn.Transformer,
        params: dict[str, Any],
        drawable: np.ndarray,
        *,
        context: int,
        serial: bool = False,
    ):
        """`drawable` is bool (vocabulary,): tokens that may be drawn. `context` is a multiple of CHUNKS[-1].

        `serial` is for a CPU of which one thread is used.
        """
        if context % CHUNKS[-1] or context < CHUNKS[-1]:
            raise ValueError(f"context is {context}, must be a multiple of {CHUNKS[-1]}")
        self._params = params
        self._drawable = jax.device_put(drawable)

        def fresh() -> State:
            dtype = params["embedder"]["input_embedding"].dtype
            return model.config.init_cache(batch_size=1, dtype=dtype, cache_length=context)

        def run(params: Any, drawable: jax.Array, state: State, tokens: jax.Array, count: Any, draw: Draw):
            """Reads `count` of int32 (n,) tokens, the rest is padding, and draws the next one."""
            start = state["layer_0"]["end_index"][0]
            positions = start + jnp.arange(len(tokens), dtype=jnp.int32)
            output = model.apply(
                {"params": params},
                tokens[None],
                cache=state,
                positions=positions[None],
                attention_mask=(jnp.arange(context) <= positions[:, None])[None],
                return_last_only=True,  # the last that is not padding
            )
            # What padding left in the cache lies behind the end: masked until it is overwritten.
            end = jnp.full((1,), start + count, jnp.int32)
            state = {name: {**layer, "end_index": end} for name, layer in output.cache.items()}
            logits = jnp.where(drawable, output.logits[0].astype(jnp.float32), -jnp.inf)
            return state, _drawn(logits, draw, start + count)

        def read(params: Any, drawable: jax.Array, state: State, tokens: jax.Array, count: jax.Array, draw: Draw):
            return run(params, drawable, state, tokens, count, draw)

        def following(params: Any, drawable: jax.Array, state: State, token: jax.Array, draw: Draw):
            return run(params, drawable, state, token[None], 1, draw)

        def compiled(function: Callable, *arguments: Any) -> Callable:
            """`function` for arguments of these shapes; its third, the state, is consumed."""
            return jax.jit(function, donate_argnums=2).lower(*arguments).compile(SERIAL if serial else None)

        draw = Draw.of(0.0, 0, 0)
        token = jax.device_put(np.int32(0))
        state = jax.eval_shape(fresh)
        self._fresh = jax.jit(fresh).lower().compile()
        self._next = compiled(following, params, self._drawable, state, token, draw)
        self._read = {
            size: compiled(read, params, self._drawable, state, np.zeros(size, np.int32), np.int32(0), draw)
            for size in CHUNKS
        }

    def fresh(self) -> State:
        """The state before the first token."""
        return self._fresh()

    def chunks(self, tokens: list[int]) -> Iterator[list[int]]:
        """`tokens` in parts to be read one after the other."""
        for start in range(0, len(tokens), CHUNKS[-1]):
            yield tokens[start : start + CHUNKS[-1]]

    def read(self, state: State, tokens: list[int], draw: Draw) -> tuple[State, jax.Array]:
        """Reads one of `chunks`: the new state, and the token after it, which means nothing before the last."""
        size = next(size for size in CHUNKS if size >= len(tokens))
        padded = np.zeros(size, np.int32)
        padded[: len(tokens)] = tokens
        return self._read[size](self._params, self._drawable, state, padded, np.int32(len(tokens)), draw)

    def next(self, state: State, token: jax.Array, draw: Draw) -> tuple[State, jax.Array]:
        """Reads the token drawn last: the new state, and the token after it, int32 ()."""
        return self._next(self._params, self._drawable, state, token, draw)


def _drawn(logits: jax.Array, draw: Draw, position: jax.Array) -> jax.Array:
    """A token by float32 (vocabulary,) logits. Its randomness depends on seed and position only."""

    def most_probable(_: Any) -> jax.Array:
        return jnp.argmax(logits)

    def any_of_all(key: jax.Array) -> jax.Array:
        return jax.random.categorical(key, logits / draw.temperature)

    def any_of_best(key: jax.Array) -> jax.Array:
        values, tokens = jax.lax.top_k(logits, min(MAX_TOP_K, len(logits)))
        values = jnp.where(jnp.arange(len(values)) < draw.top_k, values, -jnp.inf)
        return tokens[jax.random.categorical(key, values / draw.temperature)]

    way = jnp.where(draw.temperature == 0, 0, jnp.where(draw.top_k == 0, 1, 2))
    key = jax.random.fold_in(jax.random.wrap_key_data(draw.key, impl="threefry2x32"), position)
    return jax.lax.switch(way, (most_probable, any_of_all, any_of_best), key).astype(jnp.int32)
