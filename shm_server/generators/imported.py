"""A generator of a user's own: MODULE:ATTRIBUTE, as `uvicorn` names its applications.

    load("mypackage.poet:Poet", language="fr")      # a class or a function, which is called; or an instance

The module is found where Python finds modules, and in the folder in which the server was started.
"""

from __future__ import annotations

import functools
import importlib
import re
from typing import Any

from shm_server.generators import Generator, ModelError, NoGenerator
from shm_server.runtime.describe import describe, one_line, where

SPEC = re.compile(r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<attribute>[^\W\d]\w*(\.[^\W\d]\w*)*)")
# What a Generator has (generators/__init__.py).
MEMBERS = ("name", "note", "limits", "concurrent", "start")


def load(spec: str, **options: Any) -> Generator:
    """The generator that `spec` names. What can be called and is none itself is called, with the options.

    Raises NoGenerator when there is none, in one line, and ModelError when the call raises.
    """
    if not (parts := SPEC.fullmatch(spec)):
        raise NoGenerator(f'"{one_line(spec)}" is not of the form MODULE:ATTRIBUTE')
    found = _find(parts["module"], parts["attribute"])
    if isinstance(found, type) or (callable(found) and _missing(found)):
        try:
            found = found(**options)
        except (ModelError, NoGenerator):
            raise
        except BaseException as error:  # SystemExit too: the server says what it was
            raise ModelError(f"{spec} raised {describe(error)}. {where(error)}") from error
    elif options:
        raise NoGenerator(f"{spec} is a generator already: it takes no {', '.join(options)}")
    if missing := _missing(found):
        kind = one_line(type(found).__name__)
        raise NoGenerator(f"{spec} is no generator but of type {kind}, without {', '.join(missing)}")
    return found


def _find(module: str, attribute: str) -> Any:
    try:
        at = importlib.import_module(module)
    except BaseException as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
            raise NoGenerator(f"there is no module {error.name}") from error
        raise NoGenerator(f"{module} raised {describe(error)} when it was imported. {where(error)}") from error
    try:
        return functools.reduce(getattr, attribute.split("."), at)
    except AttributeError as error:
        raise NoGenerator(f"{module} has no {attribute}") from error


def _missing(found: Any) -> list[str]:
    return [name for name in MEMBERS if not hasattr(found, name)]
