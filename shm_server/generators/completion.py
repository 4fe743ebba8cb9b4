"""A chat completion as it is streamed, in the dialects that endpoints speak.

completion = Completion(steps=128)
for data in events:
    text, end = completion.add(data)        # end: why the endpoint says that it ends, a word of its own
    if end:
        finished = completion.finish(end)   # "stop" or "length", or a GeneratorError
        break
else:
    finished = completion.finish(completion.end_of_stream())

The errors are in our own words; whoever shows them says whose they are.
"""

from __future__ import annotations

import codecs
import json
from typing import Any

from shm_server.generators.errors import Broken, InvalidRequest
from shm_server.generators.refusals import Refused, refusal

DONE = b"[DONE]"
# Of one token: cl100k has one of 128 spaces. An endpoint that ignores the limit on tokens must not fill the memory.
MOST_CHARACTERS_PER_STEP = 256
FEWEST_STEPS_COUNTED = 128  # so that a short limit which is ignored costs no reply of usual length

LENGTH = {"length", "max_tokens", "max_output_tokens", "model_length"}
FILTER = {"content_filter", "safety", "recitation", "blocklist", "prohibited_content", "sensitive"}
TOOLS = {"tool_calls", "function_call", "tool_use"}
FAILURE = {"error", "abort", "aborted", "cancelled", "insufficient_system_resource", "network_error"}
REASONING = ("reasoning_content", "reasoning", "reasoning_details", "thinking")


class Completion:
    """What has come of one reply."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self.characters = 0
        """Of text and of reasoning, so far."""
        self._pieces: list[str] = []
        self._reasoned = self._began = self._whole = self._streamed = False
        # JSON escapes 😀 as two halves, \ud83d\ude00, and some servers send them in two pieces.
        self._halves = codecs.getincrementaldecoder("utf-16-le")("replace")

    def add(self, data: bytes) -> tuple[str, str | None]:
        """The text of an event, and why it is the last one, if it is. Raises GeneratorError."""
        if data.strip() == DONE:
            return "", self._complete()
        event = _object(data)
        if event.get("error") or event.get("object") == "error":
            raise refusal(Refused(None, data), began=bool(self._text))
        choices = event.get("choices")
        if not choices:  # usage, for one, or what a filter thinks of the prompt
            self._note_usage(event)
            return "", None
        choice = choices[0] if isinstance(choices, list) else None
        if not choice or not isinstance(choice, dict):
            raise Broken("an event of the reply is no chat completion")
        self._note_usage(event)
        text = self._said(choice)
        self._began = True
        if text:
            self._pieces.append(text)
        whole = self._halves.decode(text.encode("utf-16-le", "surrogatepass"))
        end = choice.get("finish_reason")
        return whole, str(end) if end else None

    def end_of_stream(self) -> str:
        """Why the reply has ended where the stream does. Raises Broken where that is too early."""
        if self._began and not self._whole:
            raise Broken("the reply broke off: it ended without its end")
        return self._complete()

    def finish(self, end: str) -> str:
        """Why the reply has ended, as `Generation.finished` says it. Raises GeneratorError where it is not whole."""
        end = end.lower()
        if end in FILTER:
            raise Broken("the endpoint's content filter ended the reply")
        if end in TOOLS:
            raise Broken("the model wants to call a tool instead of writing text, and prompts offer none")
        if end in FAILURE:
            raise Broken("the reply ended early, the endpoint says that it failed")
        limit = f"{self._steps} sampling_steps"
        if self._reasoned and not self._text.strip():
            if end in LENGTH:
                raise InvalidRequest(f"the model used all {limit} for its reasoning, no text came: ask for more")
            raise Broken("the model ended its reply after its reasoning, without any text")
        if end in LENGTH and not self._text:
            raise InvalidRequest(f"no text came within {limit}: some models reason first, unseen; ask for more")
        return "length" if end in LENGTH else "stop"

    def _complete(self) -> str:
        if not self._began:
            raise Broken("there is no reply in its answer: the base URL usually ends in /v1")
        return "stop"

    @property
    def _text(self) -> str:
        self._pieces = ["".join(self._pieces)]
        return self._pieces[0]

    def _said(self, choice: dict[str, Any]) -> str:
        """The text of an event's choice."""
        said = choice.get("delta")
        self._whole = said is None and "message" in choice and not self._began  # it was not streamed
        if said is None:
            said = choice.get("message") or {"content": choice.get("text")}
        if not isinstance(said, dict):
            raise Broken("an event of the reply is no chat completion")
        for name in REASONING:
            if thought := said.get(name):
                self._reasoned = True
                self._count(thought)
        text = said.get("content") or said.get("refusal") or ""
        if isinstance(text, list):
            text = "".join(self._part(part) for part in text)
        if not isinstance(text, str):
            raise Broken("an event of the reply has something else than text")
        self._count(text)
        if choice.get("delta") is not None:
            self._streamed = self._streamed or bool(text)
        elif self._streamed and text.startswith(self._text):  # a last event with all of the text once more
            return text[len(self._text) :]
        return text

    def _part(self, part: object) -> str:
        """The text of a part of a message, where it comes in parts: reasoning, text, pictures."""
        text = part.get("text") if isinstance(part, dict) else part
        if isinstance(text, str):
            return text
        self._reasoned = self._reasoned or (isinstance(part, dict) and "thinking" in part)
        return ""

    def _note_usage(self, event: dict[str, Any]) -> None:
        """Some models reason and do not show it: it can only be counted."""
        usage = event.get("usage")
        details = usage.get("completion_tokens_details") if isinstance(usage, dict) else None
        if isinstance(details, dict) and details.get("reasoning_tokens"):
            self._reasoned = True

    def _count(self, text: object) -> None:
        self.characters += len(text) if isinstance(text, str | list) else 0
        if self.characters > MOST_CHARACTERS_PER_STEP * max(self._steps, FEWEST_STEPS_COUNTED):
            raise Broken(f"the endpoint sends more text than {self._steps} sampling_steps can be")


def _object(data: bytes) -> dict[str, Any]:
    try:
        event = json.loads(data.decode())
    except UnicodeDecodeError:
        raise Broken("an event of the reply is not UTF-8") from None
    except (ValueError, RecursionError):  # no JSON, a number of thousands of digits, too deep
        raise Broken("an event of the reply is not JSON") from None
    if not isinstance(event, dict):
        raise Broken("an event of the reply is no chat completion")
    return event
