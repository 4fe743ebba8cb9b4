"""Imports point one way: layout <- segment, doorbell <- session <- dispatch <- lanes, control <- processes <- cli."""

import ast
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "shm_server"
# Who may import whom, of this package. `models` see arrays and no transport, transports see no framework.
ALLOWED = {
    "layout": set(),
    "describe": set(),  # anybody may use it
    "segment": {"_core", "layout"},
    "doorbell": {"layout"},
    "process": {"describe"},
    "forked": set(),
    "counters": set(),
    "listener": {"forked"},
    "tcp": {"listener"},
    "log_limit": set(),
    "logs": {"log_limit", "process"},
    "session": {"_core", "doorbell", "layout", "segment"},
    "dispatch": {"_core", "doorbell", "layout", "segment", "session"},
    "scores": {"_core", "models"},
    "call_lane": {"_core", "dispatch", "doorbell", "layout", "models", "segment", "session"},
    "classified": {"models", "scores"},
    "control": {"forked", "dispatch", "doorbell", "layout", "session"},
    # prompts, in a process of their own
    "generators": {"models"},
    "prompt_lane": {"_core", "dispatch", "doorbell", "generators", "layout", "segment", "session"},
    "wire": {"layout"},
    "remote": {"forked", "generators", "layout", "prompt_lane", "wire"},
    "worker": {"call_lane", "control", "dispatch", "generators", "layout", "logs", "models", "process", "prompt_lane"}
    | {"remote", "wire"},
    "worker_process": {"forked", "process", "wire"},
    "supervisor": {"counters", "doorbell", "generators", "layout", "logs", "process", "remote", "wire"}
    | {"worker_process"},
    "server": {"call_lane", "classified", "control", "layout", "listener", "logs", "models", "process", "supervisor"},
    "metrics": {"counters", "forked", "server", "tcp"},
    "models": set(),
    "train": {"models"},
    # the two other transports of the same models
    "png_chunks": set(),
    "picture_kinds": set(),
    "images": {"describe", "picture_kinds", "png_chunks"},
    "serialized": {"models"},
    "uds": {"doorbell", "forked", "listener", "models", "scores"},
    "http": {"forked", "generators", "images", "models", "scores", "supervisor", "tcp"},
    # the command; cli, which starts it, imports `process` before the rest
    "options": {"__version__", "call_lane", "generators", "layout", "listener", "logs", "models", "server", "uds"},
    "serve": {"call_lane", "layout", "listener", "models", "options", "process", "serialized", "server", "supervisor"}
    | {"tcp", "uds"},
    "commands": {"generators", "listener", "logs", "models", "options", "process", "serve", "train"},
}
FRAMEWORKS = {"tensorflow", "jax", "keras", "openvino", "torch", "onnxruntime", "ai_edge_litert"}


def modules(path: Path) -> list[Path]:
    return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


def imports(path: Path) -> set[str]:
    """Top-level names that a file imports; of this package `shm_server.NAME` as NAME, prefixed with a dot."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = ["shm_server", *path.relative_to(PACKAGE).parent.parts]
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [base])])
            names |= {f"{base}.{alias.name}" for alias in node.names} if base == "shm_server" else {base}
    return {f".{name.split('.')[1]}" if name.startswith("shm_server.") else name.split(".")[0] for name in names}


@pytest.mark.parametrize("name", ALLOWED)
def test_a_module_imports_only_what_is_below_it(name):
    for path in modules(PACKAGE / name):
        ours = {found[1:] for found in imports(path) if found.startswith(".")}
        assert ours <= ALLOWED[name] | {name, "describe"}, path


def test_no_transport_imports_a_framework():
    for path in PACKAGE.glob("*.py"):
        if path.stem not in ("train",):
            assert not imports(path) & FRAMEWORKS, path


def test_every_module_is_in_the_picture():
    here = {p.stem for p in PACKAGE.glob("*.py")} | {p.name for p in PACKAGE.iterdir() if (p / "__init__.py").exists()}
    assert here - {"__init__", "cli", "assets"} <= set(ALLOWED), "say in ALLOWED what it may import"


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
