"""Scores of predictions against scikit-learn and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import r2_score

from regmask_sk.metrics import regression_metrics


def test_regression_metrics_agree_with_scipy_and_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=200).round(1)  # with ties
    predicted = y + rng.normal(size=200).round(1)
    found = regression_metrics(y, predicted[:, np.newaxis])
    assert list(found) == ["mse", "mae", "pearson", "spearman", "r2"]
    assert found["mse"] == pytest.approx(np.mean((y - predicted) ** 2))
    assert found["mae"] == pytest.approx(np.mean(np.abs(y - predicted)))
    assert found["pearson"] == pytest.approx(pearsonr(y, predicted).statistic)
    assert found["spearman"] == pytest.approx(spearmanr(y, predicted).statistic)
    assert found["r2"] == pytest.approx(r2_score(y, predicted))
    assert all(type(value) is float for value in found.values())


@pytest.mark.parametrize("scale", [1e-200, 1e-8, 1.0, 1e8])
def test_pearson_does_not_depend_on_the_scale(scale: float) -> None:
    rng = np.random.default_rng(1)
    y, predicted = rng.normal(size=(2, 50))
    expected = regression_metrics(y, predicted)["pearson"]
    assert regression_metrics(y * scale, predicted)["pearson"] == pytest.approx(expected)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e9 + 0.1])
def test_what_is_not_defined_is_nan_and_warns_not(constant: float) -> None:
    y = np.arange(7.0)
    flat = np.full(7, constant, np.float32)
    found = regression_metrics(y, flat)
    assert np.isnan([found["pearson"], found["spearman"]]).all()
    assert np.isfinite([found["mse"], found["mae"], found["r2"]]).all()
    assert np.isnan(regression_metrics(flat, y)["r2"])
    single = regression_metrics([1.0], [3.0])
    assert (single["mse"], single["mae"]) == (4.0, 2.0)
    assert np.isnan([single["pearson"], single["spearman"], single["r2"]]).all()


@pytest.mark.parametrize(
    ("y", "predicted", "message"),
    [
        ([1.0, np.nan], [1.0, 2.0], "y holds 1 values that are NaN"),
        ([1.0, 2.0], [np.inf, 2.0], "predicted holds 1 values"),
        ([1.0, 2.0], [1.0], "2 genes and predicted has 1"),
        ([], [], "at least one gene"),
        (np.zeros((2, 2)), np.zeros((2, 2)), r"shape \(2, 2\).*once per column"),
    ],
)
def test_bad_targets_are_named(y: object, predicted: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        regression_metrics(y, predicted)
