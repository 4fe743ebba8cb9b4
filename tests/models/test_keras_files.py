"""`.keras` files and SavedModels: TensorFlow and OpenVINO run in this process; JAX, which needs Keras on another
backend, in one of its own."""

import importlib.util
import mmap
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from conftest import ROOT

tensorflow = pytest.importorskip("tensorflow", reason="needs the extra [tensorflow]")
keras = pytest.importorskip("keras")
# Engines ask for one thread, and TensorFlow has one number of threads a process.
tensorflow.config.threading.set_intra_op_parallelism_threads(1)
tensorflow.config.threading.set_inter_op_parallelism_threads(1)

import keras_files  # noqa: E402

from shm_server.models import Model, ModelError, load, trial  # noqa: E402

BOUNDED = "[bounds]\ntokens = 16\n"


def needs(framework: str) -> None:
    """Skips a test where the framework is missing, without importing it."""
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"needs the extra [{framework}]")


@pytest.fixture(params=["tensorflow", "openvino"])
def engine(request) -> str:
    needs(request.param)
    return request.param


@pytest.fixture
def saved(tmp_path):
    """saved(build) is the path of the `.keras` file."""

    def _saved(build, card: str = ""):
        path = tmp_path / f"{build.__name__}.keras"
        build().save(path)
        if card:
            path.with_suffix(".toml").write_text(card)
        return path

    return _saved


def run(model: Model, inputs: dict, extent: int | None = None) -> dict[str, np.ndarray]:
    count = len(next(iter(inputs.values())))
    outputs = model.signature.empty(model.signature.outputs, count, extent)
    for array in inputs.values():
        array.flags.writeable = False
    model.run(inputs, outputs)
    return outputs


def described(model: Model) -> list[tuple]:
    tensors = (*model.signature.inputs, *model.signature.outputs)
    return [(tensor.name, tensor.datatype, tensor.shape) for tensor in tensors]


def random(model: Model, count: int, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {t.name: rng.random((count, *t.shape), np.float32).astype(t.dtype) for t in model.signature.inputs}


def test_a_picture_of_224_pixels_is_scored_as_keras_scores_it(saved, engine):
    path = saved(keras_files.pictures)
    model = load(path, engine)
    trial(model)
    assert described(model) == [("pixels", "FP32", (224, 224, 3)), ("classes", "FP32", (10,))]
    inputs = random(model, 3)
    expected = keras_files.pictures()(inputs["pixels"]).numpy()
    np.testing.assert_allclose(run(model, inputs)["classes"], expected, atol=1e-5)
    assert model.platform == f"{engine}_keras"


@pytest.mark.parametrize("build", [keras_files.detector, keras_files.detector_in_order])
def test_inputs_and_outputs_of_a_detector_keep_their_names(saved, engine, build):
    model = load(saved(build), engine)
    trial(model)
    assert described(model)[:2] == [("image", "FP32", (8, 8, 1)), ("place", "FP32", (2,))]
    assert set(described(model)[2:]) == {("scores", "FP32", (3,)), ("boxes", "FP32", (3, 4))}
    inputs = random(model, 2)
    wanted = keras_files.detector()([inputs["image"], inputs["place"]])
    outputs = run(model, inputs)
    for name in ("scores", "boxes"):
        np.testing.assert_allclose(outputs[name], wanted[name].numpy(), atol=1e-5)


def test_outputs_of_one_layer_are_numbered(saved, engine):
    model = load(saved(keras_files.siblings), engine)
    trial(model)
    assert [tensor.name for tensor in model.signature.outputs] == ["head_0", "head_1"]
    inputs = random(model, 2)
    wanted = keras_files.siblings()([inputs["left"], inputs["right"]])
    outputs = run(model, inputs)
    for name, values in zip(("head_0", "head_1"), wanted, strict=True):
        np.testing.assert_allclose(outputs[name], values.numpy(), atol=1e-5)


def test_outputs_within_outputs_are_refused(saved):
    with pytest.raises(ModelError, match=r"nested.keras: .*expected a dict of tensors as outputs"):
        load(saved(keras_files.nested), "tensorflow")


def test_a_sigmoid_head_is_served_as_it_is(saved, engine):
    model = load(saved(keras_files.sigmoid, '[outputs.p]\nlabels = ["survives"]\n'), engine)
    trial(model)
    assert described(model) == [("x", "FP32", (30,)), ("p", "FP32", (1,))]
    inputs = random(model, 5)
    np.testing.assert_allclose(run(model, inputs)["p"], keras_files.sigmoid()(inputs["x"]).numpy(), atol=1e-5)


def test_token_ids_of_any_number_are_taken(saved, engine):
    model = load(saved(keras_files.text, BOUNDED), engine)
    trial(model)
    assert described(model)[0] == ("ids", "INT32", ("tokens",))
    ids = np.array([[5, 3, 0, 0, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6, 7, 8]], np.int32)
    (name,) = [tensor.name for tensor in model.signature.outputs]
    vectors = run(model, {"ids": ids}, extent=8)[name]
    np.testing.assert_allclose(vectors[:1], keras_files.text()(ids[:1, :2]).numpy(), atol=1e-5)


def test_token_ids_without_a_bound_are_refused(saved):
    with pytest.raises(ModelError, match=r"text.keras: input 'ids': expected a bound .* the file has \[\?, \?\]"):
        load(saved(keras_files.text), "tensorflow")


def test_bfloat16_is_carried_as_it_is(saved):
    model = load(saved(keras_files.half), "tensorflow")
    trial(model)
    assert described(model) == [("x", "BF16", (4,)), ("y", "BF16", (3,))]
    outputs = run(model, random(model, 2))
    assert outputs["y"].dtype == ml_dtypes.bfloat16
    assert np.abs(outputs["y"].astype(np.float32)).max() > 0


def test_a_model_that_looks_at_other_rows_does_not_pass_its_trial(saved, engine):
    with pytest.raises(
        ModelError, match=r"statistics: output .*: a row's result depends on the other rows of its batch"
    ):
        trial(load(saved(keras_files.statistics), engine))


def test_a_file_of_one_row_runs_row_by_row(saved, engine):
    model = load(saved(keras_files.one_row), engine)
    trial(model)
    inputs = random(model, 3)
    wanted = [keras_files.one_row()(inputs["x"][row : row + 1]).numpy()[0] for row in range(3)]
    np.testing.assert_allclose(run(model, inputs)["y"], wanted, atol=1e-5)


def test_a_file_of_four_rows_is_refused(saved, engine):
    with pytest.raises(
        ModelError, match=r"four_rows.keras: input 'x': expected an open batch, or one of 1, .*\[4, 4\]"
    ):
        load(saved(keras_files.four_rows), engine)


def test_a_file_that_is_no_keras_file_is_refused(tmp_path, engine):
    path = tmp_path / "broken.keras"
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(ModelError, match=r"broken.keras: not a model that Keras \S+ can load: ") as raised:
        load(path, engine)
    assert "\n" not in str(raised.value)


def test_another_number_of_threads_in_one_process_is_refused(saved):
    load(saved(keras_files.sigmoid), "tensorflow")
    with pytest.raises(ModelError, match="TensorFlow already runs with another number of threads"):
        load(saved(keras_files.sigmoid), "tensorflow", threads=2)


@pytest.mark.parametrize("build", [keras_files.detector, keras_files.sigmoid])
def test_a_saved_model_is_a_folder_and_answers_as_its_keras_file(tmp_path, saved, build):
    folder = tmp_path / "exported"
    build().export(folder, verbose=False)
    model, file = load(folder), load(saved(build), "tensorflow")
    trial(model)
    assert (model.name, model.platform) == ("exported", "tensorflow_savedmodel")
    inputs = random(file, 3)
    names = dict(zip(inputs, [tensor.name for tensor in model.signature.inputs], strict=True))
    outputs = run(model, {names[name]: array for name, array in inputs.items()})
    for wanted, got in zip(
        sorted(run(file, inputs).values(), key=np.size), sorted(outputs.values(), key=np.size), strict=True
    ):
        np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_a_saved_model_of_a_class_with_variables_is_served(tmp_path):
    class Counter(tensorflow.Module):
        def __init__(self):
            super().__init__()
            self.weights = tensorflow.Variable([[1.0, 2.0], [3.0, 4.0]])

        @tensorflow.function(input_signature=[tensorflow.TensorSpec([None, 2], tensorflow.float32, name="x")])
        def serve(self, x):
            return {"y": x @ self.weights, "any": tensorflow.reduce_any(x > 0, axis=1)}

    counter = Counter()
    tensorflow.saved_model.save(counter, str(tmp_path / "saved"), signatures=counter.serve)
    model = load(tmp_path / "saved")
    trial(model)
    assert described(model) == [("x", "FP32", (2,)), ("any", "BOOL", ()), ("y", "FP32", (2,))]
    outputs = run(model, {"x": np.array([[1, 1], [0, 0]], np.float32)})
    assert outputs["y"].tolist() == [[4, 6], [0, 0]]
    assert outputs["any"].tolist() == [True, False]


def test_a_saved_model_without_a_signature_is_refused(tmp_path):
    tensorflow.saved_model.save(tensorflow.Module(), str(tmp_path / "saved"))
    with pytest.raises(ModelError, match="saved: expected a signature 'serving_default', got none"):
        load(tmp_path / "saved")


def test_a_folder_with_a_broken_saved_model_is_refused(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"broken")
    with pytest.raises(ModelError, match=r"not a SavedModel that TensorFlow \S+ can load: "):
        load(tmp_path)


def test_memory_is_given_up_after_a_call(saved, engine):
    model = load(saved(keras_files.sigmoid), engine)
    for offset in (0, 64, 1):
        memory = mmap.mmap(-1, 8192)
        x = np.frombuffer(memoryview(memory).toreadonly(), np.float32, 60, offset).reshape(2, 30)
        p = np.frombuffer(memory, np.float32, 2, 4096 + offset).reshape(2, 1)
        model.run({"x": x}, {"p": p})
        del x, p
        memory.close()  # BufferError if anything still refers to it


def test_the_same_place_with_other_numbers_is_read_anew(saved, engine):
    model = load(saved(keras_files.sigmoid), engine)
    x, p = np.zeros((2, 30), np.float32), np.zeros((2, 1), np.float32)
    for value in (1, 2, 3):
        x[:] = value
        model.run({"x": x}, {"p": p})
        np.testing.assert_allclose(p, keras_files.sigmoid()(x.copy()).numpy(), atol=1e-5)


def test_jax_answers_as_tensorflow_does(saved):
    needs("jax")
    paths = [saved(keras_files.detector), saved(keras_files.text, BOUNDED), saved(keras_files.half)]
    expected = []
    for path in paths:
        model = load(path, "tensorflow")
        outputs = run(model, random(model, 2)) if path.stem != "text" else {}
        expected.append({name: values.astype(np.float32) for name, values in outputs.items()})
    np.save(paths[0].with_name("expected.npy"), np.array(expected, object))
    script = """
import sys
import numpy as np
from pathlib import Path
from shm_server.models import load, trial
expected = np.load(Path(sys.argv[1]).with_name("expected.npy"), allow_pickle=True)
for path, wanted in zip(sys.argv[1:], expected):
    model = load(path, "jax")
    trial(model)
    assert model.platform == "jax_keras"
    rng = np.random.default_rng(1)
    if wanted:
        inputs = {t.name: rng.random((2, *t.shape), np.float32).astype(t.dtype) for t in model.signature.inputs}
        outputs = model.signature.empty(model.signature.outputs, 2)
        model.run(inputs, outputs)
        for name, values in wanted.items():
            np.testing.assert_allclose(outputs[name].astype(np.float32), values, atol=1e-2 if
            path.endswith("half.keras") else 1e-5)
"""
    done = subprocess.run([sys.executable, "-c", script, *map(str, paths)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_jax_beside_tensorflow_in_one_process_is_refused(saved):
    needs("jax")
    with pytest.raises(ModelError, match="Keras already runs on tensorflow in this process"):
        load(saved(keras_files.sigmoid), "jax")
