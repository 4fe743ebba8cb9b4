"""What a classifier of somebody's own declares and returns: checked, cast where it can be, else refused in one line."""

import numpy as np
import pytest
from client import Client

from shm_server.layout import Op, Status
from shm_server.models.scores import checked, declared

HALVES = np.full((4, 2), 0.5, np.float32)


class Declares:
    name = "declares"

    def __init__(self, class_names, name="declares"):
        self.class_names, self.name = class_names, name


def test_scores_that_are_as_they_should_be_are_passed_on_as_they_are():
    assert checked(HALVES, 4, 2, 4) is HALVES
    rounded = HALVES + np.float32([0.5009, -0.5009])
    assert checked(rounded, 4, 2, 4) is rounded


@pytest.mark.parametrize(
    "scores",
    [
        HALVES.astype(np.float64),
        HALVES.astype(np.float16),
        HALVES.astype(">f4"),
        HALVES.tolist(),
        np.full((4, 4), 0.5, np.float32)[:, ::2],
        np.full((2, 4), 0.5, np.float32).T,
    ],
    ids=["double", "half", "other_byte_order", "list", "every_other_column", "transposed"],
)
def test_what_can_be_cast_is(scores):
    cast = checked(scores, 4, 2, 4)
    assert cast.dtype == np.float32
    assert cast.flags.c_contiguous
    np.testing.assert_array_equal(cast, HALVES)


def test_one_hot_whole_numbers_and_truths_are_probabilities():
    for dtype in (np.int64, np.uint8, bool):
        np.testing.assert_array_equal(checked(np.eye(2, dtype=dtype), 2, 2, 2), np.eye(2))


def test_bfloat16_is_cast():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    np.testing.assert_array_equal(checked(HALVES.astype(ml_dtypes.bfloat16), 4, 2, 4), HALVES)


@pytest.mark.parametrize(
    ("scores", "complaint"),
    [
        (np.ones((4, 3), np.float32), "scores must be float32 (4, 2), .*: the model returned float32 (4, 3)"),
        (np.ones((3, 2), np.float32), "the model returned float32 (3, 2)"),
        (np.ones((5, 2), np.float32), "the model returned float32 (5, 2)"),
        (np.ones(4, np.int64), "the model returned int64 (4,)"),
        (np.ones((4, 2), complex), "the model returned complex128 (4, 2)"),
        (np.full((4, 2), "0.5"), "the model returned <U3 (4, 2)"),
        (None, "the model returned object ()"),
        (
            HALVES * 24,
            "scores must be probabilities, 0 to 1: the model gave 12 for class 0; of logits, return the softmax",
        ),
        (np.eye(4, 2) - 0.01, "the model gave -0.01 for class 1"),
        (np.full((4, 2), np.nan, np.float32), "scores must be probabilities: the model's are not finite numbers"),
        (np.full((4, 2), np.inf), "not finite numbers"),
        (np.full((4, 2), 1e300), "not finite numbers"),
    ],
)
def test_what_is_no_probability_for_each_class_is_refused(scores, complaint):
    with pytest.raises(ValueError, match="scores must be") as refused:
        checked(scores, 4, 2, 4)
    message = str(refused.value)
    assert message.isprintable()
    assert all(part in message for part in complaint.split(".*"))


def test_rows_that_nobody_looks_at_may_hold_anything():
    scores = np.array([[0.5, 0.5], [12, np.nan]], np.float32)
    assert checked(scores, 2, 2, 1) is scores
    with pytest.raises(ValueError, match="the model gave 12 for class 0"):
        checked(scores, 2, 2, 2)


def test_one_image_without_numbers_is_left_to_be_that_images_error():
    scores = np.array([[0.5, 0.5], [0.5, np.nan]], np.float32)
    np.testing.assert_array_equal(checked(scores, 2, 2, 2), scores)


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        ("cat", "class_names must be a tuple of names, one a class, not 'cat'"),
        (b"cat", "not b'cat'"),
        ((), "not ()"),
        (("cat", 3), "not ('cat', 3)"),
        (None, "not None"),
        (("cat", "\ud800"), "its name or class_names are no text"),
        (tuple(f"{i:064}" for i in range(1000)), "its 1000 class_names take 68012 bytes, 60000 fit"),
    ],
)
def test_what_is_declared_is_checked_before_anybody_connects(names, complaint):
    with pytest.raises(ValueError, match=r"^model") as refused:
        declared(Declares(names))
    assert complaint in str(refused.value)


def test_names_may_come_in_any_sequence():
    assert declared(Declares(["a", "b"])) == ("a", "b")
    assert declared(Declares(np.array(["a", "b"]))) == ("a", "b")
    assert declared(None) == ()


def test_a_name_that_is_none_is_refused():
    with pytest.raises(ValueError, match="model None: its name must be a str"):
        declared(Declares(("a",), name=None))


def test_a_server_answers_with_what_can_be_cast_and_says_what_is_wrong_with_the_rest(start):
    """The first byte of a picture chooses what `odd`, of stub_server.py, returns."""
    server = start(stub="odd")
    with Client(server.socket) as client:

        def classify(kind: int) -> tuple[Status, str]:
            client.slots[0][0] = kind
            client.submit(0, Op.RUN)
            done = client.wait()
            return Status(done["status"]), client.message(done)

        for kind in range(4):  # float32, doubles, a list, columns of a larger array
            assert classify(kind) == (Status.OK, ""), kind
            assert client.scores(0).tolist() == [0.25, 0.75], kind
        for kind, complaint in (
            (
                4,
                "ValueError: scores must be float32 (1, 2), a column for each of class_names: "
                "the model returned float32 (1, 3)",
            ),
            (5, "the model gave 12 for class 0; of logits, return the softmax"),
            (6, "not finite numbers"),
            (7, "the model returned object ()"),
        ):
            status, message = classify(kind)
            assert status == Status.MODEL_ERROR, kind
            assert complaint in message
        assert classify(0)[0] == Status.OK
    assert server.stop()["model_errors"] == 4
