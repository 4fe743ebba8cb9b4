"""Engines: what turns a file into a model.

    model = load("minilm.onnx")                       # the first installed engine that opens it
    model = load("minilm.onnx", engine="openvino")

An engine is a module of this package and its name in ENGINES.  It says

    FRAMEWORK  the module that has to be installed, which is imported by `open` alone
    EXTRA      the extra of this package that installs it
    OPENS      the suffixes that it opens; SAVED_MODEL stands for a TensorFlow SavedModel, which is a folder

and has `open(path, *, threads) -> Graph` (graph.py).
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

from shm_server.models.card_toml import read_card
from shm_server.models.errors import ModelError, reason
from shm_server.models.file_model import FileModel
from shm_server.models.protocol import Model, check_model

# Of two that open a file and are installed, the first is taken.
ENGINES = (
    "onnxruntime",
    "tensorflow",
    "jax",
    "openvino",
    "litert",
    "torch",
)
SAVED_MODEL = "SavedModel"


def engine(name: str) -> ModuleType:
    """The module of an engine.  Raises ModelError for a name that is none."""
    if name not in ENGINES:
        raise ModelError(f"unknown engine {name!r}: there are {', '.join(ENGINES)}")
    return importlib.import_module(f"{__name__}.{name}")


def installed(name: str) -> bool:
    """Whether the engine's framework is there.  It is not imported."""
    return importlib.util.find_spec(engine(name).FRAMEWORK) is not None


def kind_of(path: Path) -> str | None:
    """What stands in some engine's OPENS for the model at `path`; None where no engine opens such a thing."""
    kind = SAVED_MODEL if (path / "saved_model.pb").is_file() else path.suffix
    return kind if any(kind in engine(name).OPENS for name in ENGINES) else None


def load(
    path: Path | str, engine: str | None = None, *, threads: int = 1, name: str | None = None, version: str = "1"
) -> Model:
    """The model of a file, or of a SavedModel's folder, with what its card says (card_toml.py).

    `engine` is one of ENGINES; `threads` is how many it computes with, 0 for as many as it likes.  TensorFlow and JAX
    keep that number, and Keras whether it runs on one or the other, for the whole process.

    Raises ModelError that begins with the path: no such file, no engine that opens it, a framework that is not
    installed, a file or a card that can not be served.
    """
    path = Path(path)
    if not path.exists():
        raise ModelError(f"{path}: no such model file")
    card = read_card(path)
    module = importlib.import_module(f"{__name__}.{_choose(path, engine)}")
    try:
        model = FileModel(module.open(path, threads=threads), card, name=name or path.stem, version=version)
        return check_model(model, "its card" if card.path else "it")
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    except ImportError as error:
        raise ModelError(f"{path}: {module.FRAMEWORK} is installed and can not be imported: {reason(error)}") from error


def _choose(path: Path, wanted: str | None) -> str:
    kind = kind_of(path)
    able = [name for name in ENGINES if kind in engine(name).OPENS]
    if wanted is not None:
        opens = engine(wanted).OPENS
        if kind not in opens:
            raise ModelError(f"{path}: engine {wanted!r} opens {', '.join(opens)}, got {_what(path)}")
        able = [wanted]
    elif not able:
        everything = dict.fromkeys(kind for name in ENGINES for kind in engine(name).OPENS)
        raise ModelError(f"{path}: no engine opens {_what(path)}: there are {', '.join(everything)}")
    for name in able:
        if installed(name):
            return name
    extras = " or ".join(f'pip install "shm-server[{engine(name).EXTRA}]"' for name in able)
    raise ModelError(f"{path}: needs {' or '.join(engine(name).FRAMEWORK for name in able)}: {extras}")


def _what(path: Path) -> str:
    return f"the folder {path.name!r}" if path.is_dir() else repr(path.suffix or path.name)
