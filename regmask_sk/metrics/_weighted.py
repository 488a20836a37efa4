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
        order = np.argsort(-scores, kind="stable")
        ranked = scores[order]
        self.labels = labels[order]
        self.groups = groups[order].astype(np.int32)
        #: Last place of each distinct score, the largest first.
        self.ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))

    def _counts(
        self, weights: NDArray[np.integer]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weight of the positives, and of the negatives, down to each distinct score."""
        weight = weights.astype(np.float64)[self.groups]
        positive = np.where(self.labels, weight, 0.0)
        hits = positive.cumsum()[self.ends]
        return hits, weight.cumsum()[self.ends] - hits

    def roc_auc(self, weights: NDArray[np.integer]) -> float:
        """Area under the ROC curve; NaN without positives or negatives."""
        hits, misses = self._counts(weights)
        if not hits[-1] or not misses[-1]:
            return float("nan")
        rise = np.diff(misses, prepend=0.0)
        middle = hits - 0.5 * np.diff(hits, prepend=0.0)
        return float((rise * middle).sum() / (hits[-1] * misses[-1]))

    def average_precision(self, weights: NDArray[np.integer]) -> float:
        """Average precision; NaN without positives."""
        hits, misses = self._counts(weights)
        if not hits[-1]:
            return float("nan")
        seen = hits + misses
        precision = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
        return float((np.diff(hits, prepend=0.0) * precision).sum() / hits[-1])
