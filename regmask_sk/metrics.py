"""Measures of predictions and of masks, and the controls that a mask must beat.

A mask that finds the right bases may only have learned where they usually lie, or may only repeat
the accessibility track. Two controls tell these apart: :func:`position_only_mask`, the same mean
profile for every gene, and :func:`smoothed_track`, a channel smoothed by a moving average. Both
are scored by the functions that score a mask.

All masks and labels are in gene orientation, as ``Windows`` and the estimators give them: column
*j* of a minus-strand gene lies *j* bases downstream of its first column on the minus strand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import uniform_filter1d
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score

from regmask_sk.ops.positions import position_only_mask as position_only_mask

if TYPE_CHECKING:
    from regmask_sk.windows import Windows

Within = Literal["all", "gene", "position"]
_Starts = NDArray[np.int64]


def _vector(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return ``values`` as a finite vector; a single column counts as one."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.size == 0:
        raise ValueError(
            f"{name} has shape {array.shape}; expected (n_genes,) with at least one gene. "
            "For several outputs, call once per column."
        )
    bad = int(np.count_nonzero(~np.isfinite(array)))
    if bad:
        raise ValueError(
            f"{name} holds {bad} values that are NaN or infinite among {array.size}. "
            "Leave those genes out of both arrays first."
        )
    return array


def _pearson(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    # Equality of all values is tested directly: the mean of equal floats can differ from them by
    # rounding, and a correlation of rounding errors would look like a result.
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    # Scaled by the largest deviation first, so that the squares neither underflow nor overflow.
    a, b = a - a.mean(), b - b.mean()
    a, b = a / np.abs(a).max(), b / np.abs(b).max()
    return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1.0, 1.0))


def regression_metrics(y: ArrayLike, predicted: ArrayLike) -> dict[str, float]:
    """Score predicted expression against measured expression.

    Parameters
    ----------
    y : array-like of shape (n_genes,)
        Measured values; a single column ``(n_genes, 1)`` is accepted.
    predicted : array-like of shape (n_genes,)
        Predicted values, in the order of `y`.

    Returns
    -------
    dict of str to float
        ``mse`` and ``mae`` (in the units of `y`, squared and plain), ``pearson``, ``spearman``
        (ties share their mean rank) and ``r2``. What is not defined is NaN, without a warning:
        both correlations where either side is constant, ``r2`` where `y` is constant, all three
        for a single gene.

    Raises
    ------
    ValueError
        If the arrays are empty, differ in length, have several columns, or hold NaN or infinity.

    Examples
    --------
    >>> scores = regression_metrics([0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 5.0])
    >>> scores["mse"], scores["mae"], scores["spearman"], round(scores["r2"], 2)
    (1.0, 0.5, 1.0, 0.2)
    >>> regression_metrics([0.0, 1.0], [3.0, 3.0])["pearson"]
    nan
    """
    truth, guess = _vector(y, "y"), _vector(predicted, "predicted")
    if len(truth) != len(guess):
        raise ValueError(
            f"y has {len(truth)} genes and predicted has {len(guess)}; expected the same genes "
            "in the same order."
        )
    error = guess - truth
    spread = float(np.sum((truth - truth.mean()) ** 2))
    constant = np.ptp(truth) == 0 or spread == 0
    return {
        "mse": float(np.mean(error**2)),
        "mae": float(np.mean(np.abs(error))),
        "pearson": _pearson(truth, guess),
        "spearman": _pearson(rankdata(truth), rankdata(guess)),
        "r2": float("nan") if constant else 1.0 - float(np.sum(error**2)) / spread,
    }


def smoothed_track(
    windows: Windows, channel: str, *, width: int = 200
) -> Iterator[NDArray[np.float32]]:
    """Smooth one channel of every window: the control "the track itself is the mask".

    Windows are read one at a time, so that memory does not grow with the number of genes. The
    result is a score of bases, not a mask in [0, 1]: it serves the ranking measures below.

    Parameters
    ----------
    windows : Windows
        The loci and their channels.
    channel : str
        Name of the channel, one of ``windows.channel_names``.
    width : int, default=200
        Width of the moving average in base pairs. At the edges of the window the mean is over
        the bases that lie inside it.

    Yields
    ------
    ndarray of shape (length,), float32
        The smoothed channel of each window in turn, in gene orientation.

    Raises
    ------
    ValueError
        If the channel is not among the windows', or `width` is not positive.

    See Also
    --------
    position_only_mask : The other control.

    Examples
    --------
    >>> import numpy as np
    >>> class OneTrack:
    ...     channel_names = ("DNase",)
    ...     def __len__(self): return 1
    ...     def __getitem__(self, row): return np.array([[0, 0, 3, 0, 0]], dtype="float32")
    >>> next(smoothed_track(OneTrack(), "DNase", width=3))
    array([0., 1., 1., 1., 0.], dtype=float32)
    """
    names = tuple(windows.channel_names)
    if channel not in names:
        raise ValueError(
            f"channel {channel!r} is not among the channels of windows, {names}. "
            "Name one of these, or add the track with SignalChannels."
        )
    if width < 1:
        raise ValueError(f"width is {width}; expected a positive number of base pairs.")
    return _smooth_rows(windows, names.index(channel), int(width))


def _smooth_rows(windows: Windows, channel: int, width: int) -> Iterator[NDArray[np.float32]]:
    for row in range(len(windows)):
        values = np.asarray(windows[row][channel], dtype=np.float64)
        total = uniform_filter1d(values, width, mode="constant")
        inside = uniform_filter1d(np.ones_like(values), width, mode="constant")
        yield (total / inside).astype(np.float32)


def region_labels(
    windows: Windows, regions: pd.DataFrame, *, gene_column: str | None = None
) -> NDArray[np.bool_]:
    """Mark the bases of each window that lie in known regions.

    Parameters
    ----------
    windows : Windows
        The loci; their channels are not read.
    regions : pandas.DataFrame
        Columns ``chrom``, ``start`` and ``end`` (0-based, half-open), as
        :func:`regmask_sk.read_regions` gives them. Regions may overlap.
    gene_column : str, optional
        Column of `regions` that names the gene a region belongs to, in the words of the index of
        ``windows.loci``. With it only a gene's own regions count, and those of its neighbours
        are negatives; a gene that has none gets a row of False, which
        ``labels.any(axis=1)`` finds. By default every region counts for every window.

    Returns
    -------
    ndarray of shape (n_genes, length), bool
        Labels in gene orientation, as the masks have it.

    Raises
    ------
    ValueError
        If columns are missing, a region is empty, or regions and loci share no chromosome (or no
        gene, with `gene_column`).

    Examples
    --------
    >>> import pandas as pd
    >>> from regmask_sk.windows import Windows
    >>> loci = pd.DataFrame(
    ...     {"chrom": "chr1", "tss": [10, 10], "strand": ["+", "-"]}, index=["a", "b"]
    ... )
    >>> regions = pd.DataFrame({"chrom": ["chr1"], "start": [8], "end": [9]})
    >>> region_labels(Windows(loci, length=6), regions).astype(int)
    array([[0, 1, 0, 0, 0, 0],
           [0, 0, 0, 0, 0, 1]])
    """
    keys = ["chrom"] if gene_column is None else ["chrom", gene_column]
    _check_regions(windows, regions, gene_column)
    merged = {
        key: _merge(group["start"].to_numpy(np.int64), group["end"].to_numpy(np.int64))
        for key, group in regions.groupby(keys, sort=False, observed=True)
    }
    empty = np.empty(0, dtype=np.int64)
    labels = np.zeros((len(windows), windows.length), dtype=bool)
    chroms = windows.loci["chrom"].to_numpy()
    genes, reverse = windows.loci.index, windows.reversed
    for row, start in enumerate(windows.starts):
        key = (chroms[row],) if gene_column is None else (chroms[row], genes[row])
        starts, ends = merged.get(key, (empty, empty))
        first = np.searchsorted(ends, start, side="right")
        last = np.searchsorted(starts, start + windows.length, side="left")
        for k in range(first, last):
            labels[row, max(starts[k] - start, 0) : ends[k] - start] = True
        if reverse[row]:
            labels[row] = labels[row, ::-1].copy()
    return labels


def _check_regions(windows: Windows, regions: pd.DataFrame, gene_column: str | None) -> None:
    needed = ["chrom", "start", "end"] + ([] if gene_column is None else [gene_column])
    missing = [name for name in needed if name not in regions.columns]
    if missing:
        raise ValueError(
            f"regions lacks the columns {missing}; found {list(regions.columns)}. Read a BED file "
            "with read_regions, or rename the columns."
        )
    n_empty = int((regions["end"] <= regions["start"]).sum())
    if n_empty:
        raise ValueError(
            f"{n_empty} of {len(regions)} regions have end <= start; expected 0-based half-open "
            "intervals. Widen points to at least one base, or leave them out."
        )
    own = set(windows.loci["chrom"]) & set(regions["chrom"])
    if len(regions) and len(windows) and not own:
        raise ValueError(
            f"regions and loci share no chromosome: {sorted(set(regions['chrom']))[:5]} against "
            f"{sorted(set(windows.loci['chrom']))[:5]}. Rename one side."
        )
    if gene_column is not None and not set(windows.loci.index) & set(regions[gene_column]):
        raise ValueError(
            f"no gene of windows.loci is in regions[{gene_column!r}]: "
            f"{sorted(map(str, set(windows.loci.index)))[:3]} against "
            f"{sorted(map(str, set(regions[gene_column])))[:3]}. Use the same gene names."
        )


def _merge(starts: _Starts, ends: _Starts) -> tuple[_Starts, _Starts]:
    """Join overlapping and touching intervals into sorted disjoint ones."""
    order = np.argsort(starts, kind="stable")
    starts, reach = starts[order], np.maximum.accumulate(ends[order])
    opens = np.concatenate(([True], starts[1:] > reach[:-1]))
    return starts[opens], reach[np.concatenate((opens[1:], [True]))]


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
    scores, truth = _check_scores(masks, labels, exclude)
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
    scores, truth = _check_scores(masks, labels, exclude)
    if within == "all":
        return float(_row_roc_auc(scores.reshape(1, -1), truth.reshape(1, -1))[0])
    return _stratified(scores, truth, within, _row_roc_auc)


def _check_scores(
    masks: ArrayLike | Iterable[ArrayLike],
    labels: ArrayLike,
    exclude: slice | ArrayLike | None,
) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    truth = np.asarray(labels)
    if truth.ndim != 2 or truth.dtype != np.bool_:
        raise ValueError(
            f"labels has shape {truth.shape} and dtype {truth.dtype}; expected booleans of shape "
            "(n_genes, length), as region_labels gives them."
        )
    scores = np.asarray(list(masks) if isinstance(masks, Iterator) else masks)
    if scores.ndim == 1:
        scores = np.broadcast_to(scores, (truth.shape[0], scores.shape[0]))
    if scores.shape != truth.shape:
        raise ValueError(
            f"masks has shape {scores.shape} and labels {truth.shape}; expected the same genes in "
            "the same order and windows of one length."
        )
    if exclude is not None:
        kept = np.ones(truth.shape[1], dtype=bool)
        kept[exclude if isinstance(exclude, slice) else np.asarray(exclude, dtype=bool)] = False
        scores, truth = scores[:, kept], truth[:, kept]
    if truth.size == 0:
        raise ValueError(
            f"no base is left to score: labels has shape {truth.shape} after exclude={exclude!r}. "
            "Exclude fewer columns."
        )
    if not np.isfinite(scores).all():
        raise ValueError("masks holds NaN or infinite values; expected finite scores.")
    return scores, truth


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
