"""`shm-server serve --config FILE`: models, each with what the flags say of all of them.

    [models.embed]
    source = "minilm.onnx"          # as on the command line; a relative path is one from the file's folder
    engine = "onnxruntime"
    threads = 2                     # that it may use; else --model-threads
    replicas = 2                    # else --replicas
    max_batch = 16                  # else --max-batch
    slots = 64                      # else --slots

    [models.iris]
    source = "flowers:iris"

The first is the default, unless a SOURCE stands on the command line.
"""

import argparse
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

from shm_server import layout
from shm_server.models import ModelError, engines
from shm_server.models.source import Source, resolve
from shm_server.models.tensor import check_name

MAX_BYTES = 1 << 20
MAX_THREADS = 1024
MAX_REPLICAS = 64
# What a number may be; that a batch is a power of two, as the flag's, is said by the worker.
WHOLE = {
    "threads": (1, MAX_THREADS),
    "replicas": (1, MAX_REPLICAS),
    "max_batch": (1, layout.MAX_SLOTS),
    "slots": (1, layout.MAX_SLOTS),
}
KEYS = ("source", "engine", *WHOLE)


@dataclass(frozen=True)
class Entry:
    """A model that is to be served, and how."""

    source: Source
    engine: str | None
    threads: int
    replicas: int
    max_batch: int
    slots: int


def entries(args: argparse.Namespace) -> list[Entry]:
    """What the flags and the file that they name want, in order; both are looked at anew.

    Raises ModelError: `resolve`'s, a file that cannot be read, a key or a value that is none, two models of one name.
    """
    every = {
        "engine": args.engine,
        "threads": args.model_threads,
        "replicas": args.replicas,
        "max_batch": args.max_batch,
        "slots": args.slots,
    }
    found = [Entry(source, **every) for source in resolve(args.sources)]
    if args.config:
        found += _configured(Path(args.config), every)
    places: dict[str, str] = {}
    for each in found:
        name, place = each.source.name, each.source.place
        if name in places:
            raise ModelError(f"two models are named {name!r}: {places[name]} and {place}")
        places[name] = place
    return found


def _configured(path: Path, every: dict[str, object]) -> list[Entry]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ModelError(f"{path}: expected at most {MAX_BYTES} bytes, got {path.stat().st_size}")
        said = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ModelError(f"{path}: can not be read: {error}") from error
    unknown = [key for key in said if key != "models"]
    models = said.get("models")
    if unknown or not isinstance(models, dict) or not models:
        raise ModelError(f"{path}: expected tables [models.NAME], got {', '.join(unknown) or 'none'}")
    found = []
    for name, table in models.items():
        try:
            found.append(_entry(path.parent, name, table, every))
        except ModelError as error:
            raise ModelError(f"{path}: [models.{name}]: {error}") from error
    return found


def _entry(folder: Path, name: str, table: object, every: dict[str, object]) -> Entry:
    if not isinstance(table, dict):
        raise ModelError(f"expected a table, got {table!r:.60}")
    if unknown := [key for key in table if key not in KEYS]:
        raise ModelError(f"unknown key {unknown[0]!r}; expected {', '.join(KEYS)}")
    place = table.get("source")
    if not isinstance(place, str) or not place:
        raise ModelError(f"expected source, such as 'flowers:iris' or 'minilm.onnx', got {place!r:.60}")
    said = {key: value for key, value in table.items() if key != "source"}
    for key, (least, most) in WHOLE.items():
        if key in said and not (type(said[key]) is int and least <= said[key] <= most):
            raise ModelError(f"{key}: expected a whole number from {least} to {most}, got {said[key]!r:.60}")
    if said.get("engine") not in (None, *engines.ENGINES):
        raise ModelError(f"engine: expected one of {', '.join(engines.ENGINES)}, got {said['engine']!r:.60}")
    check_name(name, "a model's name")
    beside = folder / place
    sources = resolve([str(beside) if beside.exists() else place])
    if len(sources) > 1:
        raise ModelError(f"source: expected one model, got a folder of {len(sources)}")
    return Entry(replace(sources[0], name=name), **(every | said))
