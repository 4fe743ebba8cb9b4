"""Which model classifies the pictures of callers who say no name: the server's default, where it is one for them."""

from typing import NamedTuple

from shm_server.client.errors import ClientError
from shm_server.client.signature import Signature

SHAPE = (3, 32, 32)
IMAGE_BYTES = 3 * 32 * 32


class NoClassifier(ClientError):
    """The default model takes no pictures, or has no names for what it gives."""

    not_run = True


class Classifier(NamedTuple):
    """What is to be known of one: its name, of its tensors the names, and of its classes."""

    name: str
    pixels: str
    scores: str
    classes: tuple[str, ...]


def classifier(model: Signature) -> Classifier:
    """Raises NoClassifier, whose text says what the model is instead."""
    pixels = next((each for each in model.inputs if (each.datatype, each.shape) == ("UINT8", SHAPE)), None)
    scores = next((each for each in model.outputs if each.labels and each.shape == (len(each.labels),)), None)
    if pixels is None or len(model.inputs) != 1 or scores is None:
        raise NoClassifier(f"no model that classifies pictures: expected UINT8 {list(SHAPE)} and labels, got {model}")
    return Classifier(model.name, pixels.name, scores.name, scores.labels)
