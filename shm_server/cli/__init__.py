"""The command `shm-server`. Signals are ours before the rest of the package is imported, which takes a while."""

import os

from shm_server.runtime import process


def main(argv: list[str] | None = None) -> int:
    process.open_standard_descriptors()
    process.name_a_home()
    if os.getpid() == 1:
        process.serve_as_process_1()
    stop = process.Stop()
    stop.install()
    try:
        from shm_server.cli import commands

        return commands.run(argv, stop)
    finally:
        stop.left()
