"""What goes wrong with prompts and generators, in kinds that have a status each (layout.md, "status").

    GeneratorError                one call failed, the generator lives on
    ├── InvalidRequest            the caller's fault: an empty prompt, too long a prompt, no steps
    ├── Unavailable               the endpoint does not answer, can not now, or is set up otherwise than this server
    ├── RateLimited               the endpoint asks for patience
    ├── Unauthorized              the endpoint wants another key
    ├── TimedOut                  the endpoint was too slow
    └── Broken                    the reply broke off, or made no sense; what came before it stands

The text of each is one line: what is wrong and what to do. Every caller gets it, so it has no words of a library or of
an endpoint in it: those may hold the key.
"""

from __future__ import annotations

from shm_server.layout import STATUS_PYTHON_ERROR, Status
from shm_server.models.errors import ModelError

__all__ = [
    "ERRORS",
    "Broken",
    "GeneratorError",
    "InvalidRequest",
    "ModelError",
    "NoGenerator",
    "RateLimited",
    "TimedOut",
    "Unauthorized",
    "Unavailable",
    "status_of",
]


class NoGenerator(ModelError):
    """A name that stands for no generator: the flag is wrong, not what it names."""


class GeneratorError(Exception):
    """A call that failed. Only its subclasses are raised."""


class InvalidRequest(GeneratorError):
    """A prompt or a parameter that can not be served, now or later."""


class Unavailable(GeneratorError):
    """The endpoint is down or says so, 5xx; or has no such path or model, 404, which is not the caller's fault."""


class RateLimited(GeneratorError):
    """The endpoint refuses more requests for now: 429."""


class Unauthorized(GeneratorError):
    """The endpoint does not accept the key: 401, 403."""


class TimedOut(GeneratorError):
    """The endpoint took longer than the time-out to answer, or to go on."""


class Broken(GeneratorError):
    """The reply ended before its end, by a fault, a filter or a call of a tool, or is no reply."""


_BY_NAME = {name: status for status, name in STATUS_PYTHON_ERROR.items()}
# What a status stands for. KeyError: layout.md has no status for one of the above.
ERRORS: dict[Status, type[GeneratorError]] = {_BY_NAME[kind.__name__]: kind for kind in GeneratorError.__subclasses__()}


def status_of(error: BaseException) -> Status:
    """The status that tells a client of `error`; MODEL_ERROR for what is no GeneratorError."""
    kinds = (status for status, kind in ERRORS.items() if issubclass(type(error), kind))
    return next(kinds, Status.MODEL_ERROR)
