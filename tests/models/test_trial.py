"""Models are tried once before they serve."""

import logging

import numpy as np
import pytest

import shm_server
from shm_server.models.checking import trial
from shm_server.models.errors import ModelError

X, Y = {"x": ("FP32", (4,))}, {"y": ("FP32", (4,))}
TEXT = {"ids": ("INT64", ("tokens",)), "mask": ("INT64", ("tokens",))}
LONG = {"bounds": {"tokens": 32}}


def model(function, inputs=X, outputs=Y, **options):
    return shm_server.model(inputs=inputs, outputs=outputs, name="m", **options)(function)


def softmax(x):
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def masked_mean(ids, mask):
    with np.errstate(invalid="ignore"):  # an empty text has none
        return ((ids * mask).sum(axis=1) / mask.sum(axis=1)).astype(np.float32)


@pytest.mark.parametrize(
    "good",
    [
        model(softmax),
        model(softmax, max_batch=1),
        model(lambda x: x > 0.5, outputs={"y": ("BOOL", (4,))}),
        model(lambda x: x.copy(), {"x": ("BF16", (4,))}, {"y": ("BF16", (4,))}),
        model(lambda x: np.full_like(x, np.inf)),
        model(masked_mean, TEXT, {"mean": ("FP32", ())}, **LONG),
        model(lambda ids, mask: ids + 1, TEXT, {"next": ("INT64", ("tokens",))}, **LONG),
        model(lambda ids, mask: ids.mean(axis=1), TEXT, {"mean": ("FP64", ())}, **LONG, max_batch=1),
    ],
)
def test_models_that_keep_their_word_pass(good):
    trial(good)


def raising(x):
    raise KeyError("weights")


def leaving(x):
    raise SystemExit("bye")


def not_among_many(x):
    if len(x) > 1:
        raise ValueError("one at a time")
    return x


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (model(raising), "m: fails on zeros, batch 1: KeyError: 'weights'"),
        (model(leaving), "m: fails on zeros, batch 1: SystemExit: bye"),
        (model(not_among_many), "m: fails on zeros, batch 5: ValueError: one at a time"),
        (model(lambda x: x[:, :3]), r"m: on zeros, batch 1: output 'y': expected FP32 \(1, 4\), got FP32 \(1, 3\)"),
        (model(lambda x: x.astype("f8")), r"m: on zeros, batch 1: output 'y': expected FP32 .*, got FP64"),
        (model(lambda x: np.where(x > 0, np.nan, x)), "m: on random inputs, batch 1: output 'y': .*, got NaN in row 0"),
        (model(lambda x: x * 0 / x.sum(), outputs={"y": ("FP32", (4,), tuple("abcd"))}), r"m: on zeros, .* got NaN"),
        (model(lambda x: x - x.mean(axis=0)), "m: output 'y': a row's result depends on the other rows of its batch"),
        (model(lambda x: x[::-1].copy()), "m: output 'y': a row's result depends on the other rows of its batch"),
        (
            model(lambda ids, mask: ids.mean(axis=1), TEXT, {"mean": ("FP64", ())}, **LONG),
            "m: output 'mean': a row's result depends on the zeros behind it",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_models_that_do_not_are_refused(bad, message):
    with pytest.raises(ModelError, match=message):
        trial(bad)


@shm_server.model(inputs=X, outputs=Y)
class Forgetful:
    def run(self, inputs, outputs):
        outputs["y"][:1] = inputs["x"][:1]


def test_an_output_that_is_not_filled_is_found():
    with pytest.raises(ModelError, match=r"Forgetful: on random inputs, batch 5: output 'y': .* NaN in row 1"):
        trial(Forgetful())


@shm_server.model(inputs=X, outputs=Y)
class Device:
    """Computes in two halves; `wrong` is what it adds in the second."""

    def __init__(self, wrong=0):
        self.wrong, self.order = wrong, []

    def run(self, inputs, outputs):
        outputs["y"][:] = inputs["x"]

    def begin(self, inputs):
        self.order.append("begin")
        return inputs["x"].copy()

    def finish(self, ticket, outputs):
        self.order.append("finish")
        outputs["y"][:] = ticket + np.float32(self.wrong)


def test_a_device_computes_one_batch_while_the_next_begins():
    device = Device()
    trial(device)
    assert device.order == ["begin", "begin", "finish", "finish"]


def test_a_device_whose_halves_give_something_else_is_refused():
    with pytest.raises(ModelError, match="Device: output 'y': begin and finish give another result than run"):
        trial(Device(wrong=1))


def test_a_model_that_draws_lots_is_served_with_a_warning(caplog):
    rng = np.random.default_rng(4)
    with caplog.at_level(logging.WARNING):
        trial(model(lambda x: x + rng.random(x.shape, np.float32)))
    assert "m answers the same inputs differently" in caplog.text


def test_an_empty_mask_is_given_in_zeros_alone():
    seen = []
    trial(model(lambda mask: seen.append(mask.copy()) or mask, {"mask": ("INT64", (2,))}, {"y": ("INT64", (2,))}))
    empty = [(mask == 0).all(axis=1).any() for mask in seen]
    assert empty == [True, True] + [False] * (len(seen) - 2)
    assert len({tuple(row) for mask in seen[2:] for row in mask}) == 2, "and it is not always the same"
