"""Regions of the genome: read, merged, and found inside an interval without looking at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from regmask_sk.loci import read_regions


@dataclass(frozen=True, eq=False)
class Regions:
    """Regions of the genome, for finding those inside an interval.

    Parameters
    ----------
    by_chrom : dict of str to ndarray of shape (n, 2), int64
        Start and end of each, 0-based and half-open, sorted and without overlaps.
    """

    by_chrom: Mapping[str, NDArray[np.int64]]

    @classmethod
    def from_table(cls, table: pd.DataFrame) -> Regions:
        """Sort and merge the regions of a table with columns chrom, start and end."""
        by_chrom = {}
        for chrom, group in table.sort_values("start").groupby("chrom"):
            starts = group["start"].to_numpy(dtype=np.int64)
            ends = np.maximum.accumulate(group["end"].to_numpy(dtype=np.int64))
            first = np.append(True, starts[1:] > ends[:-1])
            last = np.append(first[1:], True)
            by_chrom[str(chrom)] = np.stack([starts[first], ends[last]], axis=1)
        return cls(by_chrom)

    @classmethod
    def read(cls, regions: Any, name: str) -> Regions:
        """Read regions from what a parameter was given.

        Parameters
        ----------
        regions : path-like or DataFrame
            BED file, or table with columns ``chrom``, ``start`` and ``end``, 0-based and
            half-open.
        name : str
            The parameter, for errors.

        Returns
        -------
        Regions
            Sorted and merged.

        Raises
        ------
        TypeError
            If `regions` is of another kind.
        ValueError
            If a table lacks a column, or a line is not a region.

        Examples
        --------
        >>> table = pd.DataFrame({"chrom": ["chr1", "chr1"], "start": [5, 2], "end": [9, 6]})
        >>> Regions.read(table, "closed_regions").by_chrom["chr1"].tolist()
        [[2, 9]]
        """
        if isinstance(regions, str | os.PathLike):
            return cls.from_table(read_regions(regions))
        if not isinstance(regions, pd.DataFrame):
            raise TypeError(
                f"{name} is a {type(regions).__name__}; expected the path of a BED file, or a "
                "table with columns chrom, start and end, as read_regions gives it."
            )
        missing = [column for column in ("chrom", "start", "end") if column not in regions.columns]
        if missing:
            raise ValueError(
                f"{name} has no column {', '.join(missing)}; its columns are "
                f"{list(regions.columns)}. read_regions reads a table that has them."
            )
        places = regions[["start", "end"]]
        whole = all(pd.api.types.is_integer_dtype(dtype) for dtype in places.dtypes)
        if not whole or ((places["start"] < 0) | (places["end"] < places["start"])).any():
            raise ValueError(
                f"{name} has starts or ends that are no 0-based half-open coordinates: expected "
                "integers with 0 <= start <= end. Correct those rows, or read the file with "
                "read_regions, which names them."
            )
        return cls.from_table(regions)

    @property
    def n_bases(self) -> int:
        """Base pairs in all."""
        return sum(int((array[:, 1] - array[:, 0]).sum()) for array in self.by_chrom.values())

    def clipped(self, chrom_sizes: Mapping[str, int]) -> Regions:
        """Cut off what lies outside of the chromosomes.

        Parameters
        ----------
        chrom_sizes : mapping of str to int
            Size in base pairs of each chromosome; regions on other ones are left out.

        Returns
        -------
        Regions
            None of them empty.

        Examples
        --------
        >>> Regions({"a": np.array([[-5, 3], [8, 12]]), "b": np.array([[0, 1]])}).clipped(
        ...     {"a": 10}
        ... ).by_chrom["a"].tolist()
        [[0, 3], [8, 10]]
        """
        by_chrom = {}
        for chrom, array in self.by_chrom.items():
            inside = np.clip(array, 0, chrom_sizes.get(chrom, 0))
            inside = inside[inside[:, 0] < inside[:, 1]]
            if len(inside):
                by_chrom[chrom] = inside
        return Regions(by_chrom)

    def joined(self, others: Regions) -> Regions:
        """Add the bases of other regions.

        Parameters
        ----------
        others : Regions
            The other regions.

        Returns
        -------
        Regions
            Sorted and merged.

        Examples
        --------
        >>> one = Regions({"a": np.array([[0, 4]])})
        >>> one.joined(Regions({"a": np.array([[2, 9]]), "b": np.array([[1, 3]])})).n_bases
        11
        """
        tables = [
            pd.DataFrame(array, columns=["start", "end"]).assign(chrom=chrom)
            for regions in (self, others)
            for chrom, array in regions.by_chrom.items()
        ]
        return Regions.from_table(pd.concat(tables)) if tables else Regions({})

    def without(self, others: Regions) -> Regions:
        """Leave out the bases of other regions.

        Parameters
        ----------
        others : Regions
            The other regions.

        Returns
        -------
        Regions
            What is left, sorted; chromosomes with nothing left are not in it.

        Examples
        --------
        >>> whole = Regions({"a": np.array([[0, 10], [20, 30]])})
        >>> whole.without(Regions({"a": np.array([[2, 4], [8, 25]])})).by_chrom["a"].tolist()
        [[0, 2], [4, 8], [25, 30]]
        """
        by_chrom = {}
        for chrom, array in self.by_chrom.items():
            other = others.by_chrom.get(chrom)
            if other is not None and len(other):
                array = _difference(array, other)
            array = array[array[:, 0] < array[:, 1]]
            if len(array):
                by_chrom[chrom] = array
        return Regions(by_chrom)

    def within(self, chrom: str, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Give the regions that overlap an interval."""
        found = self.by_chrom.get(chrom)
        if found is not None:
            low = np.searchsorted(found[:, 1], start, side="right")
            high = np.searchsorted(found[:, 0], end, side="left")
            yield from found[low:high].tolist()

    def digest(self) -> str:
        """Identify the regions."""
        listed = [(chrom, array.tolist()) for chrom, array in sorted(self.by_chrom.items())]
        return hashlib.sha256(repr(listed).encode()).hexdigest()


def _difference(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bases of regions that lie in none of the other ones."""
    places = np.concatenate([one.ravel(), other.ravel()])
    order = np.argsort(places, kind="stable")
    steps = np.where(np.arange(len(places)) % 2, -1, 1)  # a start, an end, a start, ...
    inside = np.cumsum(np.where(order < one.size, steps[order], 0))[:-1] > 0
    outside = np.cumsum(np.where(order < one.size, 0, steps[order]))[:-1] == 0
    found = np.stack([places[order][:-1], places[order][1:]], axis=1)
    return found[inside & outside & (found[:, 0] < found[:, 1])]


@dataclass(frozen=True, eq=False)
class ForcedRegions:
    """Regions that every mask closes, and regions that every mask opens.

    Parameters
    ----------
    closed, opened : Regions
        Bases that are in both are open.
    """

    closed: Regions
    opened: Regions

    def bases(self, chrom: str, start: int, end: int, *, reverse: bool) -> NDArray[np.int8]:
        """Mark the bases of an interval.

        Parameters
        ----------
        chrom : str
            Chromosome.
        start, end : int
            Interval on the plus strand, 0-based and half-open; it may run off the chromosome.
        reverse : bool
            Whether the interval is read on the minus strand.

        Returns
        -------
        ndarray of shape (end - start,), int8
            -1 where closed, 1 where open, 0 where a mask decides; 5' to 3' of the strand read.

        Examples
        --------
        >>> table = pd.DataFrame({"chrom": ["chr1"], "start": [12], "end": [14]})
        >>> forced = ForcedRegions(Regions.from_table(table), Regions({}))
        >>> forced.bases("chr1", 10, 15, reverse=True).tolist()
        [0, -1, -1, 0, 0]
        """
        forced = np.zeros(end - start, np.int8)
        for regions, value in ((self.closed, -1), (self.opened, 1)):
            for first, last in regions.within(chrom, start, end):
                forced[max(first - start, 0) : last - start] = value
        return forced[::-1] if reverse else forced
