"""docs/python-client.md does what it says: its snippets run as they stand, against the server that it starts."""

import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

PAGE = (ROOT / "docs" / "python-client.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
FLOWERS, *SNIPPETS = PYTHON


def printed(code: str) -> list[str]:
    """What stands behind a `print`, or below."""
    beside = re.findall(r"^ *print\(.*\) +# (.*)$", code, re.MULTILINE)
    return beside + [line[2:] for line in code.splitlines() if line.startswith("# ")]


@pytest.fixture
def served(start, tmp_path):
    """The server of the page, where a client in the environment that comes looks for it. Its generator is a stub."""
    (tmp_path / "flowers.py").write_text(FLOWERS)
    (line,) = re.findall(r"^    shm-server serve (.*)$", PAGE, re.MULTILINE)
    flags = line.replace("--generator tiny", "--generator stub_generators:computing --prompt-priority normal").split()
    path = os.pathsep.join([str(tmp_path), str(ROOT), str(ROOT / "tests")])
    start(*flags, socket=tmp_path / "shm-server.sock", prefix=("env", f"PYTHONPATH={path}"))
    return os.environ | {"XDG_RUNTIME_DIR": str(tmp_path), "PYTHONPATH": path}


def test_the_snippets_run_and_print_what_stands_beside_them(served, tmp_path):
    assert FLOWERS.startswith("# flowers.py")
    assert len(SNIPPETS) == 7
    for code in SNIPPETS:
        done = subprocess.run([sys.executable, "-c", code], env=served, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{code}{done.stderr}"
        assert done.stdout.splitlines() == printed(code), code


def test_the_table_names_errors_that_there_are():
    from shm_server.client import errors

    rows = re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
    names = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert len(names) > 10
    assert all(issubclass(getattr(errors, name), errors.ClientError) for name in names)
