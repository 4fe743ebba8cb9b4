"""What a request in OpenAI's words asks of a generator: a prompt, how the reply is drawn, and where it ends.

A generator takes one text. A single message of the user's is that text as it is. Of anything else each message becomes
a line "role: text", and a last line "assistant:" is what the generator goes on with. A message's parts of text are
joined by line ends. Nothing is escaped, and a message's name is not shown.

null is as good as nothing, as some clients send all that they know. A parameter that would change the reply and cannot
be obeyed is refused by its name, also one that nobody knows: what was asked for would silently not be done.
"""

from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException

from shm_server.gateways.http import body
from shm_server.gateways.http.plain import whole
from shm_server.generators import InvalidRequest, Sampling

ROLES = ("system", "developer", "user", "assistant")

# As OpenAI has it; and so long, since each piece of text is compared with the beginnings of all of them.
MOST_STOPS = 4
MOST_STOP_CHARACTERS = 256

# Theirs for Sampling's. top_k is no parameter of OpenAI's, but of most that speak like it.
SAMPLING = {
    "max_tokens": "steps",
    "max_completion_tokens": "steps",
    "temperature": "temperature",
    "top_k": "top_k",
    "seed": "seed",
}
TAKEN = {"model", "messages", "prompt", "stream", "stop", *SAMPLING}
# They change nothing about a reply, or only how it is counted, kept or paid for.
IGNORED = {
    "metadata",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "stream_options",
    "user",
}
# Accepted with the values that ask for what is done anyway.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "n": (1,),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "top_p": (1,),
}


class Refused(HTTPException):
    """`param` is what it is about, `code` is OpenAI's word for it."""

    def __init__(self, param: str, text: str, code: str | None = None, status: int = 400) -> None:
        super().__init__(status, text)
        self.param, self.code = param[:100], code


@dataclass(frozen=True)
class Asked:
    model: str
    prompt: str
    sampling: Sampling
    stops: tuple[str, ...]
    """Texts that end the reply, and do not belong to it."""
    streams: bool


def chat(fields: dict[str, Any]) -> Asked:
    """Of a request's JSON object. Raises Refused."""
    asked = _known(fields, without="prompt")
    return _asked(asked, prompt_of(_of(asked, "messages", list)))


def completion(fields: dict[str, Any]) -> Asked:
    """Of a request's JSON object. Raises Refused."""
    asked = _known(fields, without="messages")
    prompt = asked.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        (prompt,) = prompt
    if not isinstance(prompt, str):
        raise Refused("prompt", "prompt must be a string, or a list of one string")
    return _asked(asked, prompt)


def prompt_of(messages: list[Any]) -> str:
    """The text that stands for a conversation. Raises Refused."""
    if not messages:
        raise Refused("messages", "messages must be at least one")
    said = [_message(message, f"messages[{i}]") for i, message in enumerate(messages)]
    if len(said) == 1 and said[0][0] == "user":
        return said[0][1]
    return "".join(f"{role}: {text}\n" for role, text in said) + "assistant:"


def _message(message: Any, at: str) -> tuple[str, str]:
    """Role and text."""
    if not isinstance(message, dict):
        raise Refused(at, f"{at} must be an object, got {type(message).__name__}")
    if message.get("role") not in ROLES:
        raise Refused(f"{at}.role", f"{at}.role must be one of {', '.join(ROLES)}")
    more = next((key for key in message if key not in ("role", "content", "name") and message[key]), None)
    if more:
        raise Refused(f"{at}.{more}", f"{at}.{more:.100} is not supported", "unsupported_parameter")
    content = message.get("content")
    parts = content if isinstance(content, list) and content else [{"type": "text", "text": content}]
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    if len(texts) < len(parts) or not all(isinstance(text, str) for text in texts):
        raise Refused(f"{at}.content", f'{at}.content must be a string, or a list of {{"type": "text", "text": ...}}')
    return message["role"], "\n".join(texts)


def _known(fields: dict[str, Any], *, without: str) -> dict[str, Any]:
    """The parameters that say something. Raises Refused for one that cannot be obeyed."""
    asked = {name: value for name, value in fields.items() if value is not None and name not in IGNORED}
    for name, value in asked.items():
        if name in TAKEN and name != without:
            continue
        accepted = NEUTRAL.get(name)
        if accepted is None:
            raise Refused(name, f"{name:.100} is not supported", "unsupported_parameter")
        if not any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in accepted):
            raise Refused(name, f"{name} is not supported, except as {accepted[0]!r}", "unsupported_value")
    return asked


def _asked(asked: dict[str, Any], prompt: str) -> Asked:
    model, streams = _of(asked, "model", str), _of(asked, "stream", bool, False)
    return Asked(model, prompt, _sampling(asked), _stops(asked.get("stop", [])), streams)


def _sampling(asked: dict[str, Any]) -> Sampling:
    limits = [asked[name] for name in ("max_tokens", "max_completion_tokens") if name in asked]
    if len(limits) == 2 and limits[0] != limits[1]:
        raise Refused("max_tokens", "max_tokens and max_completion_tokens are not the same: one of them is enough")
    said = {}
    for name in SAMPLING.keys() & asked.keys():
        ours, value = SAMPLING[name], whole(asked[name])
        try:
            Sampling(**{ours: value})
        except InvalidRequest as error:  # in the words of /prompt
            raise Refused(name, str(error).replace("sampling_steps", name)) from None
        said[ours] = value
    return Sampling(**said)


def _stops(stop: Any) -> tuple[str, ...]:
    stops = [stop] if isinstance(stop, str) else stop
    fits = isinstance(stops, list) and len(stops) <= MOST_STOPS
    if not fits or not all(isinstance(each, str) and 1 <= len(each) <= MOST_STOP_CHARACTERS for each in stops):
        each = f"of 1 to {MOST_STOP_CHARACTERS} characters each"
        raise Refused("stop", f"stop must be a string, or a list of at most {MOST_STOPS}, {each}")
    return tuple(stops)


def _of(asked: dict[str, Any], name: str, kind: type, default: Any = None) -> Any:
    try:
        return body.of(asked, name, kind, default)
    except HTTPException as error:
        raise Refused(name, error.detail) from None
