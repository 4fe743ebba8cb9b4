"""`model.toml`: what a file can not say."""

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")

import onnx_files
from onnx_files import write

from shm_server.models import load
from shm_server.models.card_toml import Card, read_card
from shm_server.models.checking import trial
from shm_server.models.errors import ModelError


@pytest.fixture
def path(tmp_path):
    """Without a card: x FP32 [4] -> y FP32 [3]."""
    return write(tmp_path / "flowers.onnx", onnx_files.linear())


def card(path, text: str, name: str = "flowers.toml") -> None:
    (path.parent / name).write_text(text)


@pytest.mark.parametrize("name", ["flowers.toml", "model.toml"])
def test_labels_and_batch_come_from_the_card_beside_the_file(path, name):
    card(path, 'max_batch = 4\n[outputs.y]\nlabels = ["setosa", "versicolor", "virginica"]\n', name)
    model = load(path)
    assert model.max_batch == 4
    assert model.signature.outputs[0].labels == ("setosa", "versicolor", "virginica")


def test_without_a_card_nothing_is_said(path):
    assert read_card(path) == Card()
    assert load(path).signature.outputs[0].labels == ()


def test_two_cards_are_one_too_many(path):
    card(path, "max_batch = 4\n")
    card(path, "max_batch = 4\n", "model.toml")
    with pytest.raises(ModelError, match=r"expected one card, got \S+flowers.toml and \S+model.toml"):
        load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_batch =", "no card can be read"),
        ("maxbatch = 4", "unknown key 'maxbatch': did you mean 'max_batch'?"),
        ("threads = 4", "unknown key 'threads': there are max_batch, bounds, inputs, outputs"),
        ("max_batch = 0", "max_batch: expected 1 or more, got 0"),
        ("max_batch = true", "max_batch: expected an integer, got True"),
        ('max_batch = "4"', "max_batch: expected an integer, got '4'"),
        ("bounds = 3", "bounds: expected a table, got 3"),
        ("[bounds]\ntokens = 8", r"bounds: expected one for each symbolic dimension \(none\), got tokens"),
        ("[inputs]\nx = 3", "inputs.x: expected a table of shape, datatype, scale, offset, got 3"),
        ("[inputs.x]\nsacle = 3", "inputs.x: unknown key 'sacle': did you mean 'scale'?"),
        ("[inputs.x]\nlabels = []", "inputs.x: unknown key 'labels'"),
        ("[inputs.z]\nscale = 3", "inputs.z in its card: expected one of x"),
        ("[inputs.x]\nshape = [3]", r"input 'x': \S+flowers.toml says shape \[3\], the file has \[4\]"),
        ("[inputs.x]\nshape = [4, 1]", r"says shape \[4, 1\], the file has \[4\]"),
        ("[inputs.x]\nshape = 4", "inputs.x.shape: expected a list, got 4"),
        ('[inputs.x]\nshape = ["tokens"]', r"says shape \[tokens\], the file has \[4\]"),
        ('[inputs.x]\ndatatype = "uint8"', "inputs.x.datatype: expected one of BOOL, .*, got 'uint8'"),
        ('[inputs.x]\nscale = "big"', "inputs.x.scale: expected a number, or lists of numbers, got 'big'"),
        ("[inputs.x]\nscale = [[1], [1, 2]]", "inputs.x.scale: expected a number, or lists of numbers"),
        ("[inputs.x]\nscale = nan", "inputs.x.scale: expected a number"),
        ("[inputs.x]\nscale = [1.0, 2.0]", r"input 'x': expected a scale that broadcasts to \(4,\), got shape \(2,\)"),
        ("[outputs.z]\nlabels = []", "outputs.z in its card: expected one of y"),
        ("[outputs.y]\nlabel = []", "outputs.y: unknown key 'label': did you mean 'labels'?"),
        ('[outputs.y]\nlabels = "abc"', "outputs.y.labels: expected a list, got 'abc'"),
        ('[outputs.y]\nlabels = ["a", "b"]', r"tensor 'y': expected 3 labels for shape \(3,\), got 2"),
        ("[outputs.y]\nlabels = [1, 2, 3]", "tensor 'y': expected printable labels, got 1"),
    ],
)
def test_what_a_card_can_not_say_is_refused_with_its_place(path, text, message):
    card(path, text)
    with pytest.raises(ModelError, match=message) as raised:
        load(path)
    assert "flowers." in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_is_no_text_or_no_card_at_all_is_refused(path):
    place = path.with_suffix(".toml")
    place.write_bytes(b"\xff\xfe")
    with pytest.raises(ModelError, match=r"flowers.toml: no card can be read"):
        load(path)
    place.write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(ModelError, match=r"flowers.toml: expected at most 1048576 bytes, got 1048577"):
        load(path)
    place.unlink()
    place.mkdir()
    with pytest.raises(ModelError, match=r"flowers.toml: no card can be read"):
        load(path)


def test_pixels_are_sent_as_bytes_and_scaled_for_the_file(tmp_path):
    path = write(tmp_path / "segment.onnx", onnx_files.segmentation())
    plain = load(path)
    card(
        path,
        """
        [inputs.pixels]
        datatype = "UINT8"
        scale = [[[0.5]], [[0.25]], [[0.125]]]  # one for each plane
        offset = -1.0
        """,
        "segment.toml",
    )
    scaled = load(path)
    trial(scaled)
    (pixels,) = scaled.signature.inputs
    assert (pixels.datatype, pixels.shape) == ("UINT8", (3, 8, 8))
    sent = np.random.default_rng(1).integers(0, 256, (3, 3, 8, 8), dtype=np.uint8)
    taken = sent * np.float32([0.5, 0.25, 0.125])[:, None, None] - np.float32(1)
    results = []
    for model, rows in ((scaled, sent), (plain, taken)):
        outputs = model.signature.empty(model.signature.outputs, 3)
        model.run({"pixels": rows}, outputs)
        results.append(outputs["mask"])
    np.testing.assert_allclose(*results, rtol=1e-6)


def test_a_file_that_takes_whole_numbers_is_not_scaled_for(tmp_path):
    path = write(tmp_path / "int8.onnx", onnx_files.quantized())
    card(path, "[inputs.x]\nscale = 0.5\n", "int8.toml")
    with pytest.raises(ModelError, match="input 'x': expected a file that takes floats to scale for, got INT8"):
        load(path)
