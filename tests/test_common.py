"""Contracts that every estimator meets: scikit-learn's own checks, and its standard tools.

The tools work on the gene table as X: what they slice, copy and send to other processes is a
DataFrame; windows are placed and read inside the pipeline.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
import torch
from optuna_integration import OptunaSearchCV
from sklearn.base import clone
from sklearn.ensemble import StackingRegressor
from sklearn.exceptions import SkipTestWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.linear_model import Ridge
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    HalvingGridSearchCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
)
from sklearn.pipeline import Pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from regmask_sk.baselines import (
    BackboneRegressor,
    BinnedSignalRegressor,
    EnformerRegressor,
    GraphRegRegressor,
    PrismRegressor,
)
from regmask_sk.export import export_masks
from regmask_sk.features import SequenceChannels, SignalChannels, TSSWindows
from regmask_sk.model_selection import ChromosomeKFold
from regmask_sk.regressor import RegMaskRegressor
from regmask_sk.windows import Windows

# Small, but enough to learn: check_regressors_train asks for a score above .5.
LEARNING: dict[str, Any] = {
    "d_model": 8, "n_layers": 1, "dropout": 0.0, "max_epochs": 15, "learning_rate": 0.02,
    "ema_decay": 0.9, "random_state": 0, "device": "cpu",
}  # fmt: skip
CHECKED = RegMaskRegressor(
    **LEARNING, resolution=1, sparsity=0.8, generator_epochs=3, finetune_epochs=3
)
CHECKED_RIVALS = [
    BackboneRegressor(**LEARNING, resolution=1),
    EnformerRegressor(**{**LEARNING, "d_model": 12}, n_heads=2, key_width=4, n_downsamples=2),
    GraphRegRegressor(**LEARNING, bin_size=1, resolution=1, n_heads=2),
    PrismRegressor(**LEARNING, resolution=1, center_length=2, batch_size=16),
]


def expected_to_fail(estimator: Any) -> dict[str, str]:
    if isinstance(estimator, BinnedSignalRegressor):
        return {}
    return {
        "check_sample_weight_equivalence_on_dense_data": (
            "weighting a row is not repeating it: batches are drawn by row, as in SGDRegressor"
        )
    }


@parametrize_with_checks(
    [CHECKED, *CHECKED_RIVALS, BinnedSignalRegressor(bin_size=1)],
    expected_failed_checks=expected_to_fail,
)
def test_scikit_learn_checks(estimator: Any, check: Callable[[Any], None]) -> None:
    with warnings.catch_warnings():
        # Checks of array API input, which need SCIPY_ARRAY_API=1, say so in a warning.
        warnings.filterwarnings("ignore", category=SkipTestWarning)
        check(estimator)


# -- the gene table as X ---------------------------------------------------------------


@pytest.fixture
def loci(toy_genome: Any) -> pd.DataFrame:
    return toy_genome.loci.drop(columns="expression")


@pytest.fixture
def y(toy_genome: Any) -> pd.Series:
    return toy_genome.loci["expression"]


@pytest.fixture
def chroms(loci: pd.DataFrame) -> np.ndarray:
    return loci["chrom"].to_numpy()


@pytest.fixture
def pipeline(toy_genome: Any) -> Pipeline:
    regressor = RegMaskRegressor(
        d_model=8,
        n_layers=1,
        resolution=8,
        sparsity=0.3,
        max_epochs=1,
        covariates=["gc"],
        random_state=0,
        device="cpu",
    )
    return Pipeline(
        [
            ("windows", TSSWindows(64, jitter=2)),
            ("sequence", SequenceChannels(toy_genome.fasta)),
            ("signal", SignalChannels({"ratio": toy_genome.tracks["ratio"]})),
            ("regressor", regressor),
        ]
    )


def all_finite(values: Any) -> bool:
    return bool(np.isfinite(np.asarray(values, float)).all())


def one_thread(run: Callable[[], Any]) -> Any:
    """Run with as many threads as each of two processes has; bits depend on it."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return run()
    finally:
        torch.set_num_threads(n_threads)


def test_pipeline(pipeline: Pipeline, loci: pd.DataFrame, y: pd.Series) -> None:
    pipeline.fit(loci, y)
    predicted, masks = pipeline.predict(loci), pipeline.transform(loci)
    assert predicted.shape == (40,)
    assert masks.shape == (40, 64)
    assert np.isfinite(pipeline.score(loci, y))
    np.testing.assert_array_equal(clone(pipeline).fit(loci, y).predict(loci), predicted)
    np.testing.assert_array_equal(pipeline.predict(loci.iloc[[7, 3]]), predicted[[7, 3]])
    assert isinstance(pipeline[:-1].transform(loci), Windows)


def test_columns_may_be_of_any_fitting_type(
    pipeline: Pipeline, loci: pd.DataFrame, y: pd.Series, tmp_path: Path
) -> None:
    typed = loci.astype({"chrom": "category", "strand": "string", "tss": "Int64", "gc": "float32"})
    expected = pipeline.fit(loci, y).predict(loci)
    np.testing.assert_allclose(clone(pipeline).fit(typed, y).predict(typed), expected, rtol=1e-5)
    windows = pipeline[:-1].transform(typed)
    written = export_masks(pipeline[-1], windows, bed=tmp_path / "elements.bed")
    assert written.n_genes == len(loci)


def test_ablation_by_passthrough(pipeline: Pipeline, loci: pd.DataFrame, y: pd.Series) -> None:
    full = clone(pipeline).fit(loci, y)
    without_signal = clone(pipeline).set_params(signal="passthrough").fit(loci, y)
    without_sequence = clone(pipeline).set_params(sequence="passthrough").fit(loci, y)
    names = [
        p["regressor"].channel_names_in_ for p in (full, without_signal, without_sequence)
    ]  # fmt: skip
    assert names == [("A", "C", "G", "T", "ratio"), ("A", "C", "G", "T"), ("ratio",)]
    assert not np.array_equal(full.predict(loci), without_signal.predict(loci))
    with pytest.raises(ValueError, match=r"is expecting 5 channels|missing"):
        full["regressor"].predict(without_signal[:-1].transform(loci))


def test_cross_validate_by_chromosome_in_two_processes(
    pipeline: Pipeline, loci: pd.DataFrame, y: pd.Series, chroms: np.ndarray
) -> None:
    settings: dict[str, Any] = {
        "groups": chroms, "cv": GroupKFold(4), "return_estimator": True, "error_score": "raise",
        "scoring": ["r2", "neg_mean_absolute_error"],
    }  # fmt: skip
    results = cross_validate(pipeline, loci, y, n_jobs=2, **settings)
    alone = one_thread(lambda: cross_validate(pipeline, loci, y, **settings))
    assert len(results["estimator"]) == 4
    np.testing.assert_array_equal(results["test_r2"], alone["test_r2"])
    assert all_finite(results["test_neg_mean_absolute_error"])
    # What came back from the other process reads its files again.
    assert results["estimator"][0].predict(loci).shape == (40,)


def test_cross_val_predict(
    pipeline: Pipeline, loci: pd.DataFrame, y: pd.Series, chroms: np.ndarray
) -> None:
    predicted = cross_val_predict(pipeline, loci, y, groups=chroms, cv=GroupKFold(2))
    assert predicted.shape == (40,)
    assert all_finite(predicted)
    masked = cross_val_predict(
        pipeline.set_params(regressor__mask="hard"), loci, y, groups=chroms, cv=GroupKFold(2)
    )
    assert not np.array_equal(masked, predicted)


def test_grid_search_in_two_processes(pipeline: Pipeline, loci: pd.DataFrame, y: pd.Series) -> None:
    grid = {"regressor__sparsity": [0.2, 0.5], "windows__length": [48, 64]}
    cv = ChromosomeKFold(2)
    search = GridSearchCV(pipeline, grid, cv=cv, n_jobs=2, error_score="raise")
    search.fit(loci, y)
    results = search.cv_results_
    assert search.best_score_ == max(results["mean_test_score"])
    row = results["params"].index({"regressor__sparsity": 0.5, "windows__length": 48})
    alone = clone(pipeline).set_params(**results["params"][row])
    scores = one_thread(lambda: cross_val_score(alone, loci, y, cv=cv))
    assert results["mean_test_score"][row] == pytest.approx(scores.mean())
    assert search.predict(loci).shape == (40,)


@pytest.mark.parametrize("resource", ["regressor__max_epochs", "n_samples"])
def test_halving_grid_search_in_two_processes(
    resource: str, pipeline: Pipeline, loci: pd.DataFrame, y: pd.Series
) -> None:
    most = 2 if resource == "regressor__max_epochs" else 40
    search = HalvingGridSearchCV(
        pipeline,
        {"regressor__sparsity": [0.2, 0.5]},
        cv=ChromosomeKFold(2),
        resource=resource,
        min_resources=most // 2,
        max_resources=most,
        factor=2,
        n_jobs=2,
        error_score="raise",
        random_state=0,
    )
    search.fit(loci, y)
    assert search.n_resources_ == [most // 2, most]
    assert search.n_candidates_ == [2, 1]
    assert search.best_params_["regressor__sparsity"] in (0.2, 0.5)
    assert search.predict(loci).shape == (40,)


def test_learning_curve(
    pipeline: Pipeline, loci: pd.DataFrame, y: pd.Series, chroms: np.ndarray
) -> None:
    sizes, train, test = learning_curve(
        pipeline,
        loci,
        y,
        groups=chroms,
        cv=GroupKFold(2),
        train_sizes=[0.6, 1.0],
        error_score="raise",
    )
    assert sizes.tolist() == [12, 20]
    assert train.shape == test.shape == (2, 2)
    assert all_finite(test)


def test_stacking(pipeline: Pipeline, toy_genome: Any, loci: pd.DataFrame, y: pd.Series) -> None:
    baseline = Pipeline([*pipeline.steps[:-1], ("regressor", BinnedSignalRegressor(bin_size=8))])
    stack = StackingRegressor(
        [("mask", pipeline), ("bins", clone(baseline))], final_estimator=Ridge(), cv=2
    )
    stack.fit(loci, y)
    assert stack.predict(loci).shape == (40,)
    assert stack.final_estimator_.coef_.shape == (2,)


@pytest.fixture
def quiet_optuna() -> Iterator[None]:
    """No log of trials, and no warnings about optuna's own parts."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", r"`optuna\.terminator`", category=FutureWarning)
        yield
    optuna.logging.set_verbosity(level)


@pytest.mark.usefixtures("quiet_optuna")
def test_optuna_search_in_two_threads(pipeline: Pipeline, loci: pd.DataFrame, y: pd.Series) -> None:
    cv = ChromosomeKFold(2)
    search = OptunaSearchCV(
        pipeline,
        {"regressor__sparsity": optuna.distributions.FloatDistribution(0.2, 0.6)},
        cv=cv,
        n_trials=2,
        n_jobs=2,
        error_score="raise",
        random_state=0,
    )
    search.fit(loci, y)
    assert len(search.trials_) == 2
    for trial in search.trials_:  # as if nothing else had run
        alone = clone(pipeline).set_params(**trial.params)
        assert trial.value == pytest.approx(cross_val_score(alone, loci, y, cv=cv).mean())
    assert search.best_params_["regressor__sparsity"] in [
        trial.params["regressor__sparsity"] for trial in search.trials_
    ]
    assert search.predict(loci).shape == (40,)


class SecondEpoch(optuna.pruners.BasePruner):
    """Prunes every trial but the first after its second epoch."""

    def prune(self, study: optuna.Study, trial: Any) -> bool:
        return trial.number > 0 and trial.last_step == 1


@pytest.mark.usefixtures("quiet_optuna")
def test_optuna_search_prunes_by_partial_fit(
    pipeline: Pipeline, loci: pd.DataFrame, y: pd.Series
) -> None:
    """As the last step, where X of the search is windows and that of the pipeline genes."""
    cv = ChromosomeKFold(2)
    search = OptunaSearchCV(
        pipeline["regressor"],
        {"sparsity": optuna.distributions.FloatDistribution(0.2, 0.6)},
        study=optuna.create_study(direction="maximize", pruner=SecondEpoch()),
        cv=cv,
        enable_pruning=True,
        max_iter=3,  # an epoch of each stage
        n_trials=3,
        n_jobs=2,
        error_score="raise",
        random_state=0,
    )
    tuned = Pipeline([*pipeline.steps[:-1], ("search", search)]).fit(loci, y)
    trials = sorted(search.trials_, key=lambda trial: trial.number)
    assert [len(trial.intermediate_values) for trial in trials] == [3, 2, 2]
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "PRUNED"]
    # After an epoch of each stage the score is that of a whole fit.
    windows = tuned[:-1].transform(loci)
    best = clone(pipeline["regressor"]).set_params(**search.best_params_)
    scores = cross_val_score(best, windows, y, cv=cv)
    assert search.best_score_ == pytest.approx(scores.mean())
    assert tuned.predict(loci).shape == (40,)
    assert search.best_estimator_.transform(windows).shape == (40, 64)


def test_the_tools_see_errors_as_they_are(
    pipeline: Pipeline, loci: pd.DataFrame, y: pd.Series
) -> None:
    broken = loci.assign(chrom="chr99")
    with pytest.raises(ValueError, match=re.escape("chr99")):
        pipeline.fit(broken, y)
