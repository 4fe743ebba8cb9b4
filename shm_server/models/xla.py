"""How many threads of a CPU XLA uses: one place for the engines on JAX."""

from __future__ import annotations

import os

import jax


def use_threads(threads: int) -> None:
    """Has XLA compute with so many threads, 0 for as many as it likes.

    To be called before JAX computes anything: both settings are read once, when it starts up.
    """
    if threads:
        os.environ["NPROC"] = str(threads)  # the size of XLA's thread pool, which JAX has no setting for
    if threads == 1:
        # Let the caller be that thread. Else each call is handed to one of the pool, which may have to wake a sleeping
        # core, and so may its return: a picture took 270 us instead of 186.
        jax.config.update("jax_cpu_enable_async_dispatch", False)
