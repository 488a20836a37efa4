"""Masks of several fits, against scipy, scikit-learn and counting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from linear_readers import MaskedLinear
from scipy.stats import pearsonr
from sklearn.base import clone
from sklearn.metrics import jaccard_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from regmask_sk import ChromosomeKFold, RegMaskRegressor, SequenceChannels, TSSWindows
from regmask_sk.metrics import mask_stability, masks_over_fits, top_share

if TYPE_CHECKING:
    from conftest import ToyGenome


@pytest.fixture
def fits() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = np.repeat(rng.random((25, 10)) < 0.3, 4, axis=1)
    return {
        name: 0.4 * truth + 0.6 * rng.random(truth.shape).astype(np.float32)
        for name in ("a", "b", "c")
    }


def test_columns_are_those_of_scipy_and_scikit_learn(fits: dict[str, np.ndarray]) -> None:
    table = mask_stability(fits, share=0.3, block_size=2, random_state=0)
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    assert list(zip(table["first"], table["second"], strict=True)) == pairs
    for (first, second), row in zip(pairs, table.itertuples(), strict=True):
        x, y = fits[first], fits[second]
        assert row.pearson == pytest.approx(pearsonr(x.ravel(), y.ravel()).statistic)
        by_gene = [pearsonr(*pair).statistic for pair in zip(x, y, strict=True)]
        assert row.pearson_gene == pytest.approx(np.mean(by_gene))
        by_column = [pearsonr(*pair).statistic for pair in zip(x.T, y.T, strict=True)]
        assert row.pearson_position == pytest.approx(np.mean(by_column))
        kept_x, kept_y = (top_share(fits[n], 0.3, block_size=2) for n in (first, second))
        scores = [jaccard_score(*pair) for pair in zip(kept_x, kept_y, strict=True)]
        assert row.jaccard == pytest.approx(np.mean(scores))
        assert row.jaccard_chance == pytest.approx(0.3 * 0.3 / (0.6 - 0.09))
        assert row.jaccard > row.jaccard_other_genes


def test_masks_are_cut_at_one_half_and_bool_is_taken_as_it_is(fits: dict[str, np.ndarray]) -> None:
    hard = {name: mask >= 0.5 for name, mask in fits.items()}
    soft_table, hard_table = mask_stability(fits), mask_stability(hard)
    assert soft_table["jaccard"].tolist() == hard_table["jaccard"].tolist()
    scores = [jaccard_score(*pair) for pair in zip(hard["a"], hard["b"], strict=True)]
    assert soft_table["jaccard"][0] == pytest.approx(np.mean(scores))
    a, b = hard["a"].mean(), hard["b"].mean()
    assert soft_table["jaccard_chance"][0] == pytest.approx(a * b / (a + b - a * b))


def test_chance_is_what_random_sets_give() -> None:
    rng = np.random.default_rng(0)
    sets = [rng.random((400, 500)) < share for share in (0.1, 0.4)]
    row = mask_stability(sets).iloc[0]
    assert row["jaccard"] == pytest.approx(row["jaccard_chance"], abs=0.003)
    assert row["jaccard_other_genes"] == pytest.approx(row["jaccard_chance"], abs=0.003)


def test_what_all_genes_share_is_position() -> None:
    profile = np.zeros((30, 50))
    profile[:, 20:30] = 1
    noisy = [profile + 0.1 * np.random.default_rng(i).random((30, 50)) for i in range(2)]
    row = mask_stability(noisy, share=0.2).iloc[0]
    assert row["pearson"] > 0.95
    assert abs(row["pearson_position"]) < 0.1
    assert row["jaccard"] == row["jaccard_other_genes"] == 1
    outside = mask_stability(noisy, share=0.2, exclude=slice(20, 30)).iloc[0]
    assert abs(outside["pearson"]) < 0.1
    assert outside["jaccard"] == pytest.approx(outside["jaccard_chance"], abs=0.05)


def test_edges() -> None:
    flat = np.zeros((3, 10))
    row = mask_stability([flat, flat]).iloc[0]
    numbers = row[["pearson", "pearson_gene", "pearson_position", "jaccard", "jaccard_chance"]]
    assert np.isnan(numbers.to_numpy(dtype=float)).all()
    one = np.zeros((1, 10))
    one[0, :5] = 1
    row = mask_stability([one, one]).iloc[0]
    assert row["jaccard"] == 1
    assert np.isnan(row["jaccard_other_genes"])
    assert np.isnan(row["pearson_position"])
    partly = flat.copy()
    partly[0, :4] = 1
    assert mask_stability([partly, partly])["jaccard"][0] == 1  # the others keep nothing


@pytest.mark.parametrize(
    ("masks", "options", "message"),
    [
        ([np.zeros((2, 3))], {}, "masks has 1 fits; expected the masks of at least 2"),
        ([np.zeros((2, 3)), np.zeros((3, 3))], {}, r"shapes \[\(2, 3\), \(3, 3\)\]"),
        ([np.zeros(3), np.zeros(3)], {}, r"shapes \[\(3,\)\]; expected one shape"),
        ([np.zeros((2, 3)), np.full((2, 3), np.nan)], {}, r"masks\[1\] holds NaN"),
        ([np.zeros((2, 3)), np.full((2, 3), 7.0)], {}, "values from 7 to 7.*Give share"),
        ([np.zeros((2, 3))] * 2, {"share": 2}, "share is 2"),
        ([np.zeros((2, 3))] * 2, {"exclude": slice(None)}, "covers all 3 columns"),
    ],
)
def test_bad_arguments_are_named(masks: Any, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mask_stability(masks, **options)


class Noisy(MaskedLinear):
    """Its masks tell the seed and the rows that it was fitted on."""

    def __init__(self, weights: Any = None, random_state: int | None = None) -> None:
        super().__init__(weights)
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Noisy:
        self.seen_ = (float(np.sum(X)), float(np.sum(y)))
        return self

    def transform(self, X: Any) -> np.ndarray:
        return np.tile([self.random_state / 10, *self.seen_], (len(X), 1))


def test_every_fit_has_its_seed_and_its_rows() -> None:
    X = np.arange(12.0).reshape(4, 3)
    y = np.array([1.0, 2.0, 4.0, 8.0])
    found = masks_over_fits(Noisy(), X, y, seeds=[4, 7])
    assert list(found) == [(4, 0), (7, 0)]
    assert found[7, 0].shape == (4, 3)
    np.testing.assert_allclose(found[7, 0][0], [0.7, X.sum(), 15])
    cv = [(np.array([0, 1]), np.array([2, 3])), (np.array([2, 3]), np.array([0, 1]))]
    found = masks_over_fits(Noisy(), X, y, seeds=[1], cv=cv, evaluate=X[:1])
    assert list(found) == [(1, 0), (1, 1)]
    np.testing.assert_allclose(found[1, 0], [[0.1, X[:2].sum(), 3]])
    np.testing.assert_allclose(found[1, 1], [[0.1, X[2:].sum(), 12]])
    pipeline = Pipeline([("scale", StandardScaler()), ("model", Noisy())])
    found = masks_over_fits(pipeline, pd.DataFrame(X), y, seeds=[3])
    assert found[3, 0][0, 0] == pytest.approx(0.3)
    assert pipeline["model"].random_state is None


def test_networks_are_fitted_from_the_gene_table(toy_genome: ToyGenome) -> None:
    model = RegMaskRegressor(max_epochs=1, resolution=8, d_model=8, n_layers=1, sparsity=0.2)
    pipeline = Pipeline(
        [
            ("windows", TSSWindows(64)),
            ("bases", SequenceChannels(toy_genome.fasta)),
            ("model", model),
        ]
    )
    loci = toy_genome.loci[["chrom", "tss", "strand"]]
    y = toy_genome.loci["expression"]
    found = masks_over_fits(
        pipeline, loci, y, seeds=[0, 1], cv=ChromosomeKFold(2), evaluate=loci[:10]
    )
    assert len(found) == 4
    train, _ = next(ChromosomeKFold(2).split(loci, y))
    alone = clone(pipeline).set_params(model__random_state=1).fit(loci.iloc[train], y.iloc[train])
    np.testing.assert_array_equal(found[1, 0], alone.transform(loci[:10]))
    assert len(mask_stability(found, share=0.2)) == 6


@pytest.mark.parametrize(
    ("estimator", "seeds", "error", "message"),
    [
        (StandardScaler(), [0], ValueError, "StandardScaler has no parameter random_state"),
        (Noisy(), [], ValueError, r"seeds is \[\]"),
        (Noisy(), [1, 1], ValueError, r"seeds is \[1, 1\]; expected one or more distinct"),
        (object(), [0], TypeError, "estimator is a object without transform"),
    ],
)
def test_fits_that_cannot_be_compared(
    estimator: Any, seeds: list[int], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        masks_over_fits(estimator, np.ones((4, 3)), np.ones(4), seeds=seeds)


def test_what_is_no_mask_is_refused() -> None:
    class Narrow(Noisy):
        def transform(self, X: Any) -> np.ndarray:
            return np.zeros((len(X), 2))

    with pytest.raises(TypeError, match=r"gives shape \(4, 2\); expected masks of shape \(4, 3\)"):
        masks_over_fits(Narrow(), np.ones((4, 3)), np.ones(4), seeds=[0])
