"""``tune_sparsity``: how much to keep, by Optuna, with held-out error and share kept as objectives.

Any number of processes may work on one study through a storage that they share. Each marks its
running trial as alive now and then; a trial whose process has died is run again by another.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.model_selection import check_cv
from sklearn.pipeline import Pipeline

from regmask_sk._benchmark_cells import Task, run_cell
from regmask_sk.plotting._axes import bare, need_matplotlib
from regmask_sk.plotting.front import SparsityFrontDisplay

if TYPE_CHECKING:
    import optuna
    from matplotlib.figure import Figure
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage

Objectives = Literal["error and share", "error"]

_ALIVE = "alive"  # time of the last sign of life, in seconds since 1970
_FOLDS = "folds"  # error and share kept of each finished fold
_DIED = 3  # signs of life that are missed before a trial counts as dead
_POLL = 1.0  # seconds between looks at what other processes do
_DOMINATING = 2  # finished trials that are better in both objectives before a trial is given up


@dataclass(frozen=True, eq=False)
class SparsityTuning:
    """What :func:`tune_sparsity` found.

    Attributes
    ----------
    study : optuna.Study
        The study, for Optuna's own tools.
    trials : DataFrame
        One row a trial (index ``number``): ``state``, the parameters, ``error`` and
        ``error_se`` (mean of the folds and its standard error), ``kept`` (mean share of bases
        kept), ``n_folds``, ``seconds``, ``on_front``, and ``retry_of``, the number of the trial
        of a dead process that it repeats (-1 for none).
    best_params_ : dict
        Parameters of the chosen trial: the sparsest within one standard error of the lowest
        error, or, of a study of the error alone, the one with the lowest.
    best_number_ : int
        Its number.
    best_estimator_ : estimator or None
        The estimator with these parameters, fitted on all rows; None without `refit`.
    """

    study: optuna.Study
    trials: pd.DataFrame
    best_params_: dict[str, Any]
    best_number_: int
    best_estimator_: Any

    @property
    def front(self) -> pd.DataFrame:
        """Trials that no other beats in error and share kept at once, the sparsest first."""
        return self.trials[self.trials["on_front"]].sort_values("kept")

    def importances(self) -> pd.Series:
        """Tell how much each parameter matters for the error, over the finished trials.

        Returns
        -------
        Series
            Shares that add up to 1, the largest first; Optuna's default evaluator.

        Raises
        ------
        ValueError
            If fewer than two trials are finished.
        """
        from optuna.importance import get_param_importances

        if (self.trials["state"] == "COMPLETE").sum() < 2:
            raise ValueError("importances need at least two finished trials; raise n_trials.")
        with warnings.catch_warnings():
            # It says that it looks at what makes the target low, as is meant.
            warnings.filterwarnings("ignore", message=".*to achieve low `target` values")
            found = get_param_importances(self.study, target=lambda trial: trial.values[0])
        return pd.Series(found, name="importance", dtype=float)

    def plot(self, *, figure: Figure | None = None) -> Figure:
        """Draw error against share kept, trial by trial, and the importance of parameters.

        Parameters
        ----------
        figure : matplotlib Figure, optional
            Where to draw; a new figure by default.

        Returns
        -------
        Figure
            Finished trials with one standard error, the front as a line, the chosen trial
            ringed, the lowest error plus one standard error dotted; with several parameters
            a second panel with their importances.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        need_matplotlib("plot")
        from matplotlib.figure import Figure

        several = len(self.best_params_) > 1 and (self.trials["state"] == "COMPLETE").sum() > 1
        if figure is None:
            figure = Figure(figsize=(9.0 if several else 5.5, 4.0), layout="constrained")
        axes = figure.subplots(1, 2 if several else 1, squeeze=False)[0]
        SparsityFrontDisplay.from_tuning(self, ax=axes[0])
        if several:
            importance = self.importances()[::-1]
            names = [name.rpartition("__")[2] for name in importance.index]
            axes[1].barh(names, importance, color="#0072B2")
            axes[1].set(xlabel="importance for the error", xlim=(0.0, 1.0))
            bare(axes[1])
        return figure


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
    prune: bool = True,
    refit: bool = True,
    heartbeat: float = 10.0,
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
    prune : bool, default=True
        Whether a trial is given up after a fold in which, over the folds that it has finished,
        two finished trials have both a smaller error and no larger share (with
        ``objectives="error"``, after a fold in which its error is above the median).
    refit : bool, default=True
        Whether the estimator is fitted on all rows with the chosen parameters.
    heartbeat : float, default=10.0
        Seconds between signs of life of a running trial. One that gives none for three times as
        long is taken for dead, and its parameters are run again. The clocks of the machines must
        agree to within this.
    random_state : int, optional
        Seed of the search; for the models' own set that of `estimator`. With a storage processes
        must not draw alike, so that a search in one cannot be repeated to the letter.
    callback : callable, optional
        Called with the table of trials after each trial of this process.

    Returns
    -------
    SparsityTuning
        The trials, the front, the chosen parameters and the refitted estimator.

    Raises
    ------
    TypeError
        If the estimator has no parameter ``sparsity``.
    ValueError
        If an argument is malformed, the storage has another kind of study under this name,
        or a trial gives no error or no masks.
    RuntimeError
        If fitting fails; the message has its cause. The trial is marked as failed.

    Notes
    -----
    The choice within one standard error is that of Breiman et al., "Classification and
    Regression Trees" (1984): a difference that small is no reason to keep more. The standard error
    is that of the mean over folds, and too small where folds share training genes.

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
    import optuna

    parameter = _sparsity_parameter(estimator)
    space = {parameter: _distribution(sparsity), **dict(search_space or {})}
    unknown = sorted(set(space) - set(estimator.get_params(deep=True)))
    if unknown:
        raise ValueError(f"search_space has {unknown}, which are no parameters of the estimator.")
    if objectives not in ("error and share", "error"):
        raise ValueError(f"objectives is {objectives!r}; expected 'error and share' or 'error'.")
    for name, value, least in (("n_trials", n_trials, 1), ("heartbeat", heartbeat, 0.1)):
        if isinstance(value, bool) or not value >= least:
            raise ValueError(f"{name} is {value!r}; expected at least {least}.")
    target = np.asarray(y, dtype=np.float64)
    splits = list(check_cv(cv).split(loci, target, groups))
    study = _open_study(storage, study_name, objectives, random_state)
    queue = _Queue(study, n_trials, heartbeat)

    while (trial := queue.next_trial(space)) is not None:
        try:
            with _Alive(trial, heartbeat):
                model = clone(estimator).set_params(**trial.params)
                values = _run_folds(trial, model, loci, target, splits, study, prune, objectives)
        except optuna.TrialPruned:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        except BaseException:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            raise
        else:
            study.tell(trial, values)
        if callback is not None:
            callback(_table(study))
    trials = _table(study)
    number = _chosen(trials, objectives)
    params = dict(study.trials[number].params)
    fitted = None
    if refit:
        fitted = clone(estimator).set_params(**params).fit(loci, target)
    return SparsityTuning(study, trials, params, number, fitted)


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


def _open_study(
    storage: Any, name: str, objectives: Objectives, random_state: int | None
) -> optuna.Study:
    import optuna

    seed = random_state
    if storage is not None and random_state is not None:
        seed = int(np.random.SeedSequence([random_state, os.getpid()]).generate_state(1)[0])
    minimize = optuna.study.StudyDirection.MINIMIZE
    directions = [minimize] * (1 if objectives == "error" else 2)
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        directions=directions,
        sampler=optuna.samplers.TPESampler(seed=seed),
        load_if_exists=storage is not None,
    )
    if len(study.directions) != len(directions):
        raise ValueError(
            f"the storage has a study {name!r} with {len(study.directions)} objectives; expected "
            f"{len(directions)}. Choose another study_name, or the objectives of that study."
        )
    return study


class _Queue:
    """Hands out trials until the study has enough, those of other processes counted."""

    def __init__(self, study: optuna.Study, n_trials: int, heartbeat: float) -> None:
        self.study = study
        self.n_trials = n_trials
        self.heartbeat = heartbeat

    def next_trial(self, space: dict[str, BaseDistribution]) -> optuna.Trial | None:
        """Wait for what others run, take over what a dead process left, or draw a new trial."""
        from optuna.trial import TrialState

        while True:
            self.revive()
            states = [trial.state for trial in self.study.get_trials(deepcopy=False)]
            done = sum(state in (TrialState.COMPLETE, TrialState.PRUNED) for state in states)
            if done >= self.n_trials:
                return None
            running = states.count(TrialState.RUNNING)
            if TrialState.WAITING in states or done + running < self.n_trials:
                return self.study.ask(space)
            time.sleep(_POLL)

    def revive(self) -> None:
        """Fail running trials that show no sign of life, and queue their parameters again."""
        from optuna.trial import TrialState

        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            began = trial.datetime_start.timestamp() if trial.datetime_start else time.time()
            seen = trial.user_attrs.get(_ALIVE, began)
            if time.time() - seen <= _DIED * self.heartbeat:
                continue
            try:
                self.study.tell(trial.number, state=TrialState.FAIL)
            except (ValueError, RuntimeError):
                continue  # another process was faster, and has queued it
            first = trial.user_attrs.get("retry_of", trial.number)
            self.study.enqueue_trial(trial.params, user_attrs={"retry_of": first})


class _Alive:
    """While entered, a thread notes the time in a trial every so often."""

    def __init__(self, trial: optuna.Trial, interval: float) -> None:
        self._trial = trial
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> _Alive:
        self._trial.set_user_attr(_ALIVE, time.time())
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._stop.wait(self._interval):
            self._trial.set_user_attr(_ALIVE, time.time())


def _run_folds(
    trial: optuna.Trial,
    model: Any,
    loci: Any,
    y: np.ndarray,
    splits: list[tuple[np.ndarray, np.ndarray]],
    study: optuna.Study,
    prune: bool,
    objectives: Objectives,
) -> list[float]:
    import optuna

    folds: list[tuple[float, float]] = []
    for train, test in splits:
        outcome = run_cell(Task(model, loci, y, train, test))
        if outcome.error:
            raise RuntimeError(f"trial {trial.number} with {trial.params} failed: {outcome.error}")
        error, kept = (outcome.measures[name] for name in ("mse", "mask_fraction"))
        if not np.isfinite([error, kept]).all():
            raise ValueError(
                f"trial {trial.number} has the error {error} and the share kept {kept}; expected "
                "finite ones. Check y, and that the estimator gives masks."
            )
        folds.append((float(error), float(kept)))
        trial.set_user_attr(_FOLDS, folds)
        if prune and len(folds) < len(splits) and _hopeless(folds, study, objectives):
            raise optuna.TrialPruned
    error, kept = np.mean(folds, axis=0)
    return [float(error)] if objectives == "error" else [float(error), float(kept)]


def _hopeless(
    folds: list[tuple[float, float]], study: optuna.Study, objectives: Objectives
) -> bool:
    """Whether finished trials say that a trial will not be on the front, or not the best."""
    from optuna.trial import TrialState

    n = len(folds)
    error, kept = np.mean(folds, axis=0)
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    others = np.array([np.mean(t.user_attrs[_FOLDS][:n], axis=0) for t in finished])
    if objectives == "error":
        return len(others) > _DOMINATING and bool(error > np.median(others[:, 0]))
    if not len(others):
        return False
    better = (others[:, 0] < error) & (others[:, 1] <= kept)
    return int(better.sum()) >= _DOMINATING


def _table(study: optuna.Study) -> pd.DataFrame:
    rows = []
    for trial in study.get_trials(deepcopy=False):
        folds = np.array(trial.user_attrs.get(_FOLDS, []), dtype=float).reshape(-1, 2)
        n = len(folds)
        seconds = trial.duration.total_seconds() if trial.duration else np.nan
        rows.append(
            {
                "number": trial.number,
                "state": trial.state.name,
                **trial.params,
                "error": folds[:, 0].mean() if n else np.nan,
                "error_se": folds[:, 0].std(ddof=1) / np.sqrt(n) if n > 1 else np.nan,
                "kept": folds[:, 1].mean() if n else np.nan,
                "n_folds": n,
                "seconds": seconds,
                "retry_of": trial.user_attrs.get("retry_of", -1),
            }
        )
    table = pd.DataFrame(rows).set_index("number")
    done = table[table["state"] == "COMPLETE"]
    table["on_front"] = False
    for number, row in done.iterrows():
        no_worse = (done["error"] <= row["error"]) & (done["kept"] <= row["kept"])
        better = (done["error"] < row["error"]) | (done["kept"] < row["kept"])
        table.loc[number, "on_front"] = not (no_worse & better).any()
    return table


def _chosen(trials: pd.DataFrame, objectives: Objectives) -> int:
    done = trials[trials["state"] == "COMPLETE"]
    if done.empty:
        raise ValueError("no trial was finished; raise n_trials, or set prune=False.")
    lowest = done["error"].idxmin()
    if objectives == "error":
        return int(lowest)
    spread = done.loc[lowest, "error_se"]
    limit = done.loc[lowest, "error"] + (0.0 if np.isnan(spread) else spread)
    return int(done[done["error"] <= limit]["kept"].idxmin())
