"""What calls itself OpenAI-compatible: no text is lost, and what goes wrong is said in our own words."""

import json
import logging

import pytest
import stub_endpoint
from stub_endpoint import DONE, END, data, event, refuse, reply

pytest.importorskip("openai")

from shm_server.generators import (
    Broken,
    GeneratorError,
    InvalidRequest,
    RateLimited,
    Sampling,
    TimedOut,
    Unauthorized,
    Unavailable,
    load_generator,
)

MODEL = "gemma"
WHOLE = {"choices": [{"message": {"role": "assistant", "content": "To be"}, "finish_reason": "stop"}]}
USAGE = {"choices": [], "usage": {"completion_tokens": 2}}


@pytest.fixture(scope="module")
def endpoint():
    server = stub_endpoint.Endpoint()
    yield server
    server.close()


@pytest.fixture(scope="module")
def generator(endpoint):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "sk-secret")
        return load_generator("openai", base_url=endpoint.url, model=MODEL)


@pytest.fixture
def ask(endpoint, generator):
    """ask(answer, **sampling) is what came of a prompt: its text, why it ended, and its error."""
    endpoint.requests.clear()

    def _ask(answer, generator=generator, **sampling):
        endpoint.answers[MODEL] = answer
        generation = generator.start("hello", Sampling(**sampling))
        text, failure = "", None
        try:
            while (piece := generation.step()) is not None:
                text += piece
        except GeneratorError as error:
            failure = error
        if failure:
            said = str(failure)
            assert said.startswith(f"{generator.name}: ")
            assert said.isprintable()
            assert "sk-secret" not in said
            assert failure.__cause__ is failure.__context__ is None
        return text, generation.finished, failure

    return _ask


def last(**choice):
    """A last event whose choice has what is given and nothing else."""
    return data({"choices": [{"index": 0, **choice}]})


def without_its_last_blank_line(part):
    return part.removesuffix(b"\n\n")


def in_pieces_of_a_byte(handler):
    handler.head(transfer_encoding="chunked")
    for byte in event("To ").replace(b"\n", b"\r\n") + event("be") + END:
        handler.chunk(bytes([byte]))
    handler.chunk(b"")


DIALECTS = {
    "a last event without a delta": reply(event("To be"), last(finish_reason="stop"), DONE),
    "a last event whose delta is null": reply(event("To be"), last(delta=None, finish_reason="stop"), DONE),
    "a last event whose delta is empty": reply(event("To be"), last(delta={}, finish_reason="stop"), DONE),
    "a last event with an empty message": reply(event("To be"), last(message=None, finish_reason="stop"), DONE),
    "a last event with nothing but its index": reply(event("To be"), last(), DONE),
    "a last event with all of the text": reply(
        event("To "), event("be"), last(message={"content": "To be"}, finish_reason="stop"), DONE
    ),
    "a last event with the rest of the text": reply(
        event("To "), last(message={"content": "be"}, finish_reason="stop"), DONE
    ),
    "a last event with text and end": reply(event("To "), event("be", "stop"), DONE),
    "usage after the end": reply(event("To be", "stop"), data(USAGE), DONE),
    "usage before anything": reply(data(USAGE), event("To be"), END),
    "a filter's opinion at first": reply(data({"choices": [], "prompt_filter_results": []}), event("To be"), END),
    "a role at first": reply(event(None, role="assistant"), event("To be"), END),
    "no reason, but a DONE": reply(event("To be"), DONE),
    "a reason, but no DONE": reply(event("To be"), event(reason="stop")),
    "no blank line at the end": reply(event("To "), without_its_last_blank_line(event("be", "stop"))),
    "no line's end at the end": reply(event("To be"), without_its_last_blank_line(DONE)),
    "carriage returns": reply((event("To ") + event("be") + END).replace(b"\n", b"\r\n")),
    "only carriage returns": reply((event("To ") + event("be") + END).replace(b"\n", b"\r")),
    "comments and names": reply(b": ok\n\n", b"event: message\nid: 1\nretry: 5\n", event("To be"), b":\n\n", END),
    "a byte order mark": reply(b"\xef\xbb\xbf", event("To be"), END),
    "no space after the colon": reply((event("To be") + END).replace(b"data: ", b"data:")),
    "an event of several lines": reply(
        b'data: {"choices":\ndata:  [{"delta": {"content": "To be"},\ndata: "finish_reason": "stop"}]}\n\n'
    ),
    "in pieces of a byte": in_pieces_of_a_byte,
    "compressed": reply(event("To be"), END, encoding="gzip"),
    "of another type": reply(event("To be"), END, kind="application/json"),
    "messages instead of deltas": reply(
        last(message={"content": "To "}), last(message={"content": "be"}, finish_reason="stop")
    ),
    "completions without a chat": reply(last(text="To "), last(text="be"), last(text="", finish_reason="stop"), DONE),
    "content in parts": reply(
        last(delta={"content": [{"type": "thinking", "thinking": []}, {"type": "text", "text": "To "}, "be"]}), END
    ),
    "a refusal in the model's own words": reply(event(None, refusal="To be"), END),
    "reasoning and text": reply(event(None, reasoning_content="hm"), event("To be", reasoning=None), END),
    "not streamed": reply(json.dumps(WHOLE).encode(), kind="application/json"),
    "not streamed, printed nicely": reply(b"\n" + json.dumps(WHOLE, indent=2).encode(), kind="application/json"),
    "not streamed, without an end": reply(b'{"choices": [{"message": {"content": "To be"}}]}'),
}


@pytest.mark.parametrize("name", DIALECTS)
def test_no_text_is_lost_in_any_dialect(ask, name):
    assert ask(DIALECTS[name]) == ("To be", "stop", None)


@pytest.mark.parametrize("reason", ["length", "max_tokens", "MAX_TOKENS", "model_length"])
def test_a_reply_that_used_its_steps_says_so(ask, reason):
    assert ask(reply(event("To be", reason))) == ("To be", "length", None)


@pytest.mark.parametrize("reason", ["stop", "eos", "end_turn", "something new", 7])
def test_every_other_reason_is_an_end_of_the_models_own(ask, reason):
    assert ask(reply(event("To be", reason))) == ("To be", "stop", None)


@pytest.mark.parametrize(
    ("reason", "words"),
    [("content_filter", "filter"), ("tool_calls", "tool"), ("function_call", "tool"), ("error", "failed")],
)
def test_a_reply_that_was_cut_off_is_not_taken_for_a_whole_one(ask, reason, words):
    text, _, error = ask(reply(event("To be", reason), DONE))
    assert text == "To be"
    assert type(error) is Broken
    assert words in str(error)


def deep(depth):
    return data(b'{"choices": ' + b"[" * depth)


NONSENSE = {
    "too deep": deep(100_000),
    "a number of ten thousand digits": data(b'{"choices": ' + b"9" * 10_000 + b"}"),
    "choices that are no list": data({"choices": {"0": 1}}),
    "a choice that is no object": data({"choices": ["To be"]}),
    "a delta that is no object": last(delta=["To be"]),
    "a content that is an object": last(delta={"content": {"text": "To be"}}),
    "bytes that are no UTF-8": data(b'{"choices": [{"delta": {"content": "\xff"}}]}'),
    "an event without end": b"data: " + b"x" * (3 << 20),
    "an event of endless lines": b"data:\n" * (1 << 18),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_an_event_that_makes_no_sense_ends_its_reply_and_nothing_else(ask, name):
    text, _, error = ask(reply(event("To "), NONSENSE[name], END))
    assert text == "To "
    assert type(error) is Broken
    assert ask(reply(event("To be"), END))[0] == "To be"


@pytest.mark.parametrize("part", [event("." * 1000), event(None, reasoning_content="." * 1000)])
def test_an_endpoint_that_ignores_the_limit_is_left_before_it_fills_the_memory(ask, part):
    def answer(handler):
        handler.head()
        try:
            while True:
                handler.say(part)
        except OSError:
            handler.server.gone.set()

    text, _, error = ask(answer, steps=7)
    assert type(error) is Broken
    assert "7 sampling_steps" in str(error)
    assert len(text) < 100_000


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content", "thinking"])
def test_a_reply_that_is_all_reasoning_says_why_it_is_empty(ask, name):
    thought = event(None, **{name: "Let me see."})
    _, _, error = ask(reply(thought, event("", "length"), DONE), steps=12)
    assert type(error) is InvalidRequest
    assert "all 12 sampling_steps for its reasoning" in str(error)
    _, _, error = ask(reply(thought, END))
    assert type(error) is Broken
    assert "reasoning" in str(error)


def test_reasoning_that_is_not_shown_is_counted(ask):
    usage = {"completion_tokens_details": {"reasoning_tokens": 12}}
    cut = data({"choices": [{"delta": {}, "finish_reason": "length"}], "usage": usage})
    assert "all 12 sampling_steps for its reasoning" in str(ask(reply(cut, DONE), steps=12)[2])
    assert "within 12 sampling_steps" in str(ask(reply(last(delta={}, finish_reason="length")), steps=12)[2])


# -- refusals


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (400, InvalidRequest, ""),
        (401, Unauthorized, "key"),
        (402, Unavailable, "credit"),
        (403, Unauthorized, "key"),
        (404, Unavailable, "/v1"),
        (405, Unavailable, "/v1"),
        (408, TimedOut, ""),
        (413, InvalidRequest, "too long"),
        (418, Unavailable, ""),
        (422, InvalidRequest, ""),
        (429, RateLimited, "patience"),
        (500, Unavailable, ""),
        (503, Unavailable, ""),
    ],
)
@pytest.mark.parametrize("body", [{"error": {"message": "no, sk-secret"}}, b"sk-secret", b"\xff", b""], ids=repr)
def test_a_refusal_is_an_error_of_its_own_kind_and_is_not_retried(ask, endpoint, status, kind, words, body):
    _, _, error = ask(refuse(status, body))
    assert type(error) is kind
    assert f"(HTTP {status})" in str(error)
    assert words in str(error)
    assert len(endpoint.requests) == 1


def openai_says(message="", **more):
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None, **more}}


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (400, openai_says(code="context_length_exceeded"), InvalidRequest, "context"),
        (400, {"object": "error", "message": "maximum context length is 4096", "code": 400}, InvalidRequest, "context"),
        (500, openai_says(code="context_length_exceeded"), InvalidRequest, "context"),
        (400, openai_says("The model `gemma` does not exist"), Unavailable, "/v1"),
        (400, [{"error": {"code": 400, "message": "API key not valid."}}], Unauthorized, "key"),
        (429, openai_says(code="insufficient_quota"), RateLimited, "quota"),
        (400, openai_says(code="content_filter"), InvalidRequest, "filter"),
    ],
)
def test_what_is_known_of_a_refusal_is_said(ask, status, body, kind, words):
    _, _, error = ask(refuse(status, body))
    assert type(error) is kind
    assert words in str(error)


@pytest.mark.parametrize(
    ("sampling", "body", "words"),
    [
        ({"temperature": 0.5}, openai_says(param="temperature", code="unsupported_value"), "temperature 0.5"),
        ({"top_k": 40}, openai_says("Unrecognized request argument supplied: top_k"), "top_k 40"),
        (
            {"seed": 7},
            {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]},
            "seed 7",
        ),
        ({"steps": 9}, openai_says("max_tokens is too large: 9"), "sampling_steps 9"),
        (
            {"steps": 9},
            openai_says("'max_tokens' or 'max_completion_tokens' is too large: 9"),
            "sampling_steps 9",
        ),
    ],
)
def test_an_option_that_is_refused_is_named_as_its_caller_knows_it(ask, endpoint, sampling, body, words):
    _, _, error = ask(refuse(422, body), **sampling)
    assert type(error) is InvalidRequest
    assert f"it does not take {words} (HTTP 422)" in str(error)
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(("after", "words"), [("7", "again in 7 seconds"), ("sk-secret", "(HTTP 429)"), ("-1", "429)")])
def test_how_long_to_wait_is_passed_on_where_it_is_a_number(ask, after, words):
    assert str(ask(refuse(429, retry_after=after))[2]).endswith(words)


def test_a_redirect_is_not_followed(ask, endpoint):
    _, _, error = ask(refuse(307, location=f"{endpoint.url}/elsewhere?key=sk-secret"))
    assert type(error) is Unavailable
    assert "redirects" in str(error)
    assert len(endpoint.requests) == 1


def test_a_refusal_without_end_is_read_to_a_limit(ask):
    def answer(handler):
        handler.head(500)
        try:
            while True:
                handler.say(b"x" * 65536)
        except OSError:
            handler.server.gone.set()

    assert type(ask(answer)[2]) is Unavailable


def test_a_refusal_whose_body_does_not_come_is_known_by_its_status(ask):
    def answer(handler):
        handler.head(401, content_length=100)
        handler.server.done.wait()

    assert type(ask(answer)[2]) is Unauthorized


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ({"error": {"message": "\ud800 sk-secret"}}, Broken),
        ({"error": "sk-secret"}, Broken),
        ({"object": "error", "message": "sk-secret", "code": 503}, Unavailable),
        ({"error": {"message": "slow down", "code": 429}}, RateLimited),
        ({"error": {"message": "too long", "code": "context_length_exceeded"}}, InvalidRequest),
    ],
)
def test_an_error_in_the_place_of_a_reply_is_one(ask, said, kind):
    assert type(ask(reply(data(said)))[2]) is kind
    assert type(ask(reply(json.dumps(said).encode(), kind="application/json"))[2]) is kind
    text, _, error = ask(reply(event("To "), data(said)))
    assert (text, type(error)) == ("To ", Broken)


# -- max_completion_tokens

WANTS_THE_NEW_NAME = [
    openai_says("Unsupported parameter", code="unsupported_parameter", param="max_tokens"),
    openai_says("'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."),
    {"error": "Unsupported parameter: max_tokens"},
    {"detail": "max_tokens is deprecated, replaced by max_completion_tokens"},
]


def new_name_only(body):
    def answer(handler):
        asked = handler.server.requests[-1][-1]
        (refuse(400, body) if "max_tokens" in asked else reply(event("To be"), END))(handler)

    return answer


@pytest.mark.parametrize("body", WANTS_THE_NEW_NAME, ids=range(len(WANTS_THE_NEW_NAME)))
def test_an_endpoint_that_wants_max_completion_tokens_gets_them_from_then_on(ask, endpoint, caplog, body):
    generator = load_generator("openai", base_url=endpoint.url, model=MODEL)
    with caplog.at_level(logging.INFO, "shm_server"):
        for _ in range(3):
            assert ask(new_name_only(body), generator, steps=7) == ("To be", "stop", None)
    names = ["max_tokens", "max_completion_tokens", "max_completion_tokens", "max_completion_tokens"]
    assert [{name for name in asked if name.startswith("max_")} for *_, asked in endpoint.requests] == [
        {name} for name in names
    ]
    assert all(asked.get("max_completion_tokens", 7) == 7 for *_, asked in endpoint.requests)
    assert len([record for record in caplog.records if "max_completion_tokens" in record.getMessage()]) == 1


def test_an_endpoint_that_refuses_both_names_is_asked_twice_and_no_more(ask, endpoint):
    generator = load_generator("openai", base_url=endpoint.url, model=MODEL)
    _, _, error = ask(refuse(400, WANTS_THE_NEW_NAME[1]), generator, steps=7)
    assert type(error) is InvalidRequest
    assert "sampling_steps 7" in str(error)
    assert len(endpoint.requests) == 2
