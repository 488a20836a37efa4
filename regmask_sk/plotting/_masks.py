"""Masks of many genes, a batch at a time, for displays that need only sums or bins of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.pipeline import Pipeline

from regmask_sk.windows import Windows

_BATCH = 256  # windows at a time


def model_and_windows(estimator: Any, X: Any) -> tuple[Any, Any]:
    """Take a pipeline apart into what reads windows and what gives masks.

    Parameters
    ----------
    estimator : estimator or Pipeline
        Fitted.
    X : DataFrame, Windows or ndarray
        As its ``predict`` takes it. Windows are handed to the last step as they are.

    Returns
    -------
    (estimator, Windows or ndarray)
        The last step, and its X.

    Examples
    --------
    >>> model_and_windows("a model", np.zeros((2, 1, 3)))[1].shape
    (2, 1, 3)
    """
    if not isinstance(estimator, Pipeline):
        return estimator, X
    if isinstance(X, Windows) or len(estimator) == 1:
        return estimator[-1], X
    return estimator[-1], estimator[:-1].transform(X)


def mask_batches(model: Any, windows: Any, order: NDArray[np.intp]) -> Iterator[NDArray[Any]]:
    """Yield the masks of windows in an order, a batch at a time.

    Parameters
    ----------
    model : estimator
        With ``transform``.
    windows : Windows or ndarray
        Its X.
    order : ndarray of int
        Rows.

    Yields
    ------
    ndarray of shape (n, length)
        Masks of the next rows.
    """
    for start in range(0, len(order), _BATCH):
        yield np.asarray(model.transform(windows[order[start : start + _BATCH]]))


def row_batches(masks: NDArray[Any], order: NDArray[np.intp]) -> Iterator[NDArray[Any]]:
    """Yield rows of an array in an order, a batch at a time, so that no copy of all is made.

    Parameters
    ----------
    masks : ndarray of shape (n_genes, length)
        Masks.
    order : ndarray of int
        Rows.

    Yields
    ------
    ndarray of shape (n, length)
        The next rows.
    """
    for start in range(0, len(order), _BATCH):
        yield masks[order[start : start + _BATCH]]


def checked_masks(masks: ArrayLike) -> NDArray[Any]:
    """Return masks as an array of two axes, or say what they are."""
    array = np.asarray(masks)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(
            f"masks has shape {array.shape}; expected (n_genes, length), with at least one gene, "
            "as transform gives them."
        )
    return array


def checked_values(values: ArrayLike, n_genes: int, name: str) -> NDArray[np.float64]:
    """Return one finite value a gene, or say what is wrong."""
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (n_genes,) or not np.isfinite(array).all():
        raise ValueError(
            f"{name} has shape {array.shape} and {int((~np.isfinite(array)).sum())} missing "
            f"values; expected ({n_genes},), one finite value a gene."
        )
    return array
