"""ONNX files for the tests, of seeded random weights.

write(tmp_path / "minilm.onnx", encoder())
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

VOCABULARY, WIDTH = 50, 8


def write(path: Path, model: onnx.ModelProto) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def model(nodes: list, inputs: dict, outputs: dict, weights: dict[str, np.ndarray] | None = None) -> onnx.ModelProto:
    """`inputs` and `outputs` are name -> (element type, shape with the batch)."""
    graph = helper.make_graph(
        [helper.make_node(op, list(taken), list(given), **attributes) for op, taken, given, attributes in nodes],
        "graph",
        [helper.make_tensor_value_info(name, *said) for name, said in inputs.items()],
        [helper.make_tensor_value_info(name, *said) for name, said in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def identity(element: int = TensorProto.FLOAT, shape: tuple = ("n", 4)) -> onnx.ModelProto:
    return model([("Identity", "x", "y", {})], {"x": (element, shape)}, {"y": (element, shape)})


def fanned(outputs: int) -> onnx.ModelProto:
    """x FP32 [4] -> y0, y1, ... FP32 [4], each what x is."""
    names = [f"y{number}" for number in range(outputs)]
    said = (TensorProto.FLOAT, ("n", 4))
    return model([("Identity", ("x",), (name,), {}) for name in names], {"x": said}, dict.fromkeys(names, said))


def transposed() -> onnx.ModelProto:
    """x FP32 [tokens, 4] -> y FP32 [4, tokens]."""
    return model(
        [("Transpose", ("x",), ("y",), {"perm": [0, 2, 1]})],
        {"x": (TensorProto.FLOAT, ("n", "tokens", 4))},
        {"y": (TensorProto.FLOAT, ("n", 4, "tokens"))},
    )


def linear(batch: int | str = "n") -> onnx.ModelProto:
    """x FP32 [4] -> y FP32 [3], y = x @ weights()."""
    return model(
        [("MatMul", ("x", "w"), ("y",), {})],
        {"x": (TensorProto.FLOAT, (batch, 4))},
        {"y": (TensorProto.FLOAT, (batch, 3))},
        {"w": weights()},
    )


def scaled() -> onnx.ModelProto:
    """y = x * scale, both of a row; `scale` was exported for one row."""
    return model(
        [("Mul", ("x", "scale"), ("y",), {})],
        {"x": (TensorProto.FLOAT, ("n", 4)), "scale": (TensorProto.FLOAT, (1, 4))},
        {"y": (TensorProto.FLOAT, ("n", 4))},
    )


def weights() -> np.ndarray:
    return np.random.default_rng(5).normal(size=(4, 3)).astype(np.float32)


def encoder(tokens: tuple[str, str, str] = ("tokens",) * 3, masked: bool = True) -> onnx.ModelProto:
    """A text encoder: embeddings of ids and types, one layer of attention under a mask, the mean over the mask.

    input_ids, attention_mask, token_type_ids INT64 [tokens]
    -> last_hidden_state FP32 [tokens, WIDTH], vector FP32 [WIDTH]
    """
    rng = np.random.default_rng(7)
    normal = {
        name: rng.normal(0, 0.5, shape).astype(np.float32)
        for name, shape in {
            "words": (VOCABULARY, WIDTH),
            "types": (2, WIDTH),
            "wq": (WIDTH, WIDTH),
            "wk": (WIDTH, WIDTH),
            "wv": (WIDTH, WIDTH),
        }.items()
    }
    constants = {
        "one": np.float32(1),
        "far": np.float32(-1e9),
        "row": np.array([1]),
        "column": np.array([2]),
        "sum_axis": np.array([1]),
    }
    nodes = [
        ("Gather", ("words", "input_ids"), ("word",), {}),
        ("Gather", ("types", "token_type_ids"), ("type",), {}),
        ("Add", ("word", "type"), ("x",), {}),
        ("MatMul", ("x", "wq"), ("q",), {}),
        ("MatMul", ("x", "wk"), ("k",), {}),
        ("MatMul", ("x", "wv"), ("v",), {}),
        ("Transpose", ("k",), ("kt",), {"perm": [0, 2, 1]}),
        ("MatMul", ("q", "kt"), ("scores",), {}),
        ("Cast", ("attention_mask",), ("mask",), {"to": TensorProto.FLOAT}),
        ("Unsqueeze", ("mask", "row"), ("mask_row",), {}),
        ("Unsqueeze", ("mask", "column"), ("mask_column",), {}),
        ("Sub", ("one", "mask_row"), ("hidden",), {}),
        ("Mul", ("hidden", "far"), ("bias",), {}),
        ("Add", ("scores", "bias" if masked else "one"), ("biased",), {}),
        ("Softmax", ("biased",), ("attention",), {"axis": -1}),
        ("MatMul", ("attention", "v"), ("last_hidden_state",), {}),
        ("Mul", ("last_hidden_state", "mask_column"), ("kept",), {}),
        ("ReduceSum", ("kept", "sum_axis"), ("total",), {"keepdims": 0}),
        ("ReduceSum", ("mask", "sum_axis"), ("length",), {"keepdims": 1}),
        ("Div", ("total", "length"), ("vector",), {}),
    ]
    names = ("input_ids", "attention_mask", "token_type_ids")
    return model(
        nodes,
        {name: (TensorProto.INT64, ("batch", size)) for name, size in zip(names, tokens, strict=True)},
        # As exporters leave them: with names of their own.
        {
            "last_hidden_state": (TensorProto.FLOAT, ("batch", "Addlast_hidden_state_dim_1", WIDTH)),
            "vector": (TensorProto.FLOAT, ("batch", WIDTH)),
        },
        normal | constants,
    )


def segmentation(sides: tuple[int | str, int | str] = (8, 8)) -> onnx.ModelProto:
    """pixels FP32 [3, 8, 8] -> mask FP32 [5, 16, 16]: 6 times what it takes."""
    rng = np.random.default_rng(8)
    return model(
        [
            ("Conv", ("pixels", "kernel"), ("classes",), {"pads": [1, 1, 1, 1]}),
            ("Resize", ("classes", "", "twice"), ("mask",), {"mode": "nearest"}),
        ],
        {"pixels": (TensorProto.FLOAT, ("n", 3, *sides))},
        {"mask": (TensorProto.FLOAT, ("n", 5, "height", "width"))},
        {
            "kernel": rng.normal(size=(5, 3, 3, 3)).astype(np.float32),
            "twice": np.array([1, 1, 2, 2], np.float32),
        },
    )


def quantized() -> onnx.ModelProto:
    """x INT8 [4] -> y INT32 [3]."""
    return model(
        [("MatMulInteger", ("x", "w"), ("y",), {})],
        {"x": (TensorProto.INT8, ("n", 4))},
        {"y": (TensorProto.INT32, ("n", 3))},
        {"w": np.arange(-6, 6, dtype=np.int8).reshape(4, 3)},
    )


def no_batch() -> onnx.ModelProto:
    """y FP32 [3], of all rows together."""
    return model(
        [("ReduceSum", ("x", "axis"), ("y",), {"keepdims": 0})],
        {"x": (TensorProto.FLOAT, ("n", 3))},
        {"y": (TensorProto.FLOAT, (3,))},
        {"axis": np.array([0])},
    )


def growing() -> onnx.ModelProto:
    """The first columns of x: two, and as many more as its largest number."""
    return model(
        [
            ("ReduceMax", ("x",), ("most",), {"keepdims": 0}),
            ("Cast", ("most",), ("more",), {"to": TensorProto.INT64}),
            ("Add", ("more", "two"), ("end",), {}),
            ("Unsqueeze", ("end", "zero"), ("ends",), {}),
            ("Slice", ("x", "zero", "ends", "columns"), ("y",), {}),
        ],
        {"x": (TensorProto.FLOAT, ("n", 4))},
        {"y": (TensorProto.FLOAT, ("n", "some"))},
        {"two": np.array(2), "zero": np.array([0]), "columns": np.array([1])},
    )


def nonzero() -> onnx.ModelProto:
    """As many outputs as there are numbers in x that are not 0."""
    return model(
        [("NonZero", ("x",), ("places",), {}), ("Transpose", ("places",), ("y",), {})],
        {"x": (TensorProto.FLOAT, ("n", 3))},
        {"y": (TensorProto.INT64, ("found", 2))},
    )
