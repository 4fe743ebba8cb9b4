"""Programs in C with a sanitizer in them, for tests."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NATIVE = ROOT / "tests" / "native"
STRICT = ["-std=gnu11", "-O1", "-g", "-fno-omit-frame-pointer", "-Wall", "-Wextra", "-Werror"]
MEMORY = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
# ThreadSanitizer knows no fences, and says so. What it checks here is ordered by turns; the fences are the business
# of tests/conformance/test_wakeup_model.py.
THREADS = ["-fsanitize=thread", "-Wno-tsan", "-pthread"]


def gcc(*arguments: str | Path) -> None:
    run = subprocess.run(["gcc", *map(str, arguments)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def needs(sanitizer: list[str], folder: Path) -> None:
    """Skip, and say so loudly, only where the compiler has no such sanitizer."""
    source = folder / "empty.c"
    source.write_text("int main(void) { return 0; }\n")
    program = folder / "empty"
    built = subprocess.run(["gcc", *sanitizer, source, "-o", program], capture_output=True, text=True)
    if built.returncode or subprocess.run([program], capture_output=True).returncode:
        pytest.skip(f"NOT TESTED: this gcc has no {sanitizer[0]}:\n{built.stderr}")


def build(source: Path, folder: Path, flags: list[str]) -> Path:
    """The program that `source` is, in `folder`."""
    program = folder / source.stem
    gcc(*STRICT, *flags, "-I", ROOT / "shm_server/native", "-I", NATIVE, source, "-o", program)
    return program
