"""A ranking of bases that is scored again and again under other weights of its chromosomes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class WeightedRanking:
    """Scores that are sorted once.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Finite scores.
    labels : ndarray of shape (n,), bool
        Positives.
    groups : ndarray of shape (n,), int
        Group of each, from 0 on: its chromosome.

    Examples
    --------
    >>> ranking = WeightedRanking(
    ...     np.array([0.9, 0.2, 0.8, 0.1]), np.array([True, True, False, False]), np.zeros(4, int)
    ... )
    >>> ranking.roc_auc(np.array([1])), round(ranking.average_precision(np.array([1])), 3)
    (0.75, 0.833)
    """

    def __init__(
        self, scores: NDArray[np.floating], labels: NDArray[np.bool_], groups: NDArray[np.integer]
    ) -> None:
        distinct, rank = np.unique(-scores, return_inverse=True)
        n_groups = int(groups.max()) + 1 if len(groups) else 1
        # Bases of one score and one group weigh alike: they are counted together.
        cells, cell = np.unique(rank * n_groups + groups, return_inverse=True)
        self.positives = np.bincount(cell, labels, minlength=len(cells))
        self.negatives = np.bincount(cell, minlength=len(cells)) - self.positives
        self.groups = cells % n_groups
        #: Last cell of each distinct score, the largest first.
        self.ends = np.searchsorted(cells, (np.arange(len(distinct)) + 1) * n_groups) - 1

    def _counts(
        self, weights: NDArray[np.integer]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weight of the positives, and of the negatives, down to each distinct score."""
        weight = weights.astype(np.float64)[self.groups]
        hits = (weight * self.positives).cumsum()[self.ends]
        return hits, (weight * self.negatives).cumsum()[self.ends]

    def roc_auc(self, weights: NDArray[np.integer]) -> float:
        """Area under the ROC curve; NaN without positives or negatives."""
        return self._roc_auc(*self._counts(weights))

    def average_precision(self, weights: NDArray[np.integer]) -> float:
        """Average precision; NaN without positives."""
        return self._average_precision(*self._counts(weights))

    def both(self, weights: NDArray[np.integer]) -> tuple[float, float]:
        """Average precision, and area under the ROC curve."""
        counts = self._counts(weights)
        return self._average_precision(*counts), self._roc_auc(*counts)

    @staticmethod
    def _roc_auc(hits: NDArray[np.float64], misses: NDArray[np.float64]) -> float:
        if not hits[-1] or not misses[-1]:
            return float("nan")
        rise = np.diff(misses, prepend=0.0)
        middle = hits - 0.5 * np.diff(hits, prepend=0.0)
        return float((rise * middle).sum() / (hits[-1] * misses[-1]))

    @staticmethod
    def _average_precision(hits: NDArray[np.float64], misses: NDArray[np.float64]) -> float:
        if not hits[-1]:
            return float("nan")
        seen = hits + misses
        precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
        return float((np.diff(hits, prepend=0.0) * precision).sum() / hits[-1])
