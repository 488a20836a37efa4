"""Masks of genes that the model has not seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.model_selection import check_cv
from sklearn.utils.parallel import Parallel, delayed

from regmask_sk._benchmark_cells import take
from regmask_sk.windows import Windows


def cross_val_masks(
    estimator: Any,
    loci: pd.DataFrame | Windows,
    y: ArrayLike,
    *,
    cv: Any,
    groups: ArrayLike | None = None,
    n_jobs: int | None = None,
) -> NDArray[np.float32]:
    """Give every gene a mask from a model that has not seen it.

    Parameters
    ----------
    estimator : estimator
        With masks as its ``transform``: a ``RegMaskRegressor``, or a pipeline that ends in one.
        It is cloned, not fitted.
    loci : DataFrame or Windows
        What the estimator takes, one row a gene.
    y : array-like of shape (n_genes,) or (n_genes, n_outputs)
        Measured expression.
    cv : splitter or iterable of (train, test)
        Splits that test every row once, such as :class:`ChromosomeKFold`.
    groups : array-like of shape (n_genes,), optional
        Groups for the splitter.
    n_jobs : int, optional
        Folds at a time, in processes.

    Returns
    -------
    ndarray of shape (n_genes, length)
        Masks, row by row as the loci.

    Raises
    ------
    TypeError
        If the estimator has no masks.
    ValueError
        If a row is tested never, or more than once.

    Notes
    -----
    All masks are in memory: 4 bytes for each base of each window, 0.8 MB for a window of 200 kb.
    """
    if not hasattr(estimator, "transform"):
        raise TypeError(
            f"estimator is a {type(estimator).__name__} without transform; expected one that "
            "gives masks, such as RegMaskRegressor, or a pipeline that ends in it."
        )
    splits = list(check_cv(cv).split(loci, y, groups))
    tested = np.concatenate([test for _, test in splits])
    n = int(loci.shape[0])
    if not np.array_equal(np.sort(tested), np.arange(n)):
        never = n - len(np.unique(tested))
        raise ValueError(
            f"cv tests {never} of {n} rows never, and {len(tested) - n + never} more than once; "
            "expected each once. Use a splitter such as ChromosomeKFold."
        )
    run = delayed(_masks_of_fold)
    folds = Parallel(n_jobs=n_jobs)(
        run(clone(estimator), loci, y, train, test) for train, test in splits
    )
    masks = np.concatenate(folds)
    masks[tested] = masks.copy()
    return masks


def _masks_of_fold(
    estimator: Any, loci: Any, y: ArrayLike, train: NDArray[np.intp], test: NDArray[np.intp]
) -> NDArray[np.float32]:
    fitted = estimator.fit(take(loci, train), np.asarray(y)[train])
    return np.asarray(fitted.transform(take(loci, test)), dtype=np.float32)
