"""One trial of a search: its fits, fold by fold, and when it is given up.

A trial is compared with the finished ones as they were at the same point: after the same folds,
or in the same fold after the same epoch. One rule judges both, and both kinds of study; Optuna's
own pruners refuse studies of two objectives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import has_fit_parameter

from regmask_sk._benchmark_cells import Task, run_cell

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

Objectives = Literal["error and share", "error"]
Prune = bool | Literal["epoch"]

FOLDS = "folds"  # error and share kept of each finished fold
LOSSES = "losses"  # validation losses of the first stage's epochs, for each fold that has begun
_BETTER = 2  # finished trials that are better before a trial is given up
# Share of the first stage before which no epoch is judged: until then the predictor's stage
# leaves ever fewer windows open, and the learning rate is near its peak.
_UNSETTLED = 0.5
# Parameters that change what the validation loss is, or how far the stage is at an epoch.
_INCOMPARABLE = (
    "loss",
    "max_epochs",
    "random_state",
    "training",
    "validation_chroms",
    "validation_fraction",
)


class GivenUp(BaseException):
    """Ends a fit from within. It is no failure, so that it must not be an Exception."""


class Epochs(NamedTuple):
    """How the epochs of an estimator are watched.

    Attributes
    ----------
    fit_parameter : str
        Parameter of ``fit`` that takes what is called after each epoch.
    n_epochs : int
        Epochs of the first stage.
    """

    fit_parameter: str
    n_epochs: int


def watched_epochs(estimator: Any, space: Mapping[str, Any], objectives: Objectives) -> Epochs:
    """Check that epochs of trials can be compared with each other.

    Parameters
    ----------
    estimator : estimator or Pipeline
        What is tuned.
    space : mapping of str to object
        Parameters that differ between trials.
    objectives : {"error and share", "error"}
        Of the study.

    Returns
    -------
    Epochs
        How to watch them.

    Raises
    ------
    TypeError
        If ``fit`` calls nothing after an epoch.
    ValueError
        If there are no validation rows, or not the same ones in all trials, or a searched
        parameter changes what the losses mean.
    """
    prefix, last = "", estimator
    if isinstance(estimator, Pipeline):
        name, last = estimator.steps[-1]
        prefix = f"{name}__"
    if not has_fit_parameter(last, "callback"):
        raise TypeError(
            f"prune='epoch' watches epochs, but fit of {type(last).__name__} has no parameter "
            "callback. Pass prune=True, which gives up after whole folds."
        )
    searched = [name for name in _INCOMPARABLE if f"{prefix}{name}" in space]
    if searched:
        raise ValueError(
            f"prune='epoch' compares validation losses epoch by epoch, but {searched} differ "
            "between the trials. Leave them out of search_space, or pass prune=True."
        )
    params = last.get_params(deep=False)
    if not isinstance(params.get("random_state"), int | np.integer):
        raise ValueError(
            f"prune='epoch' needs the same validation rows in each trial, but random_state is "
            f"{params.get('random_state')!r}. Give the estimator an integer."
        )
    if params.get("validation_chroms") is None and params.get("validation_fraction") == 0:
        raise ValueError(
            "prune='epoch' needs validation rows, but validation_fraction is 0. Raise it, or name "
            "validation_chroms."
        )
    if params.get("training") == "joint" and objectives == "error and share":
        raise ValueError(
            "prune='epoch' with two objectives takes the share asked for as the share kept, which "
            "training='joint' does not hold. Pass prune=True, or objectives='error'."
        )
    return Epochs(f"{prefix}callback", int(params["max_epochs"]))


class Watch:
    """What a trial has shown so far, beside what finished trials had shown by then.

    Parameters
    ----------
    trial : optuna.Trial
        The trial.
    study : optuna.Study
        Its study.
    objectives : {"error and share", "error"}
        Of the study.
    prune : bool
        Whether the trial may be given up.
    epochs : Epochs, optional
        Given where epochs are watched as well.
    asked : str
        Parameter that says which share is to be kept.
    """

    def __init__(
        self,
        trial: optuna.Trial,
        study: optuna.Study,
        *,
        objectives: Objectives,
        prune: bool,
        epochs: Epochs | None,
        asked: str,
    ) -> None:
        self.trial = trial
        self.study = study
        self.objectives = objectives
        self.prune = prune
        self.epochs = epochs
        self.asked = asked
        self.folds: list[tuple[float, float]] = []
        self.losses: list[list[float]] = []
        self._stage: str | None = None

    def begin_fold(self) -> dict[str, Any]:
        """Give the parameters of ``fit`` by which the next fold is watched."""
        self._stage = None
        if self.epochs is None:
            return {}
        self.losses.append([])
        return {self.epochs.fit_parameter: self.end_epoch}

    def end_epoch(self, row: Mapping[str, Any]) -> None:
        """Note an epoch's loss; later stages are passed over, for masks decide about theirs.

        Parameters
        ----------
        row : mapping
            ``stage`` and ``valid_loss``, among others.

        Raises
        ------
        GivenUp
            If the trial is hopeless.
        ValueError
            If the epoch has no validation loss.
        """
        losses = self.losses[-1]
        self._stage = self._stage or row["stage"]
        if row["stage"] != self._stage or self.epochs is None:
            return
        loss = row.get("valid_loss")
        if loss is None or not np.isfinite(loss):
            raise ValueError(
                f"prune='epoch' found the validation loss {loss}: there are no validation rows. "
                "Train on two chromosomes or more, raise validation_fraction, or pass prune=True."
            )
        losses.append(float(loss))
        value, step = _loss_so_far(self.losses), len(losses)
        if self.objectives == "error":  # Optuna takes no reports for two objectives
            self.trial.report(value, (len(self.losses) - 1) * self.epochs.n_epochs + step)
        if not self.prune or step < _UNSETTLED * self.epochs.n_epochs:
            return
        seen: list[tuple[float, float]] = []
        for other in self._finished():
            before = other.user_attrs.get(LOSSES, [])[: len(self.losses)]
            if len(before) == len(self.losses):  # those of calls that watched no epochs have none
                then = [*before[:-1], before[-1][:step]]
                seen.append((_loss_so_far(then), other.params[self.asked]))
        if self._hopeless(value, self.trial.params[self.asked], seen):
            self.trial.set_user_attr(LOSSES, self.losses)
            raise GivenUp

    def end_fold(self, error: float, kept: float) -> None:
        """Note what a fold came to: held-out error, and share of bases kept."""
        self.folds.append((error, kept))
        self.trial.set_user_attr(FOLDS, self.folds)
        if self.epochs is not None:
            self.trial.set_user_attr(LOSSES, self.losses)

    def judge_folds(self) -> None:
        """Raise `GivenUp` if the trial is hopeless by the folds that are done."""
        n = len(self.folds)
        seen = [_means(other.user_attrs[FOLDS][:n]) for other in self._finished()]
        if self.prune and self._hopeless(*_means(self.folds), seen):
            raise GivenUp

    def _finished(self) -> list[FrozenTrial]:
        from optuna.trial import TrialState

        return self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))

    def _hopeless(self, value: float, share: float, seen: list[tuple[float, float]]) -> bool:
        """Whether what others had shown says that a trial will be neither best nor on the front."""
        others: NDArray[np.float64] = np.array(seen, dtype=float).reshape(-1, 2)
        if self.objectives == "error":
            return len(others) > _BETTER and bool(value > np.median(others[:, 0]))
        better = (others[:, 0] < value) & (others[:, 1] <= share)
        return int(better.sum()) >= _BETTER


def _means(folds: Sequence[tuple[float, float]]) -> tuple[float, float]:
    error, kept = np.mean(folds, axis=0)
    return float(error), float(kept)


def _loss_so_far(losses: list[list[float]]) -> float:
    """Mean over folds of the lowest loss: a stage goes back to its best epoch."""
    return float(np.mean([min(of_fold) for of_fold in losses]))


def run_trial(
    model: Any,
    loci: Any,
    y: NDArray[np.float64],
    splits: list[tuple[NDArray[np.intp], NDArray[np.intp]]],
    watch: Watch,
) -> list[float]:
    """Fit and score a trial's estimator on each fold.

    Parameters
    ----------
    model : estimator
        With the trial's parameters; not fitted.
    loci : DataFrame, Windows or ndarray
        All rows.
    y : ndarray of shape (n_genes,)
        Measured expression.
    splits : list of (train, test)
        Rows of each fold.
    watch : Watch
        Of the trial.

    Returns
    -------
    list of float
        What the study minimises: mean error, and mean share kept where that is an objective.

    Raises
    ------
    optuna.TrialPruned
        If the trial is given up.
    RuntimeError
        If a fit fails.
    ValueError
        If there is no error or no share kept.
    """
    import optuna

    trial = watch.trial
    for train, test in splits:
        try:
            if watch.folds:
                watch.judge_folds()
            outcome = run_cell(Task(model, loci, y, train, test, watch.begin_fold()))
        except GivenUp:
            raise optuna.TrialPruned from None
        if outcome.error:
            raise RuntimeError(f"trial {trial.number} with {trial.params} failed: {outcome.error}")
        error, kept = (float(outcome.measures[name]) for name in ("mse", "mask_fraction"))
        if not np.isfinite([error, kept]).all():
            raise ValueError(
                f"trial {trial.number} has the error {error} and the share kept {kept}; expected "
                "finite ones. Check y, and that the estimator gives masks."
            )
        watch.end_fold(error, kept)
    means = _means(watch.folds)
    return [means[0]] if watch.objectives == "error" else [*means]
