"""``tune_sparsity``: how much to keep, by Optuna, with held-out error and share kept as objectives.

Any number of processes may work on one study through a storage that they share. Each marks its
running trial as alive now and then; a trial whose process has died is run again by another.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed, effective_n_jobs
from joblib.parallel import get_active_backend
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.model_selection import check_cv
from sklearn.pipeline import Pipeline

from regmask_sk._tuning_result import SparsityTuning as SparsityTuning
from regmask_sk._tuning_result import chosen_trial, trial_table
from regmask_sk._tuning_study import Alive, Queue, open_study
from regmask_sk._tuning_trials import Epochs, Objectives, Prune, Watch, run_trial, watched_epochs

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage

_ON_THIS_MACHINE = ("LokyBackend", "MultiprocessingBackend", "ThreadingBackend")


def tune_sparsity(
    estimator: Any,
    loci: Any,
    y: ArrayLike,
    *,
    cv: Any,
    n_trials: int = 20,
    sparsity: tuple[float, float] | Sequence[float] | BaseDistribution = (0.02, 0.5),
    search_space: Mapping[str, BaseDistribution] | None = None,
    objectives: Objectives = "error and share",
    storage: str | BaseStorage | None = None,
    study_name: str = "regmask",
    groups: ArrayLike | None = None,
    prune: Prune = True,
    refit: bool = True,
    heartbeat: float = 10.0,
    n_jobs: int | None = None,
    random_state: int | None = None,
    callback: Callable[[pd.DataFrame], None] | None = None,
) -> SparsityTuning:
    """Search for the share of bases to keep, and for other parameters, by cross-validation.

    Parameters
    ----------
    estimator : RegMaskRegressor, or Pipeline that ends in one
        Cloned, not fitted. Its masks are read as its parameter `mask` says.
    loci : DataFrame, Windows or ndarray
        One row a gene, as the estimator takes it.
    y : array-like of shape (n_genes,)
        Measured expression.
    cv : splitter or iterable of (train, test)
        Splits, such as :class:`regmask_sk.ChromosomeKFold`.
    n_trials : int, default=20
        Finished and pruned trials that the study is to have, those of earlier calls and of other
        processes among them. Processes that work side by side may finish a few more.
    sparsity : (low, high), list of three or more values, or distribution, default=(0.02, 0.5)
        Where the share of bases is sought: between two values on a logarithmic scale, among
        values, or as an Optuna distribution says.
    search_space : mapping of str to optuna distribution, optional
        Other parameters to search, by their names in `estimator`, such as
        ``{"model__n_layers": IntDistribution(2, 6)}``.
    objectives : {"error and share", "error"}, default="error and share"
        Held-out mean squared error and share of bases kept, or the error alone.
    storage : str or optuna storage, optional
        Where the study is kept: a URL of a database, such as ``"sqlite:///study.db"``, or an
        Optuna storage, such as ``JournalStorage(JournalFileBackend("study.log"))``. With the same
        storage and `study_name` a later call goes on, and any number of processes and
        machines work on one study. By default in memory.
    study_name : str, default="regmask"
        Name of the study in the storage.
    groups : array-like of shape (n_genes,), optional
        Groups for the splitter.
    prune : bool or "epoch", default=True
        Whether a trial is given up after a fold if, over the folds that it has finished, two
        finished trials have both a smaller error and no larger share (with
        ``objectives="error"``, if its error is above the median). ``"epoch"`` gives up after an
        epoch as well; see the notes.
    refit : bool, default=True
        Whether the estimator is fitted on all rows with the chosen parameters.
    heartbeat : float, default=10.0
        Seconds between signs of life of a running trial. One that gives none for three times as
        long is taken for dead, and its parameters are run again. The clocks of the machines must
        agree to within this.
    n_jobs : int, optional
        Trials that run at the same time, each in a process of joblib's backend with its share of
        the cores; -1 for as many as there are cores. None is 1, or what
        ``joblib.parallel_config`` says. Without a storage the processes share a study in a
        temporary file, which is read into memory at the end.
    random_state : int, optional
        Seed of the search; for the models' own set that of `estimator`. Processes that share a
        study must not draw alike, and which trial ends first is not settled: a search with a
        storage or in several processes cannot be repeated to the letter.
    callback : callable, optional
        Called with the table of trials after each trial, in the process that ran it.

    Returns
    -------
    SparsityTuning
        The trials, the front, the chosen parameters and the refitted estimator.

    Raises
    ------
    TypeError
        If the estimator has no parameter ``sparsity``, or ``prune="epoch"`` cannot watch its fit.
    ValueError
        If an argument is malformed, the storage has another kind of study under this name or
        cannot be shared by `n_jobs` processes, a trial gives no error or no masks, or with
        ``prune="epoch"`` the epochs of trials could not be compared.
    RuntimeError
        If fitting fails; the message has its cause. The trial is marked as failed.

    Notes
    -----
    The choice within one standard error is that of Breiman et al., "Classification and
    Regression Trees" (1984): a difference that small is no reason to keep more. The standard error
    is that of the mean over folds, and too small where folds share training genes.

    With ``prune="epoch"`` trials are compared in the second half of the first stage of each fold's
    fit, epoch by epoch, by the lowest validation loss until then, its mean over the folds that
    have begun. The first stage is the predictor's: its random masks do not depend on the
    sparsity, so that losses mean the same in every trial, and so do epochs, as `search_space`
    must not have what would change that (``max_epochs``, ``loss``, the validation rows). What a
    trial will keep is not known by then; in its place stands the share that it was asked to keep,
    which decoupled training holds. This saves more than whole folds do, and is a guess: half a
    stage need not tell what the whole fit would. A search for the sparsity alone has nothing to
    gain, for there the first stages are alike. With ``objectives="error"`` the losses are also
    the intermediate values of Optuna's trials, at the step
    ``fold * max_epochs + epoch`` (folds from 0, epochs from 1); Optuna takes none for two
    objectives, and keeps them in the user attribute ``losses``.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import KFold
    >>> from regmask_sk import RegMaskRegressor, tune_sparsity
    >>> X = np.random.default_rng(0).normal(size=(40, 2, 32)).astype("float32")
    >>> model = RegMaskRegressor(resolution=4, d_model=8, n_layers=1, max_epochs=1, random_state=0)
    >>> found = tune_sparsity(
    ...     model, X, X[:, 0, :8].sum(axis=1), cv=KFold(2), n_trials=2, random_state=0
    ... )
    >>> found.trials["state"].tolist(), found.best_estimator_.transform(X).shape
    (['COMPLETE', 'COMPLETE'], (40, 32))
    """
    parameter = _sparsity_parameter(estimator)
    space = {parameter: _distribution(sparsity), **dict(search_space or {})}
    unknown = sorted(set(space) - set(estimator.get_params(deep=True)))
    if unknown:
        raise ValueError(f"search_space has {unknown}, which are no parameters of the estimator.")
    if objectives not in ("error and share", "error"):
        raise ValueError(f"objectives is {objectives!r}; expected 'error and share' or 'error'.")
    if prune not in (True, False, "epoch"):
        raise ValueError(f"prune is {prune!r}; expected True, False or 'epoch'.")
    for name, value, least in (("n_trials", n_trials, 1), ("heartbeat", heartbeat, 0.1)):
        if isinstance(value, bool) or not value >= least:
            raise ValueError(f"{name} is {value!r}; expected at least {least}.")
    epochs = watched_epochs(estimator, space, objectives) if prune == "epoch" else None
    target = np.asarray(y, dtype=np.float64)
    splits = list(check_cv(cv).split(loci, target, groups))
    search = _Search(
        estimator=estimator,
        loci=loci,
        y=target,
        splits=splits,
        space=space,
        sparsity=parameter,
        n_trials=n_trials,
        objectives=objectives,
        prune=bool(prune),
        epochs=epochs,
        study_name=study_name,
        heartbeat=heartbeat,
        random_state=random_state,
        callback=callback,
    )
    count = effective_n_jobs(n_jobs)
    study = search.run(storage) if count == 1 else search.run_shared(storage, n_jobs, count)
    trials = trial_table(study)
    number = chosen_trial(trials, objectives)
    params = dict(study.trials[number].params)
    fitted = None
    if refit:
        fitted = clone(estimator).set_params(**params).fit(loci, target)
    return SparsityTuning(study, trials, params, number, fitted)


@dataclass(frozen=True)
class _Search:
    """What each process that takes part in a search is given."""

    estimator: Any
    loci: Any
    y: NDArray[np.float64]
    splits: list[Any]
    space: dict[str, BaseDistribution]
    sparsity: str  # the name of this parameter in the estimator
    n_trials: int
    objectives: Objectives
    prune: bool
    epochs: Epochs | None
    study_name: str
    heartbeat: float
    random_state: int | None
    callback: Callable[[pd.DataFrame], None] | None

    def open(self, storage: Any) -> optuna.Study:
        """Make the study, or open that of the storage."""
        n_objectives = 1 if self.objectives == "error" else 2
        return open_study(storage, self.study_name, n_objectives, self.random_state)

    def run(self, storage: Any) -> optuna.Study:
        """Run trials of the study until it has enough."""
        import optuna

        study = self.open(storage)
        queue = Queue(study, self.n_trials, self.heartbeat)
        while (trial := queue.next_trial(self.space)) is not None:
            try:
                with Alive(trial, self.heartbeat):
                    model = clone(self.estimator).set_params(**trial.params)
                    watch = Watch(
                        trial,
                        study,
                        objectives=self.objectives,
                        prune=self.prune,
                        epochs=self.epochs,
                        asked=self.sparsity,
                    )
                    values = run_trial(model, self.loci, self.y, self.splits, watch)
            except optuna.TrialPruned:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            except BaseException:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                raise
            else:
                study.tell(trial, values)
            if self.callback is not None:
                self.callback(trial_table(study))
        return study

    def run_shared(self, storage: Any, n_jobs: int | None, count: int) -> optuna.Study:
        """Run trials in several processes until the study that they share has enough."""
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        if isinstance(storage, optuna.storages.InMemoryStorage):
            raise ValueError(
                f"storage is an InMemoryStorage, which the {count} processes of n_jobs do not "
                "share. Give none, a JournalStorage or the URL of a database, or set n_jobs=1."
            )
        if storage is not None:
            self._run_in_processes(storage, n_jobs, count)
            return self.open(storage)
        backend = type(get_active_backend()[0]).__name__
        if backend not in _ON_THIS_MACHINE:
            raise ValueError(
                f"joblib's backend is {backend}, whose processes may run on other machines: give "
                "a storage that all of them reach (a JournalStorage in a shared folder, or the "
                "URL of a database)."
            )
        with tempfile.TemporaryDirectory() as folder:
            shared = JournalStorage(JournalFileBackend(os.path.join(folder, "study.log")))
            self._run_in_processes(shared, n_jobs, count)
            memory = optuna.storages.InMemoryStorage()
            optuna.copy_study(
                from_study_name=self.study_name, from_storage=shared, to_storage=memory
            )
        return optuna.load_study(study_name=self.study_name, storage=memory)

    def _run_in_processes(self, storage: Any, n_jobs: int | None, count: int) -> None:
        import optuna

        self.open(storage)  # errors of the storage come from here, and once
        verbosity = optuna.logging.get_verbosity()
        work = delayed(_run)(self, storage, verbosity)
        Parallel(n_jobs=n_jobs, batch_size=1)(work for _ in range(count))


def _run(search: _Search, storage: Any, verbosity: int) -> None:
    import optuna

    optuna.logging.set_verbosity(verbosity)
    search.run(storage)  # the study stays where it is


def _sparsity_parameter(estimator: Any) -> str:
    name = "sparsity"
    if isinstance(estimator, Pipeline):
        name = f"{estimator.steps[-1][0]}__sparsity"
    if not hasattr(estimator, "get_params") or name not in estimator.get_params(deep=True):
        raise TypeError(
            f"estimator is a {type(estimator).__name__} without the parameter {name!r}; expected a "
            "RegMaskRegressor, or a Pipeline whose last step is one."
        )
    return name


def _distribution(sparsity: Any) -> BaseDistribution:
    from optuna.distributions import (
        BaseDistribution,
        CategoricalDistribution,
        FloatDistribution,
    )

    if isinstance(sparsity, BaseDistribution):
        return sparsity
    values = [float(value) for value in sparsity]
    if len(values) < 2 or not all(0.0 < value <= 1.0 for value in values):
        raise ValueError(
            f"sparsity is {sparsity!r}; expected two shares above 0 and at most 1, between which "
            "to search, or a list of more of them."
        )
    if len(values) > 2:
        return CategoricalDistribution(sorted(set(values)))
    return FloatDistribution(min(values), max(values), log=True)
