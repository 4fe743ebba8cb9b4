"""Which engine opens what."""

import subprocess
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT

from shm_server.models import ModelError, engines, load, trial
from shm_server.models.graph import Found


@pytest.fixture
def present(monkeypatch):
    """present(*engines): those are the ones whose frameworks are installed."""

    def _present(*names: str) -> None:
        monkeypatch.setattr(engines, "installed", lambda name: name in names)

    return _present


@pytest.fixture
def file(tmp_path):
    def _file(name: str):
        path = tmp_path / name
        path.write_bytes(b"broken")
        return path

    return _file


@pytest.mark.parametrize("name", engines.ENGINES)
def test_an_engine_says_what_it_opens_and_what_installs_it(name):
    module = engines.engine(name)
    assert module.OPENS
    assert f"\n{module.EXTRA} = [" in (ROOT / "pyproject.toml").read_text()
    assert callable(module.open)


def test_an_unknown_engine_is_told_which_there_are(file):
    with pytest.raises(ModelError, match="unknown engine 'tensorrt': there are onnxruntime, tensorflow, jax"):
        load(file("m.onnx"), "tensorrt")


def test_a_file_that_is_not_there_is_told_before_an_engine_loads(tmp_path):
    with pytest.raises(ModelError, match=r"gone.onnx: no such model file"):
        load(tmp_path / "gone.onnx")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("m.pkl", r"m.pkl: no engine opens '.pkl': there are .onnx, .keras, SavedModel, .tflite, .pt2"),
        ("model", "no engine opens 'model'"),
        ("m.ONNX", "no engine opens '.ONNX'"),
    ],
)
def test_a_file_that_no_engine_opens_is_told_what_they_open(file, name, message):
    with pytest.raises(ModelError, match=message):
        load(file(name))


def test_a_folder_that_is_no_saved_model_is_told_so(tmp_path):
    (tmp_path / "model.onnx").mkdir()
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="no engine opens the folder 'empty'"):
        load(tmp_path / "empty")


def test_a_named_engine_that_does_not_open_the_file_says_what_it_opens(file):
    with pytest.raises(ModelError, match=r"m.onnx: engine 'litert' opens .tflite, got '.onnx'"):
        load(file("m.onnx"), "litert")


@pytest.mark.parametrize(
    ("name", "engine", "advice"),
    [
        ("m.pt2", None, r'm.pt2: needs torch: pip install "shm-server\[torch\]"'),
        ("m.tflite", "litert", r'needs ai_edge_litert: pip install "shm-server\[litert\]"'),
        ("m.onnx", None, r'\[onnx\]" or pip install "shm-server\[openvino\]"'),
        ("m.keras", "jax", r'needs jax: pip install "shm-server\[jax\]"'),
    ],
)
def test_a_framework_that_is_missing_is_told_with_its_extra(present, file, name, engine, advice):
    present()
    with pytest.raises(ModelError, match=advice):
        load(file(name), engine)


@pytest.mark.parametrize(
    ("there", "chosen"),
    [(("onnxruntime", "openvino"), "onnxruntime"), (("openvino", "litert"), "openvino")],
)
def test_the_first_installed_engine_that_opens_a_file_is_taken(present, file, monkeypatch, there, chosen):
    present(*there)
    opened = []
    for name in engines.ENGINES:

        def opens(path, *, threads, name=name):
            opened.append((name, threads))
            raise ModelError("broken")

        monkeypatch.setattr(engines.engine(name), "open", opens)
    with pytest.raises(ModelError, match=r"m.onnx: broken"):
        load(file("m.onnx"), threads=3)
    assert opened == [(chosen, 3)]


def test_a_framework_that_is_there_and_does_not_import_is_no_missing_one(file, monkeypatch):
    monkeypatch.setattr(engines, "installed", lambda name: True)

    def raising(path, *, threads):
        raise ImportError("libcudart.so.13: cannot open shared object file")

    monkeypatch.setattr(engines.engine("torch"), "open", raising)
    with pytest.raises(ModelError, match=r"torch is installed and can not be imported: libcudart.so.13"):
        load(file("m.pt2"))


def test_no_framework_is_imported_before_a_file_is_opened():
    script = """
import sys
from shm_server.models import engines
names = {engines.engine(name).FRAMEWORK for name in engines.ENGINES} | {"keras"}
assert [engines.installed(name) in (True, False) for name in engines.ENGINES]
assert not names & set(sys.modules), names & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_another_engine_is_one_module_and_one_name(tmp_path, monkeypatch):
    """What CONTRIBUTING.md says: here it multiplies by the matrix of a `.npy` file."""

    def open_matrix(path, *, threads):
        matrix = np.load(path)
        return SimpleNamespace(
            platform="numpy_npy",
            inputs=[Found("x", "FP32", (None, len(matrix)))],
            call=lambda inputs, outputs=None: {"y": inputs["x"] @ matrix},
        )

    module = ModuleType("shm_server.models.engines.matrix")
    module.FRAMEWORK, module.EXTRA, module.OPENS, module.open = "numpy", "matrix", (".npy",), open_matrix
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(engines, "ENGINES", (*engines.ENGINES, "matrix"))
    np.save(tmp_path / "double.npy", 2 * np.eye(3, dtype=np.float32))
    model = load(tmp_path / "double.npy")
    trial(model)
    assert (model.name, model.platform) == ("double", "numpy_npy")
    outputs = model.signature.empty(model.signature.outputs, 2)
    model.run({"x": np.ones((2, 3), np.float32)}, outputs)
    assert outputs["y"].tolist() == [[2, 2, 2]] * 2
