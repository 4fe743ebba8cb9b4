"""The README's programs are compiled and run as they stand, against a real server."""

import re
import subprocess
import sys
import textwrap

import pytest
from conftest import ROOT

README = (ROOT / "README.md").read_text()


def snippet(language: str) -> str:
    (code,) = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return code


@pytest.fixture
def go_program(tmp_path, go):
    """The README's Go program in a module of its own, pointed to this checkout as the README says.

    Only the socket's path is changed, as in the Python program.
    """
    (tmp_path / "main.go").write_text(snippet("go").replace("shm.DefaultSocket()", f'"{tmp_path}/sock"'))
    subprocess.run([go, "mod", "init", "example"], cwd=tmp_path, check=True, capture_output=True)
    advice = re.findall(r"`go (mod [^`]+)`", README)
    assert len(advice) == 3
    for line in advice:
        command = line.replace("/path/to/go-shm-client", str(ROOT / "go-shm-client")).split()
        subprocess.run([go, *command], cwd=tmp_path, check=True, capture_output=True)
    subprocess.run([go, "build", "-o", "example", "."], cwd=tmp_path, check=True)
    return tmp_path / "example"


def test_the_go_program_classifies_a_picture_on_a_server_that_runs_the_python_program(start, go_program, tmp_path):
    script = tmp_path / "server.py"
    socket = tmp_path / "sock"
    program = snippet("python").replace("Server(Brightness())", f"Server(Brightness(), {str(socket)!r})")
    script.write_text("import logging; logging.basicConfig(level='INFO')\n" + program)
    server = start(socket=socket, command=[sys.executable, str(script)])
    picture = ROOT / "shm_server" / "assets" / "samples" / "cat.png"
    done = subprocess.run([go_program, picture], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert re.fullmatch(r"(bright|dark) \d+%", first)
    assert re.fullmatch(r"bright after \S+ in the ring and \S+ in the model", second)
    assert server.process.poll() is None


def test_every_command_of_the_readme_exists():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^    make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    help_text = subprocess.run(
        [sys.executable, "-m", "shm_server.cli", "serve", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for flag in set(re.findall(r"--[a-z-]+", " ".join(re.findall(r"`shm-server serve[^`]*`", README)))):
        assert flag in help_text, flag


def test_the_package_docstring_shows_a_classifier_that_works():
    import shm_server

    example = textwrap.dedent(shm_server.__doc__.split("\n\n", 1)[1]).replace(".run()", "")
    names: dict = {"numpy": __import__("numpy")}
    exec(example.replace("from shm_server import Server", "Server = lambda model: model"), names)
    scores = names["Brightness"]().scores(__import__("numpy").zeros((2, 3, 32, 32), "u1"))
    assert scores.tolist() == [[1, 0], [1, 0]]


def test_every_file_that_the_readme_links_to_exists():
    for name in re.findall(r"\]\(([^)#]+)\)", README):
        assert name.startswith("http") or (ROOT / name).exists(), name
