"""Displays in scikit-learn's manner: what is drawn is kept, and drawn again with ``plot``.

Each ``XDisplay`` has class methods that compute what is shown and draw it
(``from_estimator``, ``from_predictions`` and the like), ``plot(ax=...)``, and, once drawn, the
attributes ``figure_`` and ``ax_``. Without `ax` a figure of pyplot is made. The colours are told
apart under the common kinds of colour blindness, and every line also differs by its dashes or
marker. Matplotlib is an extra: ``pip install "regmask_sk[plot]"``.
"""

from regmask_sk.plotting.benchmark import BenchmarkDisplay
from regmask_sk.plotting.front import SparsityFrontDisplay
from regmask_sk.plotting.heatmap import MaskHeatmapDisplay
from regmask_sk.plotting.history import HistoryDisplay
from regmask_sk.plotting.locus import LocusDisplay
from regmask_sk.plotting.locus_figure import plot_locus
from regmask_sk.plotting.predictions import PredictionDisplay
from regmask_sk.plotting.profile import MaskProfileDisplay

__all__ = [
    "BenchmarkDisplay",
    "HistoryDisplay",
    "LocusDisplay",
    "MaskHeatmapDisplay",
    "MaskProfileDisplay",
    "PredictionDisplay",
    "SparsityFrontDisplay",
    "plot_locus",
]
