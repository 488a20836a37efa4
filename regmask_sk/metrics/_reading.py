"""A fitted estimator's predictions from windows of which bases are taken away, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from regmask_sk.metrics._altered import held, read_rows, take_away
from regmask_sk.metrics._checks import score_batches
from regmask_sk.metrics.selection import draw_seed
from regmask_sk.windows import Windows

Removal = Literal["auto", "mask", "shuffle", "zero"]
ToUnit = Callable[[NDArray[np.float64]], NDArray[np.float64]]


class Opened(NamedTuple):
    """A fitted estimator, taken apart.

    Attributes
    ----------
    model : estimator
        What reads windows.
    windows : Windows or ndarray of shape (n, n_channels, length)
        What it reads.
    to_unit : callable
        From its predictions to the unit of y.
    flat : bool
        Whether it was given an array of shape (n, length), which is one channel.
    """

    model: Any
    windows: Windows | NDArray[np.float32]
    to_unit: ToUnit
    flat: bool = False


def open_estimator(estimator: Any, X: Any) -> Opened:
    """Take a fitted pipeline, search or target transformer apart, down to what reads windows.

    Parameters
    ----------
    estimator : estimator
        Fitted.
    X : DataFrame, Windows or ndarray
        What it takes.

    Returns
    -------
    Opened
        The last step, the windows that it reads, and the unit of its predictions.

    Raises
    ------
    TypeError
        If what the last step reads are no windows.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted.

    Examples
    --------
    >>> from sklearn.linear_model import Ridge
    >>> X = np.eye(3)
    >>> open_estimator(Ridge().fit(X, X[0]), X).windows.shape
    (3, 1, 3)
    """
    if isinstance(estimator, BaseEstimator):
        check_is_fitted(estimator)
    if hasattr(estimator, "best_estimator_"):
        return open_estimator(estimator.best_estimator_, X)
    if hasattr(estimator, "regressor_") and hasattr(estimator, "transformer_"):
        inner = open_estimator(estimator.regressor_, X)
        back = estimator.transformer_.inverse_transform

        def to_unit(predicted: NDArray[np.float64]) -> NDArray[np.float64]:
            values = np.asarray(inner.to_unit(predicted))
            turned = back(values.reshape(len(values), -1))
            return np.asarray(turned).reshape(values.shape)

        return inner._replace(to_unit=to_unit)
    if isinstance(estimator, Pipeline):
        head = estimator[:-1]
        return open_estimator(estimator[-1], head.transform(X) if len(head) else X)
    if isinstance(X, Windows):
        return Opened(estimator, X, _as_it_is)
    if not hasattr(X, "__array__") or hasattr(X, "iloc") or np.ndim(X) not in (2, 3):
        raise TypeError(
            f"X is a {type(X).__name__}, and {type(estimator).__name__} reads windows. Pass the "
            "whole pipeline with the gene table, or the last step with Windows or an array of "
            "shape (n, channels, length)."
        )
    array = np.asarray(X, dtype=np.float32)
    if array.ndim == 3:
        return Opened(estimator, array, _as_it_is)
    return Opened(estimator, array[:, np.newaxis], _as_it_is, flat=True)


def _as_it_is(predicted: NDArray[np.float64]) -> NDArray[np.float64]:
    return predicted


class Batch:
    """Some windows, and what the estimator predicts from parts of them.

    Parameters
    ----------
    reader : Reader
        The estimator.
    rows : slice
        Their rows.
    """

    def __init__(self, reader: Reader, rows: slice) -> None:
        self.reader = reader
        self.rows = rows
        given = reader.windows[rows]
        self._read = read_rows(given)  # once, however often the estimator reads them
        self.windows = held(given, self._read)

    def whole(self) -> NDArray[np.float64]:
        """Predict from the whole windows."""
        return self.reader.predict_open(self.windows)

    def under(self, kept: NDArray[np.floating], draw: int = 0) -> NDArray[np.float64]:
        """Predict from what is kept, ``(batch, length)`` in [0, 1] or bool.

        Where bases are not masked but replaced, those kept by less than one half are.
        """
        reader = self.reader
        if reader.removal == "mask":
            return reader.predict_masked(self.windows, kept)
        removed = np.asarray(kept) < 0.5
        numbers = range(self.rows.start, self.rows.stop)
        seeds = [(reader.seed, draw, number) for number in numbers]
        altered = take_away(self.windows, self._read, removed, reader.removal, seeds)
        return reader.predict_open(altered)


class Reader:
    """A fitted estimator that reads windows of which bases are taken away.

    Parameters
    ----------
    estimator : estimator
        Fitted.
    X : DataFrame, Windows or ndarray
        What it takes.
    removal : {"auto", "mask", "shuffle", "zero"}
        How bases are taken away.
    batch_size : int
        Windows at a time.
    random_state : int or None
        Seed of what is drawn for a gene, whatever its batch.

    Raises
    ------
    ValueError
        If a parameter is out of range, or there are no windows.
    TypeError
        If the estimator cannot predict under masks, and that is asked for.
    """

    def __init__(
        self,
        estimator: Any,
        X: Any,
        *,
        removal: Removal,
        batch_size: int,
        random_state: int | None,
    ) -> None:
        if removal not in ("auto", "mask", "shuffle", "zero"):
            raise ValueError(
                f"removal is {removal!r}; expected 'auto', 'mask', 'shuffle' or 'zero'."
            )
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected at least 1 window.")
        self.model, self.windows, self.to_unit, self.flat = open_estimator(estimator, X)
        self.n_genes, self.length = int(self.windows.shape[0]), int(self.windows.shape[-1])
        if self.n_genes == 0:
            raise ValueError("X has no rows; expected at least one gene.")
        masked = hasattr(self.model, "predict_masked")
        if removal == "mask" and not masked:
            raise TypeError(
                f"removal='mask' needs an estimator with predict_masked, which "
                f"{type(self.model).__name__} has not. Use removal='shuffle' or 'zero'."
            )
        self.masked = masked
        self.removal: Any = ("mask" if masked else "shuffle") if removal == "auto" else removal
        self.batch_size = batch_size
        self.seed = draw_seed(random_state)

    def batches(self) -> Iterator[Batch]:
        """Give the windows, in order."""
        for start in range(0, self.n_genes, self.batch_size):
            yield Batch(self, slice(start, min(start + self.batch_size, self.n_genes)))

    def scored_batches(
        self, *scores: ArrayLike | Iterable[ArrayLike] | None
    ) -> Iterator[tuple[Batch, list[NDArray[np.float64]]]]:
        """Give the windows with their scores, where these are None with the own masks."""
        given = [
            None
            if some is None
            else score_batches(some, self.n_genes, self.length, self.batch_size)
            for some in scores
        ]
        for batch in self.batches():
            yield (
                batch,
                [self.own_masks(batch.windows) if rows is None else next(rows) for rows in given],
            )

    def predict_masked(
        self, windows: Windows | NDArray[np.float32], masks: NDArray[Any]
    ) -> NDArray[np.float64]:
        """Predict under masks, in the unit of y."""
        return self._in_unit(self.model.predict_masked(self._given(windows), masks))

    def predict_open(self, windows: Windows | NDArray[np.float32]) -> NDArray[np.float64]:
        """Predict from windows of which nothing is masked, in the unit of y."""
        if self.masked:
            return self.predict_masked(windows, np.ones(self.length))
        return self._in_unit(self.model.predict(self._given(windows)))

    def _in_unit(self, predicted: Any) -> NDArray[np.float64]:
        return self.to_unit(np.asarray(predicted, dtype=np.float64))

    def _given(self, windows: Windows | NDArray[np.float32]) -> Any:
        """Windows as the model was given them in fit."""
        return windows[:, 0] if isinstance(windows, np.ndarray) and self.flat else windows

    def own_masks(self, windows: Windows | NDArray[np.float32]) -> NDArray[np.float64]:
        """Masks of the estimator itself.

        Raises
        ------
        TypeError
            If it has none.
        """
        name = type(self.model).__name__
        masks = None
        if hasattr(self.model, "transform"):
            masks = np.asarray(self.model.transform(self._given(windows)), dtype=np.float64)
        if masks is None or masks.shape != (int(windows.shape[0]), self.length):
            raise TypeError(
                f"masks is None, and {name} gives no masks of shape (n_genes, {self.length}) of "
                "its own. Pass masks, or attributions."
            )
        return masks
