"""Scorers in scikit-learn's own loops, against the functions that they call."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from linear_readers import Linear, MaskedLinear, Sequence, Tracks
from scipy.integrate import trapezoid
from sklearn.base import BaseEstimator, clone
from sklearn.metrics import mean_squared_error, r2_score
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import Pipeline

from regmask_sk import (
    ChromosomeKFold,
    RegMaskRegressor,
    SequenceChannels,
    TSSWindows,
    mask_average_precision,
    mask_roc_auc,
    region_labels,
)
from regmask_sk.metrics import (
    agreement_scorer,
    comprehensiveness,
    deletion_curve,
    faithfulness_scorer,
    insertion_curve,
    sufficiency,
)
from regmask_sk.windows import Windows

if TYPE_CHECKING:
    from conftest import ToyGenome

LENGTH = 40
KINDS = ("sufficiency", "comprehensiveness", "deletion", "insertion")


class MakeWindows(BaseEstimator):
    """From the gene table to windows, without files."""

    def fit(self, X: Any, y: Any = None) -> MakeWindows:
        self.fitted_ = True
        return self

    def transform(self, X: pd.DataFrame) -> Windows:
        return Windows(X, LENGTH, sources=(Sequence(), Tracks()))


@pytest.fixture
def loci() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "chrom": np.repeat(["chr1", "chr2", "chr3"], 6),
            "tss": 100 + 60 * np.arange(18),
            "strand": np.tile(["+", "-"], 9),
        },
        index=[f"g{i}" for i in range(18)],
    )


@pytest.fixture
def pipeline(loci: pd.DataFrame) -> Pipeline:
    weights = np.random.default_rng(0).normal(size=(6, LENGTH)) * np.r_[1, 1, 1, 1, 0, 0][:, None]
    weights[:, 20:] *= 0
    return Pipeline([("windows", MakeWindows()), ("model", MaskedLinear(weights))])


def test_scores_are_those_of_the_functions(loci: pd.DataFrame, pipeline: Pipeline) -> None:
    y = np.random.default_rng(1).normal(size=18)
    fitted = clone(pipeline).fit(loci, y)
    alone, without = sufficiency(fitted, loci), comprehensiveness(fitted, loci)
    score = faithfulness_scorer("sufficiency")(fitted, loci, y)
    assert score == pytest.approx(r2_score(y, alone.altered))
    score = faithfulness_scorer("comprehensiveness")(fitted, loci, y)
    assert score == pytest.approx(r2_score(y, without.whole) - r2_score(y, without.altered))
    score = faithfulness_scorer("comprehensiveness", metric="neg_mean_squared_error")(
        fitted, loci, y
    )
    assert score == pytest.approx(
        mean_squared_error(y, without.altered) - mean_squared_error(y, without.whole)
    )
    up = insertion_curve(fitted, loci, n_steps=3, block_size=8, random_state=0)
    score = faithfulness_scorer("insertion", n_steps=3, block_size=8)(fitted, loci, y)
    values = [r2_score(y, step) for step in up.predictions]
    assert score == pytest.approx(trapezoid(values, up.share))
    down = deletion_curve(fitted, loci, n_steps=3, block_size=8, random_state=0)
    score = faithfulness_scorer("deletion", n_steps=3, block_size=8)(fitted, loci, y)
    values = [r2_score(y, down.whole) - r2_score(y, step) for step in down.predictions]
    assert score == pytest.approx(trapezoid(values, down.share))


def test_predictions_that_are_all_equal_correlate_with_nothing(
    loci: pd.DataFrame, pipeline: Pipeline
) -> None:
    fitted = clone(pipeline).set_params(model__weights=np.zeros((6, LENGTH))).fit(loci)
    assert faithfulness_scorer("sufficiency", metric="pearson")(fitted, loci, np.arange(18)) == 0


def test_the_promoter_can_be_left_out(loci: pd.DataFrame, pipeline: Pipeline) -> None:
    y = np.random.default_rng(1).normal(size=18)
    fitted = clone(pipeline).fit(loci, y)
    score = faithfulness_scorer("comprehensiveness", exclude_promoter=True)(fitted, loci, y)
    found = comprehensiveness(fitted, loci, exclude=slice(3, 5))
    assert score == pytest.approx(r2_score(y, found.whole) - r2_score(y, found.altered))
    plain = Linear(np.ones((1, 3))).fit(np.ones((2, 3)))
    with pytest.raises(TypeError, match="Linear has no promoter_columns_"):
        faithfulness_scorer("sufficiency", exclude_promoter=True)(plain, np.ones((2, 3)), [0, 1])


def test_they_work_in_cross_validation_and_in_searches(
    loci: pd.DataFrame, pipeline: Pipeline
) -> None:
    y = np.random.default_rng(1).normal(size=18)
    known = pd.DataFrame({"chrom": ["chr1", "chr2", "chr3"], "start": [90, 500, 900]})
    known["end"] = known["start"] + 20
    scoring = {kind: faithfulness_scorer(kind, n_steps=2) for kind in KINDS}
    scoring["elements"] = agreement_scorer(known)
    cv = ChromosomeKFold(3)
    found = cross_validate(pipeline, loci, y, cv=cv, scoring=scoring)
    for name, scorer in scoring.items():
        expected = [
            scorer(clone(pipeline).fit(loci.iloc[train], y[train]), loci.iloc[test], y[test])
            for train, test in cv.split(loci, y)
        ]
        np.testing.assert_allclose(found[f"test_{name}"], expected)
    grid = {"model__weights": [np.zeros((6, LENGTH)), pipeline["model"].weights]}
    fitted = pipeline.fit(loci)
    search = GridSearchCV(pipeline, grid, cv=cv, scoring=scoring["comprehensiveness"])
    search.fit(loci, fitted.predict(loci))
    assert search.best_index_ == 1
    assert scoring["sufficiency"](search, loci, fitted.predict(loci)) == pytest.approx(1)


def test_a_network_is_scored_in_its_pipeline(toy_genome: ToyGenome) -> None:
    model = RegMaskRegressor(
        max_epochs=1, resolution=8, d_model=8, n_layers=1, sparsity=0.2, random_state=0
    )
    pipeline = Pipeline(
        [
            ("windows", TSSWindows(128)),
            ("bases", SequenceChannels(toy_genome.fasta)),
            ("model", model),
        ]
    )
    loci = toy_genome.loci
    cv = ChromosomeKFold(2)
    scoring = {"alone": faithfulness_scorer("sufficiency", removal="shuffle", metric="pearson")}
    found = cross_validate(pipeline, loci, loci["expression"], cv=cv, scoring=scoring)
    assert np.isfinite(found["test_alone"]).all()


def test_agreement_is_that_of_the_masks(loci: pd.DataFrame, pipeline: Pipeline) -> None:
    fitted = pipeline.fit(loci)
    known = pd.DataFrame({"chrom": ["chr1", "chr1"], "start": [95, 160], "end": [105, 170]})
    known["gene"] = ["g0", "g1"]
    labels = region_labels(MakeWindows().transform(loci), known)
    masks = fitted.transform(loci)
    assert agreement_scorer(known)(fitted, loci) == pytest.approx(
        mask_average_precision(masks, labels, exclude=slice(3, 5))
    )
    found = agreement_scorer(known, metric="roc_auc", within="gene", exclude_promoter=False)
    assert found(fitted, loci) == pytest.approx(mask_roc_auc(masks, labels, within="gene"))
    own = region_labels(MakeWindows().transform(loci), known, gene_column="gene")
    assert agreement_scorer(known, gene_column="gene")(fitted, loci) == pytest.approx(
        mask_average_precision(masks, own, exclude=slice(3, 5))
    )
    x = np.ones((2, 3))
    with pytest.raises(TypeError, match="regions lie on the genome, but X is an array"):
        agreement_scorer(known)(MaskedLinear(np.ones((1, 3))).fit(x), x)


def test_scorers_can_be_pickled_and_told_apart() -> None:
    scorer = faithfulness_scorer("deletion", n_steps=3)
    assert pickle.loads(pickle.dumps(scorer)) == scorer
    assert "kind='deletion'" in repr(scorer)
    known = pd.DataFrame({"chrom": ["chr1"], "start": [95], "end": [105]})
    assert pickle.loads(pickle.dumps(agreement_scorer(known))).regions.equals(known)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="kind is 'fidelity'; expected one of"):
        faithfulness_scorer("fidelity")
    with pytest.raises(ValueError, match="metric is 'mae'; expected one of"):
        faithfulness_scorer("deletion", metric="mae")
    known = pd.DataFrame({"chrom": ["chr1"], "start": [95], "end": [105]})
    with pytest.raises(ValueError, match="metric is 'f1'"):
        agreement_scorer(known, metric="f1")
    with pytest.raises(ValueError, match="within is 'row'"):
        agreement_scorer(known, within="row")
