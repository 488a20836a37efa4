"""Paths of budgets: each budget is held, and the later ones cost little."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from regmask_sk.path import sparsity_path
from regmask_sk.regressor import RegMaskRegressor

N, LENGTH = 96, 128
Data = tuple[np.ndarray, np.ndarray]


def regressor(**changed: Any) -> RegMaskRegressor:
    settings: dict[str, Any] = {
        "d_model": 8, "n_layers": 1, "resolution": 4, "max_epochs": 6, "batch_size": 16,
        "learning_rate": 0.01, "random_state": 0, "device": "cpu", **changed,
    }  # fmt: skip
    return RegMaskRegressor(**settings)


@pytest.fixture(scope="module")
def data() -> Data:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, 2, LENGTH)).astype(np.float32)
    return X, X[:, 0, 16:32].mean(axis=1) + X[:, 1, 96:100].mean(axis=1)


@pytest.fixture(scope="module")
def path(data: Data) -> list[RegMaskRegressor]:
    return sparsity_path(regressor(), *data, [0.1, 0.4, 0.2])


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_every_budget_is_held(path: list[RegMaskRegressor], data: Data, kind: Any) -> None:
    for budget, model in zip([0.1, 0.4, 0.2], path, strict=True):
        assert model.sparsity == budget
        kept = model.set_params(mask=kind).transform(data[0]).mean()
        assert kept == pytest.approx(budget, rel=0.1)
        model.set_params(mask="soft")


def test_the_largest_budget_is_an_ordinary_fit(path: list[RegMaskRegressor], data: Data) -> None:
    alone = regressor(sparsity=0.4).fit(*data)
    np.testing.assert_array_equal(path[1].predict(data[0]), alone.predict(data[0]))
    np.testing.assert_array_equal(path[1].transform(data[0]), alone.transform(data[0]))


def test_smaller_budgets_go_on_from_larger_ones(path: list[RegMaskRegressor]) -> None:
    stages = [list(model.history_["stage"]) for model in path]
    first = ["predictor"] * 6 + ["generator"] * 2 + ["finetune"] * 2
    assert stages[1] == first
    assert stages[2] == [*first, "generator", "finetune"]
    assert stages[0] == [*stages[2], "generator", "finetune"]
    started = path[2].history_["train_kept"].iloc[-2]
    assert 0.15 < started < 0.42  # from .4 on, not from a half


def test_the_models_have_weights_of_their_own(path: list[RegMaskRegressor], data: Data) -> None:
    before = path[1].predict(data[0])
    path[0].net_.module_.predictor.readout.network[-1].bias.data.add_(1.0)
    np.testing.assert_array_equal(path[1].predict(data[0]), before)
    again = pickle.loads(pickle.dumps(path[2]))
    np.testing.assert_array_equal(again.predict(data[0]), path[2].predict(data[0]))


def test_without_finetuning_all_share_one_predictor(data: Data) -> None:
    path = sparsity_path(regressor(finetune_epochs=0), *data, [0.3, 0.2])
    open_window = np.ones(LENGTH)
    np.testing.assert_array_equal(*(model.predict_masked(data[0], open_window) for model in path))
    assert not np.array_equal(*(model.transform(data[0]) for model in path))


def test_the_estimator_given_is_left_unfitted(data: Data) -> None:
    estimator = regressor(max_epochs=1)
    sparsity_path(estimator, *data, [0.3])
    assert estimator.sparsity == 0.1
    assert not hasattr(estimator, "net_")


@pytest.mark.parametrize(
    ("changed", "sparsities", "message"),
    [
        ({"training": "joint"}, [0.2], "needs training='decoupled'"),
        ({}, [], "expected one or more distinct shares"),
        ({}, [0.2, 0.2], "expected one or more distinct shares"),
        ({}, [0.2, 0.0], "sparsity"),
        ({}, [0.2, 1.5], "sparsity"),
        ({"promoter_length": 20}, [0.4, 0.1], "promoter_length=20 is 15.6% of the window"),
    ],
)
def test_what_cannot_be_is_said_before_training(
    data: Data, changed: dict[str, Any], sparsities: list[float], message: str
) -> None:
    def no_training(*args: Any) -> None:
        raise AssertionError("trained")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RegMaskRegressor, "_train", no_training)
        with pytest.raises(ValueError, match=message):
            sparsity_path(regressor(**changed), *data, sparsities)
