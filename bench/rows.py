"""Models whose own time is known: none, that of a copy, or a millisecond. What is left is the call's.

python -m bench.rows --socket PATH --bytes 4096 --untouched     # a server of one, which always spins
shm-server serve bench.rows:small
"""

from __future__ import annotations

import argparse
import logging
import time

from shm_server import Server
from shm_server.models.protocol import Arrays
from shm_server.models.tensor import Signature, Tensor

MAX_SESSIONS = 4


class Untouched:
    """x UINT8 (size,) -> y UINT8 (size,). It looks at neither."""

    name, version, platform = "untouched", "1", "python"

    def __init__(self, size: int, max_batch: int = 1) -> None:
        self.max_batch = max_batch
        self.signature = Signature((Tensor("x", "UINT8", (size,)),), (Tensor("y", "UINT8", (size,)),))

    def run(self, inputs: Arrays, outputs: Arrays) -> None:
        """See `Model.run`; but the outputs are not filled."""


class Identity(Untouched):
    """Reads every byte of x, and writes it to y."""

    name = "identity"

    def run(self, inputs: Arrays, outputs: Arrays) -> None:
        outputs["y"][...] = inputs["x"]


class Busy(Identity):
    """An Identity that computes for so long first, whoever else has its core meanwhile: CPU time of its thread."""

    name = "busy"

    def __init__(self, size: int, seconds: float) -> None:
        super().__init__(size)
        self._ns = int(seconds * 1e9)

    def run(self, inputs: Arrays, outputs: Arrays) -> None:
        end = time.thread_time_ns() + self._ns
        while time.thread_time_ns() < end:
            pass
        super().run(inputs, outputs)


SMALL_BYTES = 64
# For servers of several processes. A batch of one_ms is one row: so many calls take so many milliseconds.
small = Identity(SMALL_BYTES, max_batch=32)
one_ms = Busy(SMALL_BYTES, 1e-3)


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.rows")
    parser.add_argument("--socket", required=True, metavar="PATH")
    parser.add_argument("--bytes", type=int, required=True, metavar="N", help="of a row")
    parser.add_argument("--untouched", action="store_true", help="a model that does not look at its rows")
    args = parser.parse_args()
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    model = Untouched(args.bytes) if args.untouched else Identity(args.bytes)
    Server(model, args.socket, spin_us=float("inf"), max_sessions=MAX_SESSIONS).run()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
