"""The contract that every rival that is a network meets, on the gene table and on arrays."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.pipeline import Pipeline

from regmask_sk.baselines import (
    BackboneRegressor,
    EnformerRegressor,
    EPInformerRegressor,
    GraphRegRegressor,
    PeakMaskRegressor,
    PrismRegressor,
)
from regmask_sk.features import SequenceChannels, SignalChannels, TSSWindows
from regmask_sk.persistence import load_model, save_model

SMALL: dict[str, Any] = {"max_epochs": 2, "batch_size": 16, "random_state": 0, "device": "cpu"}
#: Elements of 30 bp on every chromosome of the toy genome.
PEAKS = pd.DataFrame(
    [(f"chr{c}", s, s + 30, s % 7) for c in range(1, 5) for s in range(0, 3_000, 75)],
    columns=["chrom", "start", "end", "score"],
)
#: One of each rival, small. A new one joins here, and meets every test below.
RIVALS: dict[str, Any] = {
    "backbone": BackboneRegressor(d_model=8, n_layers=1, resolution=8, **SMALL),
    "backbone, center": BackboneRegressor(
        backbone="mamba", readout="center", center_length=32, d_model=8, n_layers=1, resolution=8,
        reverse_complement="ph", **SMALL,
    ),
    "epinformer": EPInformerRegressor(
        peaks=PEAKS, promoter_length=16, frame_length=416, max_elements=3, n_filters=8, d_model=8,
        n_layers=2, n_heads=2, learning_rate=0.01, **SMALL,
    ),
    "graphreg": GraphRegRegressor(
        bin_size=8, resolution=2, max_distance=16, d_model=8, n_layers=1, n_heads=2, **SMALL
    ),
    "peak mask": PeakMaskRegressor(peaks=PEAKS, d_model=8, n_layers=1, resolution=8, **SMALL),
    "peak mask, budget": PeakMaskRegressor(
        peaks=PEAKS, sparsity=0.3, promoter_length=4, backbone="mamba", d_model=8, n_layers=1,
        resolution=8, reverse_complement="ps", **SMALL,
    ),
    "enformer": EnformerRegressor(
        d_model=12, n_layers=1, n_heads=2, key_width=4, n_downsamples=3, center_length=32,
        reverse_complement="ph", **SMALL,
    ),
    "prism": PrismRegressor(d_model=8, n_layers=1, resolution=8, center_length=32, **SMALL),
}  # fmt: skip


@pytest.fixture(params=RIVALS.values(), ids=RIVALS.keys())
def rival(request: pytest.FixtureRequest) -> Any:
    return clone(request.param)


@pytest.fixture
def pipeline(rival: Any, toy_genome: Any) -> Pipeline:
    return Pipeline(
        [
            ("windows", TSSWindows(64, jitter=2)),
            ("sequence", SequenceChannels(toy_genome.fasta)),
            ("signal", SignalChannels({"ratio": toy_genome.tracks["ratio"]})),
            ("rival", rival.set_params(covariates=["gc"])),
        ]
    )


@pytest.fixture
def loci(toy_genome: Any) -> pd.DataFrame:
    return toy_genome.loci.drop(columns="expression")


@pytest.fixture
def y(toy_genome: Any) -> pd.Series:
    return toy_genome.loci["expression"]


def test_it_fits_and_predicts_and_repeats_to_the_bit(
    pipeline: Pipeline, loci: pd.DataFrame, y: pd.Series
) -> None:
    predicted = pipeline.fit(loci, y).predict(loci)
    assert predicted.shape == (40,)
    assert np.isfinite(predicted).all()
    assert predicted.std() > 0
    np.testing.assert_array_equal(clone(pipeline).fit(loci, y).predict(loci), predicted)
    np.testing.assert_array_equal(pipeline.predict(loci.iloc[[7, 3]]), predicted[[7, 3]])
    history = pipeline[-1].history_
    assert list(history["stage"]) == ["regression"] * 2
    assert np.isfinite(history[["train_loss", "valid_loss", "seconds"]]).all(axis=None)


def test_epoch_by_epoch_it_is_the_same_fit(
    pipeline: Pipeline, loci: pd.DataFrame, y: pd.Series
) -> None:
    whole = pipeline.fit(loci, y)[-1]
    windows, target = pipeline[:-1].transform(loci), y.to_numpy()
    step = clone(whole)
    for _ in range(whole.max_epochs):
        step.partial_fit(windows, target)
    np.testing.assert_array_equal(step.predict(windows), whole.predict(windows))


def test_pickle_and_saved_model_predict_the_same(
    pipeline: Pipeline, loci: pd.DataFrame, y: pd.Series, tmp_path: Path
) -> None:
    predicted = pipeline.fit(loci, y).predict(loci)
    again = pickle.loads(pickle.dumps(pipeline))
    np.testing.assert_array_equal(again.predict(loci), predicted)
    loaded = load_model(save_model(pipeline, tmp_path / "model"))
    np.testing.assert_array_equal(loaded.predict(loci), predicted)
    assert type(loaded[-1]) is type(pipeline[-1])


def test_other_channels_are_refused(pipeline: Pipeline, loci: pd.DataFrame, y: pd.Series) -> None:
    pipeline.fit(loci, y)
    other = clone(pipeline).set_params(signal="passthrough")[:-1].fit_transform(loci)
    with pytest.raises(ValueError, match=r"missing \['ratio'\]"):
        pipeline[-1].predict(other)


def test_several_targets_and_weights(pipeline: Pipeline, loci: pd.DataFrame, y: pd.Series) -> None:
    both = np.column_stack([y, -y])
    predicted = pipeline.fit(loci, both).predict(loci)
    assert predicted.shape == (40, 2)
    weight = np.where(loci["chrom"] == loci["chrom"].iloc[0], 0.0, 1.0)
    weighted = clone(pipeline).fit(loci, both, rival__sample_weight=weight).predict(loci)
    assert not np.array_equal(weighted, predicted)


def test_a_bad_parameter_is_named(pipeline: Pipeline, loci: pd.DataFrame, y: pd.Series) -> None:
    with pytest.raises(ValueError, match="learning_rate == -1"):
        pipeline.set_params(rival__learning_rate=-1.0).fit(loci, y)


def test_a_warm_start_goes_on(pipeline: Pipeline, loci: pd.DataFrame, y: pd.Series) -> None:
    pipeline.set_params(rival__warm_start=True).fit(loci, y).fit(loci, y)
    assert len(pipeline[-1].history_) == 2 * pipeline[-1].max_epochs
