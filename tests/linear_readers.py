"""Estimators on windows whose answers can be worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator

from regmask_sk.windows import Windows


def as_array(X: Any) -> np.ndarray:
    return X.to_numpy() if isinstance(X, Windows) else np.asarray(X, dtype=np.float32)


class Linear(BaseEstimator):
    """A weighted sum over channels and bases."""

    def __init__(self, weights: Any = None) -> None:
        self.weights = weights

    def fit(self, X: Any, y: Any = None) -> Linear:
        self.n_features_in_ = as_array(X).shape[-1]
        return self

    def predict(self, X: Any) -> np.ndarray:
        self.n_rows_at_most_ = max(getattr(self, "n_rows_at_most_", 0), len(as_array(X)))
        return np.einsum("ncl,cl->n", as_array(X).astype(np.float64), np.asarray(self.weights))


class MaskedLinear(Linear):
    """The same under masks, with masks of its own: the bases that have a weight."""

    def predict_masked(self, X: Any, masks: Any) -> np.ndarray:
        masks = np.broadcast_to(np.asarray(masks, dtype=np.float64), (len(X), X.shape[-1]))
        values = as_array(X).astype(np.float64) * masks[:, np.newaxis]
        return np.einsum("ncl,cl->n", values, np.asarray(self.weights))

    def transform(self, X: Any) -> np.ndarray:
        return np.tile((np.asarray(self.weights) != 0).any(axis=0).astype(np.float32), (len(X), 1))

    @property
    def promoter_columns_(self) -> slice:
        return slice(3, 5)


class Sequence:
    """Random bases of a chromosome, as codes or one-hot."""

    channel_names = ("A", "C", "G", "T")
    readers = ()

    def __init__(self, one_hot: bool = False, seed: int = 0) -> None:
        self.codes = (
            np.random.default_rng(seed).choice(5, 4000, p=[0.24] * 4 + [0.04]).astype(np.uint8)
        )
        self.one_hot = one_hot
        self.n_reads = 0

    def read(self, interval: Any) -> np.ndarray:
        self.n_reads += 1
        codes = self.codes[interval.start : interval.end]
        return (codes == np.arange(4)[:, None]).astype(np.float32) if self.one_hot else codes[None]

    def reverse(self, raw: np.ndarray) -> np.ndarray:
        if self.one_hot:
            return raw[::-1, ::-1]
        return np.array([3, 2, 1, 0, 4], np.uint8)[raw[:, ::-1]]

    def compact(self, raw: np.ndarray, cell_type: str | None) -> np.ndarray:
        return raw

    def expand(self, compact: np.ndarray, out: np.ndarray) -> None:
        out[:] = compact if self.one_hot else compact == np.arange(4)[:, None]


class Tracks:
    """Two tracks that give each base a number of its own."""

    channel_names = ("position", "square")
    readers = ()

    def read(self, interval: Any) -> np.ndarray:
        at = np.arange(interval.start, interval.end, dtype=np.float32)
        return np.stack([at, at**2])

    def reverse(self, raw: np.ndarray) -> np.ndarray:
        return raw[:, ::-1]

    def compact(self, raw: np.ndarray, cell_type: str | None) -> np.ndarray:
        return raw

    def expand(self, compact: np.ndarray, out: np.ndarray) -> None:
        out[:] = compact


def make_windows(n: int = 6, length: int = 40, sources: tuple[Any, ...] | None = None) -> Windows:
    """Windows on three chromosomes and both strands."""
    loci = pd.DataFrame(
        {
            "chrom": [f"chr{1 + i % 3}" for i in range(n)],
            "tss": [100 + 60 * i for i in range(n)],
            "strand": ["+-"[i % 2] for i in range(n)],
            "gc": np.linspace(0, 1, n),
        },
        index=[f"g{i}" for i in range(n)],
    )
    return Windows(loci, length, sources=(Sequence(), Tracks()) if sources is None else sources)
