"""Keras models for the tests, of seeded random weights.  To be imported after the backend was chosen."""

import functools
from collections.abc import Callable

import keras
from keras import layers, ops


def seeded(build: Callable[[], keras.Model]) -> Callable[[], keras.Model]:
    @functools.wraps(build)
    def _build() -> keras.Model:
        keras.utils.set_random_seed(3)
        return build()

    return _build


@seeded
def pictures() -> keras.Model:
    """224x224x3 -> 10 classes."""
    return keras.Sequential(
        [
            keras.Input((224, 224, 3), name="pixels"),
            layers.Conv2D(4, 7, strides=8, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10, activation="softmax", name="classes"),
        ]
    )


@seeded
def detector() -> keras.Model:
    """Two inputs, two outputs in a dict."""
    image, place = keras.Input((8, 8, 1), name="image"), keras.Input((2,), name="place")
    features = layers.Concatenate()([layers.Flatten()(image), place])
    boxes = layers.Reshape((3, 4))(layers.Dense(12)(features))
    return keras.Model([image, place], {"scores": layers.Dense(3)(features), "boxes": boxes})


@seeded
def detector_in_order() -> keras.Model:
    """The same network; its outputs are a list of layers' outputs."""
    image, place = keras.Input((8, 8, 1), name="image"), keras.Input((2,), name="place")
    features = layers.Concatenate()([layers.Flatten()(image), place])
    boxes = layers.Reshape((3, 4), name="boxes")(layers.Dense(12)(features))
    return keras.Model({"image": image, "place": place}, [layers.Dense(3, name="scores")(features), boxes])


@seeded
def sigmoid() -> keras.Model:
    """30 floats -> how probable."""
    return keras.Sequential(
        [
            keras.Input((30,), name="x"),
            layers.Dense(8, activation="relu"),
            layers.Dense(1, activation="sigmoid", name="p"),
        ]
    )


@seeded
def text() -> keras.Model:
    """Token ids, 0 for none -> 4 numbers: a masked mean of embeddings."""
    ids = keras.Input((None,), dtype="int32", name="ids")
    mask = ops.cast(ops.expand_dims(ops.not_equal(ids, 0), -1), "float32")
    total = ops.sum(layers.Embedding(20, 4)(ids) * mask, axis=1)
    return keras.Model(ids, total / ops.maximum(ops.sum(mask, axis=1), 1))


@seeded
def half() -> keras.Model:
    """bfloat16 in and out."""
    x = keras.Input((4,), dtype="bfloat16", name="x")
    return keras.Model(x, layers.Dense(3, dtype="bfloat16", name="y")(x))


@seeded
def siblings() -> keras.Model:
    """Two outputs of one layer, which bear one name."""
    left, right, head = keras.Input((4,), name="left"), keras.Input((4,), name="right"), layers.Dense(2, name="head")
    return keras.Model([left, right], [head(left), head(right)])


@seeded
def nested() -> keras.Model:
    x = keras.Input((4,), name="x")
    return keras.Model(x, {"first": x, "rest": [x, x]})


@seeded
def statistics() -> keras.Model:
    """What no row may do: it looks at the others."""
    x = keras.Input((4,), name="x")
    return keras.Model(x, x - ops.mean(x, axis=0, keepdims=True))


@seeded
def four_rows() -> keras.Model:
    x = keras.Input(batch_shape=(4, 4), name="x")
    return keras.Model(x, layers.Dense(3)(x))


@seeded
def one_row() -> keras.Model:
    x = keras.Input(batch_shape=(1, 4), name="x")
    return keras.Model(x, layers.Dense(3, name="y")(x))
