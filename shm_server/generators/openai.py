"""The OpenAI-compatible engine: the same prompts to Ollama, llamafile, llama.cpp, vLLM or a vendor.

generator = load(base_url="http://127.0.0.1:11434/v1", model="gemma3:1b")

Each prompt is one streamed chat completion with one user message. Nothing is retried: what fails is told, and retrying
is the caller's business. The key comes from OPENAI_API_KEY.

All replies are received in one thread, by asyncio: only there can a reply be cancelled at any moment, also one that the
endpoint has not begun yet.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import ipaddress
import os
import queue
import threading
from concurrent.futures import Future
from typing import Any
from urllib.parse import urlsplit

import openai

from shm_server.generators import Limits
from shm_server.generators.errors import (
    Broken,
    InvalidRequest,
    RateLimited,
    TimedOut,
    Unauthorized,
    Unavailable,
)
from shm_server.generators.sampling import Sampling, check_prompt
from shm_server.models.errors import ModelError

VENDOR = "https://api.openai.com/v1"
CONNECT_SECONDS = 5.0
TIMEOUT_SECONDS = 60.0  # a large model on a small machine reads a long prompt before its first token
END_SECONDS = 1.0  # from the last text to the end of its response
SEEDS = 2**31  # what servers of all kinds take as a seed


def load(base_url: str | None = None, model: str | None = None, *, timeout: float = TIMEOUT_SECONDS) -> OpenAIGenerator:
    """A generator that asks `model` at `base_url` (None: OPENAI_BASE_URL, else OpenAI itself).

    `timeout` is in seconds, for the first piece and from each to the next. The endpoint is not asked
    anything yet: it may come up later. Raises ModelError: no model named, not a URL, no key for an
    endpoint that is not local.
    """
    base_url = base_url or os.environ.get("OPENAI_BASE_URL") or VENDOR
    if not model:
        raise ModelError('generator "openai" needs the name of a model that the endpoint has')
    if not timeout > 0:
        raise ModelError(f"the time-out is {timeout} seconds, must be more than 0")
    try:
        address = urlsplit(base_url)
        host, _ = address.hostname, address.port
    except ValueError as error:
        raise ModelError(f"{base_url}: not a URL: {error}") from error
    if address.scheme not in ("http", "https") or not host:
        raise ModelError(f"{base_url}: not a URL of an endpoint, such as http://127.0.0.1:11434/v1")
    key = os.environ.get("OPENAI_API_KEY")
    if not key:
        if not is_local(host):
            raise ModelError(f"{base_url} wants a key: set OPENAI_API_KEY")
        key = "none"  # the client insists on one
    return OpenAIGenerator(base_url, model, key, timeout=timeout, proxies=not is_local(host))


def is_local(host: str) -> bool:
    """Whether `host` is this machine, a container's name or an address of a private network."""
    try:
        return ipaddress.ip_address(host).is_private  # loopback included
    except ValueError:
        return "." not in host or host.endswith((".localhost", ".local", ".internal"))


class OpenAIGenerator:
    """A Generator."""

    concurrent = True
    note = ""
    limits = Limits(prompt_tokens=None, steps=None)

    def __init__(self, base_url: str, model: str, key: str, *, timeout: float, proxies: bool = True):
        """See `load`; `proxies`: whether those that the environment names are used."""
        self.name = f"{model} at {base_url}"
        self.base_url = base_url
        self.timeout = timeout
        self._model = model
        self._key = key
        limits = openai.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS))
        self._client = openai.AsyncOpenAI(
            api_key=key,
            base_url=base_url,
            max_retries=0,
            timeout=limits,
            http_client=openai.DefaultAsyncHttpxClient(timeout=limits, trust_env=proxies),
        )
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, name="openai", daemon=True).start()

    def start(self, prompt: str, sampling: Sampling) -> OpenAIGeneration:
        """See `Generator.start`."""
        check_prompt(prompt)
        return OpenAIGeneration(self, prompt, sampling)

    async def request(self, prompt: str, sampling: Sampling) -> openai.AsyncStream:
        """Sends the prompt and waits until the endpoint begins to answer."""
        options: dict[str, Any] = {}
        if sampling.temperature is not None:
            options["temperature"] = float(sampling.temperature)
        if sampling.seed is not None:
            options["seed"] = int(sampling.seed) % SEEDS
        if sampling.top_k is not None:
            # Not OpenAI's, but llama.cpp, Ollama and vLLM take it; to all of them 0 means all tokens.
            options["extra_body"] = {"top_k": int(sampling.top_k)}
        return await self._client.chat.completions.create(
            model=self._model,
            messages=[{"role": "user", "content": prompt}],
            max_tokens=int(sampling.steps),
            stream=True,
            **options,
        )

    def error_of(self, error: Exception, answered: bool) -> Exception:
        """What to raise for `error`: a GeneratorError, unless it is a bug. `answered`: whether the reply had begun."""
        said = " ".join(str(error).replace(self._key, "***").split())[:300] or type(error).__name__
        if isinstance(error, openai.APITimeoutError):
            return TimedOut(f"{self.name}: nothing came for {self.timeout:g} seconds")
        if isinstance(error, openai.APIStatusError):
            kind = _KINDS.get(error.status_code) or (Unavailable if error.status_code >= 500 else InvalidRequest)
            return kind(f"{self.name}: {said}")
        if answered:  # then it may be anything, in the words of HTTP, JSON or Python
            return Broken(f"{self.name}: the reply broke off: {said}")
        if isinstance(error, openai.APIConnectionError):
            return Unavailable(f"{self.name}: can not be reached: {_cause(error)}")
        return error


_KINDS = {401: Unauthorized, 403: Unauthorized, 408: TimedOut, 429: RateLimited}


class OpenAIGeneration:
    """A Generation. It holds a connection from its first step until it ends or is closed."""

    def __init__(self, generator: OpenAIGenerator, prompt: str, sampling: Sampling):
        self.prompt_tokens, self.tokens = 0, 0
        self.finished: str | None = None
        self._generator = generator
        self._prompt, self._sampling = prompt, sampling
        self._closed = False
        self._task: Future[None] | None = None
        self._received: queue.SimpleQueue[Exception | tuple[str, str | None] | None] = queue.SimpleQueue()

    def step(self) -> str | None:
        """See `Generation.step`. Blocks until the endpoint says more, or times out."""
        if self._closed or self.finished:
            return None
        if self._task is None:
            self._task = asyncio.run_coroutine_threadsafe(self._receive(), self._generator.loop)
            if self._closed:  # meanwhile, and did not see the task
                self._task.cancel()
        received = self._received.get()
        if received is None or self._closed:
            return None
        if isinstance(received, Exception):
            self._closed = True
            raise received
        piece, self.finished = received
        self.tokens += bool(piece)
        return piece

    def close(self) -> None:
        """See `Generation.close`. A step that another thread is in returns at once."""
        self._closed = True
        if self._task is not None and not self.finished:
            self._task.cancel()
        self._received.put(None)

    async def _receive(self) -> None:
        """The generator's thread: queues each event's text and why it is the last one, or what went wrong."""
        answered = False
        # JSON escapes 😀 as two halves, \ud83d\ude00, and some servers send them in two pieces.
        whole = codecs.getincrementaldecoder("utf-16-le")("replace")
        try:
            async with await self._generator.request(self._prompt, self._sampling) as stream:
                answered = True
                async for event in stream:
                    text, finished = _text_and_end(event)
                    self._received.put((whole.decode(text.encode("utf-16-le", "surrogatepass")), finished))
                    if finished:
                        break
                else:
                    raise ValueError("it ended without its end")
                # A connection whose reply was read to its end serves the next prompt.
                with contextlib.suppress(Exception):
                    async with asyncio.timeout(END_SECONDS):
                        async for _ in stream:
                            pass
        except Exception as error:
            failure = self._generator.error_of(error, answered)
            if failure is not error:
                failure.__cause__ = error
            self._received.put(failure)


def _text_and_end(event: Any) -> tuple[str, str | None]:
    """What an event of a reply says, and why it is the last one, if it is: "stop" or "length"."""
    try:
        if not event.choices:  # usage, for one
            return "", None
        text, reason = event.choices[0].delta.content or "", event.choices[0].finish_reason
        if not isinstance(text, str):
            raise TypeError("no text")
    except (AttributeError, TypeError, LookupError) as error:
        raise ValueError(f"{event!r:.100} is no chat completion") from error
    return text, ("length" if reason == "length" else "stop") if reason else None


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()) or type(error).__name__
