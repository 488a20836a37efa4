"""Is a mask what the model reads? Sufficiency and comprehensiveness.

A mask, or an attribution cut at a share, says that some bases drive a prediction. Two questions
put that to the model itself: does it predict the same from these bases alone
(:func:`sufficiency`), and does it fail without them (:func:`comprehensiveness`)?

References
----------
DeYoung et al., "ERASER: a benchmark to evaluate rationalized NLP models", ACL 2020: the two
measures. Jethani et al., "Have we learned to explain?", AISTATS 2021: why the judge should be
another predictor than the one whose masks are judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from regmask_sk.metrics._checks import free_columns, score_batches
from regmask_sk.metrics._reading import Batch, Reader, Removal
from regmask_sk.metrics.regression import regression_metrics
from regmask_sk.metrics.selection import removal_shares


class AlteredPredictions(NamedTuple):
    """Predictions from whole windows, and from windows of which bases are taken away.

    Attributes
    ----------
    whole, altered : ndarray of shape (n_genes,) or (n_genes, n_outputs)
        Predictions in the unit of y; `altered` is the mean over the draws.
    removed : ndarray of shape (n_genes,)
        Share of the window's bases that were taken away; soft masks count by their values.
    """

    whole: NDArray[np.float64]
    altered: NDArray[np.float64]
    removed: NDArray[np.float64]

    def scores(self, y: ArrayLike | None = None) -> dict[str, float]:
        """Summarise over genes.

        Parameters
        ----------
        y : array-like of shape (n_genes,) or (n_genes, n_outputs), optional
            Measured expression.

        Returns
        -------
        dict of str to float
            ``removed``, the mean share taken away; ``change``, the mean absolute difference
            between altered and whole predictions, in the unit of y; ``agreement``, Pearson's r
            between the two. With `y` also ``mse``, ``pearson`` and ``r2`` of the altered
            predictions, and ``mse_whole``, ``pearson_whole`` and ``r2_whole`` of the whole ones.
            Of several outputs the mean. What is not defined is NaN
            (:func:`regmask_sk.regression_metrics`).

        Raises
        ------
        ValueError
            If y does not fit the predictions.
        """
        found = {
            "removed": float(self.removed.mean()),
            "change": float(np.abs(self.altered - self.whole).mean()),
            "agreement": output_scores(self.whole, self.altered)["pearson"],
        }
        if y is not None:
            altered, whole = output_scores(y, self.altered), output_scores(y, self.whole)
            for name in ("mse", "pearson", "r2"):
                found[name] = altered[name]
                found[f"{name}_whole"] = whole[name]
        return found


def output_scores(y: ArrayLike, predicted: NDArray[np.float64]) -> dict[str, float]:
    """Scores of predictions, of several outputs the mean."""
    truth = np.asarray(y, dtype=np.float64)
    if truth.shape != predicted.shape and truth.size != predicted.size:
        raise ValueError(
            f"y has shape {truth.shape} and the predictions {predicted.shape}; expected the same "
            "genes and outputs."
        )
    columns = zip(
        truth.reshape(len(predicted), -1).T, predicted.reshape(len(predicted), -1).T, strict=True
    )
    scores = [regression_metrics(*pair) for pair in columns]
    return {name: float(np.mean([one[name] for one in scores])) for name in scores[0]}


def sufficiency(
    estimator: Any,
    X: Any,
    masks: ArrayLike | Iterable[ArrayLike] | None = None,
    *,
    share: float | None = None,
    block_size: int = 1,
    removal: Removal = "auto",
    exclude: slice | ArrayLike | None = None,
    n_draws: int = 1,
    batch_size: int = 64,
    random_state: int | None = None,
) -> AlteredPredictions:
    """Predict from the bases of a mask alone.

    Parameters
    ----------
    estimator : estimator
        Fitted: one that reads windows, or a pipeline, search or target transformer around one. It
        need not be the one that gave the masks: a second predictor that never saw them is the
        stricter judge.
    X : DataFrame, Windows or ndarray of shape (n_genes, n_channels, length)
        What the estimator takes. Windows are read in batches.
    masks : array-like of shape (n_genes, length) or (length,), or an iterator of rows, optional
        Masks in [0, 1], in gene orientation; with `share` any attribution. By default those that
        the estimator's ``transform`` gives.
    share : float, optional
        Keep this share of each window, the bases with the largest values
        (:func:`regmask_sk.metrics.top_share`), in place of the masks as they are.
    block_size : int, default=1
        Base pairs that are kept or left together; with `share`.
    removal : {"auto", "mask", "shuffle", "zero"}, default="auto"
        How bases are taken away. "mask" asks the estimator's ``predict_masked``: a predictor that
        was trained to read masked windows. "shuffle" shuffles the sequence of each run of removed
        bases and keeps its dinucleotides, and permutes the values of all other channels among the
        removed bases of the window, one permutation for all channels (of arrays without channel
        names: of all channels). "zero" makes the sequence unknown and sets all other channels to
        0. "auto" is "mask" where the estimator can, else "shuffle". With the last two, soft masks
        keep what is at least 0.5, and an estimator with ``predict_masked`` reads the replaced
        window with all bases open: no mask is chosen anew.
    exclude : slice or array-like of shape (length,), bool, optional
        Columns that are never taken away, such as the promoter (``promoter_columns_``).
    n_draws : int, default=1
        Shuffles of each window, over which predictions are averaged; 1 for the other ways.
    batch_size : int, default=64
        Windows in memory at a time.
    random_state : int or None, default=None
        Seed of shuffles and of the order of equal scores. What is drawn for a gene depends on
        this and its row, not on `batch_size`.

    Returns
    -------
    AlteredPredictions
        Predictions from the whole windows (all bases open) and from the kept bases alone.

    Raises
    ------
    ValueError
        If shapes do not agree, masks are not in [0, 1] or not finite, or a parameter is out of
        range.
    TypeError
        If the estimator has no masks and none are given, cannot predict under masks with
        ``removal="mask"``, or does not read windows.

    See Also
    --------
    comprehensiveness : The same without the mask's bases.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LinearRegression
    >>> X = np.random.default_rng(0).normal(size=(30, 4))  # one channel, windows of 4 bp
    >>> y = X[:, 1]
    >>> model = LinearRegression().fit(X, y)
    >>> found = sufficiency(model, X, [0, 1, 0, 0], removal="zero").scores(y)
    >>> round(found["r2"], 3), found["removed"]
    (1.0, 0.75)
    >>> round(sufficiency(model, X, [1, 0, 1, 1], removal="zero").scores()["change"], 2)
    0.74
    """
    reader = Reader(estimator, X, removal=removal, batch_size=batch_size, random_state=random_state)
    (found,) = _alter(reader, [(masks, True)], share, block_size, exclude, n_draws)
    return found


def comprehensiveness(
    estimator: Any,
    X: Any,
    masks: ArrayLike | Iterable[ArrayLike] | None = None,
    *,
    share: float | None = None,
    block_size: int = 1,
    removal: Removal = "auto",
    exclude: slice | ArrayLike | None = None,
    n_draws: int = 1,
    batch_size: int = 64,
    random_state: int | None = None,
) -> AlteredPredictions:
    """Predict from windows without the bases of a mask.

    Parameters
    ----------
    estimator, X, masks, share, block_size, removal, exclude, n_draws, batch_size, random_state
        As in :func:`sufficiency`. With ``removal="mask"`` the predictor reads under the
        complement, ``1 - mask``.

    Returns
    -------
    AlteredPredictions
        Predictions from the whole windows, and from all but the mask's bases. Their ``change``,
        and the error that the altered ones add, are large where the mask has what matters.

    Raises
    ------
    ValueError, TypeError
        As :func:`sufficiency`.

    Examples
    --------
    >>> import numpy as np
    >>> class SumOfTwo:
    ...     def predict(self, X): return X[:, 0] + X[:, 2]
    >>> X = np.array([[1.0, 5.0, 2.0, 7.0], [3.0, 1.0, 4.0, 1.0]])
    >>> found = comprehensiveness(SumOfTwo(), X, [1, 0, 0, 0], removal="zero")
    >>> found.whole.tolist(), found.altered.tolist(), found.removed.tolist()
    ([3.0, 7.0], [2.0, 4.0], [0.25, 0.25])
    """
    reader = Reader(estimator, X, removal=removal, batch_size=batch_size, random_state=random_state)
    (found,) = _alter(reader, [(masks, False)], share, block_size, exclude, n_draws)
    return found


_Masks = ArrayLike | Iterable[ArrayLike] | None


def _alter(
    reader: Reader,
    variants: Sequence[tuple[_Masks, bool]],
    share: float | None,
    block_size: int,
    exclude: slice | ArrayLike | None,
    n_draws: int,
) -> list[AlteredPredictions]:
    """Predict from whole windows, and for each variant from what masks keep, or from the rest."""
    if n_draws < 1:
        raise ValueError(f"n_draws is {n_draws}; expected at least 1.")
    free = free_columns(exclude, reader.length)
    draws = range(n_draws if reader.removal == "shuffle" else 1)
    whole: list[NDArray[np.float64]] = []
    altered: list[list[NDArray[np.float64]]] = [[] for _ in variants]
    removed: list[list[NDArray[np.float64]]] = [[] for _ in variants]
    for batch, given in reader.scored_batches(*(masks for masks, _ in variants)):
        whole.append(batch.whole())
        for number, (scores, (_, keep)) in enumerate(zip(given, variants, strict=True)):
            kept = _kept(scores, batch, free, share, block_size)
            kept = np.where(free, kept if keep else 1.0 - kept, 1.0)
            if reader.removal != "mask":
                kept = (kept >= 0.5 if keep else kept > 0.5).astype(np.float64)
            altered[number].append(np.mean([batch.under(kept, draw) for draw in draws], axis=0))
            removed[number].append(1.0 - kept.mean(axis=1))
    everything = np.concatenate(whole)
    return [
        AlteredPredictions(everything, np.concatenate(some), np.concatenate(gone))
        for some, gone in zip(altered, removed, strict=True)
    ]


def _kept(
    scores: NDArray[np.float64],
    batch: Batch,
    free: NDArray[np.bool_],
    share: float | None,
    block_size: int,
) -> NDArray[np.float64]:
    if share is None:
        if scores.min() < 0 or scores.max() > 1:
            raise ValueError(
                f"masks has values from {scores.min():.3g} to {scores.max():.3g}; expected masks "
                "in [0, 1]. Give share to keep the bases with the largest values of an attribution."
            )
        return scores
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}; expected a share of the bases, from 0 to 1.")
    seed, first = batch.reader.seed, batch.rows.start
    reach = removal_shares(scores, free, block_size, seed, first_row=first)
    return (reach <= share).astype(np.float64)


def faithfulness_table(
    estimator: Any,
    X: Any,
    y: ArrayLike,
    masks: Mapping[str, ArrayLike] | None = None,
    *,
    share: float | None = None,
    block_size: int = 1,
    removal: Removal = "auto",
    exclude: slice | ArrayLike | None = None,
    n_draws: int = 1,
    batch_size: int = 64,
    random_state: int | None = None,
) -> pd.DataFrame:
    """Sufficiency and comprehensiveness of masks, each beside two controls made of it.

    Parameters
    ----------
    estimator, X, share, block_size, removal, exclude, n_draws, batch_size, random_state
        As in :func:`sufficiency`.
    y : array-like of shape (n_genes,) or (n_genes, n_outputs)
        Measured expression.
    masks : mapping of str to array-like of shape (n_genes, length) or (length,), optional
        Masks or attributions by name; by default the estimator's own, named "mask". They and
        their controls are held in memory: 24 bytes for each base of each.

    Returns
    -------
    pandas.DataFrame
        One row for each of the masks and its controls, indexed by ``mask`` and ``control``: ``""``
        is the mask itself; ``"other genes"`` has the same masks dealt out to other genes, so that
        positions stay and genes do not match; ``"moved"`` turns each mask around its window by a
        random number of bases, so that share and widths stay. Columns: ``kept``, the mean share
        kept; ``pearson`` and ``r2`` from the mask alone (sufficiency); ``pearson_without`` and
        ``r2_without`` from all but the mask; ``change_alone`` and ``change_without``, the mean
        absolute changes of the prediction; ``pearson_whole`` and ``r2_whole`` of the whole window.

    Raises
    ------
    ValueError, TypeError
        As :func:`sufficiency`; also for fewer than two genes.

    Examples
    --------
    >>> import numpy as np
    >>> class First:
    ...     def predict(self, X): return X[:, 0]
    >>> X = np.random.default_rng(0).normal(size=(20, 8))
    >>> mask = np.eye(1, 8)[0]
    >>> table = faithfulness_table(
    ...     First(), X, X[:, 0], {"first base": mask}, removal="zero", random_state=0
    ... )
    >>> table["change_without"].round(2).to_dict()
    {('first base', ''): 0.66, ('first base', 'other genes'): 0.66, ('first base', 'moved'): 0.0}
    """
    reader = Reader(estimator, X, removal=removal, batch_size=batch_size, random_state=random_state)
    if reader.n_genes < 2:
        raise ValueError("X has 1 row; the masks of other genes need at least two.")
    if masks is None:
        masks = {"mask": np.concatenate([own for _, (own,) in reader.scored_batches(None)])}
    rng = np.random.default_rng([reader.seed, reader.n_genes])
    variants: dict[tuple[str, str], NDArray[np.float64]] = {}
    for name, given in masks.items():
        (own,) = score_batches(given, reader.n_genes, reader.length, reader.n_genes)
        ring = rng.permutation(reader.n_genes)  # each gene gets the mask of the one before it
        order = np.empty_like(ring)
        order[ring] = np.roll(ring, 1)
        moves = rng.integers(1, max(reader.length, 2), reader.n_genes)
        columns = (np.arange(reader.length) - moves[:, np.newaxis]) % reader.length
        variants[name, ""] = own
        variants[name, "other genes"] = own[order]
        variants[name, "moved"] = np.take_along_axis(own, columns, axis=1)
    asked = [(some, keep) for some in variants.values() for keep in (True, False)]
    found = [
        altered.scores(y) for altered in _alter(reader, asked, share, block_size, exclude, n_draws)
    ]
    rows = {}
    for variant, alone, without in zip(variants, found[::2], found[1::2], strict=True):
        rows[variant] = {
            "kept": 1.0 - alone["removed"],
            "pearson": alone["pearson"],
            "r2": alone["r2"],
            "pearson_without": without["pearson"],
            "r2_without": without["r2"],
            "change_alone": alone["change"],
            "change_without": without["change"],
            "pearson_whole": alone["pearson_whole"],
            "r2_whole": alone["r2_whole"],
        }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index = pd.MultiIndex.from_tuples(list(rows), names=["mask", "control"])
    return table
