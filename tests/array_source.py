"""Windows whose channels are an array in memory, so that a test may alter single bases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from regmask_sk.windows import Interval, Windows

PARTNER = {"A": "T", "T": "A", "C": "G", "G": "C"}


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Channels of an array of shape (n, channels, length); window i is all of chromosome ``w{i}``.

    The array is in the direction of the plus strand.
    """

    array: np.ndarray
    channel_names: tuple[str, ...]
    readers: tuple[()] = ()

    def read(self, interval: Interval) -> np.ndarray:
        whole = self.array[int(interval.chrom[1:])]
        assert (interval.start, interval.end) == (0, whole.shape[1])
        return whole

    def reverse(self, raw: np.ndarray) -> np.ndarray:
        names = self.channel_names
        order = [names.index(PARTNER.get(name, name)) for name in names]
        return raw[order, ::-1]

    def compact(self, raw: np.ndarray, cell_type: str | None) -> np.ndarray:
        return raw

    def expand(self, compact: np.ndarray, out: np.ndarray) -> None:
        out[:] = compact

    def cache_key(self, *, fitted: bool) -> str:
        return str(hash(self.array.tobytes()))


def array_windows(
    array: np.ndarray, names: tuple[str, ...], strand: str = "+", **columns: Any
) -> Windows:
    """Windows of an array, of genes on one strand, with covariates as `columns`."""
    n, _, length = array.shape
    tss = length // 2 if strand == "+" else length - 1 - length // 2
    loci = pd.DataFrame(
        {"chrom": [f"w{i}" for i in range(n)], "tss": tss, "strand": strand, **columns},
        index=[f"gene{i}" for i in range(n)],
    )
    return Windows(loci, length, (ArraySource(array.astype(np.float32), names),))


def one_hot(rng: np.random.Generator, n: int, length: int, unknown: float = 0.0) -> np.ndarray:
    """Draw sequences, (n, 4, length), with a share of unknown bases."""
    out = np.zeros((n, 4, length), np.float32)
    np.put_along_axis(out, rng.integers(0, 4, (n, 1, length)), 1.0, axis=1)
    out *= rng.random((n, 1, length)) >= unknown
    return out
