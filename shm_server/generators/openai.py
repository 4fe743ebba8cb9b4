"""The OpenAI-compatible engine: the same prompts to Ollama, llamafile, llama.cpp, vLLM or a vendor.

generator = load(base_url="http://127.0.0.1:11434/v1", model="gemma3:1b")

Each prompt is one streamed chat completion with one user message. Nothing is retried: what fails
is told, and retrying is the caller's business. The key comes from OPENAI_API_KEY.
"""

from __future__ import annotations

import codecs
import contextlib
import ipaddress
import os
import socket
import threading
from typing import Any
from urllib.parse import urlsplit

import openai

from shm_server.generators import Limits
from shm_server.generators.errors import (
    Broken,
    GeneratorError,
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
        self._client = openai.OpenAI(
            api_key=key,
            base_url=base_url,
            max_retries=0,
            timeout=limits,
            http_client=openai.DefaultHttpxClient(timeout=limits, trust_env=proxies),
        )

    def start(self, prompt: str, sampling: Sampling) -> OpenAIGeneration:
        """See `Generator.start`."""
        check_prompt(prompt)
        return OpenAIGeneration(self, prompt, sampling)

    def request(self, prompt: str, sampling: Sampling) -> openai.Stream:
        """Sends the prompt and waits until the endpoint begins to answer."""
        options: dict[str, Any] = {}
        if sampling.temperature is not None:
            options["temperature"] = float(sampling.temperature)
        if sampling.seed is not None:
            options["seed"] = int(sampling.seed) % SEEDS
        if sampling.top_k is not None:
            # Not OpenAI's, but llama.cpp, Ollama and vLLM take it; to all of them 0 means all tokens.
            options["extra_body"] = {"top_k": int(sampling.top_k)}
        return self._client.chat.completions.create(
            model=self._model,
            messages=[{"role": "user", "content": prompt}],
            max_tokens=int(sampling.steps),
            stream=True,
            **options,
        )

    def error_of(self, error: Exception, answered: bool) -> GeneratorError:
        """The kind that `error` is of; `answered`: whether the reply had begun."""
        said = " ".join(str(error).replace(self._key, "***").split())[:300] or type(error).__name__
        if isinstance(error, GeneratorError):
            return error
        if isinstance(error, openai.APITimeoutError):
            return TimedOut(f"{self.name}: nothing came for {self.timeout:g} seconds")
        if isinstance(error, openai.APIStatusError):
            kind = _KINDS.get(error.status_code) or (Unavailable if error.status_code >= 500 else InvalidRequest)
            return kind(f"{self.name}: {said}")
        if isinstance(error, openai.APIConnectionError) and not answered:
            return Unavailable(f"{self.name}: can not be reached: {_cause(error)}")
        return Broken(f"{self.name}: the reply broke off: {said}")

    def close(self) -> None:
        """Closes the idle connections."""
        self._client.close()


_KINDS: dict[int, type[GeneratorError]] = {401: Unauthorized, 403: Unauthorized, 408: TimedOut, 429: RateLimited}


class OpenAIGeneration:
    """A Generation. It holds a connection from its first step until it ends or is closed."""

    def __init__(self, generator: OpenAIGenerator, prompt: str, sampling: Sampling):
        self.prompt_tokens, self.tokens = 0, 0
        self.finished: str | None = None
        self.queue_seconds = 0.0
        self._generator = generator
        self._prompt, self._sampling = prompt, sampling
        self._stream: openai.Stream | None = None
        self._closed = False
        self._busy = threading.Lock()  # held by the thread that is in `step`
        # JSON escapes 😀 as two halves, \ud83d\ude00, and some servers send them in two pieces.
        self._whole = codecs.getincrementaldecoder("utf-16-le")("replace")

    def step(self) -> str | None:
        """See `Generation.step`. Blocks until the endpoint says more, or times out."""
        piece = None
        with self._busy:
            try:
                if not self._closed and not self.finished:
                    piece = self._receive()
            except Exception as error:
                if not self._closed:  # else it is what closing looks like from here
                    self._closed = True
                    raise self._generator.error_of(error, self._stream is not None) from error
            finally:
                if self._closed or self.finished:
                    self._release()
        if self._closed:
            self.close()  # it may have come too late for the lines above and too early for the lock
        return None if self._closed else piece

    def close(self) -> None:
        """See `Generation.close`. A step in another thread returns at once if the reply has begun,
        otherwise when the endpoint answers or times out."""
        self._closed = True
        stream = self._stream
        if stream is not None:
            _interrupt(stream)
        if self._busy.acquire(blocking=False):
            try:
                self._release()
            finally:
                self._busy.release()

    def _receive(self) -> str:
        """The text of the next event."""
        if self._stream is None:
            self._stream = self._generator.request(self._prompt, self._sampling)
        event = next(self._stream, None)
        if event is None:
            raise Broken(f"{self._generator.name}: the reply broke off: it ended without its end")
        try:
            if not event.choices:  # usage, for one
                return ""
            text, reason = event.choices[0].delta.content or "", event.choices[0].finish_reason
            piece = self._whole.decode(text.encode("utf-16-le", "surrogatepass"))
        except (AttributeError, TypeError, LookupError) as error:
            raise Broken(
                f"{self._generator.name}: the reply broke off: {event!r:.100} is no chat completion"
            ) from error
        self.tokens += bool(text)
        if reason:
            self.finished = "length" if reason == "length" else "stop"
        return piece

    def _release(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            with contextlib.suppress(Exception):  # it may be broken already, and nobody wants it
                stream.close()


def _interrupt(stream: openai.Stream) -> None:
    """Ends a read that another thread is blocked in, which closing the socket would not."""
    with contextlib.suppress(Exception):  # not connected any more
        stream.response.extensions["network_stream"].get_extra_info("socket").shutdown(socket.SHUT_RDWR)


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()) or type(error).__name__
