"""Models in Python, and what is checked at each call."""

import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from conftest import ROOT

import shm_server
from shm_server.models.checking import check_scores
from shm_server.models.errors import ModelError
from shm_server.models.function import as_model
from shm_server.models.protocol import Model, check_model

X = {"x": ("FP32", (4,))}
Y = {"y": ("FP32", (3,))}
TWO = {"boxes": ("FP32", (2, 4)), "count": ("INT32", ())}


def run(model: Model, extent: int | None = None, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    count = len(next(iter(inputs.values())))
    outputs = model.signature.empty(model.signature.outputs, count, extent)
    for array in inputs.values():
        array.flags.writeable = False
    model.run(inputs, outputs)
    return outputs


def zeros(count: int = 2) -> np.ndarray:
    return np.zeros((count, 4), np.float32)


def giving(result: object, outputs: dict = Y) -> Model:
    return shm_server.model(inputs=X, outputs=outputs, name="m")(lambda x: result)


def test_a_function_with_a_declaration_is_a_model_and_stays_a_function():
    @shm_server.model(inputs=X, outputs={"y": ("FP32", (4,), ("a", "b", "c", "d"))})
    def doubled(x):
        """Twice."""
        return x * 2

    assert isinstance(doubled, Model)
    assert (doubled.name, doubled.version, doubled.platform, doubled.__doc__) == ("doubled", "1", "python", "Twice.")
    assert doubled.signature.outputs[0].labels == ("a", "b", "c", "d")
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(run(doubled, x=x)["y"], x * 2)
    np.testing.assert_array_equal(doubled(x), x * 2)


@pytest.mark.parametrize("count", [1, 2, 7, 32])
def test_any_number_of_rows_is_answered(count):
    model = shm_server.model(inputs=X, outputs={"sum": ("FP32", ())})(lambda x: x.sum(axis=1))
    x = np.random.default_rng(1).random((count, 4), np.float32)
    np.testing.assert_array_equal(run(model, x=x)["sum"], x.sum(axis=1))


@pytest.mark.parametrize("wrap", [lambda b, c: (b, c), lambda b, c: [b, c], lambda b, c: {"count": c, "boxes": b}])
def test_several_outputs_are_a_tuple_in_order_or_a_dict(wrap):
    boxes, counts = np.ones((2, 2, 4), np.float32), np.array([1, 2], np.int32)
    outputs = run(giving(wrap(boxes, counts), TWO), x=zeros())
    np.testing.assert_array_equal(outputs["boxes"], boxes)
    np.testing.assert_array_equal(outputs["count"], counts)


def test_inputs_are_given_by_name_and_can_not_be_written():
    @shm_server.model(inputs={"left": ("INT32", (1,)), "right": ("INT32", (1,))}, outputs={"y": ("INT32", (1,))})
    def difference(right, left):
        with pytest.raises(ValueError, match="read-only"):
            left[:] = 0
        return left - right

    assert run(difference, left=np.array([[5]], "i4"), right=np.array([[3]], "i4"))["y"] == 2


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (np.zeros((2, 4), np.float64), r"output 'y': expected FP32 \(2, 3\), got FP64 \(2, 4\)"),
        (np.zeros((2, 3), np.float64), r"output 'y': expected FP32 \(2, 3\), got FP64 \(2, 3\)"),
        (np.zeros((1, 3), np.float32), r"got FP32 \(1, 3\)"),
        (np.zeros((3,), np.float32), r"got FP32 \(3,\)"),
        (np.zeros((2, 3), "U1"), r"got str32 \(2, 3\)"),
        (np.zeros((2, 3), ">f4"), "expected FP32"),
        ([[0.0] * 3] * 2, r"output 'y': expected FP32 \(2, 3\), got list"),
        (None, r"output 'y': expected FP32 \(2, 3\), got NoneType"),
        ({"z": zeros()}, r"output 'y': expected FP32 \(2, 3\), got outputs 'z'"),
        ({}, "got outputs none"),
        ({"y": np.zeros((2, 3), np.float32), "z": zeros()}, "expected outputs 'y', got 'z' too"),
    ],
)
def test_what_was_not_declared_is_an_error_of_one_line_and_never_cast(result, message):
    with pytest.raises(ModelError, match=message) as raised:
        run(giving(result), x=zeros())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("result", "got"), [((zeros(),), "got 1"), (zeros(), "got ndarray"), ((zeros(),) * 3, "got 3")]
)
def test_too_few_or_too_many_outputs_are_an_error(result, got):
    with pytest.raises(ModelError, match=rf"expected 2 outputs \(boxes, count\), {got}"):
        run(giving(result, TWO), x=zeros())


def test_an_error_leaves_the_next_batch_alone():
    @shm_server.model(inputs=X, outputs={"y": ("FP32", (4,))})
    def positive(x):
        if (x < 0).any():
            raise ValueError("negative")
        return x

    with pytest.raises(ValueError, match="negative"):
        run(positive, x=zeros() - 1)
    np.testing.assert_array_equal(run(positive, x=zeros() + 1)["y"], zeros() + 1)


@pytest.mark.parametrize("datatype", ["BOOL", "UINT8", "INT8", "UINT64", "INT64", "FP16", "BF16", "FP64"])
def test_every_datatype_is_carried_as_it_is(datatype):
    model = shm_server.model(inputs={"x": (datatype, (5,))}, outputs={"y": (datatype, (5,))})(lambda x: x)
    bits = np.random.default_rng(2).integers(0, 2, (3, 5)).astype(model.signature.inputs[0].dtype)
    outputs = run(model, x=bits)
    assert outputs["y"].tobytes() == bits.tobytes()
    assert outputs["y"].dtype == bits.dtype


def test_bfloat16_stands_for_itself_alone():
    with pytest.raises(ModelError, match=r"expected FP32 \(2, 3\), got BF16"):
        run(giving(np.zeros((2, 3), ml_dtypes.bfloat16)), x=zeros())


def test_a_symbolic_dimension_is_as_long_as_the_batch():
    @shm_server.model(
        inputs={"ids": ("INT64", ("tokens",)), "mask": ("INT64", ("tokens",))},
        outputs={"mean": ("FP32", ()), "seen": ("INT64", ("tokens",))},
        bounds={"tokens": 100},
    )
    def mean(ids, mask):
        return ((ids * mask).sum(axis=1) / mask.sum(axis=1)).astype(np.float32), ids

    wide = np.arange(2 * 100).reshape(2, 100)
    outputs = run(mean, extent=16, ids=wide[:, :16], mask=np.ones((2, 16), np.int64))  # rows at a distance
    np.testing.assert_array_equal(outputs["mean"], [7.5, 107.5])
    assert outputs["seen"].shape == (2, 16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": {"x": "FP32"}}, r"inputs: expected 'x': \(datatype, shape\) or with labels, got 'FP32'"),
        ({"inputs": [("x", "FP32", (4,))]}, "inputs: expected a mapping"),
        ({"outputs": {"y": ("FP31", (3,))}}, "tensor 'y': expected a datatype"),
        ({"inputs": {"a": ("FP32", (4,))}}, r"model 'f': expected a function of its inputs \(a\), got \(x\)"),
        ({"max_batch": 0}, "model 'f': expected max_batch from 1 on, got 0"),
        ({"max_batch": "4"}, "expected a model with max_batch, an int, got '4'"),
        ({"version": 2}, "expected a model with version, a str, got 2"),
        ({"name": "a\nb"}, "a model's name: expected 1 to 64 bytes of printable"),
        ({"inputs": {f"x{i}": ("FP32", (4,)) for i in range(24)}}, "at most 24 tensors, got 24 inputs and 1 outputs"),
        (
            {"inputs": {"x": ("FP32", (4, "tokens"))}, "bounds": {"tokens": 8}},
            r"tensor 'x': expected a symbolic dimension as the first of a row only, got \(4, 'tokens'\)",
        ),
        ({"bounds": {"tokens": 8}}, r"bounds: expected one for each symbolic dimension \(none\), got tokens"),
    ],
)
def test_a_declaration_that_is_none_is_refused_where_it_stands(arguments, message):
    def f(x):
        return x

    with pytest.raises(ModelError, match=message):
        shm_server.model(**({"inputs": X, "outputs": Y} | arguments))(f)


def test_what_can_not_be_called_is_no_model():
    with pytest.raises(ModelError, match="expected a function or a class, got int"):
        shm_server.model(inputs=X, outputs=Y)(7)


@shm_server.model(inputs=X, outputs={"y": ("FP32", (4,))}, max_batch=8)
class Scale:
    factor = 3

    def run(self, inputs, outputs):
        np.multiply(inputs["x"], self.factor, out=outputs["y"])


@pytest.mark.parametrize("found", [Scale, Scale()])
def test_a_class_and_an_object_of_it_are_models(found):
    model = as_model(found, "scale")
    assert isinstance(model, Model)
    assert (model.name, model.platform, model.max_batch) == ("Scale", "python", 8)
    np.testing.assert_array_equal(run(model, x=zeros() + 1)["y"], zeros() + 3)


def test_a_class_keeps_what_it_says_itself():
    @shm_server.model(inputs=X, outputs=Y)
    class Named:
        name, platform = "other", "device"

        def run(self, inputs, outputs): ...

    assert (Named.name, Named.platform, Named.version) == ("other", "device", "1")


def test_a_class_without_run_is_refused():
    with pytest.raises(ModelError, match=r"model 'Empty': expected a class with run\(inputs, outputs\)"):
        shm_server.model(inputs=X, outputs=Y)(type("Empty", (), {}))


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"signature": None}, "here: expected a model with signature, a Signature, got None"),
        ({"name": 3}, "here: expected a model with name, a str, got 3"),
        ({"run": None}, "here: expected a model with run"),
        ({"begin": lambda self, inputs: 1}, "here: expected both begin and finish or neither"),
    ],
)
def test_an_object_that_lacks_something_is_no_model(attributes, message):
    with pytest.raises(ModelError, match=message):
        check_model(type("Lacking", (Scale,), attributes)(), "here")


def test_nan_in_scores_is_an_error_of_the_batch_and_elsewhere_a_number():
    scores = np.array([[0, 1, 2], [0, np.nan, 2]], np.float32)
    labelled = giving(scores, {"y": ("FP32", (3,), ("a", "b", "c"))})
    with pytest.raises(ModelError, match="output 'y': expected numbers, got NaN in row 1"):
        check_scores(labelled, run(labelled, x=zeros()))
    plain = giving(scores)
    check_scores(plain, run(plain, x=zeros()))


def test_importing_the_package_imports_no_numpy():
    script = (
        "import sys, shm_server; assert 'numpy' not in sys.modules; shm_server.model; assert 'numpy' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
