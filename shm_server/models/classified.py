"""A classifier as a model: pixels in, a score for each class out."""

import numpy as np

from shm_server.models import INPUT_SHAPE, Classifier
from shm_server.models.scores import checked, declared
from shm_server.models.tensor import Signature, Tensor


class Classified:
    """What a call lane serves of a `Classifier`; None is a name and a signature only, for a server that echoes."""

    version, platform, max_batch = "1", "python", 1 << 16

    def __init__(self, classifier: Classifier | None) -> None:
        classes = declared(classifier)
        self.name = classifier.name if classifier else "none"
        self.classifier, self._classes = classifier, len(classes)
        scores = Tensor("scores", "FP32", (len(classes) or 1,), classes)
        self.signature = Signature((Tensor("pixels", "UINT8", INPUT_SHAPE),), (scores,))

    def run(self, inputs: dict[str, np.ndarray], outputs: dict[str, np.ndarray]) -> None:
        pixels = inputs["pixels"]
        count = len(pixels)
        outputs["scores"][...] = checked(self.classifier.scores(pixels), count, self._classes, count)
