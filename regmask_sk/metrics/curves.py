"""Deletion and insertion curves: predictions while bases go, or come, in the order of a score.

References
----------
Samek et al., "Evaluating the visualization of what a deep neural network has learned", IEEE
TNNLS 28 (2017): removal in the order of relevance. Petsiuk et al., "RISE: randomized input
sampling for explanation of black-box models", BMVC 2018: deletion, insertion and their areas.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import trapezoid

from regmask_sk.metrics._checks import free_columns
from regmask_sk.metrics._reading import Reader, Removal
from regmask_sk.metrics.faithfulness import output_scores
from regmask_sk.metrics.selection import removal_shares

Measure = Literal["change", "mse", "pearson", "r2"]


class FaithfulnessCurve(NamedTuple):
    """What is predicted while bases go or come.

    Attributes
    ----------
    share : ndarray of shape (n_steps + 1,)
        Share of the bases, those with the largest scores, that are removed or present; from 0
        to 1.
    value : ndarray of shape (n_steps + 1,)
        The measure at each step.
    area : float
        Area under `value` over `share`, by the trapezoidal rule.
    predictions : ndarray of shape (n_steps + 1, n_genes) or (n_steps + 1, n_genes, n_outputs)
        Predictions at each step, in the unit of y.
    whole : ndarray of shape (n_genes,) or (n_genes, n_outputs)
        Predictions from the whole windows.
    """

    share: NDArray[np.float64]
    value: NDArray[np.float64]
    area: float
    predictions: NDArray[np.float64]
    whole: NDArray[np.float64]


def deletion_curve(
    estimator: Any,
    X: Any,
    scores: ArrayLike | Iterable[ArrayLike] | None = None,
    y: ArrayLike | None = None,
    *,
    measure: Measure = "change",
    n_steps: int = 10,
    block_size: int = 16,
    removal: Removal = "auto",
    exclude: slice | ArrayLike | None = None,
    batch_size: int = 64,
    random_state: int | None = None,
) -> FaithfulnessCurve:
    """Take bases away from the whole window, those with the largest scores first.

    Parameters
    ----------
    estimator : estimator
        Fitted, as in :func:`regmask_sk.metrics.sufficiency`.
    X : DataFrame, Windows or ndarray of shape (n_genes, n_channels, length)
        What the estimator takes.
    scores : array-like of shape (n_genes, length) or (length,), or an iterator of rows, optional
        Masks or attributions, any range; by default the estimator's own masks.
    y : array-like of shape (n_genes,) or (n_genes, n_outputs), optional
        Measured expression, for every measure but "change".
    measure : {"change", "mse", "pearson", "r2"}, default="change"
        "change" is the mean absolute difference from the prediction of the whole window, in the
        unit of y. The others compare predictions with `y`; a correlation with predictions that
        are all equal counts as 0. Of several outputs the mean.
    n_steps : int, default=10
        Equal steps of the share.
    block_size : int, default=16
        Base pairs that go together: blocks from the first column on, ranked by their mean score;
        equal ones at random. Compare rivals at one block size: what goes base by base shatters
        motifs that no score need have known.
    removal, exclude, batch_size, random_state
        As in :func:`regmask_sk.metrics.sufficiency`; of shuffles there is one.

    Returns
    -------
    FaithfulnessCurve
        A score that knows what matters has a large area of "change" and "mse", and a small one
        of "pearson" and "r2". There is no scale to these areas but the rivals' on the same model
        and windows: compare with a random score.

    Raises
    ------
    ValueError
        If y is missing, shapes do not agree, or a parameter is out of range.
    TypeError
        As :func:`regmask_sk.metrics.sufficiency`.

    Examples
    --------
    >>> import numpy as np
    >>> class First:
    ...     def predict(self, X): return X[:, 0]
    >>> X = np.ones((5, 4))
    >>> options = {"n_steps": 2, "block_size": 1, "removal": "zero"}
    >>> curve = deletion_curve(First(), X, [1.0, 0.0, 0.0, 0.5], **options)
    >>> curve.value.tolist(), curve.area
    ([0.0, 1.0, 1.0], 0.75)
    >>> deletion_curve(First(), X, [0.0, 0.2, 0.1, 0.3], **options).value.tolist()
    [0.0, 0.0, 1.0]
    """
    reader = Reader(estimator, X, removal=removal, batch_size=batch_size, random_state=random_state)
    return _curve(reader, scores, y, measure, n_steps, block_size, exclude, insert=False)


def insertion_curve(
    estimator: Any,
    X: Any,
    scores: ArrayLike | Iterable[ArrayLike] | None = None,
    y: ArrayLike | None = None,
    *,
    measure: Measure = "change",
    n_steps: int = 10,
    block_size: int = 16,
    removal: Removal = "auto",
    exclude: slice | ArrayLike | None = None,
    batch_size: int = 64,
    random_state: int | None = None,
) -> FaithfulnessCurve:
    """Bring bases back to an empty window, those with the largest scores first.

    Parameters
    ----------
    estimator, X, scores, y, measure, n_steps, block_size, removal, exclude, batch_size, \
            random_state
        As in :func:`deletion_curve`.

    Returns
    -------
    FaithfulnessCurve
        A score that knows what matters has a small area of "change" and "mse", and a large one
        of "pearson" and "r2".

    Raises
    ------
    ValueError, TypeError
        As :func:`deletion_curve`.

    Examples
    --------
    >>> import numpy as np
    >>> class First:
    ...     def predict(self, X): return X[:, 0]
    >>> curve = insertion_curve(
    ...     First(), np.ones((5, 4)), [1.0, 0.0, 0.0, 0.5], n_steps=2, block_size=1,
    ...     removal="zero",
    ... )
    >>> curve.value.tolist(), curve.area
    ([1.0, 0.0, 0.0], 0.25)
    """
    reader = Reader(estimator, X, removal=removal, batch_size=batch_size, random_state=random_state)
    return _curve(reader, scores, y, measure, n_steps, block_size, exclude, insert=True)


def _curve(
    reader: Reader,
    scores: ArrayLike | Iterable[ArrayLike] | None,
    y: ArrayLike | None,
    measure: Measure,
    n_steps: int,
    block_size: int,
    exclude: slice | ArrayLike | None,
    *,
    insert: bool,
) -> FaithfulnessCurve:
    if measure not in get_args(Measure):
        raise ValueError(f"measure is {measure!r}; expected one of {get_args(Measure)}.")
    if measure != "change" and y is None:
        raise ValueError(f"measure={measure!r} compares with y, and y is None. Pass y.")
    if n_steps < 1:
        raise ValueError(f"n_steps is {n_steps}; expected at least 1.")
    free = free_columns(exclude, reader.length)
    shares = np.linspace(0.0, 1.0, n_steps + 1)
    whole: list[NDArray[np.float64]] = []
    steps: list[list[NDArray[np.float64]]] = [[] for _ in shares]
    for batch, (ranked,) in reader.scored_batches(scores):
        reach = removal_shares(ranked, free, block_size, reader.seed, first_row=batch.rows.start)
        whole.append(batch.whole())
        for found, share in zip(steps, shares, strict=True):
            kept = (reach <= share) | ~free if insert else reach > share
            found.append(whole[-1] if kept.all() else batch.under(kept.astype(np.float64)))
    everything = np.concatenate(whole)
    predictions = np.stack([np.concatenate(found) for found in steps])
    value = np.array([_value(measure, y, everything, step) for step in predictions])
    return FaithfulnessCurve(
        shares, value, float(trapezoid(value, shares)), predictions, everything
    )


def _value(
    measure: Measure,
    y: ArrayLike | None,
    whole: NDArray[np.float64],
    predicted: NDArray[np.float64],
) -> float:
    if measure == "change" or y is None:
        return float(np.abs(predicted - whole).mean())
    found = output_scores(y, predicted)[measure]
    return 0.0 if measure == "pearson" and np.isnan(found) else found
