"""Controls of a region: other regions like it."""

from __future__ import annotations

from bisect import bisect_left, insort

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from regmask_sk.genome import PADDING_CODE


class MatchedRegions:
    """Regions of one chromosome like others: as wide, as far from a TSS, as rich in G and C.

    Parameters
    ----------
    codes : ndarray of shape (size,), uint8
        The bases of the chromosome.
    loci : pandas.DataFrame
        Columns ``tss`` (0-based) and ``strand``; the genes of the chromosome, at least one.
    elements : ndarray of shape (n, 2), int64
        Starts and ends of all elements, sorted, without overlaps; no control overlaps one.
    position_tolerance : int
        Greatest difference, in base pairs, of the signed distances to the nearest TSS.
    gc_tolerance : float
        Greatest difference of the shares of G and C.
    max_tries : int
        Places that are looked at for one region.
    rng : numpy.random.Generator
        Source of randomness.
    """

    def __init__(
        self,
        codes: NDArray[np.uint8],
        loci: pd.DataFrame,
        elements: NDArray[np.int64],
        *,
        position_tolerance: int,
        gc_tolerance: float,
        max_tries: int,
        rng: np.random.Generator,
    ) -> None:
        order = np.argsort(loci["tss"].to_numpy(dtype=np.int64), kind="stable")
        self._tss = loci["tss"].to_numpy(dtype=np.int64)[order]
        self._sign = np.where(loci["strand"].to_numpy()[order] == "-", -1, 1)
        self._codes, self._elements, self._rng = codes, elements, rng
        self._position_tolerance, self._gc_tolerance = position_tolerance, gc_tolerance
        self._max_tries = max_tries
        self._taken: list[tuple[int, int]] = []

    def draw(self, start: int, end: int, n: int) -> list[tuple[int, int]]:
        """Draw controls of a region.

        Parameters
        ----------
        start, end : int
            The region, 0-based and half-open, on the chromosome.
        n : int
            Number of controls.

        Returns
        -------
        list of (int, int)
            At most `n` regions. None overlaps an element or a control drawn before, has more
            unread bases than the region, or is less like it than the tolerances allow.
        """
        width = end - start
        distance = self.distance(start, end)
        gc, unread = _composition(self._codes[start:end])
        found: list[tuple[int, int]] = []
        genes = self._rng.integers(len(self._tss), size=self._max_tries)
        shifts = self._rng.uniform(-1.0, 1.0, size=self._max_tries) * self._position_tolerance
        centres = self._tss[genes] + self._sign[genes] * (distance + shifts)
        firsts = np.rint(centres - (width - 1) / 2).astype(np.int64)
        for first in firsts.tolist():
            if len(found) == n:
                break
            if not 0 <= first <= len(self._codes) - width or self._is_taken(first, first + width):
                continue
            # Another gene may lie nearer to the place.
            if abs(self.distance(first, first + width) - distance) > self._position_tolerance + 0.5:
                continue
            its_gc, its_unread = _composition(self._codes[first : first + width])
            if its_unread > unread or abs(its_gc - gc) > self._gc_tolerance:
                continue
            insort(self._taken, (first, first + width))
            found.append((first, first + width))
        return found

    def distance(self, start: int, end: int) -> float:
        """Distance from the nearest TSS to a region's centre, in base pairs; upstream below 0."""
        centre = (start + end - 1) / 2
        after = int(np.searchsorted(self._tss, centre))
        near = [k for k in (after - 1, after) if 0 <= k < len(self._tss)]
        k = min(near, key=lambda gene: abs(centre - self._tss[gene]))
        return float((centre - self._tss[k]) * self._sign[k])

    def _is_taken(self, start: int, end: int) -> bool:
        k = int(np.searchsorted(self._elements[:, 1], start, side="right"))
        if k < len(self._elements) and self._elements[k, 0] < end:
            return True
        k = bisect_left(self._taken, (start, start))
        before = k > 0 and self._taken[k - 1][1] > start
        return before or (k < len(self._taken) and self._taken[k][0] < end)


def _composition(codes: NDArray[np.uint8]) -> tuple[float, int]:
    """Share of G and C among the bases that are read, and number of those that are not."""
    counts = np.bincount(codes, minlength=PADDING_CODE + 1)
    read = int(counts[:PADDING_CODE].sum())
    return (float(counts[1] + counts[2]) / read if read else 0.0), len(codes) - read
