"""The OpenAI-compatible engine: the same prompts to Ollama, llamafile, llama.cpp, vLLM or a vendor.

generator = load(base_url="http://127.0.0.1:11434/v1", model="gemma3:1b")

Each prompt is one streamed chat completion with one user message. Nothing is retried: what fails is told, and retrying
is the caller's business. The key comes from OPENAI_API_KEY.

The official client builds and sends the request. What comes back is read by sse.py, completion.py and refusals.py: the
client keeps an event of any size, loses a last one without a blank line, and raises the endpoint's own words.

All replies are received in one thread, by asyncio: only there can a reply be cancelled at any moment, also one that the
endpoint has not begun yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future
from typing import Any

import openai

from shm_server.generators import Limits
from shm_server.generators.completion import Completion
from shm_server.generators.endpoint import Endpoint, check_model, from_environment, is_local, key_for
from shm_server.generators.errors import TimedOut
from shm_server.generators.failures import failure, log_bug
from shm_server.generators.refusals import Refused, refuse
from shm_server.generators.sampling import Sampling, check_prompt
from shm_server.generators.sse import events
from shm_server.models.errors import ModelError

__all__ = ["OpenAIGenerator", "is_local", "load"]

log = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
TIMEOUT_SECONDS = 60.0  # a large model on a small machine reads a long prompt before its first token
END_SECONDS = 1.0  # from the last text to the end of its response
MAX_TOKENS, MAX_COMPLETION_TOKENS = "max_tokens", "max_completion_tokens"
SEEDS = 2**31  # what servers of all kinds take as a seed


def load(base_url: str | None = None, model: str | None = None, *, timeout: float = TIMEOUT_SECONDS) -> OpenAIGenerator:
    """A generator that asks `model` at `base_url` (None: OPENAI_BASE_URL, else OpenAI itself).

    `timeout` is in seconds, for the first piece and from each to the next. User and password of the URL are used
    instead of the key; its query goes along with each request. The endpoint is not asked anything yet: it may come up
    later. Raises ModelError: no model named, not a URL, something that can be no key, no key for an endpoint that is
    not local.
    """
    endpoint = Endpoint.of(base_url)
    if not timeout > 0:
        raise ModelError(f"the time-out is {timeout} seconds, must be more than 0")
    key = key_for(endpoint)
    model = check_model(model, endpoint, key)
    names = {"organization": "OPENAI_ORG_ID", "project": "OPENAI_PROJECT_ID"}
    account = {option: value for option, name in names.items() if (value := from_environment(name))}
    _silence()
    try:
        return OpenAIGenerator(endpoint, model, key, timeout=timeout, account=account)
    except Exception as error:  # httpx, of a proxy that the environment names, with the password in it
        raise ModelError(
            f"no client for {endpoint.shown} ({type(error).__name__}): are HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, "
            "NO_PROXY, SSL_CERT_FILE and SSL_CERT_DIR right?"
        ) from None


def _silence() -> None:
    """No line of the libraries below: they log URLs with their queries, and the endpoint's words and heads."""
    for name in ("openai", "httpx", "httpx2", "httpcore", "httpcore2"):
        library = logging.getLogger(name)
        library.propagate = False
        library.setLevel(logging.CRITICAL + 1)


class OpenAIGenerator:
    """A Generator."""

    concurrent = True
    note = ""
    limits = Limits(prompt_tokens=None, steps=None)

    def __init__(self, endpoint: Endpoint, model: str, key: str, *, timeout: float, account: dict[str, str]):
        """See `load`; `account`: who pays, where a key is for several."""
        self.name = f"{model} at {endpoint.shown}"
        self.timeout = timeout
        self._model = model
        # OpenAI's models that reason refuse the name that everybody else knows.
        self._limit = MAX_TOKENS
        limits = openai.Timeout(None, connect=min(timeout, CONNECT_SECONDS))  # silence is seen in `_receive`
        self._client = openai.AsyncOpenAI(
            api_key=key,
            base_url=endpoint.url,
            max_retries=0,
            timeout=limits,
            default_headers=endpoint.headers,
            default_query=endpoint.query,
            http_client=openai.DefaultAsyncHttpxClient(
                timeout=limits,
                trust_env=not endpoint.local,  # proxies
                follow_redirects=False,  # somebody else would get the prompt, and what is in the URL
                event_hooks={"response": [refuse]},
            ),
            **account,
        )
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(lambda _, context: log_bug(self.name, context.get("exception")))
        threading.Thread(target=self.loop.run_forever, name="openai", daemon=True).start()

    def start(self, prompt: str, sampling: Sampling) -> OpenAIGeneration:
        """See `Generator.start`."""
        check_prompt(prompt)
        return OpenAIGeneration(self, prompt, sampling)

    @contextlib.asynccontextmanager
    async def answer(self, prompt: str, sampling: Sampling) -> AsyncIterator[AsyncIterator[bytes]]:
        """Sends the prompt, waits until the endpoint begins to answer, and gives the bytes of that as they come.

        Raises Refused, and whatever the client does.
        """
        async with contextlib.AsyncExitStack() as stack:
            limit, response = self._limit, None
            try:
                response = await stack.enter_async_context(self._request(prompt, sampling, limit))
            except Refused as refused:
                if limit != MAX_TOKENS or not refused.asks_for_completion_tokens():
                    raise
            if response is None:
                response = await stack.enter_async_context(self._request(prompt, sampling, MAX_COMPLETION_TOKENS))
                if self._limit == limit:
                    self._limit = MAX_COMPLETION_TOKENS
                    log.info("%s refuses %s: from now on it gets %s", self.name, limit, self._limit)
            yield response.iter_bytes()

    def _request(self, prompt: str, sampling: Sampling, limit: str) -> Any:
        options: dict[str, Any] = {limit: int(sampling.steps)}
        if sampling.temperature is not None:
            options["temperature"] = float(sampling.temperature)
        if sampling.seed is not None:
            options["seed"] = int(sampling.seed) % SEEDS
        if sampling.top_k is not None:
            # Not OpenAI's, but llama.cpp, Ollama and vLLM take it; to all of them 0 means all tokens.
            options["extra_body"] = {"top_k": int(sampling.top_k)}
        return self._client.chat.completions.with_streaming_response.create(
            model=self._model, messages=[{"role": "user", "content": prompt}], stream=True, **options
        )


def _in_our_words(sampling: Sampling) -> dict[str, str]:
    """The options of a request by their names there, as its caller knows them."""
    steps = f"sampling_steps {sampling.steps}"
    ours = {MAX_TOKENS: steps, MAX_COMPLETION_TOKENS: steps}
    for name in ("temperature", "top_k", "seed"):
        if (value := getattr(sampling, name)) is not None:
            ours[name] = f"{name} {value}"
    return ours


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
        generator, answered = self._generator, False
        loop = asyncio.get_running_loop()
        silence = asyncio.timeout(generator.timeout)
        try:
            async with silence, generator.answer(self._prompt, self._sampling) as chunks:
                answered = True
                completion = Completion(self._sampling.steps)
                async with contextlib.aclosing(events(chunks)) as stream:
                    end = None
                    async for data in stream:
                        before = completion.characters
                        text, end = completion.add(data)
                        if completion.characters > before:
                            silence.reschedule(loop.time() + generator.timeout)
                        if text:
                            self._received.put((text, None))
                        if end:
                            break
                    self._received.put(("", completion.finish(end or completion.end_of_stream())))
                    # A connection whose reply was read to its end serves the next prompt.
                    silence.reschedule(None)
                    with contextlib.suppress(Exception):
                        async with asyncio.timeout(END_SECONDS):
                            async for _ in stream:
                                pass
        except asyncio.CancelledError:
            self._received.put(None)
            raise
        except BaseException as error:  # also what would end the thread, and with it everybody's replies
            cause = TimedOut(f"nothing came for {generator.timeout:g} seconds") if silence.expired() else error
            options = _in_our_words(self._sampling)
            self._received.put(failure(generator.name, cause, options, answered=answered))
