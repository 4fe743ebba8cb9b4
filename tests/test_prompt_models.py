"""Real models behind the prompt lane: the bundled one, from Go, over HTTP and in process; an endpoint that is down."""

import json
import socket
import subprocess
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from shm_server.generators import Sampling, generate, load_generator

PROMPT = "KING HENRY. Now, by my sword,"
STEPS = 40


@pytest.fixture(scope="module")
def expected(compiled) -> str:
    return "".join(generate(load_generator("tiny"), PROMPT, Sampling(steps=STEPS, seed=7)))


def ask(shm_client, server, *words: str, **flags: object) -> subprocess.CompletedProcess:
    named = [f"--{name}={value}" for name, value in flags.items()]
    command = [shm_client, "prompt", "--socket", server.socket, *named, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_bundled_model_says_the_same_everywhere(start, shm_client, expected):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = start("--engine", "none", "--generator", "tiny", "--prompt-priority", "normal", "--http", str(port))
    done = ask(shm_client, server, PROMPT, steps=STEPS, seed=7)
    assert (done.returncode, done.stdout) == (0, expected + "\n")
    body = json.dumps({"prompt": PROMPT, "sampling_steps": STEPS, "seed": 7}).encode()
    request = Request(f"http://127.0.0.1:{port}/prompt", body, {"Content-Type": "application/json"})
    with urlopen(request) as answer:
        assert json.load(answer) == {"response": expected}
    # one that cannot be served fails, and the next is served
    done = ask(shm_client, server, PROMPT, steps=1_000_000)
    assert done.returncode == 1
    assert "cannot be answered as asked" in done.stderr
    done = ask(shm_client, server, "word " * 3000, steps=1)
    assert done.returncode == 1
    assert "cannot be answered as asked" in done.stderr
    assert ask(shm_client, server, PROMPT, steps=STEPS, seed=7).stdout == expected + "\n"
    server.stop()


def test_an_endpoint_that_is_not_there_is_a_typed_error(start, shm_client):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with socket.create_server(("127.0.0.1", 0)) as free:
        web = free.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}/v1"
    flags = ["--generator", "openai", "--base-url", endpoint, "--generator-model", "any", "--http", str(web)]
    server = start("--engine", "none", "--prompt-priority", "normal", *flags)
    done = ask(shm_client, server, "hello")
    assert done.returncode == 1
    assert "the model's endpoint does not answer" in done.stderr
    request = Request(f"http://127.0.0.1:{web}/prompt", b'{"prompt": "hello"}', {"Content-Type": "application/json"})
    with pytest.raises(HTTPError) as caught:
        urlopen(request)
    assert caught.value.code == 503
    assert str(port) in json.load(caught.value)["error"]
    server.stop()


def test_a_real_endpoints_model_answers_from_go_and_over_http(start, shm_client, smollm2):
    with socket.create_server(("127.0.0.1", 0)) as free:
        web = free.getsockname()[1]
    flags = ["--generator", "openai", "--base-url", f"{smollm2}/v1", "--generator-model", "smollm2", "--http", str(web)]
    server = start("--engine", "none", "--prompt-priority", "normal", *flags)
    question = "What is the capital of France? Answer in one sentence."
    done = ask(shm_client, server, question, steps=32, temperature=0)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Paris" in done.stdout
    body = json.dumps({"prompt": question, "sampling_steps": 32, "temperature": 0, "stream": True}).encode()
    request = Request(f"http://127.0.0.1:{web}/prompt", body, {"Content-Type": "application/json"})
    with urlopen(request) as answer:
        lines = [json.loads(line) for line in answer]
    assert lines[-1] == {"done": True}
    assert "".join(line["response"] for line in lines[:-1]) == done.stdout.removesuffix("\n")
    server.stop()
