"""Why an endpoint did not answer, in our own words.

An endpoint repeats what it was sent, and the libraries below put heads and URLs into their exceptions: the key is in
both. So none of their text is passed on, in no encoding of it. We look for what we know, and say that, with the HTTP
status.

    AsyncClient(event_hooks={"response": [refuse]})                 # raises Refused for an answer that is no reply
    error = refusal(refused, {"temperature": "temperature 0.5"})    # a GeneratorError
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from typing import Any

import openai

from shm_server.generators.errors import (
    Broken,
    GeneratorError,
    InvalidRequest,
    RateLimited,
    TimedOut,
    Unauthorized,
    Unavailable,
)

# Of a refusal's body: what it says stands at the beginning, and it may be endless.
MAX_BODY_BYTES = 64 << 10
BODY_SECONDS = 1.0  # from its head to its end
MAX_MESSAGE = 2000  # characters to look at

Answer = tuple[type[GeneratorError], str]

NO_PATH = "it has no chat/completions at the base URL, which usually ends in /v1, or it has no such model"
STATUSES: dict[int, Answer] = {
    401: (Unauthorized, "it does not accept the server's key"),
    402: (Unavailable, "the server's account has no credit there"),
    403: (Unauthorized, "the server's key may not do this there"),
    404: (Unavailable, NO_PATH),
    405: (Unavailable, NO_PATH),
    407: (Unauthorized, "a proxy wants a user and a password"),
    408: (TimedOut, "it says that the request took too long"),
    410: (Unavailable, NO_PATH),
    413: (InvalidRequest, "the prompt is too long for it"),
    414: (InvalidRequest, "the prompt is too long for it"),
    429: (RateLimited, "it asks for patience"),
}
_TOO_LONG = (InvalidRequest, "the prompt and its sampling_steps do not fit the model's context")
_FILTERED = (InvalidRequest, "its content filter refuses the prompt")
_NO_QUOTA = (RateLimited, "the server's account has used up its quota there")
CODES: dict[str, Answer] = {
    "context_length_exceeded": _TOO_LONG,
    "exceed_context_size_error": _TOO_LONG,
    "string_above_max_length": _TOO_LONG,
    "content_filter": _FILTERED,
    "content_policy_violation": _FILTERED,
    "model_not_found": (Unavailable, NO_PATH),
    "insufficient_quota": _NO_QUOTA,
    "billing_hard_limit_reached": _NO_QUOTA,
    "billing_not_active": _NO_QUOTA,
    "rate_limit_exceeded": STATUSES[429],
    "invalid_api_key": STATUSES[401],
}
# For the many that have no code: what their messages have in common.
PHRASES: list[tuple[str, Answer]] = [
    (r"context (length|size|window)|exceeds? .{0,60}context|too many tokens|prompt is too long", _TOO_LONG),
    (r"model .{0,200}(not found|does not exist)", (Unavailable, NO_PATH)),
    (r"(api|access)[ _-]?(key|token)", STATUSES[401]),
]
REFUSING = (
    r"support|unrecogni[sz]ed|unknown|unexpected|permitted|forbidden|allowed|invalid|range|must|too (large|small)"
)


class Refused(openai.OpenAIError):
    """An answer that is no reply: its status (None: an event in the midst of a reply) and the beginning of its body.

    An OpenAIError, since the client lets those of its hooks through. It has no text: nobody is to see the body.
    """

    def __init__(self, status: int | None, body: bytes, retry_after: str = "") -> None:
        super().__init__()
        self.status, self.retry_after = status, retry_after
        message, self.codes, self.param = _read(body)
        self.message = message[:MAX_MESSAGE]

    def asks_for_completion_tokens(self) -> bool:
        """Whether `max_completion_tokens` is wanted instead of `max_tokens`: OpenAI's, for models that reason."""
        if self.status not in (400, 422):
            return False
        if "unsupported_parameter" in self.codes and self.param == "max_tokens":
            return True
        old, new = r"\bmax_tokens\b", r"\bmax_completion_tokens\b"
        # "'max_tokens' or 'max_completion_tokens' is too large" is another matter.
        text = self.message.lower()
        return bool(re.search(rf"(use|with|by)\W+{new}", text) or re.search(rf"(unsupported|deprecated).*{old}", text))


async def refuse(response: Any) -> None:
    """A hook of the client: reads what an answer that is no reply says, not all of an endless one. Raises Refused."""
    if response.is_success:
        return
    body = bytearray()
    # What has come when it breaks off or stops is enough: the status is the news.
    with contextlib.suppress(Exception):
        async with asyncio.timeout(BODY_SECONDS), contextlib.aclosing(response.aiter_bytes()) as chunks:
            async for chunk in chunks:
                body += chunk
                if len(body) >= MAX_BODY_BYTES:
                    break
    raise Refused(response.status_code, bytes(body), response.headers.get("retry-after", ""))


def refusal(refused: Refused, options: dict[str, str] | None = None, *, began: bool = False) -> GeneratorError:
    """What to raise for it. `options` has our words for each option of the request; `began`: whether text has come."""
    status = refused.status
    if status is None:
        status = next((int(code) for code in refused.codes if re.fullmatch("[45][0-9][0-9]", code)), 0)
        where = "the reply broke off: "
    else:
        where = ""
    kind, words = _answer(status, refused, options or {})
    if status:
        words += f" (HTTP {status})"
    if kind in (RateLimited, Unavailable) and re.fullmatch("[0-9]{1,5}", refused.retry_after):
        words += f"; ask again in {int(refused.retry_after)} seconds"
    return (Broken if began else kind)(where + words)


def _answer(status: int, refused: Refused, options: dict[str, str]) -> Answer:
    for code in refused.codes:
        if code in CODES:
            return CODES[code]
    if status in STATUSES:
        return STATUSES[status]
    if 300 <= status < 400:
        return Unavailable, "it redirects, which no key follows: set the base URL to the place that it redirects to"
    if status >= 500:
        return Unavailable, "it can not answer now"
    for pattern, answer in PHRASES:
        if re.search(pattern, refused.message, re.IGNORECASE):
            return answer
    if status in (400, 422):
        named = _options_named(refused, options)
        return InvalidRequest, f"it does not take {' and '.join(named)}" if named else "it refuses the request"
    if status:  # of a proxy, or of a rule that nobody can know here: not of the prompt
        return Unavailable, "it refuses the request"
    return Broken, "the endpoint says that it failed"


def _options_named(refused: Refused, options: dict[str, str]) -> list[str]:
    """Our words for those options of the request that the refusal names."""
    if refused.param in options:
        return [options[refused.param]]
    if not re.search(REFUSING, refused.message, re.IGNORECASE):
        return []
    named = [words for name, words in options.items() if re.search(rf"\b{name}\b", refused.message)]
    return list(dict.fromkeys(named))


def _read(body: bytes) -> tuple[str, list[str], str]:
    """Message, codes and the name of an option in a refusal's body, in whatever form. Not to be shown."""
    text = body[:MAX_BODY_BYTES].decode("utf-8", "replace")
    try:
        said: Any = json.loads(text)
    except (ValueError, RecursionError):
        return text, [], ""
    if isinstance(said, list) and said:
        said = said[0]
    if isinstance(said, dict):
        said = said.get("error") or said
    if not isinstance(said, dict):
        return str(said), [], ""
    message = said.get("message") or said.get("detail") or said.get("msg") or ""
    codes = [str(said[name]) for name in ("code", "type", "status") if isinstance(said.get(name), str | int)]
    param = said.get("param")
    return message if isinstance(message, str) else json.dumps(message), codes, param if isinstance(param, str) else ""
