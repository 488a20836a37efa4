"""``tune_sparsity``: how much to keep, by Optuna, with held-out error and share kept as objectives.

Any number of processes may work on one study through a storage that they share. Each marks its
running trial as alive now and then; a trial whose process has died is run again by another.
"""

from __future__ import annotations

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

from regmask_sk._tuning_study import Alive, Queue, open_study
from regmask_sk._tuning_trials import (
    FOLDS,
    Objectives,
    Prune,
    Watch,
    run_trial,
    watched_epochs,
)

if TYPE_CHECKING:
    import optuna
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage


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

    def importances(self, objective: Literal["error", "kept"] = "error") -> pd.Series:
        """Tell how much each parameter matters, over the finished trials.

        Parameters
        ----------
        objective : {"error", "kept"}, default="error"
            For what: the held-out error, or the share of bases kept.

        Returns
        -------
        Series
            Share of each parameter (index), together 1, the largest first: how unlike its values
            in the lowest tenth of the trials are those in all of them (PED-ANOVA).

        Raises
        ------
        ValueError
            If `objective` is unknown, or fewer than two trials are finished.

        References
        ----------
        Watanabe, Bansal, Hutter. "PED-ANOVA: efficiently quantifying hyperparameter importance in
        arbitrary subspaces", IJCAI 2023.
        """
        from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

        if objective not in ("error", "kept"):
            raise ValueError(f"objective is {objective!r}; expected 'error' or 'kept'.")
        if self._n_finished < 2:
            raise ValueError("importances need at least two finished trials; raise n_trials.")
        column = 0 if objective == "error" else 1
        with warnings.catch_warnings():
            # It says that it looks at what makes the target low, as is meant.
            warnings.filterwarnings("ignore", message=".*to achieve low `target` values")
            found = get_param_importances(
                self.study,
                evaluator=PedAnovaImportanceEvaluator(),
                target=lambda trial: float(np.mean(trial.user_attrs[FOLDS], axis=0)[column]),
            )
        return pd.Series(found, name="importance", dtype=float)

    @property
    def _n_finished(self) -> int:
        return int((self.trials["state"] == "COMPLETE").sum())

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
            a second panel with their importances, as :meth:`plot_importances` draws them.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        from matplotlib.figure import Figure

        several = len(self.best_params_) > 1 and self._n_finished > 1
        if figure is None:
            figure = Figure(figsize=(9.0 if several else 5.5, 4.0), layout="constrained")
        axes = figure.subplots(1, 2 if several else 1, squeeze=False)[0]
        done = self.trials[self.trials["state"] == "COMPLETE"]
        front, best = self.front, self.trials.loc[self.best_number_]
        lowest = done.loc[done["error"].idxmin()]
        axes[0].errorbar(
            done["kept"], done["error"], yerr=done["error_se"], fmt="o", ms=4, lw=0.8,
            color="0.6", label="trial",
        )  # fmt: skip
        axes[0].plot(
            front["kept"], front["error"], "-o", ms=4, color="#0072B2", label="front", zorder=3
        )
        axes[0].axhline(lowest["error"] + lowest["error_se"], ls=":", color="0.3", lw=1.0)
        axes[0].plot(
            best["kept"], best["error"], "o", ms=12, mfc="none", mec="#D55E00", mew=2.0,
            label="chosen",
        )  # fmt: skip
        axes[0].set(xlabel="share of bases kept", ylabel="held-out mean squared error")
        axes[0].legend(frameon=False)
        axes[0].spines[["top", "right"]].set_visible(False)
        if several:
            self._draw_importances(axes[1])
        return figure

    def plot_importances(self, *, figure: Figure | None = None) -> Figure:
        """Draw how much each parameter matters, for the error and for the share kept.

        Parameters
        ----------
        figure : matplotlib Figure, optional
            Where to draw; a new figure by default.

        Returns
        -------
        Figure
            A pair of bars for each parameter, the one that matters most for the error on top.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If fewer than two trials are finished.
        """
        from matplotlib.figure import Figure

        if figure is None:
            height = 1.5 + 0.5 * len(self.best_params_)
            figure = Figure(figsize=(5.5, height), layout="constrained")
        self._draw_importances(figure.subplots())
        return figure

    def _draw_importances(self, axes: Axes) -> None:
        error = self.importances()[::-1]
        kept = self.importances("kept")[error.index]
        rows = np.arange(len(error))
        axes.barh(rows + 0.2, error, 0.4, color="#0072B2", label="for the error")
        axes.barh(rows - 0.2, kept, 0.4, color="#E69F00", label="for the share kept")
        axes.set_yticks(rows, [name.rpartition("__")[2] for name in error.index])
        axes.set(xlabel="importance", xlim=(0.0, 1.0))
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)


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
        If the estimator has no parameter ``sparsity``, or ``prune="epoch"`` cannot watch its fit.
    ValueError
        If an argument is malformed, the storage has another kind of study under this name,
        a trial gives no error or no masks, or with ``prune="epoch"`` the epochs of trials could
        not be compared.
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
    import optuna

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
    study = open_study(storage, study_name, 1 if objectives == "error" else 2, random_state)
    queue = Queue(study, n_trials, heartbeat)

    while (trial := queue.next_trial(space)) is not None:
        try:
            with Alive(trial, heartbeat):
                model = clone(estimator).set_params(**trial.params)
                watch = Watch(
                    trial,
                    study,
                    objectives=objectives,
                    prune=bool(prune),
                    epochs=epochs,
                    asked=parameter,
                )
                values = run_trial(model, loci, target, splits, watch)
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


def _table(study: optuna.Study) -> pd.DataFrame:
    rows = []
    for trial in study.get_trials(deepcopy=False):
        folds = np.array(trial.user_attrs.get(FOLDS, []), dtype=float).reshape(-1, 2)
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
