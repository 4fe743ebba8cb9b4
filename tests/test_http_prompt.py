"""POST /prompt: a generator that does as it is told, in a process of its own behind the gateway."""

import http.client
import json
import os
import re
import signal
import socket
import sys
import threading
from urllib.request import urlopen

import pytest
from conftest import ROOT, workers

STUB = ROOT / "tests" / "stub_generators.py"
JSON = {"Content-Type": "application/json"}


class Web:
    def __init__(self, server) -> None:
        self.server = server
        self.port = int(re.search(r"listening on http://127\.0\.0\.1:(\d+)", server.log)[1])

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def prompt(self, text: object, **fields) -> http.client.HTTPResponse:
        connection = self.connect()
        connection.request("POST", "/prompt", json.dumps({"prompt": text} | fields), JSON)
        response = connection.getresponse()
        response.connection = connection  # closing it hangs up
        return response

    def __call__(self, text: object, **fields) -> tuple[int, dict]:
        response = self.prompt(text, **fields)
        return response.status, json.loads(response.read())


@pytest.fixture(params=["computing", "waiting"])
def web(start, tmp_path, request):
    server = start(command=[sys.executable, str(STUB), str(tmp_path / "sock"), request.param, "0"])
    return Web(server)


def test_a_prompt_is_answered(web):
    assert web("to be say:€") == (200, {"response": "to be €"})
    assert web("params") == (200, {"response": "128 None None None"})
    assert web("params", sampling_steps=3, temperature=0.5, top_k=7, seed=9) == (200, {"response": "3 0.5 7 9"})


def test_the_streaming_form_is_a_line_for_each_piece_as_it_comes(web, tmp_path):
    seen = tmp_path / "seen"
    response = web.prompt(f"one await:{seen} two", stream=True)
    assert response.headers["Content-Type"] == "application/x-ndjson"
    assert json.loads(response.readline()) == {"response": "one "}
    seen.touch()  # "two" is generated only now
    assert [json.loads(line) for line in response.read().splitlines()] == [{"response": "two "}, {"done": True}]


def test_an_empty_reply_streams_its_end(web):
    response = web.prompt("say:", stream=True)
    assert json.loads(response.read()) == {"done": True}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"text": ""}, "the prompt is empty"),
        ({"text": 7}, '"prompt" of type str'),
        ({"text": None}, '"prompt" of type str'),
        ({"text": "\ud800"}, "half a surrogate pair"),
        ({"sampling_steps": 0}, "sampling_steps is 0"),
        ({"sampling_steps": -1}, "sampling_steps is -1"),
        ({"sampling_steps": "many"}, "sampling_steps is 'many'"),
        ({"sampling_steps": True}, "sampling_steps is True"),
        ({"temperature": -1}, "temperature is -1"),
        ({"temperature": float("nan")}, "NaN is no JSON"),
        ({"top_k": 2.5}, "top_k is 2.5"),
        ({"seed": -1}, "seed is -1"),
        ({"stream": "yes"}, '"stream" of type bool'),
        ({"text": "x" * 200_000}, "a prompt of 200000 bytes"),
    ],
)
def test_what_cannot_be_asked_is_a_bad_request(web, fields, said):
    status, answer = web(**({"text": "x"} | fields))
    assert status == 400
    assert said in answer["error"]
    assert web("on") == (200, {"response": "on "})


@pytest.mark.parametrize(
    ("kind", "status"),
    [("InvalidRequest", 400), ("RateLimited", 429), ("Unauthorized", 502), ("Broken", 502), ("Unavailable", 503),
     ("TimedOut", 504)],
)  # fmt: skip
def test_each_of_a_generators_errors_has_its_status(web, kind, status):
    assert web(f"text fail:{kind}") == (status, {"error": f"it is {kind}"})
    assert web.prompt(f"fail:{kind}", stream=True).status == status
    lines = web.prompt(f"text fail:{kind}", stream=True).read().splitlines()
    assert [json.loads(line) for line in lines] == [{"response": "text "}, {"error": f"it is {kind}"}]


def test_a_bug_is_an_internal_error(web):
    status, answer = web("bug")
    assert status == 500
    assert answer["error"].startswith("the model failed: ZeroDivisionError")


def test_a_client_that_hangs_up_ends_its_prompt(web):
    for _ in range(3):
        response = web.prompt("repeat sleep:1", sampling_steps=10_000_000, stream=True)
        response.readline()
        response.close()
        response.connection.close()
    assert web("on") == (200, {"response": "on "})


def test_text_that_nobody_reads_yet_keeps_nobody_from_theirs(web):
    slow = web.prompt("repeat:" + "€" * 50, sampling_steps=1700, stream=True)
    assert web("on") == (200, {"response": "on "})
    text = "".join(json.loads(line).get("response", "") for line in slow.read().splitlines())
    assert text == "€" * 50 * 1700


def test_prompts_over_http_take_turns(web):
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(web("repeat", sampling_steps=50))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [(200, {"response": "." * 50})] * 20


def test_without_the_generators_process_prompts_are_unavailable_until_it_is_back(web):
    status, answer = web("die")
    assert status == 503
    assert answer["error"].startswith("shm-server is gone")
    web.server.wait_for("the generator's process is back")
    assert web("on") == (200, {"response": "on "})


def test_stopping_answers_what_is_in_flight(web):
    response = web.prompt("begun sleep:0.2 ended", stream=True)
    response.readline()
    web.server.process.send_signal(signal.SIGTERM)
    assert [json.loads(line) for line in response.read().splitlines()] == [{"response": "ended "}, {"done": True}]
    web.server.ended()


def test_metrics_are_of_both_processes(start, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = start(command=[sys.executable, str(STUB), str(tmp_path / "sock"), "waiting", "0", str(port)])
    web = Web(server)
    web("one")
    hanging = web.prompt("some hang", stream=True)
    page = urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    assert "shm_prompts_in_flight 1.0" in page
    assert "shm_prompts_waiting 0.0" in page
    hanging.close()
    hanging.connection.close()
    (generator,) = workers(server.pid)
    os.kill(generator, signal.SIGKILL)
    server.wait_for("is started again")
    assert "shm_prompts_in_flight 0.0" in urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
