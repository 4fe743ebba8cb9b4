"""Keras models of people who trained otherwise, all around one small network.

    for name, build in ALIKE.items(): save(build, folder / f"{name}.keras")
    expected(pixels)    # what every model of ALIKE must answer, whatever it takes and gives

The network's weights are seeded, and large enough that it tells pictures apart.
"""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops

SEED, CLASSES = 11, 5
MEAN, DEVIATION = np.float32([120, 110, 100]), np.float32([60, 65, 70])  # of the colours, in 0..255

# Kept by Keras under these names for whoever loads the file in the same process.
registered = keras.saving.register_keras_serializable("zoo")


def network(scale: float | np.ndarray = 1, offset: float | np.ndarray = 0) -> keras.Model:
    """To logits, from pixels u where scale * u + offset, for each colour, are those in 0..1 that `expected` sees."""
    rng = np.random.default_rng(SEED)
    kernel, bias, dense, more = (
        rng.normal(0, deviation, shape).astype(np.float32)
        for shape, deviation in (((5, 5, 3, 4), 0.4), (4, 0.2), ((400, CLASSES), 0.2), (CLASSES, 0.2))
    )
    scale, offset = (np.broadcast_to(np.float32(value), 3) for value in (scale, offset))
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(4, 5, strides=3, activation="relu"),
            layers.Flatten(),
            layers.Dense(CLASSES),
        ],
        name="network",
    )
    model.set_weights([kernel * scale[:, None], bias + np.einsum("hwcf,c->f", kernel, offset), dense, more])
    return model


def expected(pixels: np.ndarray) -> np.ndarray:
    logits = network()(pixels.transpose(0, 2, 3, 1) / np.float32(255))
    return ops.convert_to_numpy(ops.softmax(logits))


def save(build: Callable, path: Path) -> Path:
    build().save(path)
    return path


def picture(**options) -> keras.KerasTensor:
    return keras.Input((32, 32, 3), **options)


def after(front: Callable, scale: float | np.ndarray = 1, offset: float | np.ndarray = 0, **options) -> Callable:
    """The network behind `front`, which makes of its pixels what the network takes."""

    def build() -> keras.Model:
        x = picture(**options)
        return keras.Model(x, network(scale, offset)(front(x)))

    return build


def before(end: Callable) -> Callable:
    """The network for pixels in 0..1 with `end` behind it."""

    def build() -> keras.Model:
        x = picture()
        return keras.Model(x, end(network()(x)))

    return build


def by_hand(logits):
    powers = ops.exp(logits)
    return powers / ops.sum(powers, axis=-1, keepdims=True)


def trained_norm() -> layers.Layer:
    norm = layers.BatchNormalization(epsilon=0)
    norm.build((None, 32, 32, 3))
    norm.set_weights([np.ones(3), np.zeros(3), MEAN, DEVIATION**2])
    return norm


def mixed(policy: str) -> Callable:
    def build() -> keras.Model:
        keras.config.set_dtype_policy(policy)
        try:
            x = picture()
            return keras.Model(x, layers.Softmax()(network()(x)))
        finally:
            keras.config.set_dtype_policy("float32")

    return build


@registered
class Scaled(layers.Layer):
    """A layer with layers in it, one of which scales."""

    def __init__(self, **options):
        super().__init__(**options)
        self.scaling, self.rest = layers.Rescaling(1 / 255), network()

    def call(self, pixels):
        return self.rest(self.scaling(pixels))


@registered
class Gained(layers.Layer):
    """A layer with a weight of its own beside one that scales."""

    def build(self, shape):
        self.scaling = layers.Rescaling(1 / 255)
        self.gain = self.add_weight(shape=(), initializer="ones")

    def call(self, pixels):
        return self.scaling(pixels) * self.gain


@registered
class OwnModel(keras.Model):
    """A model that declares no input."""

    def __init__(self, **options):
        super().__init__(**options)
        self.rest = network()

    def call(self, pixels):
        return ops.softmax(self.rest(pixels / 255.0))


class Unregistered(layers.Layer):
    def call(self, pixels):
        return pixels


def own_model() -> keras.Model:
    model = OwnModel()
    model(np.zeros((1, 32, 32, 3), np.float32))
    return model


def named_input() -> keras.Model:
    x = {"image": picture(name="image")}
    return keras.Model(x, {"scores": network()(x["image"])})


def augmented() -> keras.Model:
    return keras.Sequential(
        [picture(), layers.RandomFlip(), layers.RandomTranslation(0.1, 0.1), layers.Rescaling(1 / 255)]
    )


def whole(dtype: str) -> Callable:
    def build() -> keras.Model:
        x = picture(dtype=dtype)
        return keras.Model(x, network()(layers.Rescaling(1 / 255)(ops.cast(x, "float32"))))

    return build


SIGNED = {"scale": 0.5, "offset": 0.5}  # of pixels in -1..1
BYTES = {"scale": 1 / 255}
NORMAL = {"scale": DEVIATION / 255, "offset": MEAN / 255}

# Each must answer what `expected` says.
ALIKE = {
    # what they take
    "pixels_to_1": network,
    "rescaling": after(lambda x: layers.Rescaling(1 / 255)(x)),
    "rescaling_signed": after(lambda x: layers.Rescaling(1 / 127.5, offset=-1)(x), **SIGNED),
    "rescaling_of_pixels_to_1": after(lambda x: layers.Rescaling(2, offset=-1)(x), **SIGNED),
    "rescaling_of_signed_pixels": after(lambda x: layers.Rescaling(0.5, offset=0.5)(x)),
    "rescaling_behind_augmentation": after(lambda x: augmented()(x)),
    "rescaling_after_resizing": after(lambda x: layers.Rescaling(1 / 255)(layers.CenterCrop(32, 32)(x))),
    "rescaling_in_a_layer_of_layers": lambda: keras.Sequential([picture(), Scaled()]),
    "rescaling_beside_a_weight": after(lambda x: Gained()(x)),
    "divided_by_an_operator": after(lambda x: x / 255.0),
    "divided_by_an_operation": after(lambda x: ops.divide(ops.cast(x, "float32"), 255.0)),
    "normalization": after(lambda x: layers.Normalization(mean=MEAN, variance=DEVIATION**2)(x), **NORMAL),
    "normalization_of_pixels_to_1": after(
        layers.Normalization(mean=MEAN / 255, variance=(DEVIATION / 255) ** 2), **NORMAL
    ),
    "a_mean_subtracted": after(lambda x: x - MEAN, 1 / 255, MEAN / 255),
    "batch_norm_first": after(lambda x: trained_norm()(x), **NORMAL),
    "uint8": whole("uint8"),
    "int32": whole("int32"),
    "float16_input": after(lambda x: ops.cast(x, "float32"), dtype="float16"),
    "an_input_by_name": named_input,
    "a_class_of_their_own": own_model,
    "any_size": lambda: keras.Model(x := keras.Input((None, None, 3)), network()(layers.CenterCrop(32, 32)(x))),
    "batches_of_32": lambda: keras.Model(x := picture(batch_size=32), network()(x)),
    # what they give
    "softmax_layer": before(lambda x: layers.Softmax()(x)),
    "softmax_activation": before(lambda x: layers.Activation("softmax")(x)),
    "softmax_operation": before(ops.softmax),
    "softmax_by_hand": before(by_hand),
    "softmax_then_linear": before(lambda x: layers.Activation("linear", dtype="float32")(layers.Softmax()(x))),
    "softmax_then_reshape": before(
        lambda x: layers.Reshape((CLASSES,))(layers.Softmax()(layers.Reshape((1, CLASSES))(x)))
    ),
    "softmax_then_dropout": before(lambda x: layers.Dropout(0.5)(layers.Softmax()(x))),
    "softmax_nested": before(lambda x: keras.Sequential([keras.Input((CLASSES,)), layers.Softmax()])(x)),
    "log_softmax": before(ops.log_softmax),
    "small_logits_shifted": before(lambda x: x + 100.0),
    "float64_logits": before(lambda x: ops.cast(x, "float64")),
    "float16_probabilities": before(lambda x: ops.cast(ops.softmax(x), "float16")),
    "bfloat16_logits": before(lambda x: ops.cast(x, "bfloat16")),
    "mixed_float16": mixed("mixed_float16"),
}
ROUGH = {"float16_input": 5e-3, "float16_probabilities": 1e-3, "bfloat16_logits": 2e-2, "mixed_float16": 2e-2}


def broken(value: float) -> Callable:
    def build() -> keras.Model:
        model = network()
        kernel, *others = model.get_weights()
        kernel[0, 0, 0, 0] = value
        model.set_weights([kernel, *others])
        return model

    return build


def two_inputs() -> keras.Model:
    x, y = picture(), picture()
    return keras.Model([x, y], network()(x + y))


def two_outputs() -> keras.Model:
    x = picture()
    logits = network()(x)
    return keras.Model(x, [logits, ops.softmax(logits)])


# Each must be refused in one line that says so.
REFUSED = {
    "a_lambda": (before(lambda x: layers.Lambda(lambda x: x * 1.0, output_shape=(CLASSES,))(x)), "Lambda"),
    "a_layer_that_nobody_registered": (
        lambda: keras.Sequential([picture(), Unregistered(), network()]),
        "can load: Could not locate class 'Unregistered'",
    ),
    "sigmoids": (before(lambda x: layers.Activation("sigmoid")(x)), "ends in sigmoid, must end in logits or a softmax"),
    "percent": (before(lambda x: 100 * ops.softmax(x)), "whose rows sum to 100 to 100"),
    "softmax_over_the_batch": (before(lambda x: ops.softmax(x, axis=0)), "must end in logits or a softmax"),
    "one_class": (before(lambda x: layers.Dense(1)(x)), "gives output of shape (None, 1), must be (None, classes)"),
    "a_label": (before(lambda x: ops.argmax(x, axis=-1)), "gives output of shape (None,)"),
    "a_row_in_a_row": (before(lambda x: layers.Reshape((1, CLASSES))(x)), "gives output of shape (None, 1, 5)"),
    "two_outputs": (two_outputs, "gives 2 outputs, must be one"),
    "two_inputs": (two_inputs, "takes 2 inputs, must be one"),
    "grey": (
        lambda: keras.Sequential([keras.Input((32, 32, 1)), layers.Flatten(), layers.Dense(3)]),
        "(None, 32, 32, 1)",
    ),
    "nan": (broken(np.nan), "gives NaN or infinity for 32 of 32 pictures"),
    "infinity": (broken(np.inf), "gives NaN or infinity for"),
    "statistics_over_the_batch": (
        before(lambda x: x - ops.mean(x, axis=0, keepdims=True)),
        "depend on the others in its batch",
    ),
    "batches_of_1": (
        lambda: keras.Model(x := picture(batch_size=1), network()(ops.reshape(x, (1, 32, 32, 3)))),
        "it was made for 1 at a time",
    ),
    "never_built": (lambda: keras.Sequential([layers.Flatten(), layers.Dense(3)]), "has no weights"),
}
