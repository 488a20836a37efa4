"""Predicted against measured expression."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from regmask_sk.metrics import regression_metrics
from regmask_sk.plotting._axes import DATA, axes_or_new, bare, with_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Dots beyond this hide each other; their density is drawn instead.
_MOST_DOTS = 2_000


class PredictionDisplay:
    """Predicted against measured expression, a dot a gene, or their density for many genes.

    Make one with :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    measured, predicted : ndarray of shape (n_genes,)
        Expression, in the same unit.
    scores : dict of str to float
        As :func:`regmask_sk.regression_metrics` gives them.
    unit : str, optional
        Of expression, for the labels of the axes, such as ``"log2 TPM"``.

    Attributes
    ----------
    ax_, figure_ : Axes, Figure
        Where it is drawn.

    See Also
    --------
    regmask_sk.regression_metrics : The scores.

    Examples
    --------
    >>> display = PredictionDisplay.from_predictions([0.0, 1.0, 2.0], [0.1, 0.8, 2.2], unit="log2")
    >>> display.ax_.get_xlabel(), round(display.scores["mae"], 2)
    ('measured expression (log2)', 0.17)
    """

    def __init__(
        self,
        *,
        measured: np.ndarray,
        predicted: np.ndarray,
        scores: dict[str, float],
        unit: str | None = None,
    ) -> None:
        self.measured = measured
        self.predicted = predicted
        self.scores = scores
        self.unit = unit

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        *,
        unit: str | None = None,
        ax: Axes | None = None,
    ) -> PredictionDisplay:
        """Predict and draw.

        Parameters
        ----------
        estimator : regressor or Pipeline
            Fitted.
        X : DataFrame, Windows or ndarray
            As its ``predict`` takes it; genes that it was not trained on.
        y : array-like of shape (n_genes,)
            Measured expression.
        unit : str, optional
            Of expression.
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        PredictionDisplay
            Drawn.
        """
        return cls.from_predictions(y, estimator.predict(X), unit=unit, ax=ax)

    @classmethod
    def from_predictions(
        cls,
        y: ArrayLike,
        predicted: ArrayLike,
        *,
        unit: str | None = None,
        ax: Axes | None = None,
    ) -> PredictionDisplay:
        """Draw predictions that were made before.

        Parameters
        ----------
        y, predicted : array-like of shape (n_genes,)
            Measured and predicted expression.
        unit : str, optional
            Of expression.
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        PredictionDisplay
            Drawn.

        Raises
        ------
        ValueError
            As :func:`regmask_sk.regression_metrics`.
        """
        scores = regression_metrics(y, predicted)
        measured, guess = (np.asarray(v, dtype=np.float64).ravel() for v in (y, predicted))
        return cls(measured=measured, predicted=guess, scores=scores, unit=unit).plot(ax=ax)

    def plot(self, *, ax: Axes | None = None) -> PredictionDisplay:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        PredictionDisplay
            Itself. Both axes have the same limits; the dashed line is a perfect prediction.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        ax = axes_or_new(ax, "PredictionDisplay", (4.4, 4.4))
        both = np.concatenate([self.measured, self.predicted])
        low, high = float(both.min()), float(both.max())
        margin = 0.04 * (high - low) or 0.5
        limits = (low - margin, high + margin)
        if len(self.measured) > _MOST_DOTS:
            from matplotlib.colors import LogNorm

            # From below 1, so that the palest cells, of one gene, are seen on paper.
            cells = ax.hexbin(
                self.measured, self.predicted, gridsize=60, extent=(*limits, *limits),
                cmap="Blues", norm=LogNorm(vmin=0.2), mincnt=1, linewidths=0.1, edgecolors="none",
            )  # fmt: skip
            ax.figure.colorbar(cells, ax=ax, label="genes in a cell", shrink=0.7, aspect=16)
        else:
            ax.plot(
                self.measured, self.predicted, "o", markersize=3.5, markerfacecolor="none",
                markeredgecolor=DATA, markeredgewidth=0.7, alpha=0.8,
            )  # fmt: skip
        ax.plot(limits, limits, color="0.25", linewidth=0.8, linestyle=(0, (4, 3)))
        ax.set(
            xlim=limits, ylim=limits,
            xlabel=with_unit("measured expression", self.unit),
            ylabel=with_unit("predicted expression", self.unit),
        )  # fmt: skip
        ax.set_aspect("equal")
        ax.locator_params(nbins=6)
        told = (("Pearson", "pearson"), ("Spearman", "spearman"), ("R²", "r2"))
        ax.set_title(
            f"{len(self.measured):,} genes\n"
            + ", ".join(f"{name} {self.scores[key]:.3f}" for name, key in told),
            loc="left", fontsize="small",
        )  # fmt: skip
        bare(ax)
        self.ax_, self.figure_ = ax, ax.figure
        return self
