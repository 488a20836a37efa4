"""Sufficiency and comprehensiveness of linear readers, worked out by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from linear_readers import Linear, MaskedLinear, make_windows
from scipy.stats import pearsonr
from sklearn.compose import TransformedTargetRegressor
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_squared_error, r2_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from regmask_sk import (
    BackboneRegressor,
    RegMaskRegressor,
    SequenceChannels,
    SignalChannels,
    TSSWindows,
)
from regmask_sk.metrics import comprehensiveness, faithfulness_table, sufficiency, top_share

if TYPE_CHECKING:
    from conftest import ToyGenome

LENGTH = 40
WEIGHTS = (
    np.random.default_rng(1).normal(size=(6, LENGTH)) * np.array([1, 1, 1, 1, 0.1, 0.001])[:, None]
)


@pytest.fixture
def soft() -> np.ndarray:
    return np.random.default_rng(0).random((6, LENGTH))


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_masked_predictions_are_those_of_the_predictor(soft: np.ndarray, batch_size: int) -> None:
    windows = make_windows()
    model = MaskedLinear(WEIGHTS).fit(windows)
    x = windows.to_numpy().astype(np.float64)
    alone = sufficiency(model, windows, soft, batch_size=batch_size)
    without = comprehensiveness(model, windows, soft, batch_size=batch_size)
    np.testing.assert_allclose(alone.whole, (x * WEIGHTS).sum((1, 2)))
    np.testing.assert_allclose(alone.altered, (x * WEIGHTS * soft[:, None]).sum((1, 2)))
    np.testing.assert_allclose(without.altered, (x * WEIGHTS * (1 - soft[:, None])).sum((1, 2)))
    np.testing.assert_allclose(alone.removed, 1 - soft.mean(axis=1))
    np.testing.assert_allclose(without.removed, soft.mean(axis=1))


def test_excluded_columns_are_never_taken_away(soft: np.ndarray) -> None:
    windows = make_windows()
    model = MaskedLinear(WEIGHTS).fit(windows)
    opened, closed = soft.copy(), soft.copy()
    opened[:, 5:9], closed[:, 5:9] = 1, 0
    for removal in ("mask", "zero"):
        found = sufficiency(model, windows, soft, exclude=slice(5, 9), removal=removal)
        expected = sufficiency(model, windows, opened, removal=removal)
        np.testing.assert_array_equal(found.altered, expected.altered)
        found = comprehensiveness(model, windows, soft, exclude=slice(5, 9), removal=removal)
        expected = comprehensiveness(model, windows, closed, removal=removal)
        np.testing.assert_array_equal(found.altered, expected.altered)


def test_zeros_are_a_mask_to_a_linear_reader(soft: np.ndarray) -> None:
    windows = make_windows()
    hard = (soft >= 0.5).astype(float)
    masked = sufficiency(MaskedLinear(WEIGHTS).fit(windows), windows, hard)
    for model in (Linear(WEIGHTS), MaskedLinear(WEIGHTS)):
        zeroed = sufficiency(model.fit(windows), windows, soft, removal="zero")
        np.testing.assert_allclose(zeroed.altered, masked.altered)
        np.testing.assert_allclose(zeroed.removed, 1 - hard.mean(axis=1))
    without = comprehensiveness(Linear(WEIGHTS).fit(windows), windows, soft, removal="zero")
    np.testing.assert_allclose(without.altered, without.whole - masked.altered)
    half = np.full(LENGTH, 0.5)  # kept, hence taken away by the other measure
    assert (
        comprehensiveness(Linear(WEIGHTS).fit(windows), windows, half).removed.tolist() == [1] * 6
    )


def test_a_shuffle_leaves_what_only_sums_over_the_shuffled_bases() -> None:
    windows = make_windows()
    mask = np.zeros(LENGTH)
    mask[10:30] = 1
    inside = np.zeros((6, LENGTH))
    inside[:, 10:30] = 1
    found = comprehensiveness(Linear(inside).fit(windows), windows, mask, removal="shuffle")
    np.testing.assert_allclose(found.altered, found.whole, rtol=1e-6)
    graded = inside * np.arange(LENGTH)
    found = comprehensiveness(Linear(graded).fit(windows), windows, mask, removal="shuffle")
    assert (np.abs(found.altered - found.whole) > 1).all()
    alone = sufficiency(Linear(graded).fit(windows), windows, mask, removal="shuffle")
    np.testing.assert_allclose(alone.altered, alone.whole)  # the rest counts for nothing


def test_draws_are_averaged_and_belong_to_the_gene_not_to_the_batch() -> None:
    windows = make_windows()
    model = Linear(WEIGHTS * np.arange(LENGTH)).fit(windows)
    mask = np.r_[np.zeros(10), np.ones(30)]
    options = {"removal": "shuffle", "random_state": 3}
    one = comprehensiveness(model, windows, mask, **options).altered
    np.testing.assert_array_equal(
        comprehensiveness(model, windows, mask, batch_size=4, **options).altered, one
    )
    many = comprehensiveness(model, windows, mask, n_draws=60, **options).altered
    assert (many != one).all()
    # A permuted track has the mean of the removed bases at each of them, on average.
    x = windows.to_numpy().astype(np.float64)[:, 4:]
    x[..., 10:] = x[..., 10:].mean(axis=-1, keepdims=True)
    tracks_only = model.set_params(weights=model.weights * np.array([0, 0, 0, 0, 1, 0])[:, None])
    many = comprehensiveness(tracks_only, windows, mask, n_draws=60, **options).altered
    expected = (x * tracks_only.weights[4:]).sum((1, 2))
    spread = np.abs(tracks_only.predict(windows) - expected).max()
    np.testing.assert_allclose(many, expected, atol=0.3 * spread)
    assert not np.array_equal(
        comprehensiveness(model, windows, mask, removal="shuffle", random_state=4).altered,
        comprehensiveness(model, windows, mask, removal="shuffle", random_state=3).altered,
    )


def test_a_share_takes_the_largest_values_of_any_attribution(soft: np.ndarray) -> None:
    windows = make_windows()
    model = MaskedLinear(WEIGHTS).fit(windows)
    attribution = 100 * soft - 50
    found = sufficiency(model, windows, attribution, share=0.3, block_size=4, random_state=1)
    kept = top_share(attribution, 0.3, block_size=4)
    assert set(kept.sum(axis=1)) == {12}
    np.testing.assert_array_equal(found.altered, sufficiency(model, windows, 1.0 * kept).altered)


def test_masks_may_be_streamed_and_default_to_the_own_ones(soft: np.ndarray) -> None:
    windows = make_windows()
    model = MaskedLinear(WEIGHTS * (np.arange(LENGTH) < 9)).fit(windows)
    streamed = sufficiency(model, windows, iter(soft), batch_size=4).altered
    np.testing.assert_array_equal(streamed, sufficiency(model, windows, soft).altered)
    own = sufficiency(model, windows, batch_size=4)
    np.testing.assert_allclose(own.altered, own.whole)
    np.testing.assert_allclose(own.removed, 31 / 40)


def test_scores_are_those_of_scikit_learn(soft: np.ndarray) -> None:
    windows = make_windows(30)
    model = MaskedLinear(WEIGHTS).fit(windows)
    y = np.random.default_rng(0).normal(size=30) * 10
    found = sufficiency(model, windows, np.tile(soft, (5, 1)))
    scores = found.scores(y)
    assert scores["change"] == pytest.approx(np.mean(np.abs(found.altered - found.whole)))
    assert scores["agreement"] == pytest.approx(pearsonr(found.altered, found.whole).statistic)
    assert scores["mse"] == pytest.approx(mean_squared_error(y, found.altered))
    assert scores["r2_whole"] == pytest.approx(r2_score(y, found.whole))
    assert scores["removed"] == pytest.approx(1 - soft.mean())
    assert set(found.scores()) == {"removed", "change", "agreement"}
    two = type(found)(
        np.column_stack([found.whole, y]), np.column_stack([found.altered, y]), found.removed
    )
    assert two.scores(np.column_stack([y, y]))["mse"] == pytest.approx(scores["mse"] / 2)
    with pytest.raises(ValueError, match=r"y has shape \(3,\) and the predictions \(30,\)"):
        found.scores([1.0, 2.0, 3.0])


def test_pipelines_searches_and_target_transformers_are_taken_apart() -> None:
    rng = np.random.default_rng(0)
    x, mask = rng.normal(size=(40, 8)), np.r_[1.0, np.zeros(7)]
    y = np.exp(x[:, 0])
    pipeline = Pipeline([("scale", StandardScaler()), ("model", Ridge())])
    logged = TransformedTargetRegressor(pipeline, func=np.log, inverse_func=np.exp).fit(x, y)
    found = sufficiency(logged, x, mask, removal="zero")
    np.testing.assert_allclose(found.whole, logged.predict(x), rtol=1e-5)
    np.testing.assert_allclose(found.altered, found.whole, rtol=0.02)
    search = GridSearchCV(pipeline, {"model__alpha": [0.1, 1.0]}, cv=2).fit(x, np.log(y))
    found = sufficiency(search, x, mask, removal="zero")
    np.testing.assert_allclose(found.whole, search.predict(x), rtol=1e-5)
    scaled = StandardScaler().fit_transform(x)[:, 0]
    np.testing.assert_allclose(
        found.altered,
        search.best_estimator_[-1].predict(np.c_[scaled, np.zeros((40, 7))]),
        rtol=1e-4,
    )


def test_networks_read_them_from_the_gene_table(toy_genome: ToyGenome) -> None:
    loci, y = toy_genome.loci, toy_genome.loci["expression"]
    options = {"max_epochs": 1, "resolution": 8, "d_model": 8, "n_layers": 1, "random_state": 0}
    steps = [
        ("windows", TSSWindows(128)),
        ("bases", SequenceChannels(toy_genome.fasta)),
        ("signal", SignalChannels(toy_genome.tracks, random_state=0)),
    ]
    options["covariates"] = ("gc",)
    masked = Pipeline([*steps, ("model", RegMaskRegressor(sparsity=0.2, **options))]).fit(loci, y)
    plain = Pipeline([*steps, ("model", BackboneRegressor(**options))]).fit(loci, y)
    windows = masked[:-1].transform(loci)
    own = masked[-1].transform(windows)
    alone = sufficiency(masked, loci, batch_size=16)
    np.testing.assert_allclose(alone.altered, masked.predict(loci), rtol=1e-5)
    np.testing.assert_allclose(
        alone.whole, masked[-1].predict_masked(windows, np.ones(128)), rtol=1e-5
    )
    for removal in ("zero", "shuffle"):
        for pipeline in (masked, plain):
            found = comprehensiveness(pipeline, loci, own, removal=removal, random_state=0)
            assert np.isfinite(found.altered).all()
            assert (found.altered != found.whole).any()
            nothing = comprehensiveness(pipeline, loci, np.zeros(128), removal=removal)
            np.testing.assert_allclose(nothing.altered, nothing.whole, rtol=1e-5)
    np.testing.assert_allclose(
        comprehensiveness(plain, loci, own).whole, plain.predict(loci), rtol=1e-5
    )


def test_the_table_has_the_masks_beside_their_controls() -> None:
    windows = make_windows(20)
    weights = WEIGHTS * (np.arange(LENGTH) < 10)
    model = MaskedLinear(weights).fit(windows)
    y = model.predict(windows)
    masks = {"right": (np.arange(LENGTH) < 10).astype(float), "none": np.zeros(LENGTH)}
    table = faithfulness_table(model, windows, y, masks, random_state=0)
    assert table.index.names == ["mask", "control"]
    assert table["kept"].to_dict() == pytest.approx(
        {(m, c): {"right": 0.25, "none": 0.0}[m] for m, c in table.index}
    )
    right = table.loc["right"]
    assert right.loc["", "r2"] == pytest.approx(1)
    assert right.loc["other genes", "r2"] == pytest.approx(1)  # all masks are the same
    assert right.loc["moved", "r2"] < 0.99
    assert right.loc["", "change_alone"] == pytest.approx(0)
    assert right.loc["", "change_without"] == pytest.approx(np.abs(y).mean())
    assert table.loc[("none", ""), "change_without"] == 0
    own = faithfulness_table(model, windows, y, random_state=0)
    assert own.loc[("mask", "")].to_dict() == pytest.approx(right.loc[""].to_dict(), nan_ok=True)


def test_controls_are_other_genes_masks_and_the_same_turned() -> None:
    windows = make_windows(20)
    seen: list[np.ndarray] = []

    class Spy(MaskedLinear):
        def predict_masked(self, X: object, masks: object) -> np.ndarray:
            if np.ndim(masks) == 2:
                seen.append(np.array(masks))
            return super().predict_masked(X, masks)

    masks = (np.random.default_rng(0).random((20, LENGTH)) < 0.3).astype(float)
    masks[:, 0] = np.arange(20) % 2
    faithfulness_table(Spy(WEIGHTS).fit(windows), windows, np.zeros(20), {"m": masks})
    own, _, others, _, moved, _ = seen  # from the mask, then from all but the mask
    np.testing.assert_array_equal(own, masks)
    assert sorted(map(tuple, others)) == sorted(map(tuple, masks))
    assert (others != masks).any(axis=1).all()
    for turned, mask in zip(moved, masks, strict=True):
        assert any((turned == np.roll(mask, k)).all() for k in range(1, LENGTH))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"removal": "noise"}, ValueError, "removal is 'noise'; expected 'auto', 'mask'"),
        ({"batch_size": 0}, ValueError, "batch_size is 0"),
        ({"n_draws": 0}, ValueError, "n_draws is 0"),
        ({"share": 1.5}, ValueError, "share is 1.5"),
        ({"share": 0.5, "block_size": 0}, ValueError, "block_size is 0"),
        ({"masks": np.full(LENGTH, 2.0)}, ValueError, "from 2 to 2; expected masks in.*Give share"),
        ({"masks": np.full(LENGTH, np.nan)}, ValueError, "NaN or infinite values, first in row 0"),
        ({"masks": np.zeros(3)}, ValueError, r"masks has shape \(3,\); expected \(6, 40\)"),
        ({"masks": iter(np.zeros((2, LENGTH)))}, ValueError, r"gave 2 rows .*expected 6 rows"),
        ({"masks": iter(np.zeros((7, LENGTH)))}, ValueError, "gives more than the 6 rows"),
        ({"masks": iter(np.zeros((6, 3)))}, ValueError, r"shapes \[\(3,\)\]; expected 6 rows"),
        ({"exclude": slice(None)}, ValueError, "covers all 40 columns"),
        ({"random_state": -1}, ValueError, "random_state is -1"),
        ({"random_state": "x"}, ValueError, "random_state is 'x'; expected an integer"),
        ({"masks": None}, TypeError, r"Linear gives no masks of shape \(n_genes, 40\)"),
        ({"removal": "mask"}, TypeError, "needs an estimator with predict_masked, which Linear"),
        ({"X": make_windows().loci}, TypeError, "X is a DataFrame, and Linear reads windows"),
        ({"X": make_windows()[:0]}, ValueError, "X has no rows"),
    ],
)
def test_bad_arguments_are_named(change: dict, error: type[Exception], message: str) -> None:
    windows = make_windows()
    arguments = {"X": windows, "masks": np.ones(LENGTH)} | change
    for measure in (sufficiency, comprehensiveness):
        masks = arguments["masks"]
        if measure is comprehensiveness and hasattr(masks, "__next__"):
            continue  # it has been read
        with pytest.raises(error, match=message):
            measure(Linear(WEIGHTS).fit(windows), **arguments)


def test_one_gene_has_no_other_genes() -> None:
    windows = make_windows(1)
    with pytest.raises(ValueError, match="X has 1 row"):
        faithfulness_table(MaskedLinear(WEIGHTS).fit(windows), windows, [0.0])
