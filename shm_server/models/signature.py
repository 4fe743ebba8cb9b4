"""How a Keras model is called: what of its input and output fits 32x32 RGB pictures and a score for each class."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from shm_server.models.errors import ModelError, reason

if TYPE_CHECKING:
    import keras

SHAPE, CHANNELS_FIRST = (32, 32, 3), (3, 32, 32)
WHOLE = ("uint8", "uint16", "uint32", "int16", "int32", "int64")
FLOATS = ("float32", "float16", "bfloat16", "float64")
# Of values in 0..255: what they are divided by, and what is subtracted then.
SCALES = {"0..1": (255, 0), "0..255": (1, 0), "-1..1": (127.5, 1)}


class Signature(NamedTuple):
    """A model and the form of its input."""

    model: keras.Model
    dtype: str
    channels_first: bool
    batch: int | None
    """The only number of pictures it was made for.  Most take others too, which is tried."""

    @property
    def options(self) -> dict[str, bool]:
        """Of its call: a class of somebody's own may have no mode of training."""
        return {"training": False} if "training" in inspect.signature(self.model.call).parameters else {}

    def failed(self, error: Exception) -> ModelError:
        """What to say of a model that raised on pictures."""
        hint = f" (it was made for {self.batch} at a time)" if self.batch else ""
        return ModelError(f"fails on pictures{hint}: {reason(error)}")

    def inputs(self, pictures: Any, takes: str) -> Any:
        """The model's input for pictures, (n, 3, 32, 32) of values in 0..255, when it takes `takes`."""
        from keras import ops, tree

        divisor, subtracted = SCALES[takes]
        if divisor == 1:
            tensor = ops.cast(pictures, self.dtype)
        else:
            tensor = ops.cast(pictures, "float32") / divisor
            tensor = ops.cast(tensor - subtracted if subtracted else tensor, self.dtype)
        if not self.channels_first:
            tensor = ops.transpose(tensor, (0, 2, 3, 1))
        # A single input may stand in a list or a dict of its own.
        struct = getattr(self.model, "input", None)
        return tensor if struct is None else tree.map_structure(lambda _: tensor, struct)

    def graph(self, takes: str) -> Callable[[Any], list]:
        """From pictures to what the model gives.  Its weights are constants, so that it can be compiled."""
        from keras import tree

        trainable = [np.asarray(variable.value) for variable in self.model.trainable_variables]
        others = [np.asarray(variable.value) for variable in self.model.non_trainable_variables]

        def graph(pictures: Any) -> list:
            inputs = self.inputs(pictures, takes)
            given, _ = self.model.stateless_call(trainable, others, inputs, **self.options)
            return tree.flatten(given)

        return graph

    def given(self, graph: Callable[[Any], list], pictures: np.ndarray) -> np.ndarray:
        """What `graph` gives for pictures: (n, classes), of its own type.  Raises ModelError for another form."""
        from keras import ops

        try:
            given = graph(pictures)
        except Exception as error:  # whatever a framework and somebody's layers raise
            raise self.failed(error) from error
        if len(given) != 1:
            raise ModelError(f"gives {len(given)} outputs, must be one of shape (None, classes)")
        shape = (None, *given[0].shape[1:]) if given[0].shape[:1] == (len(pictures),) else tuple(given[0].shape)
        if len(shape) != 2 or shape[0] is not None or shape[1] < 2:
            raise ModelError(f"gives output of shape {shape}, must be (None, classes) with 2 classes or more")
        values = ops.convert_to_numpy(given[0])
        if values.dtype.kind not in "fiub" and values.dtype.name != "bfloat16":
            raise ModelError(f"gives {values.dtype.name}, must be numbers that fit a float32")
        return values


def signature_of(model: keras.Model) -> Signature:
    """Raises ModelError for a model that takes something else than pictures."""
    if not model.built:
        raise ModelError("has no weights: call it on a picture before it is saved")
    inputs = getattr(model, "inputs", None)
    if not inputs:  # a class of somebody's own declares none
        return Signature(model, "float32", channels_first=False, batch=None)
    if len(inputs) > 1:
        raise ModelError(f"takes {len(inputs)} inputs, must be one of shape {(None, *SHAPE)}")
    batch, *sides = inputs[0].shape

    def fits(shape: tuple[int, ...]) -> bool:
        return len(sides) == 3 and all(side in (None, wanted) for side, wanted in zip(sides, shape, strict=True))

    if not fits(SHAPE) and not fits(CHANNELS_FIRST):
        raise ModelError(f"takes input of shape {(batch, *sides)}, must be {(None, *SHAPE)}: 32x32 RGB pictures")
    dtype = str(inputs[0].dtype)
    if dtype not in WHOLE + FLOATS:
        raise ModelError(f"takes {dtype}, must be one of {', '.join((*FLOATS, *WHOLE))}")
    return Signature(model, dtype, channels_first=not fits(SHAPE), batch=batch)


def last_activation(model: keras.Model) -> str:
    """The name of what the last layer ends in, 'linear' where it is not known."""
    while layers := getattr(model, "layers", None):
        model = layers[-1]
    activation = getattr(model, "activation", None)
    return getattr(activation, "__name__", "linear")
