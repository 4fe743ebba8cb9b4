"""Which status or reason of layout.md an error of the client's is, and so its code over whatever a gateway speaks.

code_of(error, STATUS_HTTP_CODE, REASON_HTTP_CODE)          # 404
"""

from collections.abc import Mapping
from typing import TypeVar

from shm_server.client.errors import ClientError, Refused
from shm_server.layout import REASON_PYTHON_ERROR, STATUS_PYTHON_ERROR, Reason, Status

Code = TypeVar("Code")

# Errors by name. What has no number in the rings counts as what comes nearest to it.
_WORDS: dict[str, Status | Reason] = {name: reason for reason, name in REASON_PYTHON_ERROR.items()}
_WORDS |= {name: status for status, name in STATUS_PYTHON_ERROR.items()}
_WORDS |= {"TensorError": Status.INVALID, "NoClassifier": Status.UNAVAILABLE}
_WORDS |= {"WrongSignature": Reason.MOVED, "ServerGone": Reason.MOVED, "Closed": Reason.DRAINING}


def code_of(error: ClientError, statuses: Mapping[Status, Code], reasons: Mapping[Reason, Code]) -> Code:
    """That of the nearest class which has one, of the tables that layout.md has for a transport."""
    if isinstance(error, Refused) and error.reason in reasons:
        return reasons[Reason(error.reason)]
    names = (kind.__name__ for kind in type(error).__mro__)
    word = next((_WORDS[name] for name in names if name in _WORDS), Status.MODEL_ERROR)
    return reasons[word] if isinstance(word, Reason) else statuses[word]
