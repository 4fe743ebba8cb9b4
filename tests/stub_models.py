"""Models of all shapes that need no framework, for tests: stub_models.py NAME SOCKET [FILE].

FILE, where a model has one, is what it waits for: so a test knows that the model is busy, without a clock.
"""

import ctypes
import logging
import os
import signal
import sys
import time

import numpy as np

import shm_server
from shm_server import Server
from shm_server.runtime import logs

LABELS = ("setosa", "versicolor", "virginica")


@shm_server.model(inputs={"x": ("FP32", (4,))}, outputs={"y": ("FP32", (3,), LABELS)})
def iris(x):
    """Row sums in three sizes; NaN for a row that begins with -1."""
    sums = x.sum(axis=1, dtype=np.float32)
    sums[x[:, 0] == -1] = np.nan
    return np.stack([sums, 2 * sums, 3 * sums], axis=1)


@shm_server.model(
    inputs={"a": ("INT32", (2, 3)), "b": ("FP64", (5,))},
    outputs={"sums": ("FP64", (2,)), "table": ("INT32", (3, 2)), "flag": ("BOOL", ())},
)
def pair(a, b):
    sums = np.stack([a.sum(axis=(1, 2)), b.sum(axis=1)], axis=1).astype(np.float64)
    return sums, np.ascontiguousarray(a.transpose(0, 2, 1)), b.sum(axis=1) > 0


@shm_server.model(
    inputs={"ids": ("INT32", ("tokens",)), "mask": ("UINT8", ("tokens",))},
    outputs={"squares": ("INT32", ("tokens",)), "last": ("INT32", (2,))},
    bounds={"tokens": 100},
)
def tokens(ids, mask):
    """The squares, then the largest id and the bucket that the batch ran at."""
    largest = (ids * mask).max(axis=1)
    return ids * ids, np.stack([largest, np.full(len(ids), ids.shape[1])], axis=1).astype(np.int32)


@shm_server.model(
    inputs={"ids": ("INT32", ("tokens",)), "mask": ("UINT8", ("tokens",))},
    outputs={"squares": ("INT32", ("tokens",)), "sum": ("INT32", (1,))},
    bounds={"tokens": 100},
)
def masked(ids, mask):
    """The squares and the sum of the ids that the mask lets through: the same at any bucket, as `serve` wants it."""
    ids = ids * mask
    return ids * ids, ids.sum(axis=1, keepdims=True, dtype=np.int32)


@shm_server.model(inputs={"x": ("UINT8", (1 << 24,))}, outputs={"y": ("UINT8", (1 << 24,))}, max_batch=1)
def large(x):
    return x


@shm_server.model(inputs={"x": ("INT32", (1,))}, outputs={"y": ("FP32", (2,))})
def wrong(x):
    """Returns what the number says: the right thing, another dtype, another shape, one that is missing, nothing."""
    good = np.ones((len(x), 2), np.float32)
    return [good, good.astype(np.float64), good[:, :1], {"z": good}, None, good.tolist()][x[0, 0]]


@shm_server.model(inputs={"x": ("INT32", (1,))}, outputs={"y": ("INT32", (1,))})
def wild(x):
    """The same number, after what it asks for: -1 raises, -2 calls sys.exit, -3 forks a child that goes on as if it
    were the server, -4 is a SIGSEGV, -5 prints 32 MB to both outputs.
    """
    asked = int(x.min())
    if asked == -1:
        raise RuntimeError("it is wild")
    if asked == -2:
        sys.exit(3)
    if asked == -3:
        os.fork()
    if asked == -4:
        os.kill(os.getpid(), signal.SIGSEGV)
    if asked == -5:
        for _ in range(32):
            print("x" * (1 << 20))
            print("y" * (1 << 20), file=sys.stderr)
    return x


@shm_server.model(inputs={"x": ("INT32", (1,))}, outputs={"y": ("INT32", (1,))})
class device:
    """Computes "on a device": what is begun is there when it is finished. It logs both, with the size of the batch and
    the first number; -1 raises in `begin`, -2 in `finish`, which at -3 waits for FILE. `close` logs that, too.
    """

    def run(self, inputs, outputs):
        np.multiply(inputs["x"], 2, out=outputs["y"])

    def begin(self, inputs):
        x = inputs["x"]
        logging.info("begin %d from %d", len(x), x[0, 0])
        if (x == -1).any():
            raise RuntimeError("it did not begin")
        return x  # the device reads it until `finish`

    def finish(self, x, outputs):
        logging.info("finish %d from %d", len(x), x[0, 0])
        if (x == -2).any():
            raise RuntimeError("it did not finish")
        while (x == -3).any() and not os.path.exists(sys.argv[3]):
            time.sleep(0.001)
        np.multiply(x, 2, out=outputs["y"])

    def close(self):
        logging.info("closed")


@shm_server.model(inputs={"x": ("INT32", (1,))}, outputs={"y": ("INT32", (2,))})
def gated(x):
    """The number and the size of the batch; at -1 it logs "in the model", and goes on once FILE exists."""
    if (x == -1).any():
        logging.info("in the model")
        while not os.path.exists(sys.argv[3]):
            time.sleep(0.001)
    return np.concatenate([x, np.full_like(x, len(x))], axis=1)


@shm_server.model(inputs={"x": ("FP64", (2,))}, outputs={"y": ("FP16", (2,), ("no", "yes"))})
def halves(x):
    return x.astype(np.float16)


@shm_server.model(inputs={"x": ("INT32", (1,))}, outputs={"y": ("INT32", (1,))})
def doubled(x):
    return 2 * x


@shm_server.model(inputs={"x": ("INT32", (1,))}, outputs={"y": ("INT32", (1,))})
def mortal(x):
    """The number; -9 kills the process."""
    if (x == -9).any():
        os.kill(os.getpid(), signal.SIGKILL)
    return x


@shm_server.model(inputs={"x": ("INT32", (1,))}, outputs={"y": ("INT32", (1,))})
def hung(x):
    """The number; at -1 not before somebody writes to the FIFO that HUNG names, at -2 the same, and keeps the GIL."""
    if (x == -1).any():
        os.close(os.open(os.environ["HUNG"], os.O_RDONLY))
    if (x == -2).any():
        ctypes.PyDLL(None).open(os.environ["HUNG"].encode(), os.O_RDONLY)
    return x


if __name__ == "__main__":
    logs.configure()
    found = globals()[sys.argv[1]]
    Server(found() if isinstance(found, type) else found, sys.argv[2]).run()
