"""Put a result where people read it: into the READMEs, between their markers, and into bench/results.

    python -m bench.publish build/bench/full            # what `python -m bench.run` wrote

Running it again with the same result changes nothing.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from . import report
from .machine import ROOT
from .sections import SECTIONS

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
RESULTS = Path("bench/results")


def between_markers(text: str, block: str) -> str:
    """`text` with whatever stood between the markers replaced."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"needs one {BEGIN} and after it one {END}")
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{block}\n{END}{rest.partition(END)[2]}"


# What the first page has of it.
FRONT = ("echo", "classify", "limit")


def front(results: dict[str, Any]) -> str:
    """For the first page: tables, the first one's picture, the machine."""
    parts = []
    for name in FRONT:
        section = SECTIONS[name]
        parts += [f"**{section.TITLE}**", section.table(results["sections"][name])]
        if name == FRONT[0]:
            parts.append(f"![{section.TITLE}]({RESULTS}/{name}.png)")
    return "\n\n".join([*parts, report.machine(results), f"[RESULTS.md]({RESULTS}/RESULTS.md) has every number."])


def shown(results: dict[str, Any]) -> str:
    """For bench/README.md: whether it is what it must be, and every picture."""
    return "\n\n".join([report.claims(results), report.machine(results), report.figures(results, RESULTS.name)])


def publish(source: Path, root: Path = ROOT) -> list[Path]:
    """Write the files; which ones. Nothing is written when a marker is missing."""
    results = json.loads((source / "results.json").read_text())
    pages = {root / "README.md": front(results), root / "bench" / "README.md": shown(results)}
    new = {}
    for page, block in pages.items():
        try:
            new[page] = between_markers(page.read_text(), block)
        except ValueError as error:
            raise ValueError(f"{page}: {error}") from error
    target = root / RESULTS
    target.mkdir(parents=True, exist_ok=True)
    for old in target.glob("*.png"):
        old.unlink()
    new[target / "RESULTS.md"] = report.markdown(results)
    for page, text in new.items():
        page.write_text(text)
    if (source / "results.json").resolve() != (target / "results.json").resolve():
        shutil.copyfile(source / "results.json", target / "results.json")
    return [*new, target / "results.json", *report.draw(results, target)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.publish", description="Put a result into the READMEs.")
    parser.add_argument("source", type=Path, metavar="DIR", help="the --output of bench.run")
    for file in publish(parser.parse_args().source):
        print(file.relative_to(ROOT))


if __name__ == "__main__":
    main()
