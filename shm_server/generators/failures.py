"""Whatever goes wrong with a request, as a GeneratorError in our own words: the one place for it.

    error = failure("gemma at http://gpu", exception, options, answered=False)

Of an exception of a library's we use its type, the numbers in it and the same of its causes; never its text, in which
keys and URLs are, and never the exception itself as a cause, which a traceback would show.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import ssl
import traceback

import openai

from shm_server.generators.errors import Broken, GeneratorError, TimedOut, Unavailable
from shm_server.generators.refusals import Refused, refusal

log = logging.getLogger(__name__)

CERTIFICATE = {  # X509_V_ERR_ of OpenSSL
    10: "it has expired",
    18: "it is signed by itself",
    19: "its issuer is not known here",
    20: "its issuer is not known here",
    62: "it is for another host",
    64: "it is for another address",
}
# What httpx calls them; by name, since openai brings httpx under several.
TROUBLES = {
    "ProxyError": "the proxy that the environment names refuses",
    "UnsupportedProtocol": "the base URL or a proxy's has a scheme that is not supported",
    "LocalProtocolError": "the request can not be sent",
    "RemoteProtocolError": "it hung up, or does not speak HTTP",
    "DecodingError": "what it sent can not be decompressed",
    "ReadError": "the connection broke",
    "WriteError": "the connection broke",
}


def failure(name: str, error: BaseException, options: dict[str, str], *, answered: bool) -> GeneratorError:
    """What to raise for `error`. `options`: see `refusal`; `answered`: whether the reply had begun."""
    if isinstance(error, Refused):
        error = refusal(error, options)
    if isinstance(error, GeneratorError):
        return type(error)(f"{name}: {error}")
    if isinstance(error, openai.APITimeoutError):
        return TimedOut(f"{name}: no connection in time")
    if answered:  # then it may be anything of HTTP's
        return Broken(f"{name}: the reply broke off: {trouble(error)}")
    if isinstance(error, openai.APIConnectionError):
        return Unavailable(f"{name}: can not be reached: {trouble(error)}")
    log_bug(name, error)
    return Unavailable(f"{name}: the client failed: {type(error).__name__}")


def log_bug(name: str, error: BaseException | None) -> None:
    """Where an exception that nobody expects was raised: its text may have anything in it."""
    frames = traceback.extract_tb(error.__traceback__) if error else []
    where = ", ".join(f"{frame.name} in {frame.filename}:{frame.lineno}" for frame in frames[-5:])
    log.error("%s: %s in the client for the endpoint: %s", name, type(error).__name__, where)


def trouble(error: BaseException) -> str:
    """What is wrong with a connection, from the types and numbers of an exception and its causes."""
    chain = _chain(error)
    for one in chain:
        if isinstance(one, ssl.SSLCertVerificationError):
            return f"its certificate is not accepted: {CERTIFICATE.get(one.verify_code, f'code {one.verify_code}')}"
        if isinstance(one, ssl.SSLError):
            reason = one.reason or ""  # a constant of OpenSSL, such as WRONG_VERSION_NUMBER
            return f"TLS failed{f' ({reason})' if re.fullmatch('[A-Z0-9_]{1,60}', reason) else ''}: is it https?"
        if isinstance(one, socket.gaierror):
            return "its host's name has no address"
    for one in chain:
        if isinstance(one, OSError) and isinstance(one.errno, int):
            return os.strerror(one.errno)
    for one in chain:
        for name in (cls.__name__ for cls in type(one).__mro__):
            if name in TROUBLES:
                return TROUBLES[name]
    return type(error).__name__


def _chain(error: BaseException, most: int = 30) -> list[BaseException]:
    """The exception, its causes and theirs."""
    chain, waiting = [], [error]
    while waiting and len(chain) < most:
        one = waiting.pop(0)
        chain.append(one)
        waiting += [*getattr(one, "exceptions", ()), *filter(None, (one.__cause__, one.__context__))]
    return chain
