"""The README's programs are compiled and run as they stand, against a real server."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from conftest import ROOT

sys.path.insert(0, str(Path(__file__).parent / "conformance"))
from tables import ERRORS

README = (ROOT / "README.md").read_text()


def snippet(language: str, beginning: str) -> str:
    (code,) = re.findall(rf"```{language}\n({re.escape(beginning)}.*?)```", README, re.DOTALL)
    return code


@pytest.fixture
def go_program(tmp_path, go):
    """go_program(code) builds a Go program in a module of its own, pointed to this checkout as the README says.

    Only the socket's path is changed, as in the Python program.
    """

    def build(code: str) -> Path:
        (tmp_path / "main.go").write_text(code.replace("shm.DefaultSocket()", f'"{tmp_path}/sock"'))
        subprocess.run([go, "mod", "init", "example"], cwd=tmp_path, check=True, capture_output=True)
        advice = re.findall(r"`go (mod [^`]+)`", README)
        assert len(advice) == 3
        for line in advice:
            command = line.replace("/path/to/go-shm-client", str(ROOT / "go-shm-client")).split()
            subprocess.run([go, *command], cwd=tmp_path, check=True, capture_output=True)
        subprocess.run([go, "build", "-o", "example", "."], cwd=tmp_path, check=True)
        return tmp_path / "example"

    return build


def test_a_model_of_ones_own_is_served_and_called_as_the_readme_says(start, go_program, shm_client, tmp_path):
    (tmp_path / "flowers.py").write_text(snippet("python", "# flowers.py"))
    (source,) = re.findall(r"^    shm-server serve (\S+) +# a process of its own", README, re.MULTILINE)
    start(source, prefix=("env", f"PYTHONPATH={tmp_path}:{ROOT}"))
    ((call, printed),) = re.findall(r"^    shm-client (call .*?) +# (.*)", README, re.MULTILINE)
    command = [shm_client, *call.split(), "-socket", tmp_path / "sock"]
    assert close(subprocess.run(command, capture_output=True, text=True, check=True).stdout, printed)

    imports = 'import (\n"context"\n"fmt"\nshm "go-shm-client"\n)\n'
    program = go_program(f"package main\n{imports}func main() {{\n{snippet('go', 'ctx :=')}}}\n")
    signature, y = subprocess.run([program], capture_output=True, text=True, check=True).stdout.splitlines()
    assert signature == '"iris" ("x" FP32 [4]) -> ("y" FP32 [3] with 3 labels)'
    assert close(y, str(re.findall(r"\d\.\d+", printed)))


def close(said: str, printed: str) -> bool:
    """The same words, and numbers that differ by no more than another processor's rounding."""
    numbers = [[float(number) for number in re.findall(r"\d\.\d+", text)] for text in (said, printed)]
    words = [re.findall(r"[a-z]+", text) for text in (said, printed)]
    return words[0] == words[1] and numbers[0] == pytest.approx(numbers[1], abs=1e-5)


def test_the_go_program_classifies_a_picture_on_a_server_that_runs_the_python_program(start, go_program, tmp_path):
    script = tmp_path / "server.py"
    socket = tmp_path / "sock"
    program = snippet("python", "import numpy").replace(
        "Server(Brightness())", f"Server(Brightness(), {str(socket)!r})"
    )
    script.write_text("import logging; logging.basicConfig(level='INFO')\n" + program)
    server = start(socket=socket, command=[sys.executable, str(script)])
    program = go_program(snippet("go", "package main"))
    picture = ROOT / "shm_server" / "assets" / "samples" / "cat.png"
    done = subprocess.run([program, picture], capture_output=True, text=True, timeout=60)
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


def test_the_readmes_errors_are_those_of_the_go_client_and_cover_those_of_the_layout():
    declared = set(re.findall(r"^\t(Err\w+) +=", (ROOT / "go-shm-client" / "errors.go").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?<!errors\.)\b(Err[A-Z]\w+)", README))
    assert named <= declared
    calls = {error for name in ("status", "reason") for error in ERRORS[name]["Go error"].values()}
    assert calls - {"-"} <= named


def test_the_package_docstring_shows_a_classifier_that_works():
    import shm_server

    example = textwrap.dedent(shm_server.__doc__.split("\n\n", 1)[1]).replace(".run()", "")
    names: dict = {"numpy": __import__("numpy")}
    exec(example.replace("from shm_server import Server", "Server = lambda model: model"), names)
    scores = names["Brightness"]().scores(__import__("numpy").zeros((2, 3, 32, 32), "u1"))
    assert scores.tolist() == [[1, 0], [1, 0]]


def test_every_file_that_the_readme_links_to_exists():
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    for name in re.findall(r"\]\(([^)#]+)\)", prose):
        assert name.startswith("http") or (ROOT / name).exists(), name
