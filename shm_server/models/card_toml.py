"""A model's card: `model.toml` beside a file, for what the file can not say.

    max_batch = 16

    [bounds]
    tokens = 128                        # the largest extent of the symbolic dimension

    [inputs.pixels]
    shape = [224, 224, 3]               # where the file leaves dimensions open: of a row; a name is the symbolic one
    datatype = "UINT8"                  # what callers send; the file gets scale * value + offset in its own datatype
    scale = 0.00784313725490196         # a number, or lists that broadcast to the shape: one for each channel
    offset = -1.0

    [outputs.scores]
    labels = ["cat", "dog"]

Every key may be missing, and so may the card.  It is STEM.toml beside STEM.onnx, or model.toml in its folder; of a
SavedModel also model.toml inside.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from shm_server.models.errors import ModelError
from shm_server.models.tensor import DATATYPES

MAX_BYTES = 1 << 20  # labels of a thousand classes take 20 KB
KEYS = ("max_batch", "bounds", "inputs", "outputs")
INPUT_KEYS = ("shape", "datatype", "scale", "offset")
OUTPUT_KEYS = ("labels",)


@dataclass(frozen=True)
class Input:
    """What a card says of an input; None where it says nothing."""

    shape: tuple[int | str, ...] | None = None
    datatype: str | None = None
    scale: np.ndarray | None = None
    offset: np.ndarray | None = None


@dataclass(frozen=True)
class Card:
    """What a card says."""

    path: Path | None = None
    """Where it stands, None where there is none: for errors."""
    max_batch: int | None = None
    bounds: Mapping[str, int] = field(default_factory=dict)
    inputs: Mapping[str, Input] = field(default_factory=dict)
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Of each output that has any."""


def card_places(model: Path) -> list[Path]:
    """Where the card of the model at `model` may be."""
    if model.is_dir():
        return [model.with_name(f"{model.name}.toml"), model / "model.toml"]
    return list(dict.fromkeys([model.with_suffix(".toml"), model.parent / "model.toml"]))


def read_card(model: Path) -> Card:
    """The card of the model at `model`, an empty one where it has none.

    Raises ModelError for one that can not be read, for a key that is none, and for two cards.
    """
    there = [place for place in card_places(model) if place.exists()]
    if not there:
        return Card()
    if len(there) > 1:
        raise ModelError(f"{model}: expected one card, got {there[0]} and {there[1]}")
    path = there[0]
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ModelError(f"expected at most {MAX_BYTES} bytes, got {path.stat().st_size}")
        return _card(path, tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ModelError(f"{path}: no card can be read: {error}") from error
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def _card(path: Path, said: dict[str, Any]) -> Card:
    _check_keys(said, KEYS, "")
    inputs = {name: _input(name, entry) for name, entry in _table(said, "inputs").items()}
    labels = {}
    for name, entry in _table(said, "outputs").items():
        _check_keys(entry, OUTPUT_KEYS, f"outputs.{name}: ")
        if "labels" in entry:
            labels[name] = tuple(_get(entry, "labels", list, f"outputs.{name}"))
    max_batch = _get(said, "max_batch", int, "") if "max_batch" in said else None
    if max_batch is not None and max_batch < 1:
        raise ModelError(f"max_batch: expected 1 or more, got {max_batch}")
    return Card(path, max_batch, _table(said, "bounds"), inputs, labels)


def _input(name: str, entry: Any) -> Input:
    where = f"inputs.{name}"
    _check_keys(entry, INPUT_KEYS, f"{where}: ")
    datatype = entry.get("datatype")
    if datatype is not None and datatype not in DATATYPES:
        raise ModelError(f"{where}.datatype: expected one of {', '.join(DATATYPES)}, got {datatype!r}")
    shape = tuple(_get(entry, "shape", list, where)) if "shape" in entry else None
    return Input(shape, datatype, _numbers(entry, "scale", where), _numbers(entry, "offset", where))


def _numbers(entry: dict[str, Any], key: str, where: str) -> np.ndarray | None:
    if key not in entry:
        return None
    try:
        numbers = np.array(entry[key])
    except ValueError:  # lists of different lengths
        numbers = np.array(None)
    if numbers.dtype.kind not in "if" or not np.isfinite(numbers).all():
        raise ModelError(f"{where}.{key}: expected a number, or lists of numbers, got {entry[key]!r:.100}")
    return numbers.astype(np.float32)


def _table(said: dict[str, Any], key: str) -> dict[str, Any]:
    return _get(said, key, dict, "") if key in said else {}


def _get(said: dict[str, Any], key: str, kind: type, where: str) -> Any:
    if type(said[key]) is not kind:
        place, words = f"{where}.{key}".lstrip("."), {dict: "a table", list: "a list", int: "an integer"}
        raise ModelError(f"{place}: expected {words[kind]}, got {said[key]!r:.100}")
    return said[key]


def _check_keys(said: Any, known: tuple[str, ...], where: str) -> None:
    if not isinstance(said, dict):
        raise ModelError(f"{where}expected a table of {', '.join(known)}, got {said!r:.100}")
    for key in said:
        if key not in known:
            near = difflib.get_close_matches(key.lower(), known, n=1)
            advice = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise ModelError(f"{where}unknown key {key!r}: {advice}")
