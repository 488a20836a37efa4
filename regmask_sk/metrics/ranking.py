"""Masks as rankings of bases against known regions: average precision, area under the ROC curve."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score

from regmask_sk.metrics._checks import check_scores

Within = Literal["all", "gene", "position"]


def mask_average_precision(
    masks: ArrayLike | Iterable[ArrayLike],
    labels: ArrayLike,
    *,
    exclude: slice | ArrayLike | None = None,
    within: Within = "all",
) -> float:
    """Average precision of a mask as a ranking of bases against known regions.

    Parameters
    ----------
    masks : array-like of shape (n_genes, length) or (length,), or an iterable of rows
        Scores of bases, any range. One vector (a position-only mask) is scored for every gene.
    labels : array-like of shape (n_genes, length), bool
        True where a base lies in a known region: :func:`region_labels`. Rows must be those of
        `masks`, in the same order; a gene whose regions are not known should be left out of both.
    exclude : slice or array-like of shape (length,), bool, optional
        Columns left out of the measure: the promoter, which every mask keeps open
        (``estimator.promoter_columns_``).
    within : {"all", "gene", "position"}, default="all"
        What is compared with what. "all" ranks all bases of all genes together. "gene" ranks the
        bases of each gene and averages over genes. "position" ranks the genes at each column and
        averages over columns: bases are matched by their distance to the TSS, so that a
        position-only mask scores the base rate. Genes (columns) whose labels are all equal have
        no score, and are left out of the average.

    Returns
    -------
    float
        The average precision; the value of a mask that knows nothing is the base rate
        ``labels.mean()``. NaN where no comparison is possible (no positive, or nothing but
        positives under "gene" and "position").

    Raises
    ------
    ValueError
        If shapes do not agree, labels are not boolean, scores are not finite, nothing is left
        after `exclude`, or `within` is unknown.

    See Also
    --------
    mask_roc_auc : The same under the area under the ROC curve.

    Examples
    --------
    >>> labels = [[False, True, False, True], [True, False, False, False]]
    >>> mask_average_precision([[0.1, 0.9, 0.2, 0.8], [0.7, 0.0, 0.1, 0.3]], labels)
    1.0
    >>> round(mask_average_precision([0.1, 0.9, 0.2, 0.8], labels), 2)
    0.46
    """
    scores, truth = check_scores(masks, labels, exclude)
    if within == "all":
        if not truth.any():
            return float("nan")
        return float(average_precision_score(truth.ravel(), scores.ravel()))
    return _stratified(scores, truth, within, _row_average_precision)


def mask_roc_auc(
    masks: ArrayLike | Iterable[ArrayLike],
    labels: ArrayLike,
    *,
    exclude: slice | ArrayLike | None = None,
    within: Within = "all",
) -> float:
    """Area under the ROC curve of a mask as a ranking of bases against known regions.

    Parameters
    ----------
    masks : array-like of shape (n_genes, length) or (length,), or an iterable of rows
        Scores of bases, any range. One vector (a position-only mask) is scored for every gene.
    labels : array-like of shape (n_genes, length), bool
        True where a base lies in a known region.
    exclude : slice or array-like of shape (length,), bool, optional
        Columns left out of the measure, as the promoter.
    within : {"all", "gene", "position"}, default="all"
        What is compared with what, as in :func:`mask_average_precision`. Under "position" a
        position-only mask scores exactly 0.5.

    Returns
    -------
    float
        The area; 0.5 for a mask that knows nothing, ties counted half. NaN where no comparison
        is possible.

    Raises
    ------
    ValueError
        As :func:`mask_average_precision`.

    Examples
    --------
    >>> labels = [[False, True, False, True], [True, False, False, False]]
    >>> round(mask_roc_auc([0.1, 0.9, 0.2, 0.8], labels), 2)
    0.57
    >>> mask_roc_auc([0.1, 0.9, 0.2, 0.8], labels, within="position")
    0.5
    """
    scores, truth = check_scores(masks, labels, exclude)
    if within == "all":
        return float(_row_roc_auc(scores.reshape(1, -1), truth.reshape(1, -1))[0])
    return _stratified(scores, truth, within, _row_roc_auc)


def _stratified(
    scores: NDArray[np.floating],
    truth: NDArray[np.bool_],
    within: Within,
    score_rows: Callable[[NDArray[np.floating], NDArray[np.bool_]], NDArray[np.float64]],
) -> float:
    """Mean over genes, or over columns, of the score of each that has both classes."""
    if within not in ("gene", "position"):
        raise ValueError(f"within is {within!r}; expected 'all', 'gene' or 'position'.")
    if within == "position":
        scores, truth = scores.T, truth.T
    both = truth.any(axis=1) & ~truth.all(axis=1)
    if not both.any():
        return float("nan")
    return float(score_rows(scores[both], truth[both]).mean())


def _row_average_precision(
    scores: NDArray[np.floating], truth: NDArray[np.bool_]
) -> NDArray[np.float64]:
    return np.array(
        [average_precision_score(t, s) for t, s in zip(truth, scores, strict=True)],
        dtype=np.float64,
    )


def _row_roc_auc(scores: NDArray[np.floating], truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    # The area is the Mann-Whitney statistic over its greatest value; ranks give all rows at once.
    positives = truth.sum(axis=1, dtype=np.float64)
    pairs = positives * (truth.shape[1] - positives)
    rank_sum = np.where(truth, rankdata(scores, axis=1), 0.0).sum(axis=1)
    statistic = rank_sum - positives * (positives + 1) / 2
    return np.asarray(np.divide(statistic, pairs, out=np.full_like(pairs, np.nan), where=pairs > 0))
