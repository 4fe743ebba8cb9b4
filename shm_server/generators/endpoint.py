"""Where an OpenAI-compatible endpoint is and what it is asked with: checked once, the secrets kept apart.

endpoint = Endpoint.of("https://user:password@gpu.example:8443/v1?api-version=3")
endpoint.shown                                      # 'https://gpu.example:8443': for names, errors and logs
endpoint.url, endpoint.query, endpoint.headers      # for requests only

Nothing that is read here is repeated in an error: it may be the secret. `shown` has no path, since gateways put tokens
there too.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from shm_server.models.errors import ModelError

VENDOR = "https://api.openai.com/v1"
NO_URL = "no url of an endpoint, such as http://127.0.0.1:11434/v1: check --base-url or OPENAI_BASE_URL"
# Callers get the model's name with every error, and an error is a line.
LONGEST_NAME = 200
# Local endpoints take any key, and people call it "ollama" or "x": only a longer one is a secret that a name can leak.
SHORTEST_SECRET = 8


@dataclass(frozen=True)
class Endpoint:
    """A checked endpoint. Only `shown` is for other eyes."""

    url: str = field(repr=False)
    """Scheme, host, port and path."""

    query: dict[str, str] = field(repr=False)
    """What every request has in its query."""

    headers: dict[str, str] = field(repr=False)
    """What every request has in its head: user and password of the URL."""

    shown: str
    """Scheme, host and port."""

    local: bool
    """Whether it is in this network: it needs no key, and no proxy."""

    @classmethod
    def of(cls, base_url: str | None) -> Endpoint:
        """The endpoint at `base_url` (None: OPENAI_BASE_URL, else OpenAI itself). Raises ModelError."""
        text = (base_url or os.environ.get("OPENAI_BASE_URL") or VENDOR).strip()
        if not text.lower().startswith(("http://", "https://")):
            raise ModelError(NO_URL)
        if not _plain(text) or "\\" in text:
            raise ModelError("the base URL has a space, a backslash, or a character that is not printable ASCII")
        try:
            parts = urlsplit(text)
            host, _ = parts.hostname, parts.port
            query = parse_qsl(parts.query, keep_blank_values=True)
        except ValueError:  # whose text has a part of the URL in it
            raise ModelError(NO_URL) from None
        if not host:
            raise ModelError(NO_URL)
        if "@" in parts.path + parts.query + parts.fragment:
            raise ModelError(
                'the base URL has an "@" after its host: in a password, write / as %2F, ? as %3F, # as %23'
            )
        if parts.fragment or len(dict(query)) < len(query):
            raise ModelError(
                "the base URL has a #fragment, or the same name twice in its query: no endpoint wants that"
            )
        place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        headers = {}
        if parts.username or parts.password:
            login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
            headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
        return cls(place + parts.path, dict(query), headers, place, is_local(host))


def key_for(endpoint: Endpoint) -> str:
    """OPENAI_API_KEY, or what the client takes for none. Raises ModelError for what is no key, and for lack of one."""
    key = from_environment("OPENAI_API_KEY")
    if key is None and not (endpoint.local or endpoint.headers):
        raise ModelError(f"{endpoint.shown} wants a key: set OPENAI_API_KEY")
    check_custom_headers()
    return key or "none"  # the client insists on one


def from_environment(name: str) -> str | None:
    """What the environment has under `name` without the white space around; None for nothing. Raises ModelError."""
    value = os.environ.get(name, "").strip()
    if not _plain(value):
        raise ModelError(f"{name} has a space, a line's end, or a character that is not printable ASCII inside")
    return value or None


def check_custom_headers() -> None:
    """Raises ModelError for a line of OPENAI_CUSTOM_HEADERS that can not be sent."""
    for number, line in enumerate(os.environ.get("OPENAI_CUSTOM_HEADERS", "").split("\n"), 1):
        name, colon, value = line.partition(":")
        name, value = name.strip(), value.strip()
        if not line.strip():
            continue
        if not colon or not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name) or not _plain(value.replace(" ", "")):
            raise ModelError(f'line {number} of OPENAI_CUSTOM_HEADERS is no "NAME: VALUE" of printable ASCII')


def check_model(model: str | None, endpoint: Endpoint, key: str) -> str:
    """`model`, which every client is told. Raises ModelError for what is no name of a model, or is a secret."""
    if not model:
        raise ModelError('generator "openai" needs the name of a model that the endpoint has')
    if not model.isprintable() or len(model) > LONGEST_NAME:
        raise ModelError(f"the model's name has a character that is not printable, or more than {LONGEST_NAME} of them")
    for secret in _secrets(endpoint, key):
        if len(secret) >= SHORTEST_SECRET and secret in f"{model} {endpoint.shown}":
            raise ModelError("the model's name or the base URL's host has a key or a password in it: clients see both")
    if re.match(r"sk-.{17}", model) or re.search(r"://.*@", model):
        raise ModelError("the model's name looks like a key, or like a URL with a password: clients see it")
    return model


def is_local(host: str) -> bool:
    """Whether `host` is this machine, a container's name or an address of a private network."""
    try:
        return ipaddress.ip_address(host).is_private  # loopback included
    except ValueError:
        return "." not in host or host.endswith((".localhost", ".local", ".internal"))


def _plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text


def _secrets(endpoint: Endpoint, key: str) -> list[str]:
    """Key, password, or user where there is no password, and what is long enough in the query not to be a date."""
    encoded = endpoint.headers.get("Authorization", "").removeprefix("Basic ")
    user, _, password = base64.b64decode(encoded).decode().partition(":")
    return [
        key,
        password or user,
        *(value for value in endpoint.query.values() if len(value) > len("2026-11-25-preview")),
    ]
