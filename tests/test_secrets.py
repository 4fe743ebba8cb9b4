"""Secrets of an endpoint's: planted in every setting, echoed by the endpoint in every way, and never seen anywhere."""

import base64
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import quote

import pytest
import stub_endpoint
from client import Client
from conftest import children
from stub_endpoint import END, data, event, refuse, reply

from shm_server.layout import Protocol

pytest.importorskip("openai")

from shm_server.generators import GeneratorError, ModelError, Unauthorized, Unavailable, generate, load_generator
from shm_server.generators.endpoint import Endpoint

KEY = "sk-proj-plantedKEY0123456789"
PASSWORD = "plantedPASSWORD/%1"
TOKEN = "plantedTOKEN"
ORGANIZATION = "org-plantedORG"
HEADER = "plantedHEADER"
# Every secret has it, and so has every word that the endpoint says of its own accord.
PLANTED = "planted"
MODEL = "gemma"


def forms(text: str) -> set[str]:
    """`text` in upper and lower case, as a part of something that is encoded in base64, and reversed."""
    parts = {base64.b64encode(b"x" * shift + text.encode())[-(-4 * shift // 3) :][:8].decode() for shift in range(3)}
    return {text.lower(), text.upper(), text.title(), text, text[::-1], *parts}


def assert_clean(where: str, text: str | bytes) -> None:
    text = text.decode(errors="replace") if isinstance(text, bytes) else text
    for form in forms(PLANTED):
        assert form not in text, f"{where}: {text[:2000]}"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in list(os.environ):
        if name.startswith("OPENAI_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def test_the_test_would_see_a_secret_in_any_form():
    for seen in (KEY, base64.b64encode(f"user:{PASSWORD}".encode()).decode(), KEY.upper(), quote(f"?a={TOKEN}")):
        with pytest.raises(AssertionError):
            assert_clean("here", f"... {seen} ...")


# -- an endpoint that echoes what it is sent


def echo(handler) -> str:
    """Everything that the endpoint was sent, on one line."""
    return " ".join(["plantedECHO", handler.path, *handler.headers.values()])


def raw(line):
    """Sends bytes that the server of the test would not."""
    return lambda handler: handler.wfile.write(line.format(echo=echo(handler)).encode())


def with_echo(answer):
    return lambda handler: answer(echo(handler))(handler)


def everywhere(said):
    return {"error": dict.fromkeys(("message", "type", "code", "param", "status", "detail"), said)}


ENDINGS = {
    "status-text": raw("HTTP/1.1 500 {echo}\r\n\r\n"),
    "refused-status-text": raw("HTTP/1.1 400 {echo}\r\ncontent-length: 0\r\n\r\n"),
    "json-400": with_echo(lambda said: refuse(400, everywhere(said))),
    "json-401": with_echo(lambda said: refuse(401, everywhere(said))),
    "json-404": with_echo(lambda said: refuse(404, everywhere(said))),
    "json-500": with_echo(lambda said: refuse(500, everywhere(said))),
    "text-400": with_echo(lambda said: refuse(400, f"max_tokens unsupported {said} context".encode())),
    "list-422": with_echo(lambda said: refuse(422, {"detail": [{"loc": ["body", said], "msg": said}]})),
    "key-as-field": with_echo(lambda said: refuse(400, {said: said})),
    "retry-after": with_echo(lambda said: refuse(429, retry_after=said)),
    "redirect": with_echo(lambda said: refuse(308, location=f"http://127.0.0.1:9/{quote(said)}")),
    "headers": with_echo(lambda said: refuse(418, x_request_id=said, www_authenticate=said, set_cookie=f"a={said}")),
    "charset": with_echo(lambda said: reply(said.encode(), status=400, kind=f"application/json; charset={said}")),
    "page": with_echo(lambda said: reply(f"<html>{said}</html>".encode(), kind="text/html")),
    "json-instead": with_echo(lambda said: reply(json.dumps(everywhere(said)).encode(), kind="application/json")),
    "event-error": with_echo(lambda said: reply(event("To "), data(everywhere(said)))),
    "event-no-json": with_echo(lambda said: reply(event("To "), data(said.encode()))),
    "event-odd": with_echo(lambda said: reply(event("To "), data({"choices": [said]}))),
    "ends-early": with_echo(lambda said: reply(event("To "), f": {said}\n\n".encode())),
    "no-gzip": with_echo(lambda said: reply(said.encode(), encoding="deflate")),
    "no-http": raw("{echo}\r\n"),
    "bad-header": raw("HTTP/1.1 200 OK\r\n{echo}\r\n\r\n"),
    "bad-length": raw("HTTP/1.1 200 OK\r\ncontent-length: {echo}\r\n\r\n"),
    "bad-chunk": raw("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{echo}\r\n"),
    "short": raw("HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\n{echo}"),
    "hangs-up": lambda handler: None,
}


def by_prompt(handler):
    prompt = handler.server.requests[-1][-1]["messages"][0]["content"]
    ENDINGS.get(prompt, reply(event("To be"), END))(handler)


@pytest.fixture
def endpoint():
    server = stub_endpoint.Endpoint()
    server.answers[MODEL] = by_prompt
    yield server
    server.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        return unused.getsockname()[1]


def get(port: int, path: str, body: dict | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"content-type": "application/json"}
    connection.request("POST" if body else "GET", path, json.dumps(body) if body else None, headers)
    with connection.getresponse() as response:
        return response.status, str(response.headers).encode() + response.read()


def processes(pid: int) -> list[int]:
    """A process and its children, and theirs."""
    return [pid, *(below for child in children(pid) for below in processes(child))]


@pytest.mark.parametrize("login", ["", f"user:{quote(PASSWORD, safe='')}@"], ids=["key", "password"])
def test_no_client_log_or_process_shows_what_the_server_asks_its_endpoint_with(
    start, endpoint, shm_client, monkeypatch, tmp_path, login
):
    pytest.importorskip("starlette")
    pytest.importorskip("prometheus_client")
    url = f"http://{login}127.0.0.1:{endpoint.server_port}/v1/{TOKEN}?token={TOKEN}"
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    monkeypatch.setenv("OPENAI_ORG_ID", ORGANIZATION)
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"X-Gateway: {HEADER}")
    monkeypatch.setenv("OPENAI_LOG", "debug")
    web, metrics = free_port(), free_port()
    flags = ["--engine", "none", "--generator", "openai", "--generator-model", MODEL]
    flags += ["--http", str(web), "--metrics", str(metrics), "--prompt-priority", "normal"]
    if login:
        flags += ["--base-url", url]
    else:
        monkeypatch.setenv("OPENAI_BASE_URL", url)
    path = tmp_path / "sock"
    command = [sys.executable, "-m", "shm_server.cli", "--log-level", "debug", "serve", "--socket", str(path), *flags]
    server = start(socket=path, command=command)

    def prompt(text):
        command = [shm_client, "prompt", "-socket", path, text]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    # It works, and the endpoint does get all of it.
    done = prompt("hello")
    assert done.stdout.strip() == "To be", done.stderr
    _, asked, headers, _ = endpoint.requests[-1]
    expected = f"Basic {base64.b64encode(f'user:{PASSWORD}'.encode()).decode()}" if login else f"Bearer {KEY}"
    assert headers["authorization"] == expected
    assert (headers["openai-organization"], headers["x-gateway"]) == (ORGANIZATION, HEADER)
    assert asked == f"/v1/{TOKEN}/chat/completions?token={TOKEN}"

    for name in ENDINGS:
        done = prompt(name)
        assert done.returncode != 0, name
        assert_clean(name, done.stdout + done.stderr)
        for streamed in (False, True):
            status, answer = get(web, "/prompt", {"prompt": name, "stream": streamed})
            assert b'"error"' in answer, (name, answer)
            assert status >= 400 or streamed
            assert_clean(name, answer)
    with Client(path, protocol=Protocol.STREAM) as client:
        assert f"{MODEL} at http://127.0.0.1:{endpoint.server_port}" in client.metadata
        assert_clean("welcome", client.metadata)
        assert_clean("segment", client.memory[:])
    for port, page in ((web, "/healthz"), (metrics, "/metrics")):
        assert_clean(page, get(port, page)[1])
    running = processes(server.pid)
    assert len(running) == 3, "the server, the generator and the gateway"
    for pid in running[1:] if login else running:  # --base-url is in the server's own, as it was given
        assert_clean("command line", Path(f"/proc/{pid}/cmdline").read_bytes())
    server.stop()
    assert "prompts: " in server.log
    assert_clean("log", server.log)


# -- settings


def load(base_url="http://127.0.0.1:9/v1", model=MODEL):
    return load_generator("openai", base_url=base_url, model=model)


@pytest.mark.parametrize(
    "key",
    [
        "sk-planted\nKEY",
        "sk-planted KEY",
        "sk-planted\x01KEY",
        "sk-planted\x7fKEY",
        "sk-plantedKEY\u200b",
        "sk-planted\udc80KEY",
        "Bearer sk-plantedKEY",
    ],
    ids=ascii,
)
@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"])
def test_what_can_be_no_key_is_refused_in_a_line_that_does_not_show_it(monkeypatch, name, key):
    monkeypatch.setenv(name, key)
    with pytest.raises(ModelError) as failure:
        load()
    assert name in str(failure.value)
    assert str(failure.value).isprintable()
    assert_clean("error", str(failure.value))


@pytest.mark.parametrize("headers", ["X-Key: planted\x01KEY", "X Key: plantedKEY", "plantedKEY", "A: b\nX: plantedé"])
def test_custom_headers_that_can_not_be_sent_are_refused_in_a_line_that_does_not_show_them(monkeypatch, headers):
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", headers)
    with pytest.raises(ModelError, match=r"line . of OPENAI_CUSTOM_HEADERS") as failure:
        load()
    assert_clean("error", str(failure.value))


@pytest.mark.parametrize(
    "url",
    [
        "user:planted@127.0.0.1/v1",
        "plantedKEY",
        "ftp://user:planted@127.0.0.1/v1",
        "http://user:planted@/v1",
        "http://user:planted/x@127.0.0.1/v1",
        "http://user:planted?x@127.0.0.1/v1",
        "http://user:12#planted@127.0.0.1/v1",
        "http://planted:12/x@127.0.0.1/v1",
        "http://user:pla nted@127.0.0.1/v1",
        "http://user:planted\\@127.0.0.1/v1",
        "http://user:planted@127.0.0.1:port/v1",
        "http://user:planted@[127.0.0.1/v1",
        "http://user:planted@127.0.0.1:99999/v1",
        "http://user:plantedé@127.0.0.1/v1",
        "http://user:planted@127.0.0.1/v1\n",
        "http://127.0.0.1/v1#api_key=planted",
        "http://127.0.0.1/v1?a=planted&a=planted",
        "http://planted:planted@a..b/v1",
        "http://planted:planted@xn--/v1",
        "http://user:planted@256.256.256.256/v1",
    ],
)
def test_a_url_is_shown_without_its_secrets_if_at_all(url):
    try:
        said = load(url).name
    except ModelError as error:
        said = str(error)
        assert "\n" not in said
    assert_clean("name or error", said)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://127.0.0.1:9/v1", "http://127.0.0.1:9"),
        (" https://user:planted@gpu.example/planted/v1 \n", "https://gpu.example"),
        ("http://planted@[::1]:8080/v1?api-version=planted", "http://[::1]:8080"),
        ("HTTP://us%40er:p@planted@gpu/v1", "http://gpu"),
    ],
)
def test_names_have_scheme_host_and_port_of_a_url(url, shown):
    assert load(url).name == f"{MODEL} at {shown}"
    assert_clean("repr", repr(Endpoint.of(url)))


@pytest.mark.parametrize(
    ("url", "model"),
    [
        ("http://127.0.0.1/v1", KEY),
        ("http://127.0.0.1/v1", "sk-plantedANOTHER-KEY"),
        ("http://127.0.0.1/v1", "https://user:planted@127.0.0.1/v1"),
        ("http://user:planted-password@127.0.0.1/v1", "planted-password"),
        (f"http://{KEY}.example/v1", MODEL),
        ("http://127.0.0.1/v1?token=plantedTOKEN0123456789", "a plantedTOKEN0123456789"),
        ("http://127.0.0.1/v1", "planted\n"),
        ("http://127.0.0.1/v1", "planted\udc80"),
        ("http://127.0.0.1/v1", "planted" * 100),
    ],
)
def test_a_secret_is_no_models_name(monkeypatch, url, model):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(ModelError) as failure:
        load(url, model)
    assert_clean("error", str(failure.value))


def test_what_everybody_knows_may_be_in_a_name(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "ollama")
    assert load(model="ollama/gemma").name == "ollama/gemma at http://127.0.0.1:9"
    dated = load("http://administrator:planted@administrator/v1?api-version=2026-11-25", "gpt-2026-11-25")
    assert dated.name == "gpt-2026-11-25 at http://administrator"


# -- proxies and TLS


def failure_of(url) -> GeneratorError:
    with pytest.raises(GeneratorError) as failure:
        list(generate(load(url), "hello"))
    assert_clean("error", str(failure.value))
    return failure.value


@pytest.fixture
def peer():
    """peer(reply) is the port of a server that answers each connection's first bytes with `reply`."""
    listeners = []

    def _peer(said: bytes) -> int:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def answer():
            try:
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.sendall(said.replace(b"ECHO", connection.recv(65536).replace(b"\r\n", b" ")))
            except OSError:
                return

        threading.Thread(target=answer, daemon=True).start()
        return listener.getsockname()[1]

    yield _peer
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxys_password_and_words_are_not_shown(monkeypatch, peer, scheme):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for said in (b"HTTP/1.1 407 ECHO\r\n\r\n", b"ECHO\r\n", b"", b"HTTP/1.1 502 planted\r\n\r\n"):
        proxy = f"http://user:{quote(PASSWORD, safe='')}@127.0.0.1:{peer(said)}"
        monkeypatch.setenv(f"{scheme}_proxy", proxy)
        kind = type(failure_of(f"{scheme}://api.example.com/v1"))
        assert kind in (Unavailable, Unauthorized)


@pytest.mark.parametrize("proxy", ["htp://user:planted@127.0.0.1", "http://user:planted@127.0.0.1:port", "planted://"])
def test_a_proxy_that_is_none_is_said_when_loading_without_its_password(monkeypatch, proxy):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("https_proxy", proxy)
    with pytest.raises(ModelError, match="HTTPS_PROXY") as failure:
        load("https://api.example.com/v1")
    assert_clean("error", str(failure.value))


def test_what_does_not_speak_tls_is_said_so(monkeypatch, peer):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    said = peer(b"HTTP/1.1 400 plantedECHO\r\n\r\n")
    error = failure_of(f"https://user:planted@127.0.0.1:{said}/v1?token={TOKEN}")
    assert type(error) is Unavailable
    assert "TLS failed" in str(error)
