"""Windows some of whose bases are taken away, as the estimators read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from regmask_sk.ops.dinucleotide_shuffle import dinucleotide_shuffle
from regmask_sk.windows import ChannelSource, Windows

How = Literal["shuffle", "zero"]
SEQUENCE = ("A", "C", "G", "T")


class GivenRows:
    """Rows of windows that are held in memory, by the index of their loci.

    Parameters
    ----------
    rows : sequence of tuple of ndarray
        The compact arrays of each row.
    length : int
        Length of the windows.
    stranded : bool
        Whether the windows are stranded.
    """

    flank = 0

    def __init__(
        self, rows: Sequence[tuple[NDArray[Any], ...]], length: int, stranded: bool
    ) -> None:
        self.rows = rows
        self.layout = (length, stranded)

    def row(self, windows: Windows, row: int) -> tuple[NDArray[Any], ...]:
        """Compact arrays of a row."""
        return self.rows[windows.loci.index[row]]


def read_rows(windows: Windows | NDArray[np.float32]) -> list[tuple[NDArray[Any], ...]]:
    """Read windows in the form in which bases are taken away.

    Parameters
    ----------
    windows : Windows or ndarray of shape (n, n_channels, length)
        A batch.

    Returns
    -------
    list of tuple of ndarray of shape (k, length)
        For each window one array a source; for arrays, the channels.
    """
    if not isinstance(windows, Windows):
        return [(row,) for row in windows]
    return [tuple(windows.compact_row(row)) for row in range(len(windows))]


def take_away(
    windows: Windows | NDArray[np.float32],
    rows: Sequence[tuple[NDArray[Any], ...]],
    removed: NDArray[np.bool_],
    how: How,
    seeds: Sequence[Sequence[int]],
) -> Windows | NDArray[np.float32]:
    """Take bases away from windows.

    Parameters
    ----------
    windows : Windows or ndarray of shape (n, n_channels, length)
        A batch.
    rows : sequence of tuple of ndarray
        What :func:`read_rows` gave of it.
    removed : ndarray of shape (n, length), bool
        The bases.
    how : {"shuffle", "zero"}
        "shuffle" shuffles the sequence of each run of removed bases and keeps its dinucleotides,
        and permutes the values of all other channels among the removed bases of the window, one
        permutation for all. "zero" makes the sequence unknown and all other channels 0.
    seeds : sequence of sequence of int
        Seed of each row.

    Returns
    -------
    Windows or ndarray of shape (n, n_channels, length)
        The same windows without these bases; nothing is read from files.
    """
    sources = windows.sources if isinstance(windows, Windows) else (None,)
    altered = []
    for parts, gone, seed in zip(rows, removed, seeds, strict=True):
        rng = np.random.default_rng(list(seed))
        places = np.flatnonzero(gone)
        shuffled = rng.permutation(places)
        altered.append(
            tuple(
                _alter(part, source, gone, places, shuffled, how, rng)
                for part, source in zip(parts, sources, strict=True)
            )
        )
    return held(windows, altered)


def held(
    windows: Windows | NDArray[np.float32], rows: Sequence[tuple[NDArray[Any], ...]]
) -> Windows | NDArray[np.float32]:
    """Give windows that hold these rows in memory, and read nothing from files.

    Parameters
    ----------
    windows : Windows or ndarray of shape (n, n_channels, length)
        Where they lie, and of what channels.
    rows : sequence of tuple of ndarray
        Compact arrays of each, as :func:`read_rows` gives them.

    Returns
    -------
    Windows or ndarray of shape (n, n_channels, length)
        The loci are numbered from 0.
    """
    if not isinstance(windows, Windows):
        return np.stack([parts[0] for parts in rows])
    return replace(
        windows,
        loci=windows.loci.set_axis(pd.RangeIndex(len(windows))),
        jitter=0,
        store=GivenRows(rows, windows.length, windows.stranded),
    )


def _alter(
    part: NDArray[Any],
    source: ChannelSource | None,
    gone: NDArray[np.bool_],
    places: NDArray[np.intp],
    shuffled: NDArray[np.intp],
    how: How,
    rng: np.random.Generator,
) -> NDArray[Any]:
    part = np.array(part)
    if source is not None and source.channel_names == SEQUENCE:
        codes = part[0] if len(part) == 1 else np.where(part.any(axis=0), part.argmax(axis=0), 4)
        if how == "zero":
            codes = np.where(gone, 4, codes)
        else:
            codes = dinucleotide_shuffle(codes, gone, random_state=rng)
        one_hot = codes == np.arange(4)[:, np.newaxis]
        return (codes[np.newaxis] if len(part) == 1 else one_hot).astype(part.dtype)
    if how == "shuffle":
        part[:, places] = part[:, shuffled]
    else:
        # With missing="mask" a base without a value is one that says it has none.
        part[:, places] = np.nan if getattr(source, "missing", None) == "mask" else 0
    return part
