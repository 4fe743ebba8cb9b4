"""What a caller asks for: a prompt, and how the reply is drawn.

Sampling(steps=128, temperature=0.7, top_k=40, seed=7)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real

from shm_server.generators.errors import InvalidRequest

DEFAULT_STEPS = 128
MAX_TEMPERATURE = 10  # above, tokens are as good as dice
MAX_SEED = 2**64 - 1


@dataclass(frozen=True)
class Sampling:
    """How a reply is drawn. Raises InvalidRequest for values that make no sense for any engine."""

    steps: int = DEFAULT_STEPS
    """Tokens at most."""

    temperature: float | None = None
    """0: always the most probable token; 1: as probable as the model says. None: what suits the model."""

    top_k: int | None = None
    """Draw from the so many most probable tokens only; 0: from all. None: what suits the model."""

    seed: int | None = None
    """The same seed, prompt and parameters give the same reply on the same machine. None: a new one."""

    def __post_init__(self) -> None:
        _check_whole("sampling_steps", self.steps, 1)
        if self.temperature is not None:
            _check_temperature(self.temperature)
        if self.top_k is not None:
            _check_whole("top_k", self.top_k, 0)
        if self.seed is not None:
            _check_whole("seed", self.seed, 0, MAX_SEED)


def check_prompt(prompt: str) -> None:
    """Raises InvalidRequest for an empty prompt and for one that is no text."""
    if not isinstance(prompt, str):
        raise InvalidRequest(f"the prompt is {type(prompt).__name__}, must be text")
    if not prompt:
        raise InvalidRequest("the prompt is empty")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"the prompt has half a surrogate pair at character {error.start}") from error


def _check_whole(name: str, value: object, low: int, high: float = math.inf) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise InvalidRequest(f"{name} is {value!r:.40}, must be a whole number")
    if not low <= value <= high:
        limits = f"{low} or more" if high == math.inf else f"{low} to {high}"
        raise InvalidRequest(f"{name} is {value}, must be {limits}")


def _check_temperature(value: object) -> None:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise InvalidRequest(f"temperature is {value!r:.40}, must be a number")
    if not 0 <= value <= MAX_TEMPERATURE:  # nan is not either
        raise InvalidRequest(f"temperature is {value}, must be 0 to {MAX_TEMPERATURE}")
