"""Curves of linear readers, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from linear_readers import Linear, MaskedLinear, make_windows
from sklearn.metrics import auc as area_under
from sklearn.metrics import mean_squared_error, r2_score

from regmask_sk.metrics import deletion_curve, insertion_curve, top_share

LENGTH = 40
WEIGHTS = np.random.default_rng(1).random((2, LENGTH))


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).random((12, 2, LENGTH)).astype(np.float32)


@pytest.mark.parametrize("model", [Linear(WEIGHTS), MaskedLinear(WEIGHTS)])
def test_each_step_removes_or_brings_the_top_share(model: Linear, x: np.ndarray) -> None:
    scores = np.random.default_rng(2).normal(size=(12, LENGTH))
    options = {"n_steps": 4, "block_size": 4, "removal": "zero", "batch_size": 5}
    down = deletion_curve(model.fit(x), x, scores, **options)
    up = insertion_curve(model, x, scores, **options)
    terms = x.astype(np.float64) * WEIGHTS
    np.testing.assert_allclose(down.whole, terms.sum((1, 2)))
    for step, share in enumerate([0, 0.25, 0.5, 0.75, 1]):
        kept = top_share(scores, share, block_size=4)
        present = (terms * kept[:, np.newaxis]).sum((1, 2))
        np.testing.assert_allclose(up.predictions[step], present, atol=1e-9)
        np.testing.assert_allclose(down.predictions[step], down.whole - present, atol=1e-6)
        assert down.value[step] == pytest.approx(present.mean(), abs=1e-9)
        assert up.value[step] == pytest.approx((up.whole - present).mean(), abs=1e-6)
    for curve in (down, up):
        np.testing.assert_array_equal(curve.share, [0, 0.25, 0.5, 0.75, 1])
        assert curve.area == pytest.approx(area_under(curve.share, curve.value))


def test_the_true_contributions_win_over_random_ones(x: np.ndarray) -> None:
    model = MaskedLinear(WEIGHTS).fit(x)
    contributions = (x * WEIGHTS).sum(axis=1)
    random = np.random.default_rng(3).random((12, LENGTH))
    options = {"block_size": 1}
    assert deletion_curve(model, x, contributions, **options).area > 1.1 * (
        deletion_curve(model, x, random, **options).area
    )
    assert insertion_curve(model, x, contributions, **options).area < 0.9 * (
        insertion_curve(model, x, random, **options).area
    )


def test_measures_against_y_are_those_of_scikit_learn(x: np.ndarray) -> None:
    model = MaskedLinear(WEIGHTS).fit(x)
    y = np.random.default_rng(4).normal(size=12)
    scores = np.random.default_rng(2).normal(size=(12, LENGTH))
    for measure, theirs in (("mse", mean_squared_error), ("r2", r2_score)):
        curve = deletion_curve(model, x, scores, y, measure=measure, n_steps=3)
        expected = [theirs(y, step) for step in curve.predictions]
        np.testing.assert_allclose(curve.value, expected)
    curve = insertion_curve(model, x, scores, y, measure="pearson", n_steps=3)
    expected = [np.corrcoef(y, step)[0, 1] for step in curve.predictions[1:]]
    np.testing.assert_allclose(curve.value, [0, *expected])  # an empty window tells nothing


def test_excluded_columns_stay_and_own_masks_are_the_default(x: np.ndarray) -> None:
    model = MaskedLinear(WEIGHTS * (np.arange(LENGTH) >= 30)).fit(x)
    terms = (x.astype(np.float64) * model.weights).sum(axis=1)
    down = deletion_curve(model, x, exclude=slice(35, 40), n_steps=7, block_size=5)
    np.testing.assert_allclose(down.predictions[1], terms[:, 35:].sum(axis=1))
    np.testing.assert_allclose(down.predictions[-1], terms[:, 35:].sum(axis=1))
    up = insertion_curve(model, x, exclude=slice(35, 40), n_steps=7, block_size=5)
    np.testing.assert_allclose(up.predictions[0], terms[:, 35:].sum(axis=1))
    np.testing.assert_allclose(up.predictions[1], up.whole)


def test_windows_are_read_in_batches_and_seeds_repeat() -> None:
    windows = make_windows(9)
    weights = np.random.default_rng(1).normal(size=(6, LENGTH))
    model = Linear(weights).fit(windows[:2])
    scores = np.random.default_rng(2).normal(size=(9, LENGTH))
    options = {"n_steps": 3, "removal": "shuffle", "block_size": 8}
    model.n_rows_at_most_ = windows.sources[0].n_reads = 0
    first = deletion_curve(model, windows, scores, batch_size=4, random_state=0, **options)
    assert model.n_rows_at_most_ == 4
    assert windows.sources[0].n_reads == 9  # each window once
    again = deletion_curve(model, windows, iter(scores), batch_size=9, random_state=0, **options)
    np.testing.assert_allclose(first.predictions, again.predictions)
    np.testing.assert_array_equal(first.predictions[0], first.whole)
    other = deletion_curve(model, windows, scores, random_state=1, **options)
    assert (first.predictions[1:] != other.predictions[1:]).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"measure": "mae"}, "measure is 'mae'; expected one of"),
        ({"measure": "r2"}, "measure='r2' compares with y, and y is None"),
        ({"n_steps": 0}, "n_steps is 0"),
        ({"block_size": 0}, "block_size is 0"),
        ({"scores": np.zeros((1, 3))}, r"masks has shape \(1, 3\)"),
    ],
)
def test_bad_arguments_are_named(x: np.ndarray, change: dict, message: str) -> None:
    for curve in (deletion_curve, insertion_curve):
        with pytest.raises(ValueError, match=message):
            curve(MaskedLinear(WEIGHTS).fit(x), x, **change)
