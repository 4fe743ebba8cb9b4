"""What holds for every generator: parameters, turns, text in whole characters."""

import random
import subprocess
import sys
from importlib import resources
from types import ModuleType, SimpleNamespace

import pytest

from shm_server.generators import (
    ENGINES,
    Generator,
    InvalidRequest,
    Limits,
    ModelError,
    Sampling,
    generate,
    load_generator,
)
from shm_server.generators.errors import Broken
from shm_server.generators.sampling import check_prompt
from shm_server.generators.turns import Turns


class Spelling:
    """A Generator that spells its prompt, a letter a step; '_' is a step without text, '!' a failure."""

    name, note, concurrent = "spelling", "", False
    limits = Limits(None, None)

    def __init__(self):
        self.open = 0

    def start(self, prompt, sampling):
        check_prompt(prompt)
        return self.Generation(self, prompt[: sampling.steps])

    class Generation:
        prompt_tokens = tokens = 0
        finished = None

        def __init__(self, generator, text):
            self.generator, self.letters, self.begun = generator, list(text), False

        def step(self):
            if not self.begun:
                self.begun = True
                self.generator.open += 1
            if not self.letters:
                return None
            letter = self.letters.pop(0)
            if letter == "!":
                raise Broken("as asked")
            if letter == "?":
                raise ZeroDivisionError("a bug")
            if not self.letters:
                self.finished = "stop"
            return "" if letter == "_" else letter

        def close(self):
            if self.begun and self.letters is not None:
                self.generator.open -= 1
            self.letters = None


def rounds(turns, jobs):
    """What each round tells, as the job's number and its piece, with '.' for the end."""
    told = []
    while not turns.idle:
        told.append(" ".join(f"{jobs.index(job)}{'.' if piece is None else piece}" for job, piece in turns.round()))
    return told


def in_turns(*prompts, generator=None, places=4):
    """The turns of a generator that spells these prompts, and their jobs."""
    turns = Turns(generator or Spelling(), places=places)
    return turns, [turns.add(prompt, Sampling()) for prompt in prompts]


def test_each_prompt_in_flight_gets_one_step_in_turn():
    turns, jobs = in_turns("abc", "de", "f")
    assert rounds(turns, jobs) == ["0a 1d 2f 2.", "0b 1e 1.", "0c 0."]


def test_who_finds_no_place_waits_in_line_and_the_wait_is_told():
    turns, (first, second) = in_turns("ab", "c", places=1)
    assert (turns.in_flight, turns.waiting) == (1, 1)
    assert second.started_ns is None
    assert rounds(turns, [first, second]) == ["0a", "0b 0.", "1c 1."]
    assert 0 < first.started_ns <= second.started_ns
    assert first.generation.finished == "stop"


def test_owners_take_turns_in_the_line_however_many_prompts_one_of_them_has():
    turns = Turns(Spelling(), places=1)
    jobs = [turns.add(prompt, Sampling(), owner) for prompt, owner in zip("abcdefg", "1111233", strict=True)]
    assert [turns.waiting_of(owner) for owner in "1234"] == [3, 1, 2, 0]
    ended = []
    while not turns.idle:
        ended += ["abcdefg"[jobs.index(job)] for job, piece in turns.round() if piece is None]
    assert "".join(ended) == "abefcgd"
    turns = Turns(Spelling(), places=1)
    jobs = [turns.add(prompt, Sampling(), owner) for prompt, owner in zip("abcd", "1121", strict=True)]
    for job in (jobs[1], jobs[1], jobs[2]):  # also twice
        turns.cancel(job)
    assert (turns.waiting, turns.waiting_of("1"), turns.waiting_of("2")) == (1, 1, 0)
    assert rounds(turns, jobs) == ["0a 0.", "3d 3."]


def test_steps_without_text_are_not_told():
    assert rounds(*in_turns("_a_")) == ["", "0a", "0."]


def test_a_failure_ends_its_own_job_only_and_is_kept_as_it_is():
    generator = Spelling()
    turns, jobs = in_turns("a!c", "d?f", "ghi", generator=generator)
    assert rounds(turns, jobs) == ["0a 1d 2g", "0. 1. 2h", "2i 2."]
    failing, bug, fine = jobs
    assert type(failing.error) is Broken
    assert type(bug.error) is ZeroDivisionError
    assert bug.error.__traceback__.tb_next.tb_frame.f_code.co_name == "step"  # for the log
    assert fine.error is None
    assert generator.open == 0


def test_a_job_can_be_cancelled_at_every_moment_also_inside_a_round_and_twice():
    for moment in range(12):
        generator = Spelling()
        turns, jobs = in_turns("abc", "abc", "abc", generator=generator, places=2)
        told = []
        if moment == 0:
            turns.cancel(jobs[1])
        while not turns.idle:
            for job, piece in turns.round():
                told.append((jobs.index(job), piece))
                if len(told) == moment:
                    turns.cancel(jobs[1])
                    turns.cancel(jobs[1])
        assert generator.open == 0
        for number in (0, 2):
            assert [piece for other, piece in told if other == number] == ["a", "b", "c", None], moment
        assert 1 not in [number for number, _ in told[moment:]]
        turns.cancel(jobs[0])  # it has ended
        assert turns.idle


def test_a_prompt_that_waits_can_be_cancelled_and_one_that_ends_makes_place():
    turns, jobs = in_turns("ab", "cd", "ef", places=1)
    turns.cancel(jobs[1])
    assert (turns.in_flight, turns.waiting) == (1, 1)
    turns.cancel(jobs[0])
    assert (turns.in_flight, turns.waiting) == (1, 0)
    assert rounds(turns, jobs) == ["2e", "2f 2."]


def test_jobs_added_inside_a_round_wait_for_the_next_one():
    turns, jobs = in_turns("ab")
    told = []
    for job, piece in turns.round():
        told.append((job, piece))
        jobs.append(turns.add("x", Sampling()))
    assert told == [(jobs[0], "a")]
    assert rounds(turns, jobs) == ["0b 0. 1x 1."]


def test_a_bad_prompt_is_told_when_it_is_added():
    turns = Turns(Spelling())
    with pytest.raises(InvalidRequest):
        turns.add("", Sampling())
    with pytest.raises(InvalidRequest):
        turns.add("hello", Sampling(steps=0))
    assert turns.idle
    with pytest.raises(ValueError, match="places"):
        Turns(Spelling(), places=0)


def test_generate_gives_the_pieces_and_closing_it_frees_the_generation():
    generator = Spelling()
    assert isinstance(generator, Generator)
    assert list(generate(generator, "_ab")) == ["a", "b"]
    pieces = generate(generator, "abc")
    assert next(pieces) == "a"
    assert generator.open == 1
    pieces.close()
    assert generator.open == 0


@pytest.mark.parametrize(
    "parameters",
    [
        {"steps": 0},
        {"steps": -1},
        {"steps": 1.5},
        {"steps": "128"},
        {"steps": None},
        {"steps": True},
        {"steps": float("nan")},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"temperature": "hot"},
        {"top_k": -1},
        {"top_k": 2.0},
        {"seed": -1},
        {"seed": 2**64},
        {"seed": "x"},
    ],
)
def test_parameters_that_make_no_sense_are_an_invalid_request(parameters):
    (name,) = parameters
    with pytest.raises(InvalidRequest, match=name) as failure:
        Sampling(**parameters)
    assert "\n" not in str(failure.value)


def test_parameters_at_their_limits_are_fine():
    Sampling(steps=1, temperature=0, top_k=0, seed=0)
    Sampling(steps=10**9, temperature=10, top_k=2**32 - 1, seed=2**64 - 1)
    assert Sampling() == Sampling(128, None, None, None)


def test_an_unknown_engine_is_told_with_those_there_are():
    with pytest.raises(ModelError, match=r'"gpt".*tiny, gemma, openai'):
        load_generator("gpt")


@pytest.mark.parametrize(
    ("engine", "library", "extra"),
    [("openai", "openai", "openai"), ("tiny", "jax", "gemma"), ("gemma", "sentencepiece", "gemma")],
)
def test_a_library_that_is_not_installed_is_told_with_the_extra_that_brings_it(engine, library, extra):
    program = f"""
import sys
sys.modules[{library!r}] = None
from shm_server.generators import ModelError, load_generator
try:
    load_generator({engine!r})
except ModelError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said == f'generator "{engine}" needs {library}: pip install "shm-server[{extra}]"\n'


def test_importing_generators_imports_no_framework():
    program = """
import sys
import shm_server.generators, shm_server.generators.turns
print([name for name in ("jax", "gemma", "openai", "sentencepiece", "tensorflow") if name in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"


@pytest.fixture(scope="module")
def vocabulary():
    pytest.importorskip("sentencepiece")
    from shm_server.generators.vocabulary import Vocabulary

    with resources.as_file(resources.files("shm_server.assets")) as assets:
        return Vocabulary(assets / "gemma-tiny" / "tokenizer.model")


TEXTS = [
    "To be, or not to be: that is the question.\n\nExeunt.\n",
    "  two spaces, a\ttab and trailing ones  ",
    "naïve café, Straße, ½",
    "Ωραίο, привет, こんにちは, 안녕, שלום",
    "😀👩‍👩‍👧‍👦🇨🇭 and \u0301 alone",
    "\x00\x01\x7f\u2028",
    "▁ is the sign for a space",
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back_from_its_tokens_in_whole_characters(vocabulary, text):
    from shm_server.generators.vocabulary import TextStream

    stream = TextStream(vocabulary)
    pieces = [stream.add(token) for token in vocabulary.encode(text)]
    assert "".join(pieces) == text.replace("▁", " ")  # which is how SentencePiece writes a space
    for piece in pieces:
        piece.encode()  # no half of anything
    if not text.replace("▁", " ").isascii():
        assert "" in pieces[1:]  # something was held back


def test_bytes_that_are_no_text_become_a_replacement_sign_and_nothing_gets_stuck(vocabulary):
    from shm_server.generators.vocabulary import TextStream

    rng = random.Random(5)
    first = vocabulary.encode("\x00")[1]  # the token of byte 0; those of the others follow
    for _ in range(200):
        data = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 12)))
        stream = TextStream(vocabulary)
        shown = "".join(stream.add(first + byte) for byte in data) + stream.add(first + ord("."))
        assert shown == (data + b".").decode(errors="replace")


def test_half_a_character_at_the_end_is_never_shown(vocabulary):
    from shm_server.generators.vocabulary import TextStream

    *most, last = vocabulary.encode("a😀")
    stream = TextStream(vocabulary)
    assert "".join(stream.add(token) for token in most) == "a"
    assert stream.add(last) == "😀"


def test_a_prompt_begins_with_the_beginning_of_text_and_can_be_any_text(vocabulary):
    assert vocabulary.encode("King")[0] == 2
    for text in TEXTS:
        assert 3 not in vocabulary.encode(text)  # nothing is unknown


def test_a_reply_never_contains_what_is_not_text(vocabulary):
    drawable = vocabulary.drawable()
    assert len(drawable) == vocabulary.size == 2048
    forbidden = [token for token, allowed in enumerate(drawable) if not allowed]
    assert forbidden == [0, 2, 3, 4, 5]  # pad, bos, unk, mask, start of turn
    assert vocabulary.stops == {1, 6}  # eos, end of turn


def test_the_chat_template_wraps_the_prompt_in_a_users_turn():
    pytest.importorskip("sentencepiece")
    from shm_server.generators.vocabulary import Vocabulary

    with resources.as_file(resources.files("shm_server.assets")) as assets:
        vocabulary = Vocabulary(assets / "gemma-tiny" / "tokenizer.model", chat=True)
    tokens = vocabulary.encode("Who is there?")
    plain = Vocabulary(assets / "gemma-tiny" / "tokenizer.model")
    wrapped = "<start_of_turn>user\nWho is there?<end_of_turn>\n<start_of_turn>model\n"
    assert tokens == plain.encode(wrapped)
    assert [token for token in tokens if token in (5, 6)] == [5, 6, 5]


@pytest.mark.parametrize("name", [None, 7, "\ud800", "two\nlines", "x" * 1001], ids=ascii)
def test_a_generator_whose_name_no_client_can_be_told_is_not_loaded(monkeypatch, name):
    module = ModuleType("shm_server.generators.nameless")
    module.load = lambda: SimpleNamespace(name=name)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(ENGINES, "nameless", ("nameless", "none"))
    with pytest.raises(ModelError, match="must be a line of text"):
        load_generator("nameless")
