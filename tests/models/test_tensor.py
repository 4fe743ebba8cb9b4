"""Tensors, signatures and their JSON."""

import json
import pickle
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from shm_server import layout
from shm_server.models.errors import ModelError
from shm_server.models.metadata import Metadata
from shm_server.models.tensor import DATATYPES, Signature, Tensor

X, Y = Tensor("x", "FP32", (4,)), Tensor("y", "FP32", (3,), ("a", "b", "c"))
IDS, MASK = Tensor("ids", "INT64", ("tokens",)), Tensor("mask", "INT8", ("tokens", 2))


def many(count: int) -> tuple[Tensor, ...]:
    return tuple(Tensor(f"t{number}", "FP32", (1,)) for number in range(count))


def encoder(bound: int = 100) -> Signature:
    return Signature((IDS, MASK), (Tensor("hidden", "BF16", ("tokens", 8)), X), {"tokens": bound})


@pytest.mark.parametrize(("datatype", "size"), [("BOOL", 1), ("UINT16", 2), ("INT64", 8), ("BF16", 2), ("FP64", 8)])
def test_a_datatype_is_a_numpy_dtype_of_its_size(datatype, size):
    assert Tensor("x", datatype, (3,)).dtype.itemsize == size
    assert len(set(DATATYPES.values())) == 13


def test_bfloat16_is_that_of_ml_dtypes():
    assert Tensor("x", "BF16", ()).dtype == np.dtype(ml_dtypes.bfloat16)


def test_a_row_has_the_bytes_of_its_shape_at_the_bound():
    signature = encoder(bound=100)
    assert [signature.row_bytes(tensor) for tensor in signature.inputs] == [800, 200]
    assert [signature.row_bytes(tensor) for tensor in signature.outputs] == [1600, 16]
    assert signature.shape(MASK, 32) == (32, 2)
    assert Signature((X,), (Tensor("y", "FP32", ()),)).row_bytes(Tensor("y", "FP32", ())) == 4


@pytest.mark.parametrize(
    ("bound", "buckets"), [(100, (8, 16, 32, 64, 100)), (64, (8, 16, 32, 64)), (8, (8,)), (3, (3,))]
)
def test_buckets_are_powers_of_two_up_to_the_bound(bound, buckets):
    assert encoder(bound).buckets() == buckets


def test_a_batch_runs_at_the_smallest_bucket_that_holds_its_longest_row():
    assert [encoder(100).bucket(extent) for extent in (0, 1, 8, 9, 64, 65, 100)] == [8, 8, 8, 16, 64, 100, 100]
    with pytest.raises(ModelError, match="'tokens': expected at most 100, got 101"):
        encoder(100).bucket(101)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", "FP32", (1,)), "1 to 64 bytes"),
        (("ü" * 33, "FP32", (1,)), "1 to 64 bytes"),
        (("a\nb", "FP32", (1,)), "printable"),
        (("\ud800", "FP32", (1,)), "printable"),
        ((7, "FP32", (1,)), "got 7"),
        (("x", "float32", (1,)), "expected a datatype of BOOL, .*, got 'float32'"),
        (("x", "FP32", (0,)), "expected dimensions from 1 to 2147483647, got 0"),
        (("x", "FP32", (1 << 31,)), "got 2147483648"),
        (("x", "FP32", (2.0,)), "got 2.0"),
        (("x", "FP32", (True,)), "got True"),
        (("x", "FP32", 4), "expected a shape, a tuple, got 4"),
        (("x", "FP32", "tokens"), "expected a shape, a tuple, got 'tokens'"),
        (("x", "FP32", (1,) * 9), "at most 8 dimensions, got 9"),
        (("x", "FP32", (3, "n")), r"'x': expected a symbolic dimension as the first of a row only, got \(3, 'n'\)"),
        (("x", "FP32", ("n", 3, "n")), r"as the first of a row only, got \('n', 3, 'n'\)"),
        (("y", "FP32", (3,), ("a", "b")), r"expected 3 labels for shape \(3,\), got 2"),
        (("y", "FP32", (2, 3), ("a",)), r"expected 3 or 6 labels for shape \(2, 3\), got 1"),
        (("y", "FP32", (2,), ("a", "")), "expected printable labels, got ''"),
        (("y", "FP32", (2,), "ab"), "expected labels, a tuple, got 'ab'"),
    ],
)
def test_what_is_no_tensor_is_refused(arguments, message):
    with pytest.raises(ModelError, match=message):
        Tensor(*arguments)


@pytest.mark.parametrize("labels", [("a", "b", "c"), tuple("abcdef")])
def test_labels_are_for_the_last_dimension_or_for_all_numbers(labels):
    assert Tensor("y", "FP32", (2, 3), labels).labels == labels


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((), (Y,)), "expected inputs, got none"),
        (((X,), ()), "expected outputs, got none"),
        ((many(24), (Y,)), "expected at most 24 tensors, got 24 inputs and 1 outputs"),
        (((X,), many(24)), "expected at most 24 tensors, got 1 inputs and 24 outputs"),
        (((X, X), (Y,)), "inputs: expected names that differ, got 'x' twice"),
        (((X,), (Y, Y)), "outputs: expected names that differ, got 'y' twice"),
        (((X,), (X,)), "expected names that differ, got 'x' as an input and an output"),
        (((Y,), (X,)), "input 'y': expected no labels"),
        (((X, "y"), (Y,)), "inputs: expected tensors, got 'y'"),
        (((IDS,), (Y,)), r"expected one for each symbolic dimension \(tokens\), got none"),
        (((IDS,), (Y,), {"words": 3}), r"\(tokens\), got words"),
        (((X,), (Y,), {"tokens": 3}), r"\(none\), got tokens"),
        (((IDS,), (Y,), {"tokens": 0}), "expected 'tokens' from 1 to 2147483647, got 0"),
        (((IDS,), (Y,), {"tokens": "8"}), "got '8'"),
        (((IDS,), (Y,), [("tokens", 8)]), "expected a mapping"),
        (((IDS, Tensor("w", "FP32", ("words",))), (Y,), {"tokens": 1, "words": 1}), "one symbolic .* tokens, words"),
        (((X,), (Tensor("y", "FP32", ("tokens",)),), {"tokens": 3}), "'tokens' of an output in an input too"),
        (((Tensor("x", "FP64", (1 << 20, 1 << 20)),), (Y,)), "at most 1073741824 bytes, got 8796093022208"),
    ],
)
def test_what_is_no_signature_is_refused(arguments, message):
    with pytest.raises(ModelError, match=message):
        Signature(*arguments)


def test_a_signature_has_as_many_tensors_as_a_segment():
    signature = Signature(many(20), tuple(replace(tensor, name=f"y{tensor.name}") for tensor in many(4)))
    assert len(signature.inputs) + len(signature.outputs) == layout.MAX_TENSORS


def test_a_signature_can_be_copied_and_sent():
    assert pickle.loads(pickle.dumps(encoder())) == encoder()
    assert hash(encoder()) == hash(encoder())
    assert encoder(8) != encoder(9)


def test_a_signature_does_not_change_with_what_it_was_made_of():
    bounds = {"tokens": 8}
    signature = Signature((IDS,), (Y,), bounds)
    bounds["tokens"] = 9
    assert signature.bound == 8


def test_metadata_are_in_the_words_of_the_open_inference_protocol():
    assert Metadata("minilm", "3", "onnxruntime_onnx", encoder(128)).to_json() == {
        "name": "minilm",
        "version": "3",
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "ids", "datatype": "INT64", "shape": [-1]},
            {"name": "mask", "datatype": "INT8", "shape": [-1, 2]},
        ],
        "outputs": [
            {"name": "hidden", "datatype": "BF16", "shape": [-1, 8]},
            {"name": "x", "datatype": "FP32", "shape": [4]},
        ],
        "parameters": {"dimension": "tokens", "bound": 128},
    }


@pytest.mark.parametrize("signature", [encoder(), Signature((X,), (Y,)), Signature((X,), (Tensor("s", "BOOL", ()),))])
def test_metadata_come_back_from_json_as_they_were(signature):
    metadata = Metadata("m", "1", "python", signature)
    assert Metadata.from_json(json.loads(json.dumps(metadata.to_json()))) == metadata


def without(*path: str | int, put: object = None) -> dict:
    """Good metadata with one place changed."""
    said = Metadata("m", "1", "python", encoder()).to_json()
    place = said
    for key in path[:-1]:
        place = place[key]
    if put is None:
        del place[path[-1]]
    else:
        place[path[-1]] = put
    return said


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ([], "name: expected an object around it, got list"),
        (without("name"), "name: expected str, got None"),
        (without("version", put=1), "version: expected str, got 1"),
        (without("inputs", put={}), "inputs: expected list"),
        (without("inputs", 0, put=7), r"inputs\[0\].name: expected an object around it, got int"),
        (without("inputs", 1, "datatype"), r"inputs\[1\].datatype: expected str, got None"),
        (without("outputs", 1, "shape", put="4"), r"outputs\[1\].shape: expected list, got '4'"),
        (without("outputs", 1, "shape", put=[-2]), "expected dimensions from 1 to 2147483647, got -2"),
        (without("outputs", 1, "labels", put="abcd"), r"outputs\[1\].labels: expected list"),
        (without("parameters"), r"inputs\[0\].shape: expected parameters.dimension beside -1, got none"),
        (without("parameters", "bound"), "parameters.bound: expected int, got None"),
        (without("parameters", put=3), "parameters: expected dict, got 3"),
    ],
)
def test_json_that_is_no_metadata_is_refused_with_its_place(said, message):
    with pytest.raises(ModelError, match=message):
        Metadata.from_json(said)


def test_what_a_newer_peer_says_beside_it_is_passed_over():
    said = without("parameters", "replicas", put=2) | {"tags": ["new"]}
    assert Metadata.from_json(said).signature == encoder()
