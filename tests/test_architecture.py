"""What the repository holds, and what the core's stub says. Who may import whom: import-linter, in pyproject.toml."""

import ast
import subprocess

from conftest import ROOT

PACKAGE = ROOT / "shm_server"


def test_training_data_is_not_in_the_repository():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    large = [name for name in files if name and (ROOT / name).exists() and (ROOT / name).stat().st_size > 4_000_000]
    assert not large
    assert not [name for name in files if name.endswith((".zip", ".npz"))]


def test_the_stub_of_the_core_names_what_the_core_has():
    from shm_server import _core

    stub = ast.parse((PACKAGE / "_core.pyi").read_text())
    for found in (node for node in stub.body if isinstance(node, ast.ClassDef)):
        named = {getattr(node, "name", None) or node.target.id for node in found.body if not isinstance(node, ast.Expr)}
        there = {name for name in vars(getattr(_core, found.name)) if not name.startswith("__")}
        assert named - {"__init__"} == there
