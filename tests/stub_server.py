"""A server with a model that needs no framework, for tests: stub_server.py KIND SOCKET [SECONDS | FILE].

brightness  scores (dark, bright)     slow    the same, SECONDS later     raising   raises on a black picture
wrong       scores of a wrong shape   greedy  keeps a view of the slots   gated     see Gated
writing     writes to its pixels      odd     see Odd                     hostile   see Hostile
"""

import logging
import os
import sys
import time

import numpy as np

from shm_server import Server
from shm_server.runtime import logs


class Brightness:
    name = "brightness"
    class_names = ("dark", "bright")

    def scores(self, pixels: np.ndarray) -> np.ndarray:
        bright = pixels.mean(axis=(1, 2, 3), dtype=np.float32) / 255
        return np.stack([1 - bright, bright], axis=1)


class Slow(Brightness):
    def scores(self, pixels: np.ndarray) -> np.ndarray:
        time.sleep(float(sys.argv[3]))
        return super().scores(pixels)


# The first bytes of a picture on which `gated` waits.
GATE = b"gate"


class Gated(Brightness):
    """At a picture that begins with GATE it logs "in the model", and goes on once FILE exists.

    So a test knows that the model is busy, and how long it stays so, without a clock.
    """

    def scores(self, pixels: np.ndarray) -> np.ndarray:
        if pixels[0].tobytes().startswith(GATE):
            logging.info("in the model")
            while not os.path.exists(sys.argv[3]):
                time.sleep(0.001)
        return super().scores(pixels)


class Raising(Brightness):
    def scores(self, pixels: np.ndarray) -> np.ndarray:
        if not pixels[0].any():
            raise ValueError("a black picture " + "é" * 1000)
        return super().scores(pixels)


class Wrong(Brightness):
    def scores(self, pixels: np.ndarray) -> np.ndarray:
        return np.zeros(3, np.float64)


class Writing(Brightness):
    """Clears the pixels that it is given, and says what NumPy says to that."""

    def scores(self, pixels: np.ndarray) -> np.ndarray:
        pixels[:] = 0
        return super().scores(pixels)


class Odd(Brightness):
    """Returns what the first byte of a picture says."""

    def scores(self, pixels: np.ndarray) -> object:
        good = np.tile(np.float32([0.25, 0.75]), (len(pixels), 1))
        return [
            good,
            good.astype(np.float64),
            good.tolist(),
            good.repeat(2, axis=1)[:, ::2],
            good[:, [0, 1, 1]],
            good * 48,
            good * np.nan,
            None,
        ][pixels[0, 0, 0, 0]]


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise SystemExit("no text")


class Hostile(Brightness):
    """Raises what WAYS has for the first byte of the first picture; 255 is answered rightly."""

    WAYS = (
        ValueError("\ud800 half a pair"),
        ValueError("two\nlines\x1b[2J"),
        ValueError("x" * 1_000_000),
        Unspeakable(),
        SystemExit(3),
        KeyboardInterrupt(),
        GeneratorExit(),
        StopIteration(),
        MemoryError(),
        BaseExceptionGroup("several", [SystemExit(), KeyboardInterrupt()]),
        type("Named\nLine", (BaseException,), {})("oddly"),
    )

    def scores(self, pixels: np.ndarray) -> np.ndarray:
        number = int(pixels[0].flat[0])
        if number < len(self.WAYS):
            raise self.WAYS[number]
        return super().scores(pixels)


class Greedy(Brightness):
    kept: tuple = ()

    def scores(self, pixels: np.ndarray) -> np.ndarray:
        self.kept += (pixels,)
        return super().scores(pixels)


def main() -> None:
    logs.configure()
    models = {
        "brightness": Brightness,
        "slow": Slow,
        "gated": Gated,
        "raising": Raising,
        "wrong": Wrong,
        "odd": Odd,
        "greedy": Greedy,
        "writing": Writing,
        "hostile": Hostile,
    }
    server = Server(models[sys.argv[1]](), sys.argv[2])
    server.run()


if __name__ == "__main__":
    main()
