"""What a model gives, logits or probabilities, by what it gave.

The name of its last layer does not tell: a softmax may be an operation, be computed by hand, or stand before a layer
that changes nothing.
"""

from __future__ import annotations

import numpy as np

from shm_server.models.errors import ModelError

# By how much a row of probabilities may miss 1: a float32 by 1e-7 of it for each class, a bfloat16 by 1/512 of it.
TOLERANCE = 1e-3
HALF_TOLERANCE = 1e-2


def kind_of(inside: np.ndarray, beyond: np.ndarray, *, half: bool, said: str | None, last: str) -> str:
    """ "logits" or "probabilities".

    `inside` is what a model gives for pictures and `beyond` what it gives for inputs that are none, both float32
    (n, classes); with `half` it computes in 16 bits; `said` is what its card says, and `last` its last activation, of
    which only a refusal tells.  Raises ModelError for outputs that are neither, or not what the card says.
    """
    broken = len(inside) - np.isfinite(inside).all(axis=1).sum()
    if broken:
        raise ModelError(f"gives NaN or infinity for {broken} of {len(inside)} pictures it was tried on")
    # Far out a softmax by hand may overflow, as may a network of 16 bits.
    scores = np.concatenate([inside, beyond[np.isfinite(beyond).all(axis=1)]])
    sums, tolerance = scores.sum(axis=1), HALF_TOLERANCE if half else TOLERANCE
    if sum_to_one(scores, tolerance):
        return "probabilities"  # whatever the card says: logits leave 0..1 far out
    found = f"outputs {spread(scores)}"
    if said == "probabilities":
        raise ModelError(f"gives {found}, which are not the probabilities that its card says")
    bounded = scores.min() >= -tolerance and scores.max() <= 1 + tolerance
    steady = scores.min() >= 0 and np.ptp(sums) <= tolerance * sums.max()
    told_apart = np.ptp(scores, axis=0).max() > tolerance
    if said is None and told_apart and (bounded or steady):
        raise ModelError(
            f"ends in {last}, must end in logits or a softmax: it gives {found}, which are neither; "
            'if they are logits, let its card say "outputs": "logits"'
        )
    return "logits"


def sum_to_one(scores: np.ndarray, tolerance: float) -> bool:
    """Whether every row is a distribution."""
    return bool(scores.min() >= -tolerance and np.abs(scores.sum(axis=1) - 1).max() <= tolerance)


def spread(scores: np.ndarray) -> str:
    """The range of scores and of their rows' sums, for people."""
    sums = scores.sum(axis=1)
    return f"of {scores.min():.4g} to {scores.max():.4g} whose rows sum to {sums.min():.4g} to {sums.max():.4g}"


def probabilities(scores: np.ndarray) -> np.ndarray:
    """Rows that are no distributions as those of a softmax."""
    if sum_to_one(scores, HALF_TOLERANCE):
        return scores
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def variety(scores: np.ndarray) -> float:
    """How much probabilities differ from picture to picture: the mean distance, in total variation, of a row from
    their mean.  0 when all are the same."""
    return float(np.abs(scores - scores.mean(axis=0)).sum(axis=1).mean() / 2)
