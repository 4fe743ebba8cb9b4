"""Trains a network on pictures with Keras."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

from shm_server.models.pictures import Pictures, augment, unit_range

if TYPE_CHECKING:
    import keras

# 64 pictures a step cost the same per epoch as 128 on two cores and give twice the steps; 1e-3 is
# Adam's own default.
BATCH = 64
LEARNING_RATE = 1e-3


def fit(model: keras.Model, training: Pictures, held: Pictures, epochs: int, seed: int) -> dict[str, list[float]]:
    """Trains `model` in place and returns `loss`, `accuracy`, `val_loss` and `val_accuracy`, by epoch.

    The latter two are of the held-out pictures, which steer nothing.  Progress goes to stdout: a bar on
    a terminal, elsewhere a line an epoch.
    """
    import keras

    epoch = batches(training, seed)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(LEARNING_RATE, epochs * len(epoch))),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,  # on a CPU, XLA takes almost twice as long to train
    )
    interactive = sys.stdout.isatty()

    def report(number: int, logs: dict[str, float]) -> None:
        print(
            f"epoch {number + 1}/{epochs}: loss {logs['loss']:.3f}, accuracy {logs['accuracy']:.3f}; "
            f"held out: loss {logs['val_loss']:.3f}, accuracy {logs['val_accuracy']:.3f}",
            flush=True,
        )

    return model.fit(
        epoch,
        epochs=epochs,
        shuffle=False,  # they come in a new order each epoch
        validation_data=(unit_range(held.pixels), held.labels),
        validation_batch_size=500,
        verbose=1 if interactive else 0,
        callbacks=[] if interactive else [keras.callbacks.LambdaCallback(on_epoch_end=report)],
    ).history


def batches(pictures: Pictures, seed: int) -> keras.utils.PyDataset:
    """The pictures as Keras takes them: augmented batches, shuffled anew each epoch, float32
    (BATCH, 32, 32, 3) in [0, 1] with int64 labels (BATCH,); the last one of an epoch may be smaller."""
    import keras

    class Batches(keras.utils.PyDataset):
        def __init__(self):
            super().__init__()
            self.epoch = -1
            self.on_epoch_end()

        def __len__(self) -> int:
            return -(-len(pictures.labels) // BATCH)

        def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            chosen = self.order[index * BATCH : (index + 1) * BATCH]
            # Seeded by place, not by turn: Keras may ask for batches ahead, or twice for the first.
            rng = np.random.default_rng((seed, self.epoch, index))
            return unit_range(augment(pictures.pixels[chosen], rng)), pictures.labels[chosen]

        def on_epoch_end(self) -> None:
            self.epoch += 1
            self.order = np.random.default_rng((seed, self.epoch)).permutation(len(pictures.labels))

    return Batches()
