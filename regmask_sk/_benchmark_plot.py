"""The figure of a comparison: a row an estimator, a dot a cell, the mean and its spread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from regmask_sk._benchmark_cells import SCORES

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

# Of Okabe and Ito's palette, as in plotting.py; open and filled dots differ without colour too.
_CELL, _MEAN = "#0072B2", "#D55E00"
_LABELS = {
    "mse": "mean squared error",
    "mae": "mean absolute error",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "r2": "R²",
}


def draw(
    cells: pd.DataFrame,
    summary: pd.DataFrame,
    metrics: Sequence[str],
    figure: Figure | SubFigure | None,
) -> Figure | SubFigure:
    """Draw one panel for each metric; see ``Comparison.plot``."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            'plot needs matplotlib. Install it: pip install "regmask_sk[plot]"'
        ) from error
    unknown = [name for name in metrics if name not in SCORES]
    if unknown or not len(metrics):
        raise ValueError(f"metrics is {list(metrics)}; expected some of {list(SCORES)}.")
    names = list(summary.index)
    kind = "folds" if cells["fold"].nunique() > 1 else "seeds"
    if figure is None:
        size = (2.0 + 3.2 * len(metrics), 1.1 + 0.34 * len(names))
        figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axis, metric in zip(panels, metrics, strict=True):
        for place, name in enumerate(names):
            values = cells.loc[cells["estimator"] == name, metric].dropna().to_numpy(np.float64)
            axis.plot(
                values, np.full(len(values), place), "o", markersize=4, markerfacecolor="none",
                markeredgecolor=_CELL, markeredgewidth=0.8, alpha=0.7,
            )  # fmt: skip
            mean, spread = summary.loc[name, [metric, f"{metric}_sd_{kind}"]]
            axis.errorbar(
                mean, place, xerr=np.nan_to_num(spread), fmt="D", markersize=5, color=_MEAN,
                elinewidth=1.4, capsize=0, zorder=3,
            )  # fmt: skip
        axis.set_xlabel(_LABELS[metric])
        axis.grid(axis="y", color="0.9", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
        axis.locator_params(axis="x", nbins=5)
    panels[0].set_yticks(range(len(names)), labels=names)
    panels[0].set_ylim(len(names) - 0.5, -0.5)  # the first of the table on top
    return figure
