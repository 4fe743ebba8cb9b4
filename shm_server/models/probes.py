"""Pictures to try a model on before it serves: seeded, so that it is judged alike at every start."""

from __future__ import annotations

import numpy as np

COUNT = 32


def pictures() -> np.ndarray:
    """uint8 (COUNT, 3, 32, 32), most of them smooth: noise alone looks the same to every model."""
    rng = np.random.default_rng(7)
    coarse = rng.integers(0, 256, (16, 3, 4, 4), np.uint8).repeat(8, axis=2).repeat(8, axis=3)
    halves = rng.integers(0, 256, (8, 3, 2, 2), np.uint8).repeat(16, axis=2).repeat(16, axis=3)
    noise = rng.integers(0, 256, (4, 3, 32, 32), np.uint8)
    plain = np.stack([np.full((3, 32, 32), level, np.uint8) for level in (0, 64, 128, 255)])
    return np.concatenate([coarse, halves, noise, plain])


def far_out() -> np.ndarray:
    """float32 (COUNT, 3, 32, 32), noise of up to a thousand times the range of pictures in [0, 1], both signs.

    Logits leave [0, 1] on it, however small they are on pictures; probabilities stay what they are.
    """
    rng = np.random.default_rng(8)
    noise = rng.standard_normal((COUNT, 3, 32, 32)).astype(np.float32)
    return noise * np.repeat(np.float32([2, 16, 128, 1024]), COUNT // 4)[:, None, None, None]
