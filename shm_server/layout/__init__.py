"""The layout of a segment and of the doorbell's messages: layout.md as Python constants and NumPy dtypes.

The bottom of the import chain: nothing here knows what the bytes are used for.
"""

import numpy as np

from shm_server.layout import generated
from shm_server.layout.generated import *  # noqa: F403

header = np.dtype(generated.STRUCTS["header"])
lane = np.dtype(generated.STRUCTS["lane"])
tensor = np.dtype(generated.STRUCTS["tensor"])
submission = np.dtype(generated.STRUCTS["submission"])
completion = np.dtype(generated.STRUCTS["completion"])
control = np.dtype(generated.STRUCTS["control"])
progress = np.dtype(generated.STRUCTS["progress"])
frame = np.dtype(generated.STRUCTS["frame"])
hello = np.dtype(generated.STRUCTS["hello"])
welcome = np.dtype(generated.STRUCTS["welcome"])
reason_body = np.dtype(generated.STRUCTS["reason_body"])


def turn(position: int, entries: int) -> int:
    """The turn that the entry at `position` of a ring of `entries` carries once published (layout.md, "Rings")."""
    return ((position + entries) % 2**64) // entries
