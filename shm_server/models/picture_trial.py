"""A model is tried before it serves: what pixels it takes, and what it gives.

A `.keras` file says neither, and people train all kinds:

    pixels   the model's own scaling tells (pixels.py), else its card (card.py); else they go from 0 to 1, as those of
             `shm-server train`, and a warning says so.  Where scaling and card differ, what it gives decides.
    outputs  what it gives for pictures, and for inputs far from any, tells (outputs.py).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from shm_server.models import probes
from shm_server.models.card import Card, card_path
from shm_server.models.errors import ModelError
from shm_server.models.outputs import kind_of, probabilities, spread, variety
from shm_server.models.pixels import PLAIN, own_scale
from shm_server.models.signature import WHOLE, Signature, last_activation

log = logging.getLogger(__name__)

HALF = ("float16", "bfloat16")
# A model that gets a 255th of what it was trained on tells pictures apart a 255th as well; one that gets 255 times as
# much is sure of any answer.
ALIKE, SURE, UNSURE = 8, 0.97, 0.9
SAME = 1e-3  # scores that differ by less


class Trial:
    """What comes out of trying the model of `signature`, from the file `path`: `takes` and `gives`, in the words of a
    card, and `classes`, how many.  `compiled` makes a graph fast enough to be run a few times.

    Raises ModelError for a model that can not be served, and logs what was found.
    """

    def __init__(self, path: Path, signature: Signature, card: Card, compiled: Callable):
        self._path, self._signature, self._card = path, signature, card
        self._graph = functools.cache(lambda takes: compiled(signature.graph(takes)))
        self.takes, why = self._pixels()
        given = self._given(self.takes)
        scores, dtype = given.astype(np.float32), given.dtype.name
        self.classes = scores.shape[1]
        last, half = last_activation(signature.model), dtype in HALF
        self.gives = kind_of(scores, self._far_out(), half=half, said=card.outputs, last=last)
        if card.outputs not in (None, self.gives):
            log.warning("%s gives %s, though its card says %s", path, self.gives, card.outputs)
        if variety(probabilities(scores)) < SAME:
            log.warning("%s gives all pictures the same scores", path)
        log.info(
            "%s takes pixels in %s (%s), gives %s, %s %s", path, self.takes, why, self.gives, dtype, spread(scores)
        )

    def _given(self, takes: str) -> np.ndarray:
        return self._signature.given(self._graph(takes), probes.pictures().astype(np.float32))

    def _far_out(self) -> np.ndarray:
        inputs = 255 * probes.far_out()
        if self._signature.dtype in WHOLE:
            inputs = inputs.clip(0, 255)
        return self._signature.given(self._graph(self.takes), inputs).astype(np.float32)

    def _pixels(self) -> tuple[str, str]:
        """What pixels the model takes, and how that is known."""
        dtype, said = self._signature.dtype, self._card.pixels
        if dtype in WHOLE:
            if said not in (None, "0..255"):
                raise ModelError(f"takes {dtype}, hence pixels in 0..255, but its card says {said}")
            return "0..255", f"as {dtype}"
        plain = np.broadcast_to(PLAIN[:, None, None, None], (len(PLAIN), 3, 32, 32))
        try:
            inputs = self._signature.inputs(plain, "0..255")
            scaled = own_scale(lambda: self._signature.model(inputs, **self._signature.options))
        except Exception as error:  # whatever a framework and somebody's layers raise
            raise self._signature.failed(error) from error
        if said is None and scaled is None:
            return self._assumed("0..1")
        if scaled in (None, said):
            return said, "its card says so"
        if said is None or self._better(scaled, said):
            if said:
                log.warning(
                    "%s scales pixels in %s itself and gets those, though its card says %s", self._path, scaled, said
                )
            return scaled, "it scales them itself"
        log.warning("%s gets pixels in %s, as its card says, though it scales those in %s", self._path, said, scaled)
        return said, "its card says so"

    def _assumed(self, convention: str) -> tuple[str, str]:
        other = "0..255"
        if np.abs(self._scores(convention) - self._scores(other)).max() < SAME:
            return convention, "any give the same scores"
        doubt = f"; it tells them apart much better in {other}" if self._better(other, convention) else ""
        log.warning(
            '%s does not say what pixels it takes, %s is assumed%s: say "pixels": "0..1", "0..255" or "-1..1" in %s',
            self._path,
            convention,
            doubt,
            card_path(self._path).name,
        )
        return convention, "assumed"

    def _scores(self, takes: str) -> np.ndarray:
        with np.errstate(all="ignore"):  # on the wrong scale a network of 16 bits may give infinity
            return np.nan_to_num(probabilities(self._given(takes).astype(np.float32)))

    def _better(self, takes: str, other: str) -> bool:
        """Whether the model tells pictures apart on one scale, and on the other hardly, or is always sure."""
        scores, others = self._scores(takes), self._scores(other)
        sure, alike = others.max(axis=1).mean() > SURE, variety(others) * ALIKE < variety(scores)
        return alike or (bool(sure) and scores.max(axis=1).mean() < UNSURE)
