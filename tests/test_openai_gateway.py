"""OpenAI's shape over HTTP: the official client against a server whose generator does as it is told."""

import http.client
import itertools
import json
import re
import socket
import sys

import pytest
from conftest import ROOT, ServerProcess, until
from parts import Site

pytest.importorskip("openai")

import openai

from shm_server.gateways.http.openai import cut

STUB = str(ROOT / "tests" / "stub_generators.py")
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A server with the generator `stub`, HTTP and metrics, for all tests of this file: none of them harms it."""
    folder = tmp_path_factory.mktemp("openai")
    command = [sys.executable, STUB, str(folder / "sock"), "waiting", "0", "0"]
    server = ServerProcess(command, folder / "sock", folder / "log")
    yield Site(server)
    server.process.kill()
    server.process.wait()


def client_of(port: int) -> openai.OpenAI:
    around = openai.DefaultHttpxClient(trust_env=False)  # no proxy of whoever runs the tests
    return openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any", max_retries=0, http_client=around)


@pytest.fixture(scope="module")
def client(site):
    with client_of(site.port) as client:
        yield client


@pytest.fixture
def chat(client):
    """chat(TEXT, **parameters) asks with a single message of a user."""

    def ask(text: str, **parameters):
        messages = [{"role": "user", "content": text}]
        return client.chat.completions.create(**({"model": "stub", "messages": messages} | parameters))

    return ask


@pytest.fixture
def complete(client):
    def ask(text: object, **parameters):
        return client.completions.create(**({"model": "stub", "prompt": text} | parameters))

    return ask


# -- answers


def test_a_message_is_answered(chat):
    answer = chat("to be say:€")
    (choice,) = answer.choices
    assert (choice.index, choice.message.role, choice.message.content) == (0, "assistant", "to be €")
    assert (answer.object, answer.model, choice.finish_reason) == ("chat.completion", "stub", "stop")
    assert answer.id.startswith("chatcmpl-")
    assert answer.created > 0
    assert answer.usage is None, "tokens are not counted"


def test_a_text_is_gone_on_with(complete):
    answer = complete("to be say:€")
    (choice,) = answer.choices
    assert (choice.index, choice.text, choice.finish_reason) == (0, "to be €", "stop")
    assert (answer.object, answer.model, answer.usage) == ("text_completion", "stub", None)
    assert answer.id.startswith("cmpl-")
    assert complete(["to be"]).choices[0].text == "to be "


def test_a_stream_is_a_chunk_for_each_piece_as_it_comes(chat, tmp_path):
    seen = tmp_path / "seen"
    chunks = chat(f"one await:{seen} two", stream=True)
    first = next(chunks)
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "one ")
    seen.touch()  # "two" is generated only now
    *rest, last = chunks
    assert "".join(chunk.choices[0].delta.content for chunk in rest) == "two "
    assert (last.choices[0].delta.content, last.choices[0].finish_reason) == (None, "stop")
    assert {chunk.choices[0].delta.role for chunk in (*rest, last)} == {None}, "it is said once"
    every = [first, *rest, last]
    assert {chunk.object for chunk in every} == {"chat.completion.chunk"}
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in every}) == 1
    assert [chunk.choices[0].finish_reason for chunk in every[:-1]] == [None] * (len(every) - 1)


def test_a_text_streams_too(complete, tmp_path):
    seen = tmp_path / "seen"
    chunks = complete(f"one await:{seen} two", stream=True)
    first = next(chunks)
    assert (first.object, first.choices[0].text) == ("text_completion", "one ")
    seen.touch()
    *rest, last = chunks
    assert "".join(chunk.choices[0].text for chunk in rest) == "two "
    assert (last.choices[0].text, last.choices[0].finish_reason) == ("", "stop")


def test_an_empty_reply_is_one(chat, complete):
    assert chat("say:").choices[0].message.content == ""
    assert complete("say:").choices[0].text == ""
    (only,) = chat("say:", stream=True)
    assert (only.choices[0].delta.role, only.choices[0].finish_reason) == ("assistant", "stop")


def test_a_stream_ends_with_done_and_says_what_it_is(site):
    status, headers, lines = raw(site, "completions", {"model": "stub", "prompt": "one", "stream": True})
    assert status == 200
    assert headers["Content-Type"].startswith("text/event-stream")
    *events, done, empty = lines.split("\n\n")
    assert (done, empty) == ("data: [DONE]", "")
    assert all(event.startswith("data: {") for event in events)


def raw(site, path: str, body: object, headers=JSON, method: str = "POST") -> tuple[int, http.client.HTTPMessage, str]:
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=60)
    connection.request(method, f"/v1/{path}", body if isinstance(body, bytes) else json.dumps(body), headers)
    answer = connection.getresponse()
    try:
        return answer.status, answer.headers, answer.read().decode()
    finally:
        connection.close()


def test_a_reply_that_is_longer_than_its_slot_says_length(complete):
    text = "€" * 100
    whole = complete(f"repeat:{text}", max_tokens=2000)
    assert whole.choices[0].finish_reason == "length"
    assert len(whole.choices[0].text.encode()) == (256 << 10) // 3 * 3  # of whole characters
    *_, last = complete(f"repeat:{text}", max_tokens=2000, stream=True)
    assert last.choices[0].finish_reason == "length"


# -- parameters


def test_parameters_say_how_the_reply_is_drawn(chat, complete):
    assert chat("params").choices[0].message.content == "128 None None None"
    said = chat("params", max_completion_tokens=3, temperature=0.5, seed=9, extra_body={"top_k": 7})
    assert said.choices[0].message.content == "3 0.5 7 9"
    assert chat("params", max_tokens=3, extra_body={"seed": 8.0}).choices[0].message.content == "3 None None 8"
    assert complete("params", max_tokens=5, temperature=0, seed=0).choices[0].text == "5 0.0 None 0"


def test_what_is_harmless_or_asks_for_what_is_done_anyway_is_accepted(chat, complete):
    common = {"n": 1, "top_p": 1.0, "frequency_penalty": 0, "presence_penalty": 0.0, "user": "me", "logit_bias": {}}
    harmless = {"metadata": {"a": "b"}, "response_format": {"type": "text"}, "store": False, "service_tier": "auto"}
    nothing = {"tools": [], "logprobs": False, "seed": None, "temperature": None, "max_tokens": None, "stop": None}
    assert chat("params", **common, **harmless, **nothing).choices[0].message.content == "128 None None None"
    completions = {"best_of": 1, "echo": False, "suffix": "", "logprobs": None}
    assert complete("params", **common, **completions).choices[0].text == "128 None None None"


def test_usage_that_cannot_be_had_adds_no_chunk(chat):
    chunks = list(chat("one", stream=True, stream_options={"include_usage": True}))
    assert [chunk.usage for chunk in chunks] == [None] * len(chunks)
    assert all(chunk.choices for chunk in chunks)


CHAT = {"model": "stub", "messages": [{"role": "user", "content": "x"}]}
TEXT = {"model": "stub", "prompt": "x"}
WORD = {"type": "text", "text": "x"}
PICTURE = {"type": "image_url", "image_url": {"url": "data:"}}
NOT_TAKEN = [
    *[(each, {"n": 2}, "n") for each in (CHAT, TEXT)],
    (CHAT, {"n": True}, "n"),
    (CHAT, {"top_p": 0.5}, "top_p"),
    (CHAT, {"frequency_penalty": 0.1}, "frequency_penalty"),
    (CHAT, {"logit_bias": {"1": 1}}, "logit_bias"),
    (CHAT, {"logprobs": True}, "logprobs"),
    (TEXT, {"logprobs": 0}, "logprobs"),
    (CHAT, {"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    (CHAT, {"tool_choice": "required"}, "tool_choice"),
    (CHAT, {"response_format": {"type": "json_object"}}, "response_format"),
    (CHAT, {"modalities": ["text", "audio"]}, "modalities"),
    (CHAT, {"reasoning_effort": "low"}, "reasoning_effort"),
    (CHAT, {"no_such_thing": 1}, "no_such_thing"),
    (CHAT, {"prompt": "x"}, "prompt"),
    (TEXT, {"messages": []}, "messages"),
    (TEXT, {"echo": True}, "echo"),
    (TEXT, {"suffix": "x"}, "suffix"),
    (TEXT, {"best_of": 2}, "best_of"),
    (TEXT, {"prompt": None}, "prompt"),
    (TEXT, {"prompt": ["x", "y"]}, "prompt"),
    (TEXT, {"prompt": [1, 2]}, "prompt"),
    (TEXT, {"prompt": []}, "prompt"),
    (CHAT, {"model": None}, "model"),
    (CHAT, {"model": 7}, "model"),
    (CHAT, {"stream": "yes"}, "stream"),
    (CHAT, {"max_tokens": 0}, "max_tokens"),
    (CHAT, {"max_tokens": 2.5}, "max_tokens"),
    (CHAT, {"max_tokens": "many"}, "max_tokens"),
    (CHAT, {"max_tokens": True}, "max_tokens"),
    (CHAT, {"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
    (CHAT, {"max_completion_tokens": -1}, "max_completion_tokens"),
    (CHAT, {"temperature": -1}, "temperature"),
    (CHAT, {"temperature": [1]}, "temperature"),
    (CHAT, {"seed": -1}, "seed"),
    (CHAT, {"top_k": 2.5}, "top_k"),
    (CHAT, {"stop": ""}, "stop"),
    (CHAT, {"stop": 7}, "stop"),
    (CHAT, {"stop": ["a", 7]}, "stop"),
    (CHAT, {"stop": list("abcde")}, "stop"),
    (CHAT, {"stop": "x" * 257}, "stop"),
    (CHAT, {"messages": None}, "messages"),
    (CHAT, {"messages": "x"}, "messages"),
    (CHAT, {"messages": []}, "messages"),
    (CHAT, {"messages": ["x"]}, "messages[0]"),
    (CHAT, {"messages": [{"content": "x"}]}, "messages[0].role"),
    (CHAT, {"messages": [CHAT["messages"][0], {"role": "tool", "content": "x"}]}, "messages[1].role"),
    (CHAT, {"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
    (CHAT, {"messages": [{"role": "user"}]}, "messages[0].content"),
    (CHAT, {"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
    (CHAT, {"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
    (CHAT, {"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content"),
    (
        CHAT,
        {"messages": [{"role": "user", "content": [WORD, PICTURE]}]},
        "messages[0].content",
    ),
    (CHAT, {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]}, "messages[0].tool_calls"),
]


def test_what_cannot_be_obeyed_is_refused_by_name(site):
    for usual, changed, param in NOT_TAKEN:
        status, _, answer = raw(site, "chat/completions" if usual is CHAT else "completions", usual | changed)
        assert status == 400, (changed, answer)
        error = json.loads(answer)["error"]
        assert (error["param"], error["type"]) == (param, "invalid_request_error"), (changed, error)
        assert param in error["message"], (changed, error)


# -- messages


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([("user", "to be")], "to be "),
        ([("user", [{"type": "text", "text": "to"}, {"type": "text", "text": "be"}])], "to be "),
        ([("system", "to be")], "system: to be assistant: "),
        ([("user", "to"), ("assistant", "be"), ("user", "or")], "user: to assistant: be user: or assistant: "),
        ([("developer", "to"), ("user", "be")], "developer: to user: be assistant: "),
    ],
)
def test_messages_are_one_prompt_and_a_single_one_is_that_prompt(client, messages, said):
    said_by = [{"role": role, "content": content} for role, content in messages]
    answer = client.chat.completions.create(model="stub", messages=said_by)
    assert answer.choices[0].message.content == said


def test_the_answer_can_be_sent_back_as_a_message(client, chat):
    before = chat("to be").choices[0].message
    after = {"role": "user", "content": "or", "name": "hamlet"}
    answer = client.chat.completions.create(model="stub", messages=[before, after])
    assert answer.choices[0].message.content == "assistant: to be user: or assistant: "


# -- stops


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_ends_the_reply_before_it_and_cancels_the_rest(site, chat, stream):
    answer = chat("say:one say:ST say:OP hang", stop=["never", "STOP"], stream=stream)
    if stream:
        chunks = [chunk.choices[0] for chunk in answer]
        assert "".join(chunk.delta.content or "" for chunk in chunks) == "one"
        assert chunks[-1].finish_reason == "stop"
    else:
        assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("one", "stop")
    until(lambda: site.metrics()["shm_prompts_in_flight"] == 0)


def test_what_only_begins_like_a_stop_is_text(chat, tmp_path):
    seen = tmp_path / "seen"
    assert chat("say:one say:ST", stop="STOP").choices[0].message.content == "oneST"
    chunks = chat(f"say:oneST await:{seen} say:AND", stop="STOP", stream=True)
    assert next(chunks).choices[0].delta.content == "one"  # "ST" may be a stop's beginning
    seen.touch()
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "STAND"


def test_text_that_was_held_back_comes_before_the_error(chat):
    chunks = chat("say:oneST fail:Broken", stop="STOP", stream=True)
    texts = []
    with pytest.raises(openai.APIError, match="it is Broken"):
        texts.extend(chunk.choices[0].delta.content for chunk in chunks)
    assert "".join(texts) == "oneST"


@pytest.mark.parametrize(
    ("text", "stops", "before"),
    [
        ("abcabd", ("abd",), "abc"),
        ("aaab", ("aab",), "a"),
        ("xabcdef", ("abcdef", "cd"), "xab"),  # "cd" is complete first
        ("xabcd", ("cd", "bcd"), "xa"),
        ("abab", ("abc", "b"), "a"),
        ("abcab", ("abd",), "abcab"),
        ("abc", (), "abc"),
        ("abc", ("abc",), ""),
    ],
)
def test_a_stop_is_found_in_whatever_pieces_the_text_comes(text, stops, before):
    for count in range(len(text)):
        for ends in itertools.combinations(range(1, len(text)), count):
            shown, held = "", ""
            for start, end in zip((0, *ends), (*ends, len(text)), strict=True):
                piece, held, over = cut(held + text[start:end], stops)
                shown += piece
                if over:
                    break
            assert shown + held == before, ends


# -- models


def test_models_are_listed_and_found(client):
    (model,) = client.models.list()
    assert (model.id, model.object, model.owned_by) == ("stub", "model", "shm-server")
    assert client.models.retrieve("stub") == model


@pytest.mark.parametrize("name", ["gpt-4o", "st/ub", "\ud800", ""])
def test_a_model_that_is_not_there_is_not_found(site, client, name):
    for path, usual in (("chat/completions", CHAT), ("completions", TEXT)):
        status, _, answer = raw(site, path, usual | {"model": name})
        error = json.loads(answer)["error"]
        assert (status, error["code"], error["param"]) == (404, "model_not_found", "model")
    if name.isascii() and name:
        with pytest.raises(openai.NotFoundError) as found:
            client.models.retrieve(name)
        assert (found.value.code, found.value.param) == ("model_not_found", "model")


# -- errors


@pytest.mark.parametrize(
    ("kind", "error"),
    [("InvalidRequest", openai.BadRequestError), ("RateLimited", openai.RateLimitError),
     ("Broken", openai.InternalServerError), ("Unavailable", openai.InternalServerError)],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_a_generators_error_is_the_clients_exception(chat, kind, error, stream):
    with pytest.raises(error, match=f"it is {kind}") as raised:
        chat(f"fail:{kind}", stream=stream)
    expected = {openai.RateLimitError: "rate_limit_error", openai.InternalServerError: "server_error"}
    assert raised.value.type == expected.get(error, "invalid_request_error")


def test_an_error_after_the_first_piece_ends_the_stream_without_done(site, chat):
    chunks = chat("one fail:Broken", stream=True)
    assert next(chunks).choices[0].delta.content == "one "
    with pytest.raises(openai.APIError, match="it is Broken"):
        next(chunks)
    body = {"model": "stub", "prompt": "one fail:Broken", "stream": True}
    *_, last, empty = raw(site, "completions", body)[2].split("\n\n")
    error = {"message": "it is Broken", "type": "server_error", "param": None, "code": None}
    assert (json.loads(last.removeprefix("data: ")), empty) == ({"error": error}, "")


def test_each_error_of_these_paths_has_openais_shape(site):
    for path, method, body, headers, status in (
        ("nowhere", "GET", b"", {}, 404),
        ("completions", "GET", b"", {}, 405),
        ("models", "POST", b"", JSON, 405),
        ("completions", "POST", b"{", JSON, 400),
        ("completions", "POST", b"[]", JSON, 400),
        ("completions", "POST", b"{}", {"Content-Type": "text/plain"}, 415),
        ("completions", "POST", b"x", JSON | {"Content-Encoding": "br"}, 415),
        ("completions", "POST", bytes((16 << 20) + 1), JSON, 413),
        ("completions", "POST", TEXT | {"prompt": ""}, JSON, 400),
        ("completions", "POST", TEXT | {"prompt": "\ud800"}, JSON, 400),
        ("completions", "POST", TEXT | {"prompt": "x" * 200_000}, JSON, 400),
        ("chat/completions", "POST", CHAT | {"messages": [{"role": "user", "content": ""}]}, JSON, 400),
    ):
        got, said, answer = raw(site, path, body, headers, method)
        assert got == status, (path, answer)
        assert said["Allow"] or got != 405
        error = json.loads(answer)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
        assert error["type"] == "invalid_request_error"


def test_errors_of_the_other_paths_keep_their_shape(site):
    for method, path, status in (("GET", "/prompt", 405), ("GET", "/v1", 404), ("GET", "/v1x/models", 404)):
        got, answer = site.ask(method, path)
        assert (got, type(answer["error"])) == (status, str)


@pytest.mark.parametrize("stream", [False, True])
def test_a_caller_who_hangs_up_cancels_the_prompt(site, stream):
    body = json.dumps({"model": "stub", "prompt": "one hang", "stream": stream}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    with socket.create_connection(("127.0.0.1", site.port), timeout=60) as caller:
        caller.sendall(head.encode() + b"\r\n\r\n" + body)
        until(lambda: site.metrics()["shm_prompts_in_flight"] == 1)
    until(lambda: site.metrics()["shm_prompts_in_flight"] == 0)


def test_a_key_is_not_looked_at(site):
    for headers in ({}, {"Authorization": "Bearer \xff"}, {"Authorization": "Basic"}):
        status, _, answer = raw(site, "completions", TEXT | {"prompt": "one"}, JSON | headers)
        assert (status, json.loads(answer)["choices"][0]["text"]) == (200, "one ")


# -- the page, and the bundled generator


def test_the_program_of_the_page_runs(site, capsys, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "openai.md").read_text(), re.DOTALL)
    exec(program.replace("127.0.0.1:20200", f"127.0.0.1:{site.port}"), {})
    assert capsys.readouterr().out == "stub\nTo be, or not to be \nEnter the King. "


def test_the_bundled_model_says_the_same_in_both_shapes(start):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = start("--engine", "none", "--generator", "tiny", "--prompt-priority", "normal", "--http", str(port))
    server.wait_for(f"listening on {server.socket}")
    with client_of(port) as client:
        (model,) = client.models.list()
        asked = {"model": model.id, "prompt": "To be, or not to be", "max_tokens": 12, "seed": 7}
        text = client.completions.create(**asked).choices[0].text
        assert text
        assert "".join(chunk.choices[0].text for chunk in client.completions.create(**asked, stream=True)) == text
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    plain = {"prompt": asked["prompt"], "sampling_steps": 12, "seed": 7}
    connection.request("POST", "/prompt", json.dumps(plain), JSON)
    assert json.loads(connection.getresponse().read()) == {"response": text}
    server.stop()
