"""Masks that know the position and no more: a mean over genes, and its largest columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray


def position_only_mask(masks: ArrayLike | Iterable[ArrayLike]) -> NDArray[np.float64]:
    """Average masks (or labels) over genes: the control that knows the position and no more.

    Parameters
    ----------
    masks : array-like of shape (n_genes, length), or an iterable of rows of that length
        Masks, or region labels, of the *training* genes. Rows are taken one at a time.

    Returns
    -------
    ndarray of shape (length,)
        The mean of each column, to be scored for every gene alike:
        :func:`regmask_sk.mask_average_precision` and :func:`regmask_sk.mask_roc_auc` accept it
        as it is.

    Raises
    ------
    ValueError
        If there is no row, rows differ in length, or a value is NaN or infinite.

    Examples
    --------
    >>> position_only_mask([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
    array([0. , 0.5, 1. ])
    """
    total: NDArray[np.float64] | None = None
    n_rows = 0
    for row in _rows(masks):
        if total is None:
            total = np.zeros(row.shape, dtype=np.float64)
        if row.ndim != 1 or row.shape != total.shape:
            raise ValueError(
                f"row {n_rows} of masks has shape {row.shape}; expected ({total.size},), as the "
                "first row. Give one row a gene, all of one length."
            )
        total += row
        n_rows += 1
    if total is None:
        raise ValueError("masks has no rows; expected the masks of at least one gene.")
    if not np.isfinite(total).all():
        raise ValueError("masks holds NaN or infinite values; expected finite ones.")
    return np.asarray(total / n_rows)


def _rows(masks: ArrayLike | Iterable[ArrayLike]) -> Iterator[NDArray[np.float64]]:
    for row in masks:  # type: ignore[union-attr]
        yield np.asarray(row, dtype=np.float64)


def open_positions(
    profile: NDArray[np.floating], n_open: int, promoter: tuple[int, int]
) -> NDArray[np.bool_]:
    """Open the promoter and the largest columns of a profile, so many in all.

    Parameters
    ----------
    profile : ndarray of shape (length,)
        Score of each column.
    n_open : int
        Number of columns to open, promoter included.
    promoter : tuple of int
        ``(first, last + 1)`` column that is open in any case.

    Returns
    -------
    ndarray of shape (length,), bool
        `n_open` columns are True. Of equal ones those nearer to the TSS (column
        ``length // 2``) come first, then those upstream.

    Raises
    ------
    ValueError
        If `n_open` is less than the promoter or more than the window.

    Examples
    --------
    >>> import numpy as np
    >>> open_positions(np.array([0.5, 0.9, 0.0, 0.0, 0.5, 0.5]), 4, (2, 4)).astype(int)
    array([0, 1, 1, 1, 1, 0])
    """
    length, (first, end) = len(profile), promoter
    if not end - first <= n_open <= length:
        raise ValueError(
            f"n_open is {n_open}; expected from {end - first}, the columns of the promoter, to "
            f"{length}, those of the window."
        )
    column = np.arange(length)
    elsewhere = (column < first) | (column >= end)
    order = np.lexsort((column, np.abs(column - length // 2), -profile, elsewhere))
    opened = np.zeros(length, dtype=bool)
    opened[order[:n_open]] = True
    return opened
