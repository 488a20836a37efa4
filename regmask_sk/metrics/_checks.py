"""Checks of scores and labels of bases that several measures share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray


def check_scores(
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


def score_batches(
    scores: ArrayLike | Iterable[ArrayLike], n_genes: int, length: int, batch_size: int
) -> Iterator[NDArray[np.float64]]:
    """Take scores of bases in batches of genes, and check them on the way.

    Parameters
    ----------
    scores : array-like of shape (n_genes, length) or (length,), or an iterable of rows
        Masks or attributions; one vector stands for every gene.
    n_genes, length, batch_size : int
        Shape that is expected, and rows at a time.

    Yields
    ------
    ndarray of shape (batch, length), float64
        The next rows.

    Raises
    ------
    ValueError
        If the shape is another one, or a score is NaN or infinite.
    """
    stream = cast("Iterator[ArrayLike]", scores) if isinstance(scores, Iterator) else iter(())
    array = None if isinstance(scores, Iterator) else np.asarray(scores)
    if array is not None and array.shape not in ((n_genes, length), (length,)):
        raise ValueError(
            f"masks has shape {array.shape}; expected ({n_genes}, {length}), one row a gene, or "
            f"({length},), one for all."
        )
    for start in range(0, n_genes, batch_size):
        n_rows = min(batch_size, n_genes - start)
        if array is None:
            rows = [np.asarray(row) for row in islice(stream, n_rows)]
            shapes = {row.shape for row in rows}
            if len(rows) < n_rows or shapes != {(length,)}:
                raise ValueError(
                    f"masks gave {start + len(rows)} rows of shapes {sorted(shapes)}; expected "
                    f"{n_genes} rows of shape ({length},), one a gene."
                )
            if start + n_rows == n_genes and next(stream, None) is not None:
                raise ValueError(
                    f"masks gives more than the {n_genes} rows of the windows; expected one row a "
                    "gene, in their order."
                )
            batch = np.stack(rows).astype(np.float64)
        elif array.ndim == 1:
            batch = np.broadcast_to(array.astype(np.float64), (n_rows, length))
        else:
            batch = array[start : start + n_rows].astype(np.float64)
        if not np.isfinite(batch).all():
            bad = start + int(np.flatnonzero(~np.isfinite(batch).all(axis=1))[0])
            raise ValueError(
                f"masks holds NaN or infinite values, first in row {bad}; expected finite scores. "
                "Leave that gene out, or give its missing bases a score."
            )
        yield batch


def free_columns(exclude: slice | ArrayLike | None, length: int) -> NDArray[np.bool_]:
    """Columns that are left after `exclude`, as booleans of shape (length,)."""
    free = np.ones(length, dtype=bool)
    if exclude is not None:
        free[exclude if isinstance(exclude, slice) else np.asarray(exclude, dtype=bool)] = False
    if not free.any():
        raise ValueError(
            f"no base is left: exclude={exclude!r} covers all {length} columns. Exclude fewer."
        )
    return free
