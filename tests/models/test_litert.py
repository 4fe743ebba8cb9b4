"""`.tflite` files, which TensorFlow converts, on LiteRT."""

import numpy as np
import pytest

tensorflow = pytest.importorskip("tensorflow", reason="needs the extra [tensorflow]")
pytest.importorskip("ai_edge_litert", reason="needs the extra [litert]")

import keras_files  # noqa: E402

from shm_server.models import Model, ModelError, load, trial  # noqa: E402


@pytest.fixture
def converted(tmp_path):
    """converted(build) is the path of the `.tflite` file."""

    def _converted(build, quantize: bool = False):
        build().export(tmp_path / "exported", verbose=False)
        converter = tensorflow.lite.TFLiteConverter.from_saved_model(str(tmp_path / "exported"))
        if quantize:
            rng = np.random.default_rng(1)
            converter.optimizations = [tensorflow.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: ([rng.random((1, 30), np.float32)] for _ in range(20))
            converter.target_spec.supported_ops = [tensorflow.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tensorflow.int8
        path = tmp_path / f"{build.__name__}.tflite"
        path.write_bytes(converter.convert())
        return path

    return _converted


def run(model: Model, inputs: dict) -> dict[str, np.ndarray]:
    count = len(next(iter(inputs.values())))
    outputs = model.signature.empty(model.signature.outputs, count)
    for array in inputs.values():
        array.flags.writeable = False
    model.run(inputs, outputs)
    return outputs


def test_inputs_and_outputs_keep_their_names_and_any_number_of_rows_is_answered(converted):
    model = load(converted(keras_files.detector))
    trial(model)
    assert model.platform == "litert_tflite"
    assert {(tensor.name, tensor.shape) for tensor in model.signature.inputs} == {("image", (8, 8, 1)), ("place", (2,))}
    assert {(tensor.name, tensor.shape) for tensor in model.signature.outputs} == {("scores", (3,)), ("boxes", (3, 4))}
    keras_model = keras_files.detector()
    for count in (3, 1, 7):
        rng = np.random.default_rng(count)
        inputs = {t.name: rng.random((count, *t.shape), np.float32) for t in model.signature.inputs}
        wanted = keras_model([inputs["image"], inputs["place"]])
        outputs = run(model, inputs)
        for name in ("scores", "boxes"):
            np.testing.assert_allclose(outputs[name], wanted[name].numpy(), atol=1e-5)


def test_int8_goes_in_and_out_as_it_is(converted):
    model = load(converted(keras_files.sigmoid, quantize=True))
    trial(model)
    assert [tensor.datatype for tensor in (*model.signature.inputs, *model.signature.outputs)] == ["INT8", "INT8"]
    (x,), (p,) = model.signature.inputs, model.signature.outputs
    values = np.random.default_rng(2).integers(-128, 128, (6, 30)).astype(np.int8)
    assert len(set(run(model, {x.name: values})[p.name].ravel().tolist())) > 1


def test_a_file_of_one_row_runs_row_by_row(converted):
    model = load(converted(keras_files.one_row))
    trial(model)
    x = np.random.default_rng(3).random((4, 4), np.float32)
    (name,) = [tensor.name for tensor in model.signature.outputs]
    keras_model = keras_files.one_row()
    wanted = [keras_model(x[row : row + 1]).numpy()[0] for row in range(4)]
    np.testing.assert_allclose(run(model, {model.signature.inputs[0].name: x})[name], wanted, atol=1e-5)


@pytest.mark.parametrize("content", [b"", b"no flatbuffer", b"\x1c\x00\x00\x00TFL3" + bytes(64)])
def test_a_broken_file_is_refused(tmp_path, content):
    path = tmp_path / "broken.tflite"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"broken.tflite: not a model that LiteRT can load: ") as raised:
        load(path)
    assert "\n" not in str(raised.value)
