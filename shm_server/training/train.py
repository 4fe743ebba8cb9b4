"""`shm-server train`: trains the tutorial CNN and writes the model, its card and a plot.

    python -m shm_server.training.train --data cifar10-train.zip --output cifar10-cnn.keras

writes `cifar10-cnn.keras` (the network with its weights, no optimizer state), `cifar10-cnn.json`
(its card: class names, data, held-out accuracy) and `cifar10-cnn.png` (loss and accuracy by epoch).

A part of every class is held out before anything else happens.  It is never trained on and decides
nothing: the weights written are those of the last epoch, where the cosine schedule has brought the
learning rate to zero, so the held-out accuracy is not the best of many looks.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from shm_server.models.card import write_card
from shm_server.models.cnn import ARCHITECTURE, tutorial_cnn
from shm_server.models.errors import ModelError
from shm_server.models.keras_file import import_keras
from shm_server.models.pictures import SHIFT, DataError, Pictures, download_pictures, read_pictures, split, unit_range
from shm_server.training.fit import BATCH, LEARNING_RATE, fit

PACKAGES = {"tensorflow": "TensorFlow", "keras": "Keras", "matplotlib": "Matplotlib", "PIL": "Pillow"}

INTENDED_USE = (
    "Demonstrations, tests and benchmarks of the sidecar. Every picture gets one of the labels, whatever it shows. "
    "Not for decisions that matter to anybody."
)


class TrainingError(Exception):
    """Training that can not start.  Its text is one line: what is wrong and what to do."""


def train(
    data: Path | None,
    output: Path,
    *,
    epochs: int = 50,
    seed: int = 1,
    held_out: float = 0.1,
    licence: str = "not stated",
) -> dict[str, Any]:
    """Trains on `data` (None: CIFAR-10 of keras.datasets), writes model, card and plot, returns the card.

    `output` is the model's path and ends in .keras; `held_out` is a fraction of each class.  Raises
    TrainingError or DataError, before any training, when output or data can not be used.
    """
    _check_output(output)
    _check_packages()
    print(f"reading {data or 'keras.datasets.cifar10'}", flush=True)
    pictures = read_pictures(data) if data else download_pictures()
    training, held = split(pictures, held_out, np.random.default_rng(seed))
    print(f"training on {len(training.labels)} pictures, {len(held.labels)} are held out", flush=True)

    keras = import_keras("tensorflow")
    keras.utils.set_random_seed(seed)
    model = tutorial_cnn(len(pictures.class_names))
    started = time.monotonic()
    history = fit(model, training, held, epochs, seed)
    minutes = (time.monotonic() - started) / 60

    predicted = model.predict(unit_range(held.pixels), batch_size=500, verbose=0).argmax(axis=1)
    card = {
        "name": output.stem,
        "class_names": list(pictures.class_names),
        "architecture": ARCHITECTURE.format(classes=len(pictures.class_names)),
        "parameters": model.count_params(),
        "input": "float32 (n, 32, 32, 3), RGB",
        "pixels": "0..1",
        "output": f"float32 (n, {len(pictures.class_names)})",
        "outputs": "logits",
        "data": pictures.source,
        "held_out": accuracies(predicted, held),
        "training": {
            "pictures": len(training.labels),
            "augmentation": f"mirrored half of the time, shifted by up to {SHIFT} pixels each way",
            "optimizer": f"Adam, batches of {BATCH}, learning rate {LEARNING_RATE:g} with cosine decay to 0",
            "weights": "those of the last epoch; the held-out pictures chose nothing",
            "epochs": epochs,
            "seed": seed,
            "minutes": round(minutes, 1),
            "date": datetime.date.today().isoformat(),
        },
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in ("numpy", "keras", "tensorflow")},
        "licence": licence,
        "intended_use": INTENDED_USE,
    }
    # A network never compiled has no optimizer, whose state would triple the file.  Nor does it need a
    # random start, whose description changes between versions of Keras: older ones would refuse it.
    served = tutorial_cnn(len(pictures.class_names), kernel_initializer="zeros")
    served.set_weights(model.get_weights())
    served.save(output)
    write_card(output, card)
    plot(history, output)
    return card


def accuracies(predicted: np.ndarray, held: Pictures) -> dict[str, Any]:
    """How often `predicted`, int (n,), is right about the held-out pictures: in all and by class."""
    right = predicted == held.labels
    return {
        "pictures": len(right),
        "accuracy": round(float(right.mean()), 4),
        "per_class": {
            name: round(float(right[held.labels == label].mean()), 4) for label, name in enumerate(held.class_names)
        },
    }


def plot(history: dict[str, list[float]], output: Path) -> None:
    """Draws loss and accuracy of both parts by epoch into the PNG beside `output`."""
    from matplotlib.figure import Figure  # no pyplot: no display, no global state

    figure = Figure(figsize=(9, 3.6), layout="constrained", dpi=120)
    epochs = range(1, len(history["loss"]) + 1)
    for axes, name, label in zip(
        figure.subplots(1, 2), ("loss", "accuracy"), ("loss (cross-entropy)", "accuracy (%)"), strict=True
    ):
        scale = 100 if name == "accuracy" else 1
        for key, colour, part in ((name, "#8899aa", "training, augmented"), (f"val_{name}", "#c03a2b", "held out")):
            values = [scale * value for value in history[key]]
            axes.plot(
                epochs, values, color=colour, label=f"{part}: {values[-1]:.3g}", marker="." if len(values) < 3 else ""
            )
        axes.set(xlabel="epoch", ylabel=label, xlim=(1, max(2, len(epochs))))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.suptitle(output.stem)
    figure.savefig(output.with_suffix(".png"))


def _check_output(output: Path) -> None:
    """Fails now rather than after the training."""
    if output.suffix != ".keras":
        raise TrainingError(f"{output}: the output must end in .keras")
    if not output.parent.is_dir():
        raise TrainingError(f"{output.parent}: no such folder to write {output.name} to")
    if not os.access(output.parent, os.W_OK):
        raise TrainingError(f"{output.parent}: can not be written to")


def _check_packages() -> None:
    for module, package in PACKAGES.items():
        if importlib.util.find_spec(module) is None:
            raise TrainingError(f'training needs {package}: pip install "shm-server[train]"')


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 2^32 - 1")
    return value


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that `run` reads."""
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder, or zip, that holds train/<class>/*.jpg or .png, 32x32 (default: download CIFAR-10)",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("cifar10-cnn.keras"), help="model to write (default: %(default)s)"
    )
    parser.add_argument("--epochs", type=_positive, default=50, help="default: %(default)s")
    parser.add_argument(
        "--seed", type=_seed, default=1, help="of split, weights and augmentation (default: %(default)s)"
    )
    parser.add_argument(
        "--held-out", type=_fraction, default=0.1, help="part of every class to measure on (default: %(default)s)"
    )
    parser.add_argument("--licence", default="not stated", help="of the weights, for the card (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Runs `shm-server train` and returns its exit code."""
    try:
        card = train(
            args.data,
            args.output,
            epochs=args.epochs,
            seed=args.seed,
            held_out=args.held_out,
            licence=args.licence,
        )
    except (TrainingError, DataError, ModelError, OSError) as error:
        print(f"shm-server train: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("shm-server train: interrupted, nothing written", file=sys.stderr)
        return 130  # what a shell gives a command that SIGINT ended
    held = card["held_out"]
    print(f"held-out accuracy {held['accuracy']:.1%} on {held['pictures']} pictures never trained on")
    for name, accuracy in held["per_class"].items():
        print(f"  {name:<12} {accuracy:.1%}")
    print(f"wrote {args.output}, its card and its plot")
    return 0


def main() -> int:
    """`python -m shm_server.training.train`."""
    parser = argparse.ArgumentParser(prog="shm-server train", description="Train the tutorial CNN.")
    add_arguments(parser)
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
