"""Where the models come from that are to be served.

    for source in resolve(["mypackage.flowers:iris", "embed=minilm.onnx", "models/"]):
        print(source.name, source.version, source.place)
        model = source.load()

A source is one of

    MODULE:ATTRIBUTE    a Python object: what `@shm_server.model` made, or an object or a class of the protocol
    FILE                a file that an engine opens, or the folder of a SavedModel
    FOLDER              a folder of models, or of one model's versions

with NAME= before it or not.  A folder has

    models/NAME/VERSION/FILE    the highest whole version serves
    models/NAME/FILE            a model without versions
    models/FILE                 one without a folder

A version is a folder whose name is a number.  It is whole when it has one file that an engine opens; others are passed
over, so that a version may be copied under another name and appears when it is renamed.

Names that begin with a dot or end in ~, .tmp or .part are ignored.  A file without a name of its own (model.onnx) is
called after its folder.  Nothing is imported or loaded before `load`.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from shm_server.models import engines
from shm_server.models.card_toml import card_places
from shm_server.models.errors import ModelError
from shm_server.models.function import as_model
from shm_server.models.protocol import Model
from shm_server.models.tensor import check_name
from shm_server.runtime.describe import describe

UNVERSIONED = "1"
TEMPORARY = ("~", ".tmp", ".part")


@dataclass(frozen=True)
class Source:
    """A model that can be loaded."""

    name: str
    """Under which it is served, whatever name the object has in Python."""
    version: str
    place: str
    """MODULE:ATTRIBUTE, or the path of the file."""
    is_file: bool

    def load(self, *, engine: str | None = None, threads: int = 1) -> Model:
        """The model; one in Python runs on no engine, with its own threads.  Raises ModelError."""
        if self.is_file:
            return engines.load(self.place, engine, threads=threads, name=self.name, version=self.version)
        return _python_model(self.place)

    def mark(self) -> Hashable:
        """What changes when the model's files do, its card and its weights too; None for what is no file.

        Raises ModelError where they are gone.
        """
        if not self.is_file:
            return None
        path = Path(self.place)
        try:
            inside = sorted(path.rglob("*")) if path.is_dir() else []
            beside = [each for each in _children(path.parent) if each.name.startswith(path.name)]
            cards = [card for card in card_places(path) if card.exists()]
            return tuple((str(each), *_state(each.stat())) for each in dict.fromkeys((*beside, *inside, *cards)))
        except OSError as error:
            raise ModelError(f"{self.place}: can not be read: {error.strerror}") from error


def _state(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def resolve(sources: Iterable[str]) -> list[Source]:
    """All models of `sources`, in their order, those of a folder by name.

    Raises ModelError: a path that is not there, a folder without a model, two models of one name.
    """
    found: dict[str, Source] = {}
    for text in sources:
        for source in _resolve(text):
            if source.name in found:
                raise ModelError(f"two models are named {source.name!r}: {found[source.name].place} and {source.place}")
            found[source.name] = source
    return list(found.values())


def _resolve(text: str) -> list[Source]:
    name, place = _split(text)
    if name is not None:
        check_name(name, f"{text}: a model's name")
    path = Path(place)
    try:
        if not place or not path.exists():
            module, colon, attribute = place.partition(":")
            if not colon:
                raise ModelError(f"{place}: no such file or folder, and no MODULE:ATTRIBUTE")
            if not module or not attribute or "/" in place:
                raise ModelError(f"{place}: no such file or folder; expected MODULE:ATTRIBUTE, such as flowers:iris")
            return [Source(name or attribute.rpartition(".")[2], UNVERSIONED, place, is_file=False)]
        if not path.is_dir() or engines.kind_of(path):
            return [_file(name, UNVERSIONED, path)]
        if one := _versioned(path, name or path.resolve().name):
            return [one]
        models = [model for child in _children(path) if (model := _member(child))]
    except OSError as error:  # a folder that vanishes while it is read, or that is not to be read
        raise ModelError(f"{place}: can not be read: {error.strerror}") from error
    if not models:
        raise ModelError(f"{place}: expected a model, or a folder for each model, got none that an engine opens")
    if name is None:
        return models
    if len(models) > 1:
        raise ModelError(f"{text}: expected one model for the name {name!r}, got a folder of {len(models)}")
    return [replace(models[0], name=name)]


def _split(text: str) -> tuple[str | None, str]:
    name, equals, place = text.partition("=")
    if not equals or "/" in name or Path(text).exists():
        return None, text
    return name, place


def _file(name: str | None, version: str, path: Path) -> Source:
    if name is None:
        resolved = path.resolve()
        name = resolved.parent.name if resolved.stem in ("model", "saved_model") else resolved.stem
        check_name(name, f"{path}: a model's name")
    return Source(name, version, str(path), is_file=True)


def _member(path: Path) -> Source | None:
    """The model that an entry of a folder of models is, None where it is none."""
    if engines.kind_of(path):
        return _file(None, UNVERSIONED, path)
    if not path.is_dir():
        return None
    if versioned := _versioned(path, path.name):
        return versioned
    file = _only_file(path)
    return _file(path.name, UNVERSIONED, file) if file else None


def _versioned(folder: Path, name: str) -> Source | None:
    """The highest whole version of the model in `folder`, None where it has no versions."""
    versions = [child for child in _children(folder) if _is_version(child.name) and child.is_dir()]
    for version in sorted(versions, key=lambda child: (int(child.name), child.name), reverse=True):
        file = version if engines.kind_of(version) else _only_file(version)
        if file is not None:
            return _file(name, version.name, file)
    if versions:
        raise ModelError(
            f"{folder}: expected a version with a model, got none in {', '.join(v.name for v in versions)}"
        )
    return None


def _only_file(folder: Path) -> Path | None:
    files = [child for child in _children(folder) if engines.kind_of(child)]
    if len(files) > 1:
        raise ModelError(f"{folder}: expected one model, got {' and '.join(file.name for file in files)}")
    return files[0] if files else None


def _is_version(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _children(folder: Path) -> Iterator[Path]:
    for name in sorted(os.listdir(folder)):
        if not name.startswith(".") and not name.endswith(TEMPORARY):
            yield folder / name


def _python_model(place: str) -> Model:
    name, _, attributes = place.partition(":")
    found = _import(name)
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            raise ModelError(f"{place}: {name} has no {attribute!r}")
        found = getattr(found, attribute)
    try:
        return as_model(found, place)
    except ModelError:
        raise
    except (Exception, SystemExit) as error:  # of a constructor
        raise ModelError(f"{place}: {describe(error)}") from error


def _import(name: str) -> ModuleType:
    """As `python -m` finds it: also in the current folder."""
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # whatever stands in somebody's module
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise ModelError(f"{name}: no module {error.name!r} in {os.getcwd()} or on Python's path") from error
        raise ModelError(f"{name}: can not be imported: {describe(error)}{_line(error)}") from error


def _line(error: BaseException) -> str:
    """Where in somebody's own file it came from: the innermost line that is not the import's machinery."""
    if isinstance(error, SyntaxError):  # says so itself
        return ""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen importlib")]
    own = [frame for frame in frames if not frame.filename.startswith((sys.prefix, sys.base_prefix, __file__))]
    return f" ({own[-1].filename}:{own[-1].lineno})" if own else ""
