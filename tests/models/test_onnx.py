"""`.onnx` files, on ONNX Runtime and on OpenVINO."""

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")

import onnx_files
from onnx import TensorProto
from onnx_files import write

from shm_server.models import engines, load
from shm_server.models.checking import trial
from shm_server.models.errors import ModelError
from shm_server.models.protocol import Model
from shm_server.models.tensor import DATATYPES, Tensor

ENGINES = ("onnxruntime", "openvino")
BOUNDED = "[bounds]\ntokens = 32\n"


@pytest.fixture(params=ENGINES)
def engine(request) -> str:
    if not engines.installed(request.param):
        pytest.skip(f"needs the extra [{request.param}]")
    return request.param


def run(model: Model, count: int, extent: int | None = None, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    outputs = model.signature.empty(model.signature.outputs, count, extent)
    for array in inputs.values():
        array.flags.writeable = False
    model.run(inputs, outputs)
    return outputs


@pytest.mark.parametrize("count", [1, 2, 5, 32])
def test_any_number_of_rows_is_answered(tmp_path, engine, count):
    model = load(write(tmp_path / "linear.onnx", onnx_files.linear()), engine)
    trial(model)
    x = np.random.default_rng(count).random((count, 4), np.float32)
    np.testing.assert_allclose(run(model, count, x=x)["y"], x @ onnx_files.weights(), rtol=1e-5)


def test_a_file_says_who_it_is_and_what_it_takes(tmp_path, engine):
    model = load(write(tmp_path / "linear.onnx", onnx_files.linear()), engine)
    assert (model.name, model.version, model.platform) == ("linear", "1", f"{engine}_onnx")
    assert model.signature.inputs == (Tensor("x", "FP32", (4,)),)
    assert model.signature.outputs == (Tensor("y", "FP32", (3,)),)


def test_a_file_of_one_row_runs_row_by_row(tmp_path, engine):
    model = load(write(tmp_path / "one.onnx", onnx_files.linear(batch=1)), engine)
    trial(model)
    x = np.random.default_rng(3).random((5, 4), np.float32)
    np.testing.assert_allclose(run(model, 5, x=x)["y"], x @ onnx_files.weights(), rtol=1e-5)


def test_a_file_with_one_input_of_one_row_runs_row_by_row(tmp_path, engine):
    model = load(write(tmp_path / "scaled.onnx", onnx_files.scaled()), engine)
    trial(model)
    x, scale = np.random.default_rng(3).random((2, 5, 4), np.float32)
    np.testing.assert_allclose(run(model, 5, x=x, scale=scale)["y"], x * scale, rtol=1e-6)


def test_a_file_of_four_rows_is_refused(tmp_path, engine):
    path = write(tmp_path / "four.onnx", onnx_files.linear(batch=4))
    with pytest.raises(
        ModelError, match=r"four.onnx: input 'x': expected an open batch, or one of 1, .* got shape \[4, 4\]"
    ):
        load(path, engine)


def reference(ids: np.ndarray, mask: np.ndarray, types: np.ndarray) -> np.ndarray:
    """The encoder's vector of one text, in NumPy."""
    arrays = {array.name: array for array in onnx_files.encoder().graph.initializer}
    from onnx import numpy_helper

    words, kinds, wq, wk, wv = (numpy_helper.to_array(arrays[name]) for name in ("words", "types", "wq", "wk", "wv"))
    x = words[ids] + kinds[types]
    scores = (x @ wq) @ (x @ wk).T + (1 - mask) * -1e9
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    hidden = powers / powers.sum(axis=1, keepdims=True) @ (x @ wv)
    return (hidden * mask[:, None]).sum(axis=0) / mask.sum()


def test_a_text_encoder_runs_at_the_bucket_of_its_longest_text(tmp_path, engine):
    path = write(tmp_path / "minilm.onnx", onnx_files.encoder())
    (tmp_path / "minilm.toml").write_text(BOUNDED)
    model = load(path, engine)
    trial(model)
    assert [tensor.shape for tensor in model.signature.inputs] == [("tokens",)] * 3
    hidden, vector = model.signature.outputs
    assert (hidden.name, hidden.shape, vector.name, vector.shape) == (
        "last_hidden_state",
        ("tokens", 8),
        "vector",
        (8,),
    )
    rng = np.random.default_rng(4)
    lengths = (3, 11, 1)
    extent = model.signature.bucket(max(lengths))
    # Views of rows at a distance, as a segment has them.
    wide = {name: np.zeros((3, 32), np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
    for row, length in enumerate(lengths):
        wide["input_ids"][row, :length] = rng.integers(1, onnx_files.VOCABULARY, length)
        wide["attention_mask"][row, :length] = 1
        wide["token_type_ids"][row, length // 2 : length] = 1
    outputs = {
        "last_hidden_state": np.zeros((3, 32, 8), np.float32)[:, :extent],
        "vector": np.zeros((3, 8), np.float32),
    }
    model.run({name: array[:, :extent] for name, array in wide.items()}, outputs)
    for row, length in enumerate(lengths):
        alone = reference(*(wide[tensor.name][row, :length] for tensor in model.signature.inputs))
        np.testing.assert_allclose(outputs["vector"][row], alone, rtol=1e-4, atol=1e-5)
        assert np.abs(outputs["last_hidden_state"][row, :length]).min() > 0


def test_an_open_dimension_needs_a_bound(tmp_path, engine):
    path = write(tmp_path / "minilm.onnx", onnx_files.encoder())
    with pytest.raises(
        ModelError, match=r"minilm.onnx: input 'input_ids': expected a bound .* say \[bounds\] tokens = 128"
    ):
        load(path, engine)


def test_a_bound_of_another_name_is_refused_where_the_file_names_the_dimension(tmp_path):
    path = write(tmp_path / "minilm.onnx", onnx_files.encoder())
    (tmp_path / "minilm.toml").write_text("[bounds]\nwords = 32\n")
    with pytest.raises(ModelError, match=r"got bounds for words: the file has \[batch, tokens\]"):
        load(path, "onnxruntime")


def test_dimensions_of_different_names_become_one_when_the_card_says_so(tmp_path, engine):
    path = write(tmp_path / "minilm.onnx", onnx_files.encoder(tokens=("seq1", "seq2", "seq3")))
    shapes = "".join(f'[inputs.{n}]\nshape = ["tokens"]\n' for n in ("input_ids", "attention_mask", "token_type_ids"))
    (tmp_path / "minilm.toml").write_text(BOUNDED + shapes)
    model = load(path, engine)
    trial(model)
    assert model.signature.bounds == {"tokens": 32}


def test_an_open_dimension_that_is_not_the_first_of_a_row_is_refused(tmp_path, engine):
    path = write(tmp_path / "planes.onnx", onnx_files.identity(shape=("n", 3, "tokens")))
    (tmp_path / "planes.toml").write_text(BOUNDED)
    with pytest.raises(
        ModelError, match=r"planes.onnx: tensor 'x': expected a symbolic dimension as the first .*, got \(3, 'tokens'\)"
    ):
        load(path, engine)
    path = write(tmp_path / "transposed.onnx", onnx_files.transposed())
    (tmp_path / "transposed.toml").write_text(BOUNDED)
    with pytest.raises(ModelError, match=r"transposed.onnx: tensor 'y': .*, got \(4, 'tokens'\)"):
        load(path, engine)


def test_a_file_of_more_tensors_than_a_segment_has_is_refused(tmp_path, engine):
    assert len(load(write(tmp_path / "most.onnx", onnx_files.fanned(23)), engine).signature.outputs) == 23
    path = write(tmp_path / "more.onnx", onnx_files.fanned(24))
    with pytest.raises(ModelError, match=r"more.onnx: expected at most 24 tensors, got 1 inputs and 24 outputs"):
        load(path, engine)


def test_an_open_dimension_may_be_closed_by_the_card(tmp_path, engine):
    path = write(tmp_path / "segment.onnx", onnx_files.segmentation(("height", "width")))
    with pytest.raises(ModelError, match="input 'pixels': expected a bound for its open dimension"):
        load(path, engine)
    (tmp_path / "segment.toml").write_text("[inputs.pixels]\nshape = [3, 8, 12]\n")
    assert load(path, engine).signature.outputs[0].shape == (5, 16, 24)


def test_a_mask_that_is_larger_than_its_picture_is_served(tmp_path, engine):
    model = load(write(tmp_path / "segment.onnx", onnx_files.segmentation()), engine)
    trial(model)
    (pixels,), (mask,) = model.signature.inputs, model.signature.outputs
    assert (pixels.shape, mask.shape) == ((3, 8, 8), (5, 16, 16))
    assert model.signature.row_bytes(mask) > 6 * model.signature.row_bytes(pixels)
    values = np.random.default_rng(1).random((2, 3, 8, 8), np.float32)
    result = run(model, 2, pixels=values)["mask"]
    np.testing.assert_array_equal(result[:, :, ::2, ::2], result[:, :, 1::2, 1::2])
    assert result.std() > 0.1


def test_outputs_are_written_where_the_caller_has_them(tmp_path):
    graph = engines.engine("onnxruntime").open(write(tmp_path / "linear.onnx", onnx_files.linear()), threads=1)
    x, wide = np.ones((2, 4), np.float32), np.zeros((2, 64), np.float32)
    y = np.zeros((2, 3), np.float32)
    assert graph.call({"x": x}, {"y": y})["y"] is y
    assert graph.call({"x": x}, {"y": wide[:, :3]})["y"] is not y, "rows at a distance are filled by whoever calls"
    np.testing.assert_allclose(y, x @ onnx_files.weights(), rtol=1e-5)


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_is_carried_as_it_is(tmp_path, datatype):
    element = {"BF16": TensorProto.BFLOAT16, "FP16": TensorProto.FLOAT16, "FP32": TensorProto.FLOAT}
    element |= {"FP64": TensorProto.DOUBLE}
    path = write(tmp_path / "x.onnx", onnx_files.identity(element.get(datatype) or getattr(TensorProto, datatype)))
    model = load(path, "onnxruntime")
    assert [model.signature.inputs[0].datatype, model.signature.outputs[0].datatype] == [datatype] * 2
    x = np.random.default_rng(2).integers(0, 2, (3, 4)).astype(DATATYPES[datatype])
    assert run(model, 3, x=x)["y"].tobytes() == x.tobytes()


@pytest.mark.parametrize("datatype", ["INT8", "FP16", "BOOL", "INT64"])
def test_openvino_carries_them_too(tmp_path, datatype):
    pytest.importorskip("openvino")
    element = {"FP16": TensorProto.FLOAT16}.get(datatype) or getattr(TensorProto, datatype)
    model = load(write(tmp_path / "x.onnx", onnx_files.identity(element)), "openvino")
    assert model.signature.outputs[0].datatype == datatype
    x = np.random.default_rng(2).integers(0, 2, (3, 4)).astype(DATATYPES[datatype])
    assert run(model, 3, x=x)["y"].tobytes() == x.tobytes()


def test_openvino_says_that_it_has_no_bfloat16(tmp_path):
    pytest.importorskip("openvino")
    path = write(tmp_path / "x.onnx", onnx_files.identity(TensorProto.BFLOAT16))
    with pytest.raises(ModelError, match="tensor 'x': OpenVINO has no arrays of BF16"):
        load(path, "openvino")


def test_quantized_numbers_go_in_and_sums_come_out(tmp_path):
    model = load(write(tmp_path / "int8.onnx", onnx_files.quantized()), "onnxruntime")
    trial(model)
    x = np.random.default_rng(6).integers(-128, 128, (7, 4)).astype(np.int8)
    expected = x.astype(np.int32) @ np.arange(-6, 6).reshape(4, 3)
    np.testing.assert_array_equal(run(model, 7, x=x)["y"], expected)


def test_an_output_without_the_batch_is_refused(tmp_path, engine):
    path = write(tmp_path / "sum.onnx", onnx_files.no_batch())
    with pytest.raises(ModelError, match=r"output 'y': expected 2 rows for x \(2, 3\), got shape \(3,\)"):
        load(path, engine)


def test_an_output_as_long_as_its_numbers_are_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"output 'y': expected 2 rows for x \(2, 3\), got shape \(0, 2\)"):
        load(write(tmp_path / "nonzero.onnx", onnx_files.nonzero()), "onnxruntime")


def test_another_shape_for_other_numbers_is_that_batch_error_and_written_nowhere(tmp_path, engine, capfd):
    model = load(write(tmp_path / "growing.onnx", onnx_files.growing()), engine)
    x, y = np.ones((2, 4), np.float32), np.full((2, 2), 7, np.float32)
    with pytest.raises(ModelError, match=r"output 'y': expected FP32 \(2, 2\), got FP32 \(2, 3\)"):
        model.run({"x": x}, {"y": y})
    assert (y == 7).all()
    model.run({"x": 0 * x}, {"y": y})
    assert (y == 0).all()
    assert not capfd.readouterr().err, "a caller fills no log"


def test_an_encoder_without_a_mask_does_not_pass_its_trial(tmp_path, engine):
    path = write(tmp_path / "minilm.onnx", onnx_files.encoder(masked=False))
    (tmp_path / "minilm.toml").write_text(BOUNDED)
    with pytest.raises(ModelError, match=r"minilm: output 'last_hidden_state': .* depends on the zeros behind it"):
        trial(load(path, engine))
    (tmp_path / "minilm.toml").write_text("max_batch = 1\n" + BOUNDED)
    trial(load(path, engine))


def test_a_token_beyond_the_vocabulary_is_that_batch_error(tmp_path):
    path = write(tmp_path / "minilm.onnx", onnx_files.encoder())
    (tmp_path / "model.toml").write_text(BOUNDED)
    model = load(path, "onnxruntime")
    ones = np.ones((1, 8), np.int64)
    good = {"input_ids": ones.copy(), "attention_mask": ones.copy(), "token_type_ids": ones.copy()}
    with pytest.raises(Exception, match="indices element out of data bounds, idx=50"):
        run(model, 1, 8, **(good | {"input_ids": ones * onnx_files.VOCABULARY}))
    assert np.isfinite(run(model, 1, 8, **good)["vector"]).all()


@pytest.mark.parametrize("content", [b"", b"no protobuf", b"\x08\x0a"])
def test_a_broken_file_is_refused(tmp_path, engine, content):
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(
        ModelError, match=r"broken.onnx: not a model that (ONNX Runtime|OpenVINO) \S+ can load: "
    ) as raised:
        load(path, engine)
    assert "\n" not in str(raised.value)


def test_memory_is_given_up_after_a_call(tmp_path, engine):
    import mmap

    model = load(write(tmp_path / "linear.onnx", onnx_files.linear()), engine)
    memory = mmap.mmap(-1, 4096)
    x = np.frombuffer(memoryview(memory).toreadonly(), np.float32, 8).reshape(2, 4)
    y = np.frombuffer(memory, np.float32, 6, 1024).reshape(2, 3)
    model.run({"x": x}, {"y": y})
    del x, y
    memory.close()  # BufferError if anything still refers to it


def test_the_same_place_with_other_numbers_is_read_anew(tmp_path, engine):
    model = load(write(tmp_path / "linear.onnx", onnx_files.linear()), engine)
    x, y = np.zeros((2, 4), np.float32), np.zeros((2, 3), np.float32)
    for value in (1, 2, 3):
        x[:] = value
        model.run({"x": x}, {"y": y})
        np.testing.assert_allclose(y, x @ onnx_files.weights(), rtol=1e-5)
