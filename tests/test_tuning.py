"""The search for the sparsity: what it chooses, and that workers lose nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
import slow_masks
from conftest import ToyGenome
from dask_cluster import on_dask
from joblib import parallel_config
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold
from sklearn.pipeline import Pipeline
from slow_masks import KnownMasks, Meeting, data

from regmask_sk import (
    ChromosomeKFold,
    RegMaskRegressor,
    SequenceChannels,
    TSSWindows,
    tune_sparsity,
)

optuna.logging.set_verbosity(optuna.logging.WARNING)
WIDTH = {"width": FloatDistribution(0.0, 6.0)}


def tune(**given: Any) -> Any:
    X, y = data()
    estimator = given.pop("estimator", KnownMasks())
    settings = {"cv": KFold(3), "n_trials": 15, "random_state": 0, "prune": False, **given}
    return tune_sparsity(estimator, X, y, **settings)


def test_the_front_and_the_choice() -> None:
    shares = [0.05, 0.1, 0.2, 0.4]
    found = tune(sparsity=shares, n_trials=25)
    trials = found.trials
    assert (trials["state"] == "COMPLETE").all()
    assert len(trials) == 25
    np.testing.assert_allclose(trials["kept"], trials["sparsity"])
    # A brute-force grid: the error falls to 0 at .2 and is 0 behind it.
    expected = {share: max(0.0, 0.2 - share) for share in shares}
    np.testing.assert_allclose(trials["error"], trials["sparsity"].map(expected), atol=1e-12)
    assert sorted(set(found.front["sparsity"])) == [0.05, 0.1, 0.2]
    assert found.best_params_ == {"sparsity": 0.2}
    assert found.best_estimator_.sparsity == 0.2
    assert found.best_estimator_.fitted_


def test_within_one_standard_error_the_sparsest_is_taken() -> None:
    class Uneven(KnownMasks):
        """Its folds differ by more than what sparsity takes away."""

        def predict(self, X: Any) -> np.ndarray:
            return super().predict(X) + 3.0 * (np.asarray(X)[:, :1, 0].mean() > 0)

    found = tune(estimator=Uneven(), sparsity=[0.1, 0.15, 0.3], n_trials=20, refit=False)
    best = found.trials.loc[found.best_number_]
    lowest = found.trials.loc[found.trials["error"].idxmin()]
    assert lowest["error_se"] > 0.1
    assert best["sparsity"] == 0.1
    assert best["error"] <= lowest["error"] + lowest["error_se"]
    assert found.best_estimator_ is None


def test_other_parameters_and_their_importance() -> None:
    found = tune(search_space=WIDTH, n_trials=40)
    assert abs(found.best_params_["width"] - 3.0) < 1.0
    importance = found.importances()
    assert importance.index[0] == "width"
    assert importance.sum() == pytest.approx(1.0)
    kept = found.importances("kept")
    assert kept["sparsity"] > importance["sparsity"]
    assert kept.sum() == pytest.approx(1.0)
    with pytest.raises(ValueError, match="objective is 'share'; expected 'error' or 'kept'"):
        found.importances("share")
    figure = found.plot()
    assert [axis.get_xlabel() for axis in figure.axes] == ["share of bases kept", "importance"]
    for drawn in (figure, found.plot_importances()):
        axes = drawn.axes[-1]
        assert [label.get_text() for label in axes.get_yticklabels()] == ["sparsity", "width"]
        lengths = [bar.get_width() for bars in axes.containers for bar in bars]
        names = ["sparsity", "width"]
        np.testing.assert_allclose(lengths, [*importance[names], *kept[names]])
    single = tune(objectives="error", search_space=WIDTH, n_trials=40)
    assert single.trials["error"].min() == single.trials.loc[single.best_number_, "error"]
    assert single.importances("kept").sum() == pytest.approx(1.0)
    few = tune(n_trials=1, refit=False)
    assert len(few.plot().axes) == 1
    with pytest.raises(ValueError, match="at least two finished trials"):
        few.plot_importances()


@pytest.mark.parametrize("objectives", ["error and share", "error"])
def test_hopeless_trials_are_given_up_and_counted(objectives: Any) -> None:
    found = tune(search_space=WIDTH, prune=True, n_trials=30, objectives=objectives)
    states = found.trials["state"].value_counts()
    assert states["PRUNED"] > 3
    assert states.sum() == 30
    pruned = found.trials[found.trials["state"] == "PRUNED"]
    assert (pruned["n_folds"] < 3).all()
    assert not pruned["on_front"].any()
    # No trial was given up that would have been on the front of those that were finished.
    done = found.trials[found.trials["state"] == "COMPLETE"]
    for _, row in pruned.iterrows():
        assert (done["error"] < row["error"]).any()


class Staged(KnownMasks):
    """Calls after each epoch of two stages, the losses of the first falling with its width."""

    def __init__(
        self, sparsity: float = 0.1, width: float = 3.0, max_epochs: int = 4,
        random_state: Any = 0, training: str = "decoupled", validation_fraction: float = 0.1,
        validation_chroms: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(sparsity, width)
        self.max_epochs = max_epochs
        self.random_state = random_state
        self.training = training
        self.validation_fraction = validation_fraction
        self.validation_chroms = validation_chroms

    def fit(self, X: Any, y: Any, callback: Any = None) -> Staged:
        shift = 0.1 * abs(X[0, 0, 0])  # folds differ
        for epoch, stage in enumerate(["predictor"] * self.max_epochs + ["generator"] * 2):
            # The third epoch is worse than the second, as happens.
            loss = (self.width - 3.0) ** 2 + shift + [0.9, 0.5, 0.7, 0.4][epoch % 4]
            if callback is not None:
                row = {"stage": stage, "valid_loss": -9.0 if stage == "generator" else loss}
                callback(row)
        return self


def replayed(trials: list[Any], objectives: str) -> dict[int, list[int]]:
    """Epochs of each fold that each trial should have seen, from the rule as it is documented."""
    expected: dict[int, list[int]] = {}
    for trial in trials:
        seen: list[int] = []
        done = [t for t in trials[: trial.number] if t.state == TrialState.COMPLETE]

        def hopeless(mine: float, share: float, others: list[tuple[float, float]]) -> bool:
            if objectives == "error":
                return len(others) > 2 and mine > np.median([error for error, _ in others])
            return sum(error < mine and kept <= share for error, kept in others) > 1

        def at(t: Any, fold: int, epoch: int) -> float:
            losses = t.user_attrs["losses"]
            return np.mean([*map(min, losses[:fold]), min(losses[fold][:epoch])])

        for fold in range(3):
            if fold:
                pairs = [np.mean(t.user_attrs["folds"][:fold], axis=0) for t in [trial, *done]]
                if hopeless(*pairs[0], pairs[1:]):
                    break
            seen.append(0)
            for epoch in range(1, 5):
                seen[-1] = epoch
                others = [(at(t, fold, epoch), t.params["sparsity"]) for t in done]
                share = trial.params["sparsity"]
                if epoch > 1 and hopeless(at(trial, fold, epoch), share, others):
                    break
            else:
                continue
            break
        expected[trial.number] = seen
    return expected


@pytest.mark.parametrize("objectives", ["error and share", "error"])
def test_epochs_are_compared_at_the_same_point(objectives: Any) -> None:
    found = tune(
        estimator=Staged(), search_space=WIDTH, prune="epoch", objectives=objectives, refit=False
    )
    trials = found.study.trials
    lengths = {t.number: [len(fold) for fold in t.user_attrs["losses"]] for t in trials}
    assert lengths == replayed(trials, objectives)
    early = [t for t in trials if t.state == TrialState.PRUNED and lengths[t.number] == [2]]
    assert len(early) > 2  # at the first epoch that is judged
    assert found.trials.loc[early[0].number, "n_folds"] == 0
    assert min(loss for t in trials for fold in t.user_attrs["losses"] for loss in fold) > 0
    for trial in trials:
        if objectives != "error":
            assert not trial.intermediate_values
            continue
        # A step is the same fold and the same epoch in every trial.
        wanted, losses = {}, trial.user_attrs["losses"]
        for fold, of_fold in enumerate(losses):
            for epoch in range(1, len(of_fold) + 1):
                so_far = [*map(min, losses[:fold]), min(of_fold[:epoch])]
                wanted[4 * fold + epoch] = pytest.approx(np.mean(so_far))
        assert trial.intermediate_values == wanted


def test_trials_that_keep_less_are_not_given_up_for_their_losses() -> None:
    # The first stage knows nothing of the sparsity.
    found = tune(estimator=Staged(), prune="epoch", sparsity=(0.21, 0.5), n_trials=10)
    assert (found.trials["state"] == "COMPLETE").all()
    # Worse in every epoch, but asked to keep less than all before.
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(
        storage=storage, study_name="regmask", directions=["minimize"] * 2
    )  # fmt: skip
    for sparsity, width in [(0.3, 3.0), (0.3, 3.1), (0.1, 5.0), (0.4, 5.0)]:
        study.enqueue_trial({"sparsity": sparsity, "width": width})
    found = tune(
        estimator=Staged(), prune="epoch", sparsity=(0.1, 0.5), search_space=WIDTH, n_trials=4,
        storage=storage, refit=False,
    )  # fmt: skip
    assert found.trials["state"].tolist() == ["COMPLETE"] * 3 + ["PRUNED"]


def test_trials_of_earlier_calls_may_have_no_losses() -> None:
    storage = optuna.storages.InMemoryStorage()
    tune(estimator=Staged(), storage=storage, n_trials=3, search_space=WIDTH, refit=False)
    found = tune(
        estimator=Staged(), storage=storage, n_trials=5, search_space=WIDTH, prune="epoch",
        refit=False,
    )  # fmt: skip
    assert [len(t.user_attrs.get("losses", [])) > 0 for t in found.study.trials] == [
        False, False, False, True, True,
    ]  # fmt: skip


def test_losses_are_those_of_the_predictors_stage(toy_genome: ToyGenome) -> None:
    model = RegMaskRegressor(
        resolution=8, promoter_length=8, d_model=8, n_layers=1, max_epochs=2,
        validation_fraction=0.5, random_state=0, device="cpu",
    )  # fmt: skip
    pipeline = Pipeline(
        [
            ("windows", TSSWindows(64)),
            ("sequence", SequenceChannels(toy_genome.fasta)),
            ("model", model),
        ]
    )
    loci, y = toy_genome.loci, toy_genome.loci["expression"]
    cv = ChromosomeKFold(2)
    found = tune_sparsity(
        pipeline, loci, y, cv=cv, n_trials=1, sparsity=(0.3, 0.6), prune="epoch",
        objectives="error", refit=False, random_state=0,
    )  # fmt: skip
    pipeline.set_params(**found.best_params_)
    (trial,) = found.study.trials
    expected = []
    for train, _ in cv.split(loci):
        history = pipeline.fit(loci.iloc[train], y.iloc[train])["model"].history_
        expected.append(history.loc[history["stage"] == "predictor", "valid_loss"].tolist())
    assert trial.user_attrs["losses"] == expected
    assert list(trial.intermediate_values) == [1, 2, 3, 4]
    assert trial.intermediate_values[4] == pytest.approx(np.mean([min(e) for e in expected]))

    pipeline.set_params(model__validation_fraction=0.01)  # of 20 rows: none
    with pytest.raises(RuntimeError, match="validation loss nan: there are no validation rows"):
        tune_sparsity(pipeline, loci, y, cv=cv, n_trials=1, sparsity=(0.3, 0.6), prune="epoch")


@pytest.mark.parametrize(
    ("estimator", "given", "error", "message"),
    [
        (KnownMasks(), {}, TypeError, "fit of KnownMasks has no parameter callback"),
        (
            Staged(), {"search_space": {"max_epochs": CategoricalDistribution([1, 2])}}, ValueError,
            r"but \['max_epochs'\] differ between the trials",
        ),
        (Staged(random_state=None), {}, ValueError, "random_state is None. Give the estimator an"),
        (Staged(validation_fraction=0), {}, ValueError, "validation_fraction is 0. Raise it"),
        (Staged(training="joint"), {}, ValueError, "training='joint' does not hold"),
        (Staged(), {"prune": "fold"}, ValueError, "prune is 'fold'; expected True, False or"),
    ],
)  # fmt: skip
def test_epochs_that_cannot_be_compared(
    estimator: Any, given: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        tune(**{"estimator": estimator, "prune": "epoch", **given})


def test_a_study_goes_on(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    assert len(tune(storage=storage, n_trials=3).trials) == 3
    seen: list[pd.DataFrame] = []
    found = tune(storage=storage, n_trials=5, callback=seen.append)
    assert len(found.trials) == 5
    assert [len(table) for table in seen] == [4, 5]
    with pytest.raises(ValueError, match="has a study 'regmask' with 2 objectives; expected 1"):
        tune(storage=storage, objectives="error")


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_several_trials_run_at_a_time(tmp_path: Path, backend: str) -> None:
    told, met = tmp_path / "told.txt", tmp_path / "met"
    met.mkdir()

    def note(trials: pd.DataFrame) -> None:
        with told.open("a") as file:
            file.write(f"{os.getpid()}-{threading.get_ident()}\n")

    with parallel_config(backend):
        found = tune(
            sparsity=(0.05, 0.4), n_trials=8, n_jobs=2, callback=note,
            estimator=Meeting(log=str(met)), refit=False,
        )  # fmt: skip
    trials = found.trials
    assert set(trials["state"]) == {"COMPLETE"}
    assert len(trials) in (8, 9)  # two may take the last one at once
    # The workers draw by seeds of their own.
    assert trials["sparsity"].nunique() == len(trials)
    workers = told.read_text().split()
    assert len(workers) == len(trials)
    assert set(workers) == {path.name for path in met.iterdir()}
    assert len(set(workers)) == 2
    # What was a file is in memory now.
    assert isinstance(found.study._storage, optuna.storages.InMemoryStorage)
    assert len(found.study.trials) == len(trials)
    expected = (0.2 - trials["sparsity"]).clip(lower=0.0)
    np.testing.assert_allclose(trials["error"], expected, atol=1e-12)


def test_processes_share_a_storage_that_can_be_shared(tmp_path: Path) -> None:
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "study.log")))
    found = tune(n_trials=3, storage=storage, n_jobs=2)
    assert len(found.trials) >= 3
    again = tune(n_trials=3, storage=storage, n_jobs=2)
    assert len(again.trials) == len(found.trials)
    with pytest.raises(ValueError, match="storage is an InMemoryStorage, which the 2 processes"):
        tune(storage=optuna.storages.InMemoryStorage(), n_jobs=2)


def test_processes_elsewhere_need_a_storage() -> None:
    with (
        on_dask(processes=False),
        pytest.raises(ValueError, match="joblib's backend is DaskDistributedBackend, whose"),
    ):
        tune(n_trials=3, n_jobs=2)


def test_a_failure_in_a_process_is_told() -> None:
    with pytest.raises(RuntimeError, match="failed: RuntimeError: no luck"):
        tune(estimator=Fails(), n_jobs=2)


def test_a_seed_repeats_the_search() -> None:
    first, second = (tune(search_space=WIDTH, n_trials=8).trials for _ in range(2))
    pd.testing.assert_frame_equal(first.drop(columns="seconds"), second.drop(columns="seconds"))


class Fails(KnownMasks):
    def fit(self, X: Any, y: Any) -> KnownMasks:
        raise RuntimeError("no luck")


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"estimator": Ridge()}, TypeError, "Ridge without the parameter 'sparsity'"),
        ({"estimator": Pipeline([("m", Ridge())])}, TypeError, "parameter 'm__sparsity'"),
        ({"estimator": Fails()}, RuntimeError, "trial 0 with .* failed: RuntimeError: no luck"),
        ({"sparsity": (0.0, 0.5)}, ValueError, "two shares above 0 and at most 1"),
        ({"sparsity": [0.3]}, ValueError, "two shares"),
        ({"n_trials": 0}, ValueError, "n_trials is 0; expected at least 1"),
        ({"heartbeat": 0.0}, ValueError, "heartbeat is 0.0"),
        ({"objectives": "share"}, ValueError, "objectives is 'share'"),
        ({"search_space": {"depth": FloatDistribution(0, 1)}}, ValueError, r"has \['depth'\]"),
    ],
)  # fmt: skip
def test_what_cannot_be_tuned(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        tune(**given)


def test_a_failed_trial_is_marked(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    with pytest.raises(RuntimeError):
        tune(estimator=Fails(), storage=storage)
    study = optuna.load_study(study_name="regmask", storage=storage)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL]


def test_a_pipeline_on_the_gene_table(toy_genome: ToyGenome) -> None:
    model = RegMaskRegressor(
        resolution=8, promoter_length=8, d_model=8, n_layers=1, max_epochs=1,
        validation_fraction=0.0, random_state=0, device="cpu",
    )  # fmt: skip
    pipeline = Pipeline(
        [
            ("windows", TSSWindows(64)),
            ("sequence", SequenceChannels(toy_genome.fasta)),
            ("model", model),
        ]
    )
    loci, y = toy_genome.loci, toy_genome.loci["expression"]
    found = tune_sparsity(
        pipeline, loci, y, cv=ChromosomeKFold(2), n_trials=2, sparsity=(0.3, 0.6),
        search_space={"model__resolution": CategoricalDistribution([8, 16])}, random_state=0,
    )  # fmt: skip
    assert set(found.best_params_) == {"model__sparsity", "model__resolution"}
    assert found.best_estimator_.transform(loci).shape == (40, 64)
    assert found.trials["kept"].between(0.2, 0.8).all()


def test_a_killed_worker_loses_nothing(tmp_path: Path) -> None:
    n_trials, journal, log = 10, tmp_path / "study.log", tmp_path / "fits.txt"
    words = [sys.executable, slow_masks.__file__, journal, n_trials, 0.4, log]
    workers = [subprocess.Popen([str(word) for word in words]) for _ in range(3)]
    storage = JournalStorage(JournalFileBackend(str(journal)))

    def study() -> Any:
        return optuna.load_study(study_name="regmask", storage=storage)

    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:  # until all three are at work
        names = optuna.get_all_study_names(storage) if journal.exists() else []
        if names and len(study().get_trials(states=(TrialState.RUNNING,))) == 3:
            break
        time.sleep(0.05)
    workers[0].send_signal(signal.SIGKILL)
    for worker in workers:
        worker.wait(timeout=60)
    assert [worker.returncode for worker in workers] == [-signal.SIGKILL, 0, 0]

    trials = study().trials
    states = [trial.state for trial in trials]
    assert TrialState.RUNNING not in states
    assert TrialState.WAITING not in states
    finished = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert n_trials <= len(finished) <= n_trials + 1  # two that are at work may both finish
    (dead,) = [trial for trial in trials if trial.state == TrialState.FAIL]
    (again,) = [trial for trial in finished if "retry_of" in trial.user_attrs]
    assert again.user_attrs["retry_of"] == dead.number
    assert again.params == dead.params
    others = [trial.params["sparsity"] for trial in finished if trial is not again]
    assert len(set(others)) == len(others)  # no other was run twice
    assert dead.params["sparsity"] not in others
    for trial in finished:
        assert len(trial.user_attrs["folds"]) == 2
