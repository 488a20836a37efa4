"""Windows of training and of test rows that share bases."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from regmask_sk.features import TSSWindows
from regmask_sk.windows import Windows

Rows = NDArray[np.intp]


def overlapping_rows(loci: pd.DataFrame | Windows, train: Rows, test: Rows, length: int) -> Rows:
    """Find the training rows whose windows overlap a window of the test rows.

    Parameters
    ----------
    loci : DataFrame or Windows
        Gene table (``chrom``, 0-based ``tss``, ``strand``), or windows.
    train, test : ndarray of int
        Rows, by position.
    length : int
        Width of the windows in base pairs, placed as ``TSSWindows`` places them; for `Windows`,
        base pairs that they are taken to reach over, from where they start.

    Returns
    -------
    ndarray of int
        Those of `train` that share at least one base with a test window, in order.

    Examples
    --------
    >>> loci = pd.DataFrame({"chrom": ["chr1"] * 3, "tss": [100, 190, 300], "strand": ["+"] * 3})
    >>> overlapping_rows(loci, np.array([1, 2]), np.array([0]), length=100)
    array([1])
    """
    windows = loci if isinstance(loci, Windows) else TSSWindows(length).fit_transform(loci)
    starts = np.asarray(windows.starts)
    chroms = windows.loci["chrom"].to_numpy(dtype=str)
    hit = np.zeros(len(train), dtype=bool)
    for chrom in np.unique(chroms[test]):
        tested = np.sort(starts[test[chroms[test] == chrom]])
        here = np.flatnonzero(chroms[train] == chrom)
        trained = starts[train[here]]
        # Windows are of one length, so that the nearest test window on either side decides.
        after = np.searchsorted(tested, trained)
        below = tested[np.maximum(after - 1, 0)]
        above = tested[np.minimum(after, len(tested) - 1)]
        nearest = np.minimum(np.abs(trained - below), np.abs(trained - above))
        hit[here] = nearest < length
    return train[hit]


def apart(
    X: Any, table: pd.DataFrame | None, train: Rows, test: Rows, *, length: int | None, purge: bool
) -> Rows:
    """Leave out, or refuse, training rows whose windows overlap the test's.

    Parameters
    ----------
    X : DataFrame, Windows or array-like of n_genes rows
        What is split.
    table : DataFrame or None
        Its gene table, where it has one.
    train, test : ndarray of int
        Rows, by position.
    length : int or None
        Base pairs over which windows reach. Without it, and where X is no `Windows`, nothing is
        looked at.
    purge : bool
        Whether rows are left out, with a warning, in place of an error.

    Returns
    -------
    ndarray of int
        Training rows to use.

    Raises
    ------
    ValueError
        If windows overlap and `purge` is false, or `length` and X do not tell where windows lie.

    Examples
    --------
    >>> loci = pd.DataFrame({"chrom": ["a", "b"], "tss": [50, 50], "strand": ["+", "+"]})
    >>> apart(loci, loci, np.array([0]), np.array([1]), length=20, purge=False)
    array([0])
    """
    if length is None and isinstance(X, Windows):
        length = X.length
    if length is None:
        if purge:
            raise ValueError(
                "purge=True needs to know how long windows are: pass length, in base pairs, "
                "or Windows in place of the table."
            )
        return train
    if table is None:
        raise ValueError(
            f"length={length} asks for a check of windows, but X is no gene table. Pass the "
            "table, or leave length out."
        )
    near = overlapping_rows(X if isinstance(X, Windows) else table, train, test, length)
    if not len(near):
        return train
    if not purge:
        raise ValueError(
            f"windows of {len(near)} training genes overlap windows of test genes, such as "
            f"that of {table.index[near[0]]!r}. Pass purge=True to leave those genes out of "
            "training, or split by whole chromosomes."
        )
    warnings.warn(
        f"{len(near)} of {len(train)} training genes are left out, because their windows "
        "overlap windows of test genes.",
        UserWarning,
        stacklevel=3,
    )
    return np.setdiff1d(train, near)
