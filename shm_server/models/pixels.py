"""What a model takes for black and white, which its file does not say: found by what reaches its first weights.

A layer, an operation, or a statistic of the training data may scale pixels, anywhere in nested models.  So plain
pictures are sent through whatever stands before the first layer that has weights, and what arrives there is looked at.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras

# The values of four plain pictures.
PLAIN = np.float32([0, 0.5, 1, 255])
# Networks are trained on numbers of order 1: on [0, 1], on [-1, 1], on a standard deviation of 1.  Half way between 1
# and 255, in powers, lies 16.
FAR = 16


class _Arrived(BaseException):
    """Ends a trial call at the first weights.  No Exception, which Keras would wrap into another."""


def own_scale(call: Callable[[], Any]) -> str | None:
    """What pixels a model takes, by how it scales them itself; None where it does not.  `call` calls it with four plain
    pictures, each of one value of PLAIN."""
    at_weights = _at_first_weights(call)
    if at_weights is None or not np.isfinite(at_weights).all():
        return None
    black, half, one, _ = (float(value) for value in at_weights)
    slope = one - black
    if slope == 0 or np.allclose(at_weights, PLAIN, rtol=1e-2, atol=1e-2):
        return None
    if half in (black, one):
        return "0..255"  # whole numbers are made of them
    if np.isclose(black, slope, rtol=1e-2):
        return "-1..1"  # which becomes 0 to twice that
    # 0..255 becomes of order 1, or is moved by more than 0..1 spans: a mean, as networks from Caffe subtract it.
    return "0..255" if abs(slope) <= 1 / FAR or abs(black) > FAR * abs(slope) else "0..1"


def _at_first_weights(call: Callable[[], Any]) -> np.ndarray | None:
    """The median of each picture where `call` meets the first weights; None when it never does."""
    import keras

    met: list[np.ndarray] = []

    def look(tensors: Any) -> None:
        for tensor in keras.tree.flatten(tensors):
            if keras.ops.is_tensor(tensor) and len(tensor.shape) > 1 and tensor.shape[0] == len(PLAIN):
                values = keras.ops.convert_to_numpy(keras.ops.cast(tensor, "float32"))
                medians = np.median(values.reshape(len(PLAIN), -1), axis=1)
                if np.ptp(medians):  # else it does not come from the picture
                    met.append(medians)

    # Their weights are statistics of the data: a part of the scaling.
    scaling = (keras.layers.Normalization, keras.layers.BatchNormalization)

    def watch(call: Callable, layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        weighs = bool(layer.weights) and not isinstance(layer, scaling)
        if weighs:
            look((args, kwargs))
        given = call(layer, *args, **kwargs)
        if weighs and met:
            raise _Arrived  # layers are nested, and the innermost returns first
        look(given)
        return given

    with _watched(keras.Layer, watch), contextlib.suppress(_Arrived):
        call()
        return None
    return met[-1]


@contextlib.contextmanager
def _watched(layer: type, watch: Callable) -> Iterator[None]:
    """Meanwhile a call of any Keras layer is a call of `watch` with it.  Keras has no way of its own to hear of layers
    that a subclassed model calls."""
    call = layer.__call__
    layer.__call__ = lambda self, *args, **kwargs: watch(call, self, *args, **kwargs)
    try:
        yield
    finally:
        layer.__call__ = call
