"""Measures of predicted expression against measured expression."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata


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


def pearson(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Correlate two vectors; NaN where one is constant.

    Examples
    --------
    >>> pearson(np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0, 5.0]))
    1.0
    """
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
        "pearson": pearson(truth, guess),
        "spearman": pearson(rankdata(truth), rankdata(guess)),
        "r2": float("nan") if constant else 1.0 - float(np.sum(error**2)) / spread,
    }
