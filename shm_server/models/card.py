"""A model's card: what stands beside `some-model.keras` in `some-model.json`.

The card holds the class names, which a `.keras` file has no place for, and what one should know
before trusting the model: its data, its accuracy, its licence.  Only `class_names` is read back.
"""

from __future__ import annotations

import json
from pathlib import Path

from shm_server.models.errors import ModelError


def card_path(model: Path) -> Path:
    """The card's place: beside the model, with the same stem."""
    return model.with_suffix(".json")


def write_card(model: Path, card: dict) -> None:
    """Writes the card of `model`, replacing an older one."""
    card_path(model).write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def class_names(model: Path, classes: int) -> tuple[str, ...]:
    """The names of a model's `classes` outputs, in their order: those of its card, or, for a model
    that has none, 'class 0', 'class 1' and so on.

    Raises ModelError for a card that can not be read or that names another number of classes.
    """
    path = card_path(model)
    try:
        names = json.loads(path.read_text(encoding="utf-8"))["class_names"]
    except FileNotFoundError:
        return tuple(f"class {index}" for index in range(classes))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: not a model card with class_names: {error!r}") from error
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ModelError(f"{path}: class_names must be a list of names")
    if len(names) != classes:
        raise ModelError(f"{path}: names {len(names)} classes, but {model.name} has {classes}")
    return tuple(names)
