"""The table of a comparison as a dot plot: a row an estimator, a dot a fit, mean and spread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from regmask_sk.plotting._axes import DATA, MASK, axes_or_new, bare, need_matplotlib, panels_in

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

    from regmask_sk.benchmark import Comparison

_LABELS = {
    "mse": "mean squared error",
    "mae": "mean absolute error",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "r2": "R²",
}


class BenchmarkDisplay:
    """Estimators beside each other: an open dot a fit, a filled diamond at the mean.

    Make one with :meth:`from_comparison`.

    Parameters
    ----------
    cells : DataFrame
        One row a fit: ``estimator``, ``fold`` and the scores, as ``Comparison.cells``.
    summary : DataFrame
        One row an estimator (the index), in the order in which they are drawn, as
        ``Comparison.summary()``.
    metrics : sequence of str, default=("mse", "pearson")
        One panel for each, of ``mse, mae, pearson, spearman, r2``.

    Attributes
    ----------
    ax_ : Axes
        The first panel.
    axes_ : dict of str to Axes
        The panel of each metric.
    figure_ : Figure or SubFigure
        Theirs.

    Raises
    ------
    ValueError
        If there is no such metric.

    See Also
    --------
    regmask_sk.compare : Makes the tables.

    Examples
    --------
    >>> cells = pd.DataFrame(
    ...     {"estimator": ["a", "a", "b", "b"], "fold": [0, 1, 0, 1], "mse": [1.0, 2.0, 3.0, 4.0]}
    ... )
    >>> means = pd.DataFrame({"mse": [1.5, 3.5], "mse_sd_folds": [0.7, 0.7]}, index=["a", "b"])
    >>> display = BenchmarkDisplay(cells, means, ["mse"]).plot()
    >>> display.ax_.get_xlabel()
    'mean squared error'
    """

    def __init__(
        self,
        cells: pd.DataFrame,
        summary: pd.DataFrame,
        metrics: Sequence[str] = ("mse", "pearson"),
    ) -> None:
        unknown = [name for name in metrics if name not in _LABELS]
        if unknown or not len(metrics):
            raise ValueError(f"metrics is {list(metrics)}; expected some of {list(_LABELS)}.")
        self.cells = cells
        self.summary = summary
        self.metrics = tuple(metrics)

    @classmethod
    def from_comparison(
        cls,
        comparison: Comparison,
        *,
        metrics: Sequence[str] = ("mse", "pearson"),
        ax: Axes | None = None,
    ) -> BenchmarkDisplay:
        """Draw what :func:`regmask_sk.compare` found.

        Parameters
        ----------
        comparison : Comparison
            Its result.
        metrics : sequence of str, default=("mse", "pearson")
            One panel for each, of ``mse, mae, pearson, spearman, r2``.
        ax : matplotlib Axes, optional
            Its place is divided among the panels; a new figure by default.

        Returns
        -------
        BenchmarkDisplay
            Drawn.
        """
        return cls(comparison.cells, comparison.summary(), metrics).plot(ax=ax)

    def plot(
        self, *, ax: Axes | None = None, figure: Figure | SubFigure | None = None
    ) -> BenchmarkDisplay:
        """Draw one panel for each metric.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Its place is divided among the panels.
        figure : matplotlib Figure or SubFigure, optional
            Where to draw, without `ax`; a new figure by default.

        Returns
        -------
        BenchmarkDisplay
            Itself. The line through a mean is one standard deviation to either side, of the
            splits' means or, where there is one split, over the seeds.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        need_matplotlib(type(self).__name__)
        if figure is None:
            ax = axes_or_new(ax, type(self).__name__, self._size())
            panels = panels_in(ax, columns=[1.0] * len(self.metrics))
        else:
            panels = list(figure.subplots(1, len(self.metrics), sharey=True, squeeze=False)[0])
        names = list(self.summary.index)
        for axis, metric in zip(panels, self.metrics, strict=True):
            self._draw(axis, metric, names)
        panels[0].set_yticks(range(len(names)), labels=names, parse_math=False)
        panels[0].set_ylim(len(names) - 0.5, -0.5)  # the first of the table on top
        kind = "splits" if self._spread_over() == "folds" else "seeds"
        handles: list[Any] = [panels[0].lines[0], panels[0].containers[0]]
        panels[0].legend(
            handles, ["one fit", f"mean ± 1 SD over {kind}"], frameon=False, ncols=2,
            loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.2, fontsize="small",
        )  # fmt: skip
        self.axes_ = dict(zip(self.metrics, panels, strict=True))
        self.ax_ = panels[0]
        self.figure_ = panels[0].figure
        return self

    def _size(self) -> tuple[float, float]:
        return 2.0 + 3.2 * len(self.metrics), 1.4 + 0.34 * len(self.summary)

    def _spread_over(self) -> str:
        return "folds" if self.cells["fold"].nunique() > 1 else "seeds"

    def _draw(self, axis: Axes, metric: str, names: list[Any]) -> None:
        kind = self._spread_over()
        for place, name in enumerate(names):
            mine = self.cells["estimator"] == name
            values = self.cells.loc[mine, metric].dropna().to_numpy(np.float64)
            axis.plot(
                values, np.full(len(values), place), "o", markersize=4, markerfacecolor="none",
                markeredgecolor=DATA, markeredgewidth=0.8, alpha=0.7,
            )  # fmt: skip
            mean, spread = self.summary.loc[name, [metric, f"{metric}_sd_{kind}"]]
            axis.errorbar(
                mean, place, xerr=np.nan_to_num(spread), fmt="D", markersize=5, color=MASK,
                elinewidth=1.4, capsize=0, zorder=3,
            )  # fmt: skip
        axis.set_xlabel(_LABELS[metric])
        axis.grid(axis="y", color="0.9", linewidth=0.6)
        axis.set_axisbelow(True)
        bare(axis, "left")
        axis.tick_params(axis="y", length=0)
        axis.locator_params(axis="x", nbins=5)
