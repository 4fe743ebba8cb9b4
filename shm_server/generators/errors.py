"""What goes wrong with prompts and generators, in kinds that a transport maps to its statuses.

    GeneratorError                one call failed, the generator lives on
    ├── InvalidRequest            the caller's fault: an empty prompt, too long a prompt, 0 steps
    ├── Unavailable               the endpoint does not answer, or answers that it can not now
    ├── RateLimited               the endpoint asks for patience
    ├── Unauthorized              the endpoint wants another key
    ├── TimedOut                  the endpoint was too slow
    └── Broken                    the reply broke off, or made no sense; what came before it stands

The text of each is one line: what is wrong and what to do.
"""

from __future__ import annotations

from shm_server.models.errors import ModelError

__all__ = [
    "Broken",
    "GeneratorError",
    "InvalidRequest",
    "ModelError",
    "RateLimited",
    "TimedOut",
    "Unauthorized",
    "Unavailable",
]


class GeneratorError(Exception):
    """A call that failed. Only its subclasses are raised."""


class InvalidRequest(GeneratorError):
    """A prompt or a parameter that can not be served, now or later."""


class Unavailable(GeneratorError):
    """The endpoint is down, or says that it is: 5xx."""


class RateLimited(GeneratorError):
    """The endpoint refuses more requests for now: 429."""


class Unauthorized(GeneratorError):
    """The endpoint does not accept the key: 401, 403."""


class TimedOut(GeneratorError):
    """The endpoint took longer than the time-out to answer, or to go on."""


class Broken(GeneratorError):
    """The reply ended before its end."""
