"""docs/your-own-model.md does what it says: its snippets run as they stand, in their order."""

import re
import shutil
import subprocess
import sys
import tomllib

import numpy as np
import pytest
from conftest import ROOT

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")

import onnx_files
from onnx import TensorProto

from shm_server.models import engines, load, trial

PAGE = (ROOT / "docs" / "your-own-model.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
TOML = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
FLOWERS = next(code for code in PYTHON if code.startswith("# flowers.py"))


@pytest.fixture
def folder(tmp_path):
    """What somebody has who has followed the page: flowers.py, iris.onnx, models/."""
    (tmp_path / "flowers.py").write_text(FLOWERS)
    names: dict = {}
    exec(FLOWERS, names)
    graph = onnx_files.model(
        [("MatMul", ("x", "w"), ("z",), {}), ("Softmax", ("z",), ("y",), {"axis": 1})],
        {"x": (TensorProto.FLOAT, ("n", 4))},
        {"y": (TensorProto.FLOAT, ("n", 3))},
        {"w": names["W"]},
    )
    iris = onnx_files.write(tmp_path / "iris.onnx", graph)
    for place in ("iris/iris.onnx", "embed/1/model.onnx", "embed/2/model.onnx"):
        (tmp_path / "models" / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(iris, tmp_path / "models" / place)
    (tmp_path / "models" / "iris" / "iris.toml").write_text(TOML[0])
    return tmp_path


@pytest.mark.parametrize("code", PYTHON, ids=range(len(PYTHON)))
def test_a_snippet_runs_and_prints_what_stands_beside_it(folder, code):
    script = f"import sys; sys.path[:0] = [{str(ROOT)!r}, '.']\n{code}"
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if "# flowers.py" not in code:
        assert done.stdout.splitlines() == printed(code)


def printed(code: str) -> list[str]:
    """What stands behind a `print`, up to a colon that explains it; what a loop prints stands below it."""
    below = [line[2:] for line in code.splitlines() if line.startswith("# ")]
    beside = re.findall(r"^print\(.*\)\s+# (.*?)(?:: .*)?$", code, re.MULTILINE)
    return beside + below


def test_the_first_card_fits_the_file_of_the_page(folder):
    (folder / "iris.toml").write_text(TOML[0])
    model = load(folder / "iris.onnx")
    trial(model)
    assert (model.max_batch, model.signature.inputs[0].datatype) == (16, "UINT8")
    outputs = model.signature.empty(model.signature.outputs, 1)
    model.run({"x": np.array([[51, 35, 14, 2]], np.uint8)}, outputs)
    assert outputs["y"].argmax() == 0


def test_the_second_card_has_keys_that_are_read(folder):
    said = tomllib.loads(TOML[1])
    assert said == {"bounds": {"tokens": 128}, "inputs": {"pixels": {"shape": [224, 224, 3]}}}
    assert len(TOML) == 2


def test_the_table_names_every_engine_in_the_order_in_which_they_are_taken():
    rows = re.findall(r"^\| `?(\.\w+|SavedModel).*\| (.*?) \|$", PAGE, re.MULTILINE)
    for kind, extras in rows:
        able = [engines.engine(name).EXTRA for name in engines.ENGINES if kind in engines.engine(name).OPENS]
        assert re.findall(r"`(\w+)`", extras) == able, kind
    assert len(rows) == 5
