"""The network that `shm-server train` trains: the CNN of TensorFlow's image tutorial.

    conv32 - pool - conv64 - pool - conv64 - flatten - dense64 - dense(classes)

https://www.tensorflow.org/tutorials/images/cnn is the source of every size here: 3x3 convolutions
without padding, 2x2 maximum pooling, ReLU between the layers, and logits at the end.  With ten
classes it has 122,570 parameters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras

ARCHITECTURE = "conv32-pool-conv64-pool-conv64-flatten-dense64-dense{classes}, 3x3 convolutions, ReLU, logits"


def tutorial_cnn(classes: int, kernel_initializer: str = "glorot_uniform") -> keras.Model:
    """An untrained network: float32 (n, 32, 32, 3) in [0, 1] to float32 logits (n, `classes`)."""
    import keras
    from keras import layers

    weights = {"kernel_initializer": kernel_initializer}
    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            layers.Conv2D(32, 3, activation="relu", **weights),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu", **weights),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu", **weights),
            layers.Flatten(),
            layers.Dense(64, activation="relu", **weights),
            layers.Dense(classes, **weights),
        ],
        name="tutorial_cnn",
    )
