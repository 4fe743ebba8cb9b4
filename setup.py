"""The one thing that pyproject.toml cannot say yet: the C core, built against the stable ABI of Python 3.11."""

import os
from pathlib import Path

from setuptools import Extension, setup

# SHM_SANITIZE=address,undefined builds the core for the sanitizer tests (tests/native).
sanitize = os.environ.get("SHM_SANITIZE")
flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden"]
if sanitize:
    flags += [f"-fsanitize={sanitize}", "-fno-omit-frame-pointer", "-g", "-O1"]

setup(
    ext_modules=[
        Extension(
            "shm_server._core",
            [f"shm_server/native/{name}.c" for name in ("core", "lane", "poller", "mapping", "guard", "client")],
            depends=[str(header) for header in Path("shm_server/native").glob("*.h")],
            extra_compile_args=flags,
            extra_link_args=[f"-fsanitize={sanitize}"] if sanitize else [],
            py_limited_api=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
