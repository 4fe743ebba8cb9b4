"""The fuzzer of the C core, ring.c, as a program: ring SEED COUNT CORPUS [KEEP], see guided.h."""

from pathlib import Path

from sanitizers import MEMORY, build

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
COVERAGE = ["-O2", "-fsanitize-coverage=trace-pc", "-I", str(HERE)]


def build_ring_fuzzer(folder: Path) -> Path:
    return build(HERE / "ring.c", folder, [*MEMORY, *COVERAGE])
