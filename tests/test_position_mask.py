"""One mask for all genes: what it opens, and who predicts under it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline

from regmask_sk.baselines.position_mask import PositionMaskRegressor
from regmask_sk.features import SequenceChannels, SignalChannels, TSSWindows
from regmask_sk.metrics import position_only_mask
from regmask_sk.persistence import load_model, save_model
from regmask_sk.regressor import RegMaskRegressor

LEARNER = RegMaskRegressor(
    d_model=8, n_layers=1, resolution=4, sparsity=0.25, promoter_length=5, max_epochs=2,
    batch_size=16, dropout=0.0, random_state=0, device="cpu",
)  # fmt: skip


def windows(n: int = 60, length: int = 64) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, 2, length)).astype(np.float32)


def planted(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """What drives y lies in the same columns of every window."""
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(n, 2, 64)).astype(np.float32), rng.normal(size=n)
    X[:, 1, 8:16] += y[:, None]
    return X, y


@pytest.mark.parametrize("kind", ["soft", "hard"])
@pytest.mark.parametrize(("sparsity", "n_open"), [(0.25, 16), (0.3, 19), (5 / 64, 5), (1.0, 64)])
def test_the_largest_of_the_mean_soft_mask_are_open(
    sparsity: float, n_open: int, kind: str
) -> None:
    X = windows()
    learner = clone(LEARNER).set_params(mask=kind)
    model = PositionMaskRegressor(learner, sparsity=sparsity).fit(X, X[:, 0, :8].sum(axis=1))
    soft = model.estimator_.set_params(mask="soft").transform(X)
    np.testing.assert_array_equal(model.position_profile_, position_only_mask(soft))
    mask = model.position_mask_
    assert mask.dtype == np.float32
    assert mask.sum() == n_open
    assert model.promoter_columns_ == slice(30, 35)
    assert mask[30:35].all()
    elsewhere = np.delete(np.arange(64), np.r_[30:35])
    best = sorted(elsewhere, key=lambda i: (-model.position_profile_[i], abs(i - 32), i))
    assert set(np.flatnonzero(mask)) == {*range(30, 35), *best[: n_open - 5]}
    np.testing.assert_array_equal(model.transform(X[:3]), np.tile(mask, (3, 1)))


def test_by_default_as_much_is_kept_as_by_the_learned_masks() -> None:
    X = windows()
    model = PositionMaskRegressor(LEARNER).fit(X, X[:, 0, :8].sum(axis=1))
    learned = model.estimator_.transform(X).mean()
    assert learned == pytest.approx(0.25, abs=0.01)
    assert model.transform(X).mean() == pytest.approx(learned, abs=0.5 / 64 + 1e-6)


def test_the_fitted_predictor_reads_it() -> None:
    X = windows()
    y = X[:, 0, :8].sum(axis=1)
    model = PositionMaskRegressor(LEARNER).fit(X, y)
    alone = clone(LEARNER).fit(X, y)
    np.testing.assert_array_equal(
        model.predict(X), alone.predict_masked(X, np.tile(model.position_mask_, (60, 1)))
    )
    assert not np.array_equal(model.predict(X), alone.predict(X))
    assert model.predictor_ is None
    pd.testing.assert_frame_equal(model.history_, model.estimator_.history_)


def test_a_predictor_of_its_own_is_trained_under_it() -> None:
    X = windows()
    y = X[:, 0, :8].sum(axis=1)
    model = PositionMaskRegressor(LEARNER, refit=True).fit(X, y)
    reading = PositionMaskRegressor(LEARNER).fit(X, y)
    np.testing.assert_array_equal(model.position_mask_, reading.position_mask_)
    assert not np.array_equal(model.predict(X), reading.predict(X))
    assert model.history_["stage"].tolist() == ["regression"] * 2
    np.testing.assert_array_equal(model.predictor_.transform(X), model.transform(X))
    elsewhere = X + 3.0 * (model.position_mask_ == 0)
    np.testing.assert_array_equal(model.predict(elsewhere), model.predict(X))
    np.testing.assert_array_equal(model.predict(X[[7, 3]]), model.predict(X)[[7, 3]])


@pytest.mark.parametrize("refit", [False, True])
def test_where_elements_lie_alike_it_does_well(refit: bool) -> None:
    (X, y), (held_out, measured) = planted(150, 0), planted(80, 1)
    learner = clone(LEARNER).set_params(
        max_epochs=9, learning_rate=0.03, ema_decay=0.9, validation_fraction=0.0
    )
    model = PositionMaskRegressor(learner, refit=refit).fit(X, y)
    assert model.position_mask_[8:16].all()
    assert model.score(held_out, measured) > 0.6


@pytest.mark.parametrize("refit", [False, True])
def test_contract_on_the_gene_table(toy_genome: Any, refit: bool, tmp_path: Path) -> None:
    loci, y = toy_genome.loci.drop(columns="expression"), toy_genome.loci["expression"]
    learner = clone(LEARNER).set_params(covariates=["gc"], max_epochs=1)
    pipeline = Pipeline(
        [
            ("windows", TSSWindows(64, jitter=2)),
            ("sequence", SequenceChannels(toy_genome.fasta)),
            ("signal", SignalChannels({"ratio": toy_genome.tracks["ratio"]})),
            ("rival", PositionMaskRegressor(learner, refit=refit)),
        ]
    )
    predicted = pipeline.fit(loci, y).predict(loci)
    assert predicted.shape == (40,)
    assert predicted.std() > 0
    np.testing.assert_array_equal(clone(pipeline).fit(loci, y).predict(loci), predicted)
    np.testing.assert_array_equal(pipeline.predict(loci.iloc[[7, 3]]), predicted[[7, 3]])
    again = pickle.loads(pickle.dumps(pipeline))
    np.testing.assert_array_equal(again.predict(loci), predicted)
    loaded = load_model(save_model(pipeline, tmp_path / "model"), device="cpu")
    np.testing.assert_array_equal(loaded.predict(loci), predicted)
    np.testing.assert_array_equal(loaded.transform(loci), pipeline.transform(loci))
    assert loaded[-1].get_params().keys() == pipeline[-1].get_params().keys()
    pd.testing.assert_frame_equal(loaded[-1].history_, pipeline[-1].history_)
    model = pipeline[-1]
    assert model.channel_names_in_ == ("A", "C", "G", "T", "ratio")
    assert model.n_features_in_ == 64
    assert pipeline.transform(loci).shape == (40, 64)
    assert model.get_feature_names_out()[[0, 32]].tolist() == ["tss-32", "tss+0"]
    other = clone(pipeline).set_params(signal="passthrough")[:-1].fit_transform(loci)
    for read in (model.predict, model.transform):
        with pytest.raises(ValueError, match=r"missing \['ratio'\]"):
            read(other)
    both = np.column_stack([y, -y])
    weight = np.where(loci["chrom"] == loci["chrom"].iloc[0], 0.0, 1.0)
    weighted = clone(pipeline).fit(loci, both, rival__sample_weight=weight).predict(loci)
    assert weighted.shape == (40, 2)
    assert not np.array_equal(weighted, clone(pipeline).fit(loci, both).predict(loci))


def test_parameters_of_the_estimator_are_within_reach() -> None:
    model = PositionMaskRegressor(clone(LEARNER)).set_params(estimator__sparsity=0.4)
    model.fit(X := windows(20), X[:, 0, 0])
    assert model.estimator_.sparsity == 0.4
    assert model.estimator_ is not model.estimator


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"estimator": Ridge()}, TypeError, "estimator is a Ridge; expected a RegMaskRegressor"),
        ({"refit": "yes"}, ValueError, "refit='yes'; expected True or False"),
        ({"sparsity": 0.0}, ValueError, "sparsity=0.0; expected a share above 0"),
        ({"sparsity": 0.05}, ValueError, "opens 3 of 64 positions, fewer than the 5"),
    ],
)
def test_what_does_not_fit_is_refused(parameters: dict[str, Any], error: Any, message: str) -> None:
    X = windows(20)
    with pytest.raises(error, match=message):
        PositionMaskRegressor(**{"estimator": LEARNER, **parameters}).fit(X, X[:, 0, 0])
