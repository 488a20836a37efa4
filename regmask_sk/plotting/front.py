"""Sparsity against accuracy: the models of a path of budgets, or the trials of a search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from regmask_sk.metrics import regression_metrics
from regmask_sk.plotting._axes import DATA, MASK, PALE, axes_or_new, bare
from regmask_sk.plotting._masks import mask_batches, model_and_windows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from regmask_sk.tuning import SparsityTuning


class SparsityFrontDisplay:
    """Error against the share of bases kept, with the front: those that none beats in both.

    Make one with :meth:`from_estimators`, :meth:`from_tuning` or :meth:`from_predictions`.

    Parameters
    ----------
    points : DataFrame
        One row a model: ``kept`` (share of bases), ``error``, ``error_se`` (its standard error,
        NaN where there is none) and ``on_front``.
    chosen : int or None
        Row, by its position, of the model that was chosen.
    error_label : str, default="held-out mean squared error"
        Label of the axis.
    point_label : str, default="model"
        What a row is, for the legend.

    Attributes
    ----------
    ax_, figure_ : Axes, Figure
        Where it is drawn.

    Examples
    --------
    >>> display = SparsityFrontDisplay.from_predictions([0.4, 0.2, 0.1], [0.5, 0.4, 0.6])
    >>> display.points["on_front"].tolist()
    [False, True, True]
    """

    def __init__(
        self,
        points: pd.DataFrame,
        *,
        chosen: int | None = None,
        error_label: str = "held-out mean squared error",
        point_label: str = "model",
    ) -> None:
        self.points = points
        self.chosen = chosen
        self.error_label = error_label
        self.point_label = point_label

    @classmethod
    def from_estimators(
        cls, path: Sequence[Any], X: Any, y: ArrayLike, *, ax: Axes | None = None
    ) -> SparsityFrontDisplay:
        """Score the estimators of a path on genes that they were not trained on, and draw.

        Parameters
        ----------
        path : sequence of estimators or pipelines
            Fitted, with ``predict`` and ``transform``, as :func:`regmask_sk.sparsity_path` gives
            them.
        X : DataFrame, Windows or ndarray
            As they take it.
        y : array-like of shape (n_genes,)
            Measured expression.
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        SparsityFrontDisplay
            Drawn.
        """
        kept, error = [], []
        for estimator in path:
            model, windows = model_and_windows(estimator, X)
            rows = np.arange(len(windows))
            sums = [float(masks.sum()) for masks in mask_batches(model, windows, rows)]
            kept.append(sum(sums) / (len(rows) * windows.shape[-1]))
            error.append(regression_metrics(y, model.predict(windows))["mse"])
        return cls.from_predictions(kept, error, ax=ax)

    @classmethod
    def from_tuning(cls, tuning: SparsityTuning, *, ax: Axes | None = None) -> SparsityFrontDisplay:
        """Draw the finished trials of a search.

        Parameters
        ----------
        tuning : SparsityTuning
            Of :func:`regmask_sk.tune_sparsity`.
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        SparsityFrontDisplay
            Drawn, the chosen trial ringed.
        """
        done = tuning.trials[tuning.trials["state"] == "COMPLETE"]
        chosen = list(done.index).index(tuning.best_number_)
        points = done[["kept", "error", "error_se", "on_front"]]
        return cls(points, chosen=chosen, point_label="trial").plot(ax=ax)

    @classmethod
    def from_predictions(
        cls,
        kept: ArrayLike,
        error: ArrayLike,
        *,
        error_se: ArrayLike | None = None,
        error_label: str = "held-out mean squared error",
        ax: Axes | None = None,
    ) -> SparsityFrontDisplay:
        """Draw shares and errors that were computed before.

        Parameters
        ----------
        kept, error : array-like of shape (n_models,)
            Share of bases kept, and error: less is better in both.
        error_se : array-like of shape (n_models,), optional
            Standard errors of the errors.
        error_label : str, default="held-out mean squared error"
            Label of the axis.
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        SparsityFrontDisplay
            Drawn.

        Raises
        ------
        ValueError
            If the arrays differ in length, are empty or hold missing values.
        """
        share, wrong = (np.asarray(values, dtype=np.float64).ravel() for values in (kept, error))
        if len(share) != len(wrong) or not len(share) or not np.isfinite([*share, *wrong]).all():
            raise ValueError(
                f"kept has {len(share)} values and error {len(wrong)}; expected one finite value "
                "a model in both, and at least one model."
            )
        # A point is on the front if no other is as good in both and better in one.
        no_worse = (share <= share[:, np.newaxis]) & (wrong <= wrong[:, np.newaxis])
        better = (share < share[:, np.newaxis]) | (wrong < wrong[:, np.newaxis])
        spread = np.full(len(share), np.nan) if error_se is None else np.asarray(error_se, float)
        points = pd.DataFrame(
            {
                "kept": share,
                "error": wrong,
                "error_se": spread,
                "on_front": ~(no_worse & better).any(axis=1),
            }
        )
        return cls(points, error_label=error_label).plot(ax=ax)

    def plot(self, *, ax: Axes | None = None) -> SparsityFrontDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        SparsityFrontDisplay
            Itself. Where errors have a standard error, the dotted line is the lowest error plus
            one of its own.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        ax = axes_or_new(ax, "SparsityFrontDisplay", (5.5, 4.0))
        points = self.points
        front = points[points["on_front"].astype(bool)].sort_values("kept")
        spread = points["error_se"].to_numpy(np.float64)
        ax.errorbar(
            points["kept"], points["error"],
            yerr=None if np.isnan(spread).all() else np.nan_to_num(spread),
            fmt="o", ms=4, lw=0.8, color=PALE, label=self.point_label,
        )  # fmt: skip
        ax.plot(front["kept"], front["error"], "-s", ms=4, color=DATA, label="front", zorder=3)
        lowest = int(points["error"].to_numpy(np.float64).argmin())
        if np.isfinite(spread[lowest]):
            ax.axhline(
                points["error"].iloc[lowest] + spread[lowest], ls=":", color="0.3", lw=1.0,
                label="lowest + 1 SE",
            )  # fmt: skip
        if self.chosen is not None:
            ax.plot(
                points["kept"].iloc[self.chosen], points["error"].iloc[self.chosen], "o", ms=12,
                mfc="none", mec=MASK, mew=2.0, label="chosen", ls="none",
            )  # fmt: skip
        ax.set(xlabel="share of bases kept", ylabel=self.error_label)
        ax.legend(frameon=False)
        bare(ax)
        self.ax_, self.figure_ = ax, ax.figure
        return self
