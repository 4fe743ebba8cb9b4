"""What a classifier declares and returns, checked: one place for every transport."""

import json

import numpy as np

from shm_server import _core
from shm_server.models import Classifier

ROUNDING = 1e-3  # a probability in 16 bits; the core allows as much
# Of the names as JSON: what a welcome has room for beside the server's and the model's.
MAX_NAMES_BYTES = 60_000


def declared(classifier: Classifier | None) -> tuple[str, ...]:
    """The names of its classes, none for None. Raises ValueError for what no client could be told."""
    if classifier is None:
        return ()
    names, name = classifier.class_names, classifier.name
    if not isinstance(name, str):
        raise ValueError(f"model {name!a:.60}: its name must be a str")
    try:
        classes = () if isinstance(names, str | bytes) else tuple(names)
    except TypeError:
        classes = ()
    if not classes or not all(isinstance(each, str) for each in classes):
        raise ValueError(f"model {name!a:.60}: class_names must be a tuple of names, one a class, not {names!a:.60}")
    size = len(json.dumps([name, *classes]))
    if size > MAX_NAMES_BYTES:
        raise ValueError(f"model {name!a:.60}: its {len(classes)} class_names take {size} bytes, {MAX_NAMES_BYTES} fit")
    try:
        "".join([name, *classes]).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"model {name!a:.60}: its name or class_names are no text: {error}") from error
    return classes


def checked(scores: object, images: int, classes: int, rows: int) -> np.ndarray:
    """`scores` of so many images as C-contiguous float32 (images, classes), of which `rows` will be answered.

    What a classifier returns otherwise is cast, a copy: doubles, halves, whole numbers, lists, tensors of the CPU, some
    columns of a larger array. Raises ValueError for another shape, for what is no number, and for scores that are no
    probabilities. A row of NaN among others is left to `Lane.complete_calls`, which fails that image only.
    """
    if _core.are_scores(scores, images, classes, rows):
        return scores
    array = np.asarray(scores)
    if array.shape != (images, classes) or not (array.dtype.kind in "fiub" or array.dtype.name == "bfloat16"):
        raise ValueError(
            f"scores must be float32 {(images, classes)}, a column for each of class_names: "
            f"the model returned {array.dtype} {array.shape}"
        )
    with np.errstate(over="ignore"):  # what is too large is infinity then
        array = np.ascontiguousarray(array, np.float32)
    answered = array[:rows]
    finite = np.isfinite(answered)
    if not finite.all(axis=1).any():
        raise ValueError("scores must be probabilities: the model's are not finite numbers")
    outside = finite & ((answered < -ROUNDING) | (answered > 1 + ROUNDING))
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise ValueError(
            f"scores must be probabilities, 0 to 1: the model gave {answered[row, column]:.6g} for class {column}; "
            "of logits, return the softmax"
        )
    return array
