"""Masks of windows from peaks: regions of the genome, or peaks called on a track."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from regmask_sk._batches import Placement, Reading
from regmask_sk._regions import Regions
from regmask_sk._sources import RawTrack
from regmask_sk.loci import read_regions
from regmask_sk.peaks import Peaks, call_peaks


class FindPeaks(Protocol):
    """What finds the peaks of one window, 5' to 3' on the plus strand where that is known."""

    def __call__(self, x: NDArray[np.float32], placement: Placement | None) -> Peaks:
        """Find the peaks of a window ``(channels, length)`` as it is read."""


@dataclass(frozen=True, eq=False)
class RegionPeaks:
    """Peaks that are regions of the genome.

    Parameters
    ----------
    regions : dict of str to ndarray of shape (n, 2), int64
        By chromosome, start and end, sorted and apart.
    scores : dict of str to ndarray of shape (n,), float64, or None
        Score of each region; None where they have none.
    """

    regions: Mapping[str, NDArray[np.int64]]
    scores: Mapping[str, NDArray[np.float64]] | None

    @classmethod
    def read(cls, peaks: str | os.PathLike[str] | pd.DataFrame, *, scored: bool) -> RegionPeaks:
        """Read a BED or narrowPeak file, or take a table; regions that touch become one.

        Parameters
        ----------
        peaks : path-like or DataFrame
            Columns ``chrom``, ``start``, ``end``, and where `scored` also ``score``.
        scored : bool
            Whether scores are needed. A region that became one of several has the largest.

        Returns
        -------
        RegionPeaks
            The peaks.

        Raises
        ------
        TypeError, ValueError
            If `peaks` is of another kind, or has no regions or no scores.

        Examples
        --------
        >>> table = pd.DataFrame(
        ...     {"chrom": "chr1", "start": [5, 2, 20], "end": [9, 6, 25], "score": [10, 30, 20]}
        ... )
        >>> peaks = RegionPeaks.read(table, scored=True)
        >>> peaks.regions["chr1"].tolist(), peaks.scores["chr1"].tolist()
        ([[2, 9], [20, 25]], [30.0, 20.0])
        """
        table = read_regions(peaks) if isinstance(peaks, str | os.PathLike) else peaks
        regions = Regions.read(table, "peaks").by_chrom
        if not scored:
            return cls(regions, None)
        if "score" not in table.columns:
            raise ValueError(
                f"sparsity keeps the peaks with the largest score, but peaks has no column score; "
                f"its columns are {list(table.columns)}. Give peaks with scores, as the fifth "
                "column of BED and narrowPeak files has them, or set sparsity=None to keep all."
            )
        score = pd.to_numeric(table["score"], errors="coerce").to_numpy(np.float64)
        if not np.isfinite(score).all():
            raise ValueError(
                f"peaks has {int((~np.isfinite(score)).sum())} scores that are no numbers, the "
                f"first {str(table['score'][~np.isfinite(score)].iloc[0])!r}. Correct them, or "
                "set sparsity=None to keep all peaks."
            )
        scores = {}
        chroms, starts = table["chrom"].astype(str).to_numpy(), table["start"].to_numpy(np.int64)
        for chrom, merged in regions.items():
            here = chroms == chrom
            scores[chrom] = np.full(len(merged), -np.inf)
            place = np.searchsorted(merged[:, 0], starts[here], side="right") - 1
            np.maximum.at(scores[chrom], place, score[here])
        return cls(regions, scores)

    def __call__(self, x: NDArray[np.float32], placement: Placement | None) -> Peaks:
        """Give the peaks within a window; the summit of a region is its middle."""
        if placement is None:
            raise ValueError(
                "peaks are given in coordinates of the genome, but X is an array. Pass Windows "
                "(from TSSWindows), or peaks=None to call them on a track."
            )
        chrom, start, end = placement[:3]
        found = self.regions.get(chrom, np.zeros((0, 2), np.int64))
        low = np.searchsorted(found[:, 1], start, side="right")
        high = np.searchsorted(found[:, 0], end, side="left")
        within = found[low:high] - start
        first, last = np.clip(within, 0, end - start).T
        score = np.zeros(len(within)) if self.scores is None else self.scores[chrom][low:high]
        return Peaks(first, last, within.sum(axis=1) // 2, score)


@dataclass(frozen=True, eq=False)
class CalledPeaks:
    """Peaks that are called on a track of the window.

    Parameters
    ----------
    track : RawTrack
        The track.
    options : dict
        Parameters of :func:`regmask_sk.peaks.call_peaks`.
    """

    track: RawTrack
    options: Mapping[str, Any]

    def __call__(self, x: NDArray[np.float32], placement: Placement | None) -> Peaks:
        """Call the peaks of a window on the track's raw values."""
        cell_type = None if placement is None else placement.cell_type
        values = self.track.read(x, cell_type)
        if placement is not None and placement.reverse:
            values = values[::-1]
        return call_peaks(values, **self.options)


@dataclass(frozen=True, eq=False)
class PeakMasks:
    """Finds the masks of a batch of windows, for ``WindowDataset``.

    Parameters
    ----------
    find : callable
        Finds the peaks of one window.
    promoter : tuple of int
        ``(first, last + 1)`` column that is open in any case.
    most : int or None
        The most columns to open, promoter included; None opens all peaks.
    """

    find: FindPeaks
    promoter: tuple[int, int]
    most: int | None

    def __call__(self, reading: Reading) -> dict[str, NDArray[np.generic]]:
        """Give ``mask``, of shape (batch, length), float32: 1 where open."""
        masks = np.empty((len(reading.x), reading.x.shape[2]), np.float32)
        for row, (mask, x) in enumerate(zip(masks, reading.x, strict=True)):
            placement = None if reading.placements is None else reading.placements[row]
            peaks = self.find(x, placement)
            first, end = self.promoter
            if placement is not None and placement.reverse:
                # Turned once it is made: a window and its reverse have the same peaks and ties.
                made = open_peaks(peaks, len(mask), (len(mask) - end, len(mask) - first), self.most)
                mask[:] = made[::-1]
            else:
                mask[:] = open_peaks(peaks, len(mask), (first, end), self.most)
        return {"mask": masks}


def open_peaks(
    peaks: Peaks, length: int, promoter: tuple[int, int], most: int | None
) -> NDArray[np.bool_]:
    """Open the promoter and the peaks of a window.

    Parameters
    ----------
    peaks : Peaks
        Peaks within the window.
    length : int
        Length of the window.
    promoter : tuple of int
        ``(first, last + 1)`` column that is open in any case.
    most : int or None
        The most columns to open, promoter included: peaks with the largest scores first, of
        equal ones the left, and of the last of them the columns nearest to its summit. None
        opens all peaks.

    Returns
    -------
    ndarray of shape (length,), bool
        True where open.

    Examples
    --------
    >>> peaks = Peaks(np.array([0, 6]), np.array([2, 9]), np.array([1, 7]), np.array([1.0, 2.0]))
    >>> open_peaks(peaks, 10, (4, 5), None).astype(int)
    array([1, 1, 0, 0, 1, 0, 1, 1, 1, 0])
    >>> open_peaks(peaks, 10, (4, 5), 3).astype(int)
    array([0, 0, 0, 0, 1, 0, 1, 1, 0, 0])
    """
    opened = np.zeros(length, dtype=bool)
    opened[promoter[0] : promoter[1]] = True
    room = length if most is None else most - (promoter[1] - promoter[0])
    for peak in np.argsort(-peaks.score, kind="stable"):
        if room <= 0:
            break
        columns = np.arange(peaks.start[peak], peaks.end[peak])
        columns = columns[~opened[columns]]
        if len(columns) > room:
            nearest = np.argsort(np.abs(columns - peaks.summit[peak]), kind="stable")
            columns = columns[nearest[:room]]
        opened[columns] = True
        room -= len(columns)
    return opened
