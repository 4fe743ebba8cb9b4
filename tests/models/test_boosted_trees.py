"""A model that people call from Go: XGBoost on a table of passengers, as a Python function."""

import numpy as np
import pytest

xgboost = pytest.importorskip("xgboost")

import shm_server  # noqa: E402
from shm_server.models import trial  # noqa: E402

# pclass, sex, age, siblings, parents, fare, embarked
COLUMNS = 7


def passengers(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A made-up table like that of the Titanic: first class, women and children survive."""
    rng = np.random.default_rng(seed)
    table = np.stack(
        [
            rng.integers(1, 4, count),
            rng.integers(0, 2, count),
            rng.uniform(1, 80, count),
            rng.integers(0, 5, count),
            rng.integers(0, 4, count),
            rng.exponential(30, count),
            rng.integers(0, 3, count),
        ],
        axis=1,
    ).astype(np.float32)
    table[rng.random(count) < 0.2, 2] = np.nan  # ages that nobody knows
    survived = (table[:, 1] == 1) & (table[:, 0] < 3) | (table[:, 2] < 12)
    return table, survived


@pytest.fixture(scope="module")
def booster():
    table, survived = passengers(400, seed=1)
    settings = {"objective": "binary:logistic", "max_depth": 4, "nthread": 1, "seed": 1}
    return xgboost.train(settings, xgboost.DMatrix(table, survived), num_boost_round=20)


@pytest.fixture(scope="module")
def titanic(booster):
    @shm_server.model(inputs={"x": ("FP32", (COLUMNS,))}, outputs={"survives": ("FP32", (1,), ("survives",))})
    def titanic(x):
        return booster.inplace_predict(x).reshape(-1, 1)

    return titanic


@pytest.mark.parametrize("count", [1, 3, 32])
def test_it_answers_as_the_trees_do(booster, titanic, count):
    trial(titanic)
    table, _ = passengers(count, seed=2)
    outputs = titanic.signature.empty(titanic.signature.outputs, count)
    titanic.run({"x": table}, outputs)
    np.testing.assert_allclose(outputs["survives"][:, 0], booster.predict(xgboost.DMatrix(table)), atol=1e-6)


def test_it_has_learned_something(titanic):
    table, survived = passengers(200, seed=3)
    assert ((titanic(table)[:, 0] > 0.5) == survived).mean() > 0.9
