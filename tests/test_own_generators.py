"""A generator of a user's own, as --generator MODULE:ATTRIBUTE: any form of it, and one line for what is none."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT
from test_prompt_lane import Prompts

from shm_server.generators import Generator, ModelError, NoGenerator, Sampling, generate, load_generator
from shm_server.layout import Status

POET = """
from shm_server.generators import Limits

class Poem:
    prompt_tokens = tokens = 0
    finished = None

    def __init__(self, words):
        self._words = iter(words)

    def step(self):
        word = next(self._words, None)
        if word is None:
            self.finished = "stop"
        return word

    def close(self):
        pass

class Poet:
    name, note, limits, concurrent = "poet", "", Limits(None, None), False

    def __init__(self, ending="!"):
        self.ending = ending

    def start(self, prompt, sampling):
        return Poem([prompt.upper(), self.ending])

class House:
    poet = Poet("?")

def factory(ending="."):
    return Poet(ending)

def fails():
    raise OverflowError("too many verses")

def leaves():
    raise SystemExit(3)

class Mute:
    name, note = "mute", ""

number = 7
"""


@pytest.fixture
def poets(tmp_path, monkeypatch):
    """A folder in which Python finds modules; poet.py is one."""
    (tmp_path / "poet_of_tests.py").write_text(POET)
    (tmp_path / "broken_of_tests.py").write_text("import poet_of_tests\n\n1 / 0\n")
    (tmp_path / "needy_of_tests.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("poet_of_tests", "broken_of_tests", "needy_of_tests"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("attribute", "options", "text"),
    [
        ("Poet", {}, "TO BE!"),
        ("Poet", {"ending": ";"}, "TO BE;"),
        ("factory", {}, "TO BE."),
        ("factory", {"ending": ","}, "TO BE,"),
        ("House.poet", {}, "TO BE?"),
    ],
)
def test_a_class_a_function_or_an_instance_is_a_generator(poets, attribute, options, text):
    generator = load_generator(f"poet_of_tests:{attribute}", **options)
    assert isinstance(generator, Generator)
    assert "".join(generate(generator, "to be", Sampling())) == text


WRONG = {
    "poet_of_tests": '"poet_of_tests": there are',
    "no_such_module:Poet": "there is no module no_such_module",
    "no_such.module:Poet": "there is no module no_such",
    "poet_of_tests.inner:Poet": "there is no module poet_of_tests.inner",
    "broken_of_tests:Poet": "broken_of_tests raised ZeroDivisionError: division by zero when it was imported",
    "needy_of_tests:Poet": "needy_of_tests raised ModuleNotFoundError: No module named 'no_such_library'",
    "poet_of_tests:Prose": "poet_of_tests has no Prose",
    "poet_of_tests:Poet.rhyme": "poet_of_tests has no Poet.rhyme",
    "poet_of_tests:number": "is no generator but of type int, without name, note, limits, concurrent, start",
    "poet_of_tests:Mute": "is no generator but of type Mute, without limits, concurrent, start",
    "poet_of_tests:": '"poet_of_tests:" is not of the form MODULE:ATTRIBUTE',
    ":Poet": "is not of the form",
    "poet-of-tests:Poet": "is not of the form",
    "a:b:c": "is not of the form",
}


def test_what_is_no_generator_is_one_line_that_says_why(poets):
    for spec, why in WRONG.items():
        with pytest.raises(NoGenerator) as error:
            load_generator(spec)
        assert why in str(error.value), spec
        assert str(error.value).isprintable(), spec
    with pytest.raises(NoGenerator, match="it takes no ending, rhyme"):
        load_generator("poet_of_tests:House.poet", ending="x", rhyme=1)


@pytest.mark.parametrize(
    ("attribute", "options", "why"),
    [
        ("fails", {}, "poet_of_tests:fails raised OverflowError: too many verses"),
        ("leaves", {}, "poet_of_tests:leaves raised SystemExit: 3"),
        ("Poet", {"rhyme": 1}, "unexpected keyword argument 'rhyme'"),
    ],
)
def test_one_that_cannot_be_made_is_said_and_its_name_is_not_blamed(poets, attribute, options, why):
    with pytest.raises(ModelError) as error:
        load_generator(f"poet_of_tests:{attribute}", **options)
    assert why in str(error.value)
    assert not isinstance(error.value, NoGenerator)


def test_the_command_serves_one_from_the_folder_in_which_it_was_started(start, poets, monkeypatch):
    command = [sys.executable, "-m", "shm_server.cli", "serve", "--socket", str(poets / "sock")]
    command += ["--engine", "none", "--prompt-priority", "normal", "--generator", "poet_of_tests:Poet"]
    server = start(command=command, prefix=("env", f"--chdir={poets}", f"PYTHONPATH={ROOT}"))
    with Prompts(server) as client:
        assert client.ask("to be") == (Status.OK, "TO BE!", "")
    server.stop()


@pytest.mark.parametrize(
    ("generator", "code", "why"),
    [
        ("no_such_module:Poet", 2, "there is no module no_such_module"),
        ("broken_of_tests:Poet", 2, "broken_of_tests raised ZeroDivisionError"),
        ("poet_of_tests:Prose", 2, "poet_of_tests has no Prose"),
        ("poet_of_tests:number", 2, "poet_of_tests:number is no generator"),
        ("poet_of_tests:fails", 1, "poet_of_tests:fails raised OverflowError"),
        ("poet", 2, "'poet' is none of tiny, gemma, openai, none, and not MODULE:ATTRIBUTE"),
    ],
)
def test_the_command_ends_with_one_line_for_what_is_none(poets, generator, code, why):
    command = [sys.executable, "-m", "shm_server.cli", "serve", "--socket", str(poets / "sock")]
    command += ["--engine", "none", "--generator", generator]
    known = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=poets, env=known)
    lines = [line for line in done.stderr.splitlines() if " INFO " not in line]
    assert done.returncode == code, done.stderr
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("shm-server serve: ")
    assert why in lines[0]
    assert not (poets / "sock").exists()
