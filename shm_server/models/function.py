"""Models in Python: a function, or a class with `run`.

    @shm_server.model(inputs={"x": ("FP32", (4,))}, outputs={"y": ("FP32", (3,), ("cat", "dog", "owl"))})
    def pets(x):                # x: float32 (n, 4), read-only, borrowed
        return softmax(x @ W)   # float32 (n, 3)

The function gets its inputs by name and returns its output: an array, a tuple of arrays in the order of `outputs`, or a
dict of them.  Nothing is cast: float64 where FP32 is declared is an error.  It stays a function that can be called.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from shm_server.models.checking import fill
from shm_server.models.errors import ModelError
from shm_server.models.protocol import DEFAULT_MAX_BATCH, Arrays, Model, check_model
from shm_server.models.tensor import Signature, Tensor

Declared = Mapping[str, tuple]
"""Name -> (datatype, shape), and for outputs (datatype, shape, labels)."""


def model(
    *,
    inputs: Declared,
    outputs: Declared,
    bounds: Mapping[str, int] | None = None,
    name: str | None = None,
    version: str = "1",
    max_batch: int = DEFAULT_MAX_BATCH,
) -> Callable[[Any], Any]:
    """Declares what a function or a class takes and gives.

    A shape is that of one row; a str in it is the symbolic dimension, which `bounds` bounds.  `name` is the function's
    own unless said otherwise.  A class gets `signature` and the rest as attributes, where it has none of its own.

    Raises ModelError for a declaration that is none, and for a function that does not take the inputs by their names.
    """
    signature = Signature(_tensors("inputs", inputs), _tensors("outputs", outputs), bounds or {})

    def declare(target: Any) -> Any:
        called = name or getattr(target, "__name__", type(target).__name__)
        if not inspect.isclass(target):
            return FunctionModel(target, signature, name=called, version=version, max_batch=max_batch)
        if not hasattr(target, "run"):
            raise ModelError(f"model {called!r}: expected a class with run(inputs, outputs), got one without")
        declared = {
            "signature": signature,
            "name": called,
            "version": version,
            "max_batch": max_batch,
            "platform": "python",
        }
        for attribute, value in declared.items():
            if attribute not in vars(target):
                setattr(target, attribute, value)
        return target

    return declare


class FunctionModel:
    """A Model that calls a function."""

    platform = "python"

    def __init__(self, function: Callable, signature: Signature, *, name: str, version: str, max_batch: int):
        if not callable(function):
            raise ModelError(f"model {name!r}: expected a function or a class, got {type(function).__name__}")
        self.function, self.signature, self.name, self.version, self.max_batch = (
            function,
            signature,
            name,
            version,
            max_batch,
        )
        self._names = [tensor.name for tensor in signature.outputs]
        functools.update_wrapper(self, function)
        self._check_parameters()
        check_model(self, f"model {name!r}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def run(self, inputs: Arrays, outputs: Arrays) -> None:
        """See `Model.run`."""
        fill(self.signature.outputs, self._by_name(self.function(**inputs)), outputs)

    def _by_name(self, result: Any) -> Arrays:
        if isinstance(result, Mapping):
            return result
        results = result if isinstance(result, (tuple, list)) and len(self._names) > 1 else (result,)
        if len(results) != len(self._names):
            raise ModelError(f"expected {len(self._names)} outputs ({', '.join(self._names)}), got {_what(result)}")
        return dict(zip(self._names, results, strict=True))

    def _check_parameters(self) -> None:
        try:
            parameters = inspect.signature(self.function)
        except ValueError:  # some in C have none to look at
            return
        try:
            parameters.bind(**dict.fromkeys(tensor.name for tensor in self.signature.inputs))
        except TypeError as error:
            names = ", ".join(tensor.name for tensor in self.signature.inputs)
            raise ModelError(
                f"model {self.name!r}: expected a function of its inputs ({names}), got {parameters}: {error}"
            ) from error


def as_model(found: Any, where: str) -> Model:
    """The model that `found` is, or that the class `found` makes without arguments.

    Raises ModelError that begins with `where`; what a constructor raises comes through.
    """
    return check_model(found() if inspect.isclass(found) else found, where)


def _tensors(side: str, declared: Declared) -> tuple[Tensor, ...]:
    if not isinstance(declared, Mapping):
        raise ModelError(f"{side}: expected a mapping such as {{'x': ('FP32', (4,))}}, got {declared!r:.100}")
    for name, said in declared.items():
        if not isinstance(said, (tuple, list)) or not 2 <= len(said) <= 3:
            raise ModelError(f"{side}: expected {name!r}: (datatype, shape) or with labels, got {said!r:.100}")
    return tuple(Tensor(name, *said) for name, said in declared.items())


def _what(result: Any) -> str:
    return f"{len(result)}" if isinstance(result, (tuple, list)) else type(result).__name__
