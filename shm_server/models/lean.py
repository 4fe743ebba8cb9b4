"""Keeps out what a framework imports only because it happens to be installed: half of the time that TensorFlow takes.

with without(*UNUSED):
    import keras
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

# Keras wraps scikit-learn, draws with Matplotlib and OpenCV, feeds from Pandas: nothing that a server does. TensorFlow
# converts models of JAX.
UNUSED = ("IPython", "cv2", "matplotlib", "pandas", "sklearn")


@contextlib.contextmanager
def without(*names: str) -> Iterator[None]:
    """While it lasts, these modules are not to be found by anybody, but for those that were imported before."""
    kept_out = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(kept_out))  # None: an ImportError
    try:
        yield
    finally:
        for name in kept_out:
            if sys.modules.get(name, False) is None:
                del sys.modules[name]
