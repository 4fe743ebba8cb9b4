"""A model's card: what stands beside `some-model.keras` in `some-model.json`.

    {
      "class_names": ["cat", "dog"],
      "pixels": "0..255",
      "outputs": "logits"
    }

Three keys are read, each may be missing; what else stands in a card tells people what to know before they trust the
model: its data, its accuracy, its licence.

    class_names  the label of each output, in their order; without it they are 'class 0', 'class 1' and so on
    pixels       what the model takes for black and white: "0..1", "0..255" or "-1..1"
    outputs      what it gives: "logits", which a softmax turns into probabilities here, or "probabilities"
"""

from __future__ import annotations

import difflib
import json
import unicodedata
from pathlib import Path
from typing import NamedTuple

from shm_server.models.errors import ModelError

PIXELS = ("0..1", "0..255", "-1..1")
OUTPUTS = ("logits", "probabilities")
KEYS = ("class_names", "pixels", "outputs")
DESCRIPTIVE = ("name", "input", "output", "parameters")  # near enough to be taken for a slip otherwise

# A card of a thousand classes takes 20 KB.
MAX_BYTES = 1 << 20


class Card(NamedTuple):
    """What a card says; None where it says nothing."""

    class_names: tuple[str, ...] | None = None
    pixels: str | None = None
    outputs: str | None = None


def card_path(model: Path) -> Path:
    """The card's place: beside the model, with the same stem."""
    return model.with_suffix(".json")


def write_card(model: Path, card: dict) -> None:
    """Writes the card of `model`, replacing an older one."""
    card_path(model).write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_card(model: Path) -> Card:
    """The card of `model`, an empty one where it has none.  Raises ModelError for one that can not be read, says what
    it can not say, or has a key that is nearly one of KEYS: a slip that would be served as if it were not there."""
    path = card_path(model)
    if not path.exists():
        return Card()
    try:
        if not path.is_file():
            raise ValueError("no file")
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        said = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(said, dict) or not said.keys() & set(KEYS):
            raise ValueError(f"no object with any of {', '.join(KEYS)}")
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: not a model card with class_names: {error}") from error
    for key in said.keys() - {*KEYS, *DESCRIPTIVE}:
        if near := difflib.get_close_matches(key.lower(), KEYS, n=1):
            raise ModelError(f"{path}: {key!r} is not read: did you mean {near[0]!r}?")
    for key, allowed in (("pixels", PIXELS), ("outputs", OUTPUTS)):
        if key in said and said[key] not in allowed:
            choices = " or ".join(f'"{value}"' for value in allowed)
            raise ModelError(f"{path}: {key} must be {choices}, not {json.dumps(said[key])[:80]}")
    names = _names(path, said["class_names"]) if "class_names" in said else None
    return Card(names, said.get("pixels"), said.get("outputs"))


def class_names(model: Path, classes: int) -> tuple[str, ...]:
    """The names of a model's `classes` outputs, in their order: those of its card, or numbered ones.

    Raises ModelError for a card that can not be read or that names another number of classes.
    """
    names = read_card(model).class_names
    if names is None:
        return tuple(f"class {index}" for index in range(classes))
    if len(names) != classes:
        raise ModelError(f"{card_path(model)}: names {len(names)} classes, but {model.name} has {classes}")
    return names


def _names(path: Path, names: object) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ModelError(f"{path}: class_names must be a list of names")
    for name in names:  # they go to logs, terminals and, as UTF-8, to clients
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
            raise ModelError(f"{path}: the class name {name!a} has a character that can not be shown")
    if len(set(names)) < len(names):
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise ModelError(f"{path}: two classes bear the name {twice!r}")
    return tuple(names)
