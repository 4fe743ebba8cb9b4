"""What the tests of the Open Inference Protocol have in common, whatever carries it."""

import contextlib
import itertools
import math
import os
import socket
import sys
from pathlib import Path

import numpy as np
from conftest import ROOT

from shm_server.models.tensor import DATATYPES

TESTS = ROOT / "tests"
MODELS = ("iris", "pair", "masked", "halves", "large", "doubled", "whole", "floats", "wide")
BYTES_ONLY = ("FP16", "BF16")

# One input and one output of each datatype, and one output that is a million times its input.
KINDS = """
import shm_server

def kinds(names, **more):
    inputs = {name.lower(): (name, (3,)) for name in names}
    outputs = {"same_" + name: tensor for name, tensor in inputs.items()}
    same = lambda **x: {"same_" + name: array for name, array in x.items()}
    return shm_server.model(inputs=inputs, outputs=outputs, **more)(same)

whole = kinds(["BOOL", *(f"{kind}{bits}" for kind in ("UINT", "INT") for bits in (8, 16, 32, 64))], name="whole")
floats = kinds(["FP16", "BF16", "FP32", "FP64"], name="floats")

@shm_server.model(inputs={"x": ("UINT8", (1,))}, outputs={"y": ("UINT8", (1 << 20,))}, max_batch=8)
def wide(x):
    return x.repeat(1 << 20, axis=1)
"""


_next_port = itertools.count(31 * os.getpid())  # another process begins at another


def unused_port() -> int:
    """One that the kernel gives nobody who connects meanwhile, those are from 32768 on, and we nobody a second time."""
    while True:
        port = 20_000 + next(_next_port) % 12_000
        with contextlib.suppress(OSError):
            socket.create_server(("127.0.0.1", port)).close()
            return port


def site_command(folder: Path, *flags: str) -> list[str]:
    """A server at FOLDER/sock, with MODELS and a generator."""
    (folder / "kinds.py").write_text(KINDS)
    sources = [f"kinds:{name}" if name in ("whole", "floats", "wide") else f"stub_models:{name}" for name in MODELS]
    prompts = ["--generator", "stub_generators:computing", "--prompt-priority", "normal"]
    command = [sys.executable, "-m", "shm_server.cli", "serve", *sources, "--socket", str(folder / "sock"), *prompts]
    return [*importing(folder), *command, *flags]


def importing(*folders: Path) -> tuple[str, ...]:
    path = os.pathsep.join(filter(None, [*map(str, folders), str(TESTS), os.environ.get("PYTHONPATH")]))
    return ("env", f"PYTHONPATH={path}", "PYTHONDONTWRITEBYTECODE=1")


def random(tensor: dict, rng: np.random.Generator) -> np.ndarray:
    """Three rows of an input that metadata describes, seven long where it leaves that open; one of a large one."""
    dims = tensor["shape"][1:]
    shape = (1 if math.prod(dims) > 1 << 20 else 3, *(7 if dim == -1 else dim for dim in dims))
    dtype = DATATYPES[tensor["datatype"]]
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        found = rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
        return found % 1000 if dtype == np.int32 else found  # of which models make products
    return (rng.standard_normal(shape) > 0) if dtype.kind == "b" else rng.standard_normal(shape).astype(dtype)


ADD = """
import shm_server

@shm_server.model(inputs={{"x": ("INT32", (1,))}}, outputs={{"y": ("INT32", (1,))}}, version="{number}")
def add(x):
    return x + {number}
"""
