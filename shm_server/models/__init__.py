"""Models: what a classifier is, and the engines that run one.

    classifier = load_classifier("tensorflow")             # the bundled CIFAR-10 network
    warm_up(classifier, (1, 2, 4, 8))
    scores = classifier.scores(pixels)                     # uint8 (n, 3, 32, 32) -> float32 (n, 10)
    classifier.class_names[scores[0].argmax()]             # 'frog'

Models see arrays and know nothing of transports.  An engine is one module of this package with a
function `load(path, *, threads) -> Classifier`, and one line in ENGINES; its framework is imported
only when it is loaded.  A model of one's own needs no engine: any object that is a Classifier will do.

Beside them stands what will take their place: models of any tensors, of which a file, a function or a class makes one.

    model = load("minilm.onnx")                            # engines/; its card is minilm.toml
    trial(model)
    outputs = model.signature.empty(model.signature.outputs, len(ids))
    model.run({"ids": ids}, outputs)

They are described by tensor.py and protocol.py, and read from sources as a command names them by source.py.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from shm_server.models import probes
from shm_server.models.checking import trial
from shm_server.models.engines import load
from shm_server.models.errors import ModelError, reason
from shm_server.models.outputs import HALF_TOLERANCE, spread, sum_to_one
from shm_server.models.protocol import Model
from shm_server.models.tensor import Signature, Tensor

__all__ = [
    "ENGINES",
    "INPUT_SHAPE",
    "Classifier",
    "Model",
    "ModelError",
    "Signature",
    "Tensor",
    "load",
    "load_classifier",
    "trial",
    "warm_up",
]

# Every engine's module in this package, which is also the extra that installs what it needs, and the
# name of its framework.
ENGINES = {
    "tensorflow": "TensorFlow",
    "jax": "JAX",
    "openvino": "OpenVINO",
}

INPUT_SHAPE = (3, 32, 32)  # one picture: planes of red, green and blue


@runtime_checkable
class Classifier(Protocol):
    """Something that scores pictures."""

    name: str
    """Which model this is, and on what it runs, for people: 'cifar10-cnn on TensorFlow'."""

    class_names: tuple[str, ...]
    """The label of each column of the scores."""

    def scores(self, pixels: np.ndarray) -> np.ndarray:
        """How probable each class is for each picture.

        `pixels` is uint8 (n, 3, 32, 32), planar RGB, C-contiguous and read-only.  The result is float32
        (n, classes), its rows are non-negative and sum to 1: another type is cast, which is a copy; another
        shape and scores that are no probabilities are this batch's error.  Any n >= 1 is answered, but
        the first call with an n may compile for it: see `warm_up`.

        Called from one thread at a time.  Whatever it raises becomes the error of this batch.

        `pixels` is borrowed: it may be overwritten or unmapped as soon as this returns, so an engine
        has finished reading it and dropped every reference to it by then, and the result does not
        alias it.  They are the callers' own bytes, a call's that is still to come among them: NumPy
        raises at a write, and a framework that aliases read-only memory without asking
        (`torch.from_numpy` warns of it) must not write either.  What takes writable memory only, as
        DLPack does, gets `pixels.copy()`, 0.3 us a picture.
        """
        ...


def load_classifier(engine: str, path: Path | str | None = None, *, threads: int = 1) -> Classifier:
    """Loads the `.keras` file at `path`, or the bundled CIFAR-10 network, into an engine of ENGINES.

    `threads` is how many the framework computes with, 0 for as many as it likes.  TensorFlow and JAX
    keep that number for the whole process, from their first use on.

    Raises ModelError: an unknown engine, a framework that is not installed, a file that is missing,
    is no Keras model or takes another kind of input.
    """
    if engine not in ENGINES:
        raise ModelError(f'unknown engine "{engine}": there are {", ".join(ENGINES)}')
    if path is not None and not Path(path).is_file():  # said before a framework takes seconds to load
        raise ModelError(f"{path}: no such model file")
    try:
        module = importlib.import_module(f"{__name__}.{engine}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith(__name__.partition(".")[0]):
            raise
        advice = f'pip install "shm-server[{engine}]"'
        raise ModelError(f'engine "{engine}" needs {ENGINES[engine]}: {advice}') from error
    if path is not None:
        return _tried(path, module.load(Path(path), threads=threads))
    with resources.as_file(resources.files("shm_server.assets")) as assets:
        path = assets / "cifar10-cnn.keras"
        return _tried(path, module.load(path, threads=threads))


def _tried(path: Path | str, classifier: Classifier) -> Classifier:
    """`classifier` once it has kept its word: an engine may compile a model into something else than Keras had."""
    pixels = probes.pictures()
    try:
        alone, among = classifier.scores(pixels[:1]), classifier.scores(pixels[[0, 1, 2, 3, 4, 5, 6, 0]])
    except Exception as error:  # whatever a framework raises
        raise ModelError(f"{path}: {classifier.name} fails: {reason(error)}") from error
    if not np.isfinite(among).all() or not sum_to_one(among, HALF_TOLERANCE):
        raise ModelError(f"{path}: {classifier.name} gives scores {spread(among)}, must be probabilities")
    if np.abs(among[[0, 7]] - alone).max() > HALF_TOLERANCE:
        raise ModelError(
            f"{path}: a picture's scores depend on the others in its batch: does it take statistics over them?"
        )
    return classifier


def warm_up(classifier: Classifier, batch_sizes: Iterable[int]) -> None:
    """Scores blank batches of each size, so that no request pays for compilation.

    Three of each: the first compiles, the second still allocates.
    """
    for size in batch_sizes:
        blank = np.zeros((size, *INPUT_SHAPE), np.uint8)
        blank.flags.writeable = False  # as all that is to come
        for _ in range(3):
            classifier.scores(blank)
