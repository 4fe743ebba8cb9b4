"""The OpenAI-compatible engine: against an endpoint that misbehaves in every way, and a real one."""

import asyncio
import socket
import subprocess
import sys
import threading
from contextlib import closing

import pytest
import stub_endpoint
from conftest import until
from stub_endpoint import END, event

pytest.importorskip("openai")

from shm_server.generators import (
    Broken,
    GeneratorError,
    InvalidRequest,
    ModelError,
    Sampling,
    TimedOut,
    Unavailable,
    generate,
    load_generator,
)
from shm_server.generators.openai import is_local
from shm_server.generators.turns import Turns

# What the endpoint sends after "200 OK", by the name of the model; it then closes the connection.
REPLIES = {
    "good": [event("To "), event("be"), END],
    "cut": [event("To "), event("be", "length"), b"data: [DONE]\n\n"],
    "silent": [END],
    "usage": [b'data: {"choices": [], "usage": {"total_tokens": 3}}\n\n', event("To be"), END],
    "keeps-alive": [b": thinking\n\n", event("To be"), END],
    "two-halves": [
        rb'data: {"choices": [{"delta": {"content": "a\ud83d"}}]}' + b"\n\n",
        rb'data: {"choices": [{"delta": {"content": "\ude00b"}}]}' + b"\n\n",
        END,
    ],
    "one-half": [
        rb'data: {"choices": [{"delta": {"content": "a\ud83d"}}]}' + b"\n\n",
        rb'data: {"choices": [{"delta": {"content": "b"}}]}' + b"\n\n",
        END,
    ],
    "ends-early": [event("To "), event("be")],
    "not-json": [event("To "), b"data: {oops\n\n", END],
    "a-list": [event("To "), b"data: [1, 2]\n\n", END],
    "a-number": [event("To "), b"data: 5\n\n", END],
    "no-delta": [event("To "), b'data: {"choices": [{}]}\n\n', END],
    "odd-delta": [event("To "), b'data: {"choices": [{"delta": {"content": 5}}]}\n\n', END],
    "error-inside": [event("To "), b'data: {"error": {"message": "out of memory"}}\n\n'],
    "not-utf-8": [event("To "), b'data: {"choices": [{"delta": {"content": "\xff"}}]}\n\n', END],
    "a-page": [b"<html><body>It works!</body></html>"],
    "nothing": [],
}


@pytest.fixture
def endpoint():
    server = stub_endpoint.Endpoint()
    server.answers = {model: stub_endpoint.reply(*parts) for model, parts in REPLIES.items()}
    server.answers |= {
        "hangs": lambda handler: handler.server.done.wait(),
        "hangs-up": lambda handler: None,
        "stalls": stub_endpoint.stalls,
        "breaks-off": stub_endpoint.breaks_off,
        "endless": stub_endpoint.endless,
        "keeps-connection": stub_endpoint.keeps_connection,
    }
    yield server
    server.close()


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # nobody is there: local endpoints take no proxy


def load(endpoint, model, timeout=60.0):
    return load_generator("openai", base_url=endpoint.url, model=model, timeout=timeout)


def pieces_and_error(generator):
    """What came of a prompt before it failed, and how it failed."""
    pieces = []
    with pytest.raises(GeneratorError) as failure:
        pieces.extend(generate(generator, "hello"))
    assert "\n" not in str(failure.value)
    assert generator.name in str(failure.value)
    return pieces, failure.value


@pytest.mark.parametrize("model", ["good", "usage", "keeps-alive"])
def test_a_reply_comes_in_the_pieces_that_the_endpoint_sends(endpoint, model):
    assert "".join(generate(load(endpoint, model), "hello")) == "To be"


def test_a_generation_says_why_it_ended(endpoint):
    for model, reason in (("good", "stop"), ("cut", "length"), ("silent", "stop")):
        generation = load(endpoint, model).start("hello", Sampling())
        while generation.step() is not None:
            pass
        assert generation.finished == reason
        assert generation.tokens == (0 if model == "silent" else 2)
        assert generation.step() is None


def test_half_a_character_is_held_back_until_the_rest_comes(endpoint):
    assert list(generate(load(endpoint, "two-halves"), "hello")) == ["a", "😀b"]
    assert list(generate(load(endpoint, "one-half"), "hello")) == ["a", "\ufffdb"]


@pytest.mark.parametrize(
    "model",
    [
        "ends-early",
        "breaks-off",
        "not-json",
        "a-list",
        "a-number",
        "no-delta",
        "odd-delta",
        "error-inside",
        "not-utf-8",
    ],
)
def test_a_reply_that_breaks_off_is_broken_and_what_came_before_stands(endpoint, model):
    pieces, error = pieces_and_error(load(endpoint, model))
    assert type(error) is Broken
    assert pieces[0] == "To "


@pytest.mark.parametrize("model", ["a-page", "nothing"])
def test_what_is_no_reply_at_all_hints_at_the_path(endpoint, model):
    pieces, error = pieces_and_error(load(endpoint, model))
    assert type(error) is Broken
    assert "/v1" in str(error)
    assert pieces == []


def test_an_endpoint_that_hangs_up_is_unavailable(endpoint):
    assert type(pieces_and_error(load(endpoint, "hangs-up"))[1]) is Unavailable


def test_an_endpoint_that_is_down_is_unavailable():
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        assert type(pieces_and_error(load_generator("openai", base_url=url, model="m"))[1]) is Unavailable


def test_something_else_than_http_is_unavailable():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"220 mail.example ESMTP\r\n")

        threading.Thread(target=answer, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        assert type(pieces_and_error(load_generator("openai", base_url=url, model="m"))[1]) is Unavailable


def test_an_endpoint_that_does_not_begin_times_out(endpoint):
    pieces, error = pieces_and_error(load(endpoint, "hangs", timeout=0.3))
    assert (type(error), pieces) == (TimedOut, [])
    assert "0.3 seconds" in str(error)


def test_an_endpoint_that_does_not_go_on_times_out_and_what_came_before_stands(endpoint):
    endpoint.answers["stalls"] = stalls_once_told = stub_endpoint.StallsOnceTold()
    generator = load(endpoint, "stalls")
    generation = generator.start("hello", Sampling())
    assert generation.step() == "To "
    generator.timeout = 0.3
    stalls_once_told.go_on.set()
    assert generation.step() == "be "
    with pytest.raises(TimedOut, match=r"0\.3 seconds"):
        generation.step()


def test_only_text_breaks_the_silence(endpoint):
    def answer(handler):
        handler.head()
        while not handler.server.done.wait(0.005):
            handler.say(b": still here\n\n" + event("") + b'data: {"choices": []}\n\n')

    endpoint.answers["says-nothing"] = answer
    assert type(pieces_and_error(load(endpoint, "says-nothing", timeout=0.3))[1]) is TimedOut


def test_the_request_carries_the_callers_parameters(endpoint, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    sampling = Sampling(steps=7, temperature=0.5, top_k=40, seed=2**63 + 5)
    list(generate(load(endpoint, "good"), "hello", sampling))
    (_, path, headers, body) = endpoint.requests[0]
    assert path == "/v1/chat/completions"
    assert {name.lower(): value for name, value in headers.items()}["authorization"] == "Bearer sk-secret"
    assert body == {
        "model": "good",
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 7,
        "temperature": 0.5,
        "top_k": 40,
        "seed": 5,
        "stream": True,
    }


def test_what_the_caller_leaves_open_is_left_to_the_endpoint(endpoint):
    list(generate(load(endpoint, "good"), "hello"))
    assert set(endpoint.requests[0][3]) == {"model", "messages", "max_tokens", "stream"}


def test_a_bad_prompt_is_refused_before_anything_is_sent(endpoint):
    generator = load(endpoint, "good")
    for prompt in ("", "\ud83d", 5):
        with pytest.raises(InvalidRequest):
            generate(generator, prompt)
    assert endpoint.requests == []


def test_closing_ends_a_reply_at_once_and_the_endpoint_notices(endpoint):
    pieces = generate(load(endpoint, "endless"), "hello")
    assert next(pieces) == "To "
    pieces.close()
    assert endpoint.gone.wait(60)


@pytest.mark.parametrize("model", ["stalls", "hangs"])
def test_closing_from_another_thread_frees_the_one_that_waits(endpoint, model):
    generation = load(endpoint, model, timeout=30).start("hello", Sampling())
    if model == "stalls":
        assert generation.step() == "To "
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(generation.step()))
    waiting.start()
    assert endpoint.asked.wait(60)
    generation.close()
    waiting.join(60)
    assert answers == [None]
    assert generation.step() is None


def test_turns_hand_out_the_replies_of_several_endpoints_threads(endpoint):
    woken = threading.Event()
    turns = Turns(load(endpoint, "good"), places=2, wake=woken.set)
    jobs = [turns.add("hello", Sampling()) for _ in range(5)]
    assert (turns.in_flight, turns.waiting) == (2, 3)
    told = {job: [] for job in jobs}
    while not turns.idle:
        assert woken.wait(60)
        woken.clear()
        for job, piece in turns.round():
            told[job].append(piece)
    assert told == {job: ["To ", "be", None] for job in jobs}
    assert all(job.error is None for job in jobs)


def test_turns_tell_each_job_its_own_error(endpoint):
    woken = threading.Event()
    turns = Turns(load(endpoint, "ends-early"), wake=woken.set)
    job = turns.add("hello", Sampling())
    told = []
    while not turns.idle:
        assert woken.wait(60)
        woken.clear()
        told.extend(piece for _, piece in turns.round())
    assert told == ["To ", "be", None]
    assert type(job.error) is Broken


def test_turns_forget_what_a_cancelled_job_has_received_already(endpoint):
    woken = threading.Event()
    turns = Turns(load(endpoint, "stalls"), wake=woken.set)
    job = turns.add("hello", Sampling())
    assert woken.wait(60)
    turns.cancel(job)
    assert list(turns.round()) == []


def test_turns_forget_a_cancelled_job_though_its_endpoint_talks_on(endpoint):
    woken = threading.Event()
    turns = Turns(load(endpoint, "endless"), places=1, wake=woken.set)
    job = turns.add("hello", Sampling())
    assert woken.wait(60)
    assert list(turns.round())
    turns.cancel(job)
    assert turns.idle
    assert list(turns.round()) == []
    assert endpoint.gone.wait(60)


def test_prompts_cancelled_before_the_endpoint_answers_leave_nothing_behind(endpoint):
    generator = load(endpoint, "hangs", timeout=30)
    turns = Turns(generator, places=2)
    for count in range(20):
        job = turns.add("hello", Sampling())
        if count % 2:
            assert endpoint.asked.wait(60)
            endpoint.asked.clear()
        turns.cancel(job)
    assert turns.idle
    until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("prompt-")], 60)
    until(lambda: not asyncio.all_tasks(generator.loop), 60)


def test_a_finished_reply_leaves_its_connection_to_the_next_prompt(endpoint):
    generator = load(endpoint, "keeps-connection")
    for _ in range(3):
        assert "".join(generate(generator, "hello")) == "To be"
        until(lambda: not asyncio.all_tasks(generator.loop), 60)  # the response's end comes after the text's
    assert len({port for port, *_ in endpoint.requests}) == 1


def test_a_process_that_ends_in_mid_stream_says_nothing(endpoint):
    program = f"""
from shm_server.generators import generate, load_generator
pieces = generate(load_generator("openai", base_url="{endpoint.url}", model="endless"), "a")
print(next(pieces))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout, run.stderr) == (0, "To \n", "")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"base_url": "http://127.0.0.1:1/v1"},
        {"base_url": "127.0.0.1:1", "model": "m"},
        {"base_url": "ftp://127.0.0.1/", "model": "m"},
        {"base_url": "http://127.0.0.1:port/v1", "model": "m"},
        {"base_url": "http://127.0.0.1/v1", "model": "m", "timeout": 0},
        {"base_url": "https://api.example.com/v1", "model": "m"},
        {"model": "m"},
    ],
)
def test_an_endpoint_that_can_not_be_asked_is_told_in_one_line_when_loading(options):
    with pytest.raises(ModelError) as failure:
        load_generator("openai", **options)
    assert "\n" not in str(failure.value)


def test_local_endpoints_need_no_key():
    for host in ("127.0.0.1", "::1", "localhost", "ollama", "192.168.1.5", "gpu.local", "api.localhost"):
        assert is_local(host), host
    for host in ("api.openai.com", "8.8.8.8", "localhost.example.com"):
        assert not is_local(host), host


def test_a_real_model_answers_in_pieces(smollm2):
    generator = load_generator("openai", base_url=f"{smollm2}/v1", model="smollm2")
    question = "What is the capital of France? Answer in one sentence."
    pieces = list(generate(generator, question, Sampling(steps=32, temperature=0)))
    assert "Paris" in "".join(pieces)
    assert len(pieces) > 3


def test_a_real_model_stops_at_the_steps_and_repeats_itself_by_seed(smollm2):
    generator = load_generator("openai", base_url=f"{smollm2}/v1", model="smollm2")
    sampling = Sampling(steps=12, temperature=1.0, top_k=50, seed=7)

    def reply(sampling):
        generation = generator.start("Tell me a story.", sampling)
        pieces = []
        while (piece := generation.step()) is not None:
            pieces.append(piece)
        return "".join(pieces), generation.finished

    text, finished = reply(sampling)
    assert finished == "length"
    assert reply(sampling) == (text, finished)
    assert reply(Sampling(steps=12, temperature=1.0, top_k=50, seed=8))[0] != text


def test_a_real_server_lives_on_after_cancels_at_every_token(smollm2):
    generator = load_generator("openai", base_url=f"{smollm2}/v1", model="smollm2")
    for count in range(6):
        pieces = generate(generator, "Count to twenty.", Sampling(steps=64, temperature=0))
        for _ in range(count):
            next(pieces)
        pieces.close()
    assert "".join(generate(generator, "Count to three.", Sampling(steps=4, temperature=0)))


def test_a_prompt_longer_than_a_real_models_context_is_an_invalid_request(smollm2):
    generator = load_generator("openai", base_url=f"{smollm2}/v1", model="smollm2")
    with pytest.raises(InvalidRequest, match="context"):
        list(generate(generator, "long " * 2000))
