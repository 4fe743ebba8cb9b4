"""What a command is told to serve: Python objects, files, folders of versions."""

import os
import sys

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")

import onnx_files

from shm_server.models import ModelError
from shm_server.models.source import resolve

FLOWERS = """
import numpy as np, shm_server

@shm_server.model(inputs={"x": ("FP32", (4,))}, outputs={"y": ("FP32", (4,))})
def iris(x):
    return x * np.float32(2)

@shm_server.model(inputs={"x": ("FP32", (4,))}, outputs={"y": ("FP32", (4,))})
class Rose:
    def run(self, inputs, outputs):
        outputs["y"][:] = inputs["x"]

class garden:
    tulip = iris

class Wilted(Rose):
    def __init__(self):
        raise RuntimeError("no water")

number = 7
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder: new modules of it are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def flowers(here):
    (here / "flowers.py").write_text(FLOWERS)
    return here


def put(path, content: bytes = b"a model"):
    """A file that looks like a model: `resolve` opens none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def found(*sources: str) -> list[tuple[str, str, str]]:
    return [(source.name, source.version, source.place) for source in resolve(sources)]


def answer(source) -> np.ndarray:
    model = source.load()
    outputs = model.signature.empty(model.signature.outputs, 2)
    model.run({"x": np.ones((2, 4), np.float32)}, outputs)
    return outputs["y"]


def test_an_attribute_of_a_module_is_a_model_of_that_name(flowers):
    (iris,) = resolve(["flowers:iris"])
    assert (iris.name, iris.version) == ("iris", "1")
    assert "flowers" not in sys.modules, "nothing is imported before it is loaded"
    assert (answer(iris) == 2).all()


def test_a_class_is_made_and_an_attribute_of_an_attribute_is_found(flowers):
    rose, tulip = resolve(["flowers:Rose", "flowers:garden.tulip"])
    assert (rose.name, tulip.name) == ("Rose", "tulip")
    assert (answer(rose) == 1).all()
    assert (answer(tulip) == 2).all()


def test_a_module_of_a_package_in_the_current_folder_is_found(flowers):
    put(flowers / "garden" / "__init__.py", b"")
    (flowers / "garden" / "beds.py").write_text("from flowers import iris\n")
    assert (answer(resolve(["north=garden.beds:iris"])[0]) == 2).all()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("weeds:iris", "weeds: no module 'weeds' in .* or on Python's path"),
        ("weeds.deep:iris", "weeds.deep: no module 'weeds' in"),
        ("flowers.deep:iris", "flowers.deep: no module 'flowers.deep' in"),
        ("flowers:lily", "flowers:lily: flowers has no 'lily'"),
        ("flowers:garden.lily", "flowers:garden.lily: flowers has no 'lily'"),
        ("flowers:number", "flowers:number: expected a model with name, a str, got"),
        ("flowers:garden", "flowers:garden: expected a model with name"),
        ("flowers:Wilted", "flowers:Wilted: RuntimeError: no water"),
    ],
)
def test_an_object_that_is_no_model_is_told_at_load(flowers, source, message):
    (resolved,) = resolve([source])
    with pytest.raises(ModelError, match=message) as raised:
        resolved.load()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import numpy\n\n1 / 0\n", r"broken: can not be imported: ZeroDivisionError: .* \(\S+broken.py:3\)"),
        ("import json\n\njson.loads('{')\n", r"JSONDecodeError: .* \(\S+broken.py:3\)"),
        (
            "import weeds\n",
            r"broken: can not be imported: ModuleNotFoundError: No module named 'weeds' \(\S+broken.py:1\)",
        ),
        ("import sys\nsys.exit('bye')\n", r"SystemExit: bye \(\S+broken.py:2\)"),
        ("def f(:\n", r"SyntaxError: .*broken.py, line 1"),
    ],
)
def test_a_module_that_raises_is_told_with_its_own_line(here, text, message):
    (here / "broken.py").write_text(text)
    (source,) = resolve(["broken:iris"])
    with pytest.raises(ModelError, match=message) as raised:
        source.load()
    assert "\n" not in str(raised.value)


def test_a_file_is_called_after_its_stem_or_as_it_is_told(here):
    put(here / "minilm.onnx")
    put(here / "embed" / "model.onnx")
    (here / "a=b.onnx").write_bytes(b"")
    assert found("minilm.onnx", "cat=minilm.onnx", "embed/model.onnx", "./a=b.onnx") == [
        ("minilm", "1", "minilm.onnx"),
        ("cat", "1", "minilm.onnx"),
        ("embed", "1", "embed/model.onnx"),
        ("a=b", "1", "a=b.onnx"),
    ]


def test_a_file_is_loaded_under_its_name_and_version(here):
    onnx_files.write(here / "models" / "double" / "7" / "model.onnx", onnx_files.identity())
    (source,) = resolve(["models"])
    model = source.load(engine="onnxruntime", threads=1)
    assert (model.name, model.version) == ("double", "7")
    assert (answer(source) == 1).all()


def test_the_highest_whole_version_of_each_model_of_a_folder_serves(here):
    models = here / "models"
    for version in ("1", "2", "10"):
        put(models / "embed" / version / "model.onnx")
    put(models / "embed" / "11" / "model.onnx.part")  # is still copied
    put(models / "embed" / ".12" / "model.onnx")
    put(models / "embed" / "13.tmp" / "model.onnx")
    put(models / "embed" / "best" / "model.onnx")
    (models / "embed" / "14").mkdir()
    put(models / "digits" / "digits.keras")
    put(models / "digits" / "digits.toml")
    put(models / "digits" / "README.md")
    put(models / "saved" / "3" / "saved_model.pb")
    put(models / "iris.onnx")
    put(models / ".hidden" / "model.onnx")
    put(models / "half.onnx.tmp")
    (models / "notes").mkdir()
    assert found("models/") == [
        ("digits", "1", "models/digits/digits.keras"),
        ("embed", "10", "models/embed/10/model.onnx"),
        ("iris", "1", "models/iris.onnx"),
        ("saved", "3", "models/saved/3"),
    ]


def test_a_version_appears_when_it_is_renamed_into_place(here):
    put(here / "models" / "embed" / "1" / "model.onnx")
    put(here / "models" / "embed" / ".2" / "model.onnx")
    assert found("models") == [("embed", "1", "models/embed/1/model.onnx")]
    (here / "models" / "embed" / ".2").rename(here / "models" / "embed" / "2")
    assert found("models") == [("embed", "2", "models/embed/2/model.onnx")]


def test_the_folder_of_one_model_is_a_model(here):
    put(here / "embed" / "4" / "minilm.onnx")
    assert found("embed", "vectors=embed") == [
        ("embed", "4", "embed/4/minilm.onnx"),
        ("vectors", "4", "embed/4/minilm.onnx"),
    ]
    put(here / "flat" / "minilm.onnx")
    assert found("flat", "cat=flat") == [("minilm", "1", "flat/minilm.onnx"), ("cat", "1", "flat/minilm.onnx")]


def test_a_hundred_models_of_a_folder_are_found(here):
    for index in range(100):
        put(here / "models" / f"m{index:02}" / "1" / "model.onnx")
    assert [name for name, _, _ in found("models")] == [f"m{index:02}" for index in range(100)]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (["gone.onnx"], "gone.onnx: no such file or folder, and no MODULE:ATTRIBUTE"),
        (["models/"], "models/: no such file or folder"),
        (["cat=gone/model.onnx"], "gone/model.onnx: no such file or folder"),
        (["a/b:c"], "a/b:c: no such file or folder; expected MODULE:ATTRIBUTE, such as flowers:iris"),
        (["flowers:"], "flowers:: no such file or folder; expected MODULE:ATTRIBUTE"),
        ([":iris"], ":iris: no such file or folder; expected MODULE:ATTRIBUTE"),
        ([""], "no such file or folder"),
        (["=flowers:iris"], "=flowers:iris: a model's name: expected 1 to 64 bytes"),
        (["a" * 65 + "=flowers:iris"], "a model's name: expected 1 to 64 bytes"),
        (["flowers:iris", "garden:iris"], "two models are named 'iris': flowers:iris and garden:iris"),
        (["x=flowers:iris", "x=flowers:rose"], "two models are named 'x': flowers:iris and flowers:rose"),
    ],
)
def test_a_source_that_is_none_is_told(here, sources, message):
    with pytest.raises(ModelError, match=message):
        resolve(sources)


@pytest.mark.parametrize(
    ("files", "source", "message"),
    [
        ([], "models", "models: expected a model, or a folder for each model, got none"),
        (["models/readme.txt"], "models", "models: expected a model"),
        (
            ["models/a/1/x.txt", "models/a/2/y.txt"],
            "models",
            "models/a: expected a version with a model, got none in 1, 2",
        ),
        (
            ["models/a/1/x.onnx", "models/a/1/y.keras"],
            "models",
            "models/a/1: expected one model, got x.onnx and y.keras",
        ),
        (["models/a/x.onnx", "models/a/y.keras"], "models", "models/a: expected one model, got x.onnx and y.keras"),
        (
            ["models/a.onnx", "models/a/1/x.onnx"],
            "models",
            "two models are named 'a': models/a/1/x.onnx and models/a.onnx",
        ),
        (
            ["models/a.onnx", "models/b.onnx"],
            "cat=models",
            "cat=models: expected one model for the name 'cat', got a folder of 2",
        ),
    ],
)
def test_a_folder_that_can_not_be_served_is_told(here, files, source, message):
    (here / "models").mkdir()
    for name in files:
        put(here / name)
    with pytest.raises(ModelError, match=message):
        resolve([source])


def test_a_folder_that_vanishes_meanwhile_is_told(here, monkeypatch):
    put(here / "models" / "a" / "1" / "x.onnx")
    listdir = os.listdir

    def vanishing(path):
        names = listdir(path)
        if os.path.basename(path) == "1":
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return names

    monkeypatch.setattr(os, "listdir", vanishing)
    with pytest.raises(ModelError, match="models: can not be read: No such file or directory"):
        resolve(["models"])
