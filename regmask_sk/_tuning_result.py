"""What a search found: its trials as a table, the front, the choice, and what matters."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from regmask_sk._tuning_trials import FOLDS, Objectives
from regmask_sk.plotting._axes import bare, need_matplotlib
from regmask_sk.plotting.front import SparsityFrontDisplay

if TYPE_CHECKING:
    import optuna
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
        need_matplotlib("plot")
        from matplotlib.figure import Figure

        several = len(self.best_params_) > 1 and self._n_finished > 1
        if figure is None:
            figure = Figure(figsize=(9.0 if several else 5.5, 4.0), layout="constrained")
        axes = figure.subplots(1, 2 if several else 1, squeeze=False)[0]
        SparsityFrontDisplay.from_tuning(self, ax=axes[0])
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
        need_matplotlib("plot_importances")
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
        bare(axes)


def trial_table(study: optuna.Study) -> pd.DataFrame:
    """Make the table ``SparsityTuning.trials`` of the trials of a study."""
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


def chosen_trial(trials: pd.DataFrame, objectives: Objectives) -> int:
    """Give the number of the trial to choose; see ``SparsityTuning.best_params_``."""
    done = trials[trials["state"] == "COMPLETE"]
    if done.empty:
        raise ValueError("no trial was finished; raise n_trials, or set prune=False.")
    lowest = done["error"].idxmin()
    if objectives == "error":
        return int(lowest)
    spread = done.loc[lowest, "error_se"]
    limit = done.loc[lowest, "error"] + (0.0 if np.isnan(spread) else spread)
    return int(done[done["error"] <= limit]["kept"].idxmin())
