"""Which bins of a window are in contact: by distance, by loops, or by a contact map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from regmask_sk._batches import Reading
from regmask_sk._contact_maps import CoolerReader, power_law
from regmask_sk.baselines._bin_tower import BinLayout
from regmask_sk.genome import Reader

_KEPT_BYTES = 2**28  # of the edges of windows that are looked at again, epoch by epoch


class Contacts(Protocol):
    """Says which bins are in contact."""

    def edges(self, chrom: str, lowest: int, layout: BinLayout) -> NDArray[np.bool_]:
        """Give a symmetric matrix ``(n, n)`` of bins, from position `lowest` of `chrom` upward."""


def _apart(n_bins: int) -> NDArray[np.int64]:
    """Distance of any two bins, in bins."""
    place = np.arange(n_bins)
    return np.abs(place[:, None] - place)


@dataclass(frozen=True)
class NearContacts:
    """Bins up to a distance from each other are in contact.

    As contact falls with distance by a power law, these are the bins whose expected contact is at
    least that at `max_distance`.

    Parameters
    ----------
    max_distance : int
        Base pairs between the middles of two bins, at most.

    Examples
    --------
    >>> NearContacts(20).edges("chr1", 0, BinLayout(50, 10)).astype(int)
    array([[0, 1, 1, 0, 0],
           [1, 0, 1, 1, 0],
           [1, 1, 0, 1, 1],
           [0, 1, 1, 0, 1],
           [0, 0, 1, 1, 0]])
    """

    max_distance: int

    def edges(self, chrom: str, lowest: int, layout: BinLayout) -> NDArray[np.bool_]:
        """Give a symmetric matrix ``(n, n)`` of bins, whatever the place."""
        distance = _apart(layout.n_bins) * layout.bin_size
        return (distance > 0) & (distance <= self.max_distance)


@dataclass(frozen=True, eq=False)
class LoopContacts:
    """Bins that the two ends of a loop lie in are in contact.

    Parameters
    ----------
    by_chrom : dict of str to ndarray of shape (n_loops, 4), int64
        Start and end of the first and of the second end of each loop, 0-based and half-open.

    Examples
    --------
    >>> loops = LoopContacts({"chr1": np.array([[105, 111, 130, 140]])})
    >>> loops.edges("chr1", 100, BinLayout(50, 10)).astype(int)
    array([[0, 0, 0, 1, 0],
           [0, 0, 0, 1, 0],
           [0, 0, 0, 0, 0],
           [1, 1, 0, 0, 0],
           [0, 0, 0, 0, 0]])
    """

    by_chrom: Mapping[str, NDArray[np.int64]]

    @classmethod
    def from_table(
        cls, table: pd.DataFrame, chrom_alias: Mapping[str, str] | None = None
    ) -> LoopContacts:
        """Take the loops within a chromosome from a table as ``read_bedpe`` gives it.

        Parameters
        ----------
        table : DataFrame
            Columns ``chrom1, start1, end1, chrom2, start2, end2``.
        chrom_alias : mapping of str to str, optional
            Name in the loci to name in the table.

        Returns
        -------
        LoopContacts
            Under the names of the loci.
        """
        within = table[table["chrom1"] == table["chrom2"]]
        ends = ["start1", "end1", "start2", "end2"]
        found = {
            str(chrom): loops[ends].to_numpy(np.int64) for chrom, loops in within.groupby("chrom1")
        }
        alias = {loci: file for loci, file in (chrom_alias or {}).items() if file in found}
        hidden = set(alias.values())
        named = {chrom: loops for chrom, loops in found.items() if chrom not in hidden}
        return cls(named | {loci: found[file] for loci, file in alias.items()})

    def edges(self, chrom: str, lowest: int, layout: BinLayout) -> NDArray[np.bool_]:
        """Give a symmetric matrix ``(n, n)`` of bins, from position `lowest` of `chrom` upward."""
        n_bins, bin_size = layout.n_bins, layout.bin_size
        joined = np.zeros((n_bins, n_bins), bool)
        loops = self.by_chrom.get(chrom)
        if loops is None:
            return joined
        first = np.maximum((loops[:, [0, 2]] - lowest) // bin_size, 0)
        last = np.minimum((loops[:, [1, 3]] - 1 - lowest) // bin_size, n_bins - 1)
        for loop in np.flatnonzero((first <= last).all(axis=1)):
            (one, other), (one_last, other_last) = first[loop], last[loop]
            joined[one : one_last + 1, other : other_last + 1] = True
        joined |= joined.T
        np.fill_diagonal(joined, False)
        return joined


@dataclass(frozen=True, eq=False)
class MapContacts:
    """Bins that meet more often in a contact map than their distance lets expect.

    The expected contact of two bins is a power law of their distance, scaled for each window so
    that it has the same sum as the map. A bin of the window stands for the bin of the map that
    its middle is in.

    Parameters
    ----------
    reader : CoolerReader
        The map.
    enrichment : float
        Contact of an edge over what is expected, at least.
    """

    reader: CoolerReader
    enrichment: float
    _kept: dict[Any, NDArray[np.uint8]] = field(default_factory=dict, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def edges(self, chrom: str, lowest: int, layout: BinLayout) -> NDArray[np.bool_]:
        """Give a symmetric matrix ``(n, n)`` of bins, from position `lowest` of `chrom` upward."""
        n_bins, bin_size = layout.n_bins, layout.bin_size
        if chrom not in self.reader.chrom_sizes:  # check_chromosomes has allowed that it is not
            return np.zeros((n_bins, n_bins), bool)
        size = self.reader.bin_size
        place = (lowest + np.arange(n_bins) * bin_size + bin_size // 2) // size
        key = (chrom, place.tobytes())
        packed = self._kept.get(key)
        if packed is None:
            packed = np.packbits(self._enriched(chrom, place))
            if (len(self._kept) + 1) * packed.nbytes <= _KEPT_BYTES:
                self._kept[key] = packed
        return np.unpackbits(packed, count=n_bins**2).reshape(n_bins, n_bins).astype(bool)

    def _enriched(self, chrom: str, place: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Compare the contacts of bins of the map with what is expected."""
        size = self.reader.bin_size
        reach = (int(place[0]), int(place[-1]) + 1)
        among = place - place[0]
        contact = self.reader.contacts(chrom, reach, reach)[np.ix_(among, among)]
        distance = np.abs(place[:, None] - place) * size
        expected = power_law(distance, bin_size=size)
        pairs = ~np.isnan(contact) & (_apart(len(place)) > 0)
        total = expected[pairs].sum()
        if total == 0.0:
            return pairs  # there are none
        expected *= contact[pairs].sum() / total
        return pairs & (np.nan_to_num(contact) > self.enrichment * expected)


@dataclass(frozen=True, eq=False)
class ContactGraph:
    """Adjacency of the bins of each window, as the network reads them.

    Parameters
    ----------
    contacts : NearContacts, LoopContacts or MapContacts
        Says which bins are in contact. Arrays, which lie nowhere, need the first.
    layout : BinLayout
        Where the bins are.
    sized : tuple of Reader
        Files that know how long chromosomes are. A bin that lies off its chromosome has no edge.

    Examples
    --------
    >>> graph = ContactGraph(NearContacts(10), BinLayout(30, 10), ())
    >>> graph(Reading(np.zeros((2, 1, 30), np.float32), None))["adjacency"].shape
    (2, 3, 3)
    """

    contacts: Contacts
    layout: BinLayout
    sized: tuple[Reader, ...]

    def __call__(self, reading: Reading) -> dict[str, NDArray[np.generic]]:
        """Give ``adjacency``, bool of shape ``(batch, n, n)``, bins in the order of the window."""
        n_bins = self.layout.n_bins
        adjacency = np.empty((len(reading.x), n_bins, n_bins), bool)
        if reading.placements is None:
            adjacency[:] = self.contacts.edges("", 0, self.layout)
            return {"adjacency": adjacency}
        for out, placed in zip(adjacency, reading.placements, strict=True):
            lowest = self.layout.lowest(placed.start, reverse=placed.reverse)
            edges = self.contacts.edges(placed.chrom, lowest, self.layout)
            there = self._on_chromosome(placed.chrom, lowest)
            edges = edges & there & there[:, None]
            out[:] = edges[::-1, ::-1] if placed.reverse else edges
        return {"adjacency": adjacency}

    def _on_chromosome(self, chrom: str, lowest: int) -> NDArray[np.bool_]:
        first = lowest + np.arange(self.layout.n_bins) * self.layout.bin_size
        there = first + self.layout.bin_size > 0
        for reader in self.sized:
            if chrom in reader.chrom_sizes:
                return there & (first < reader.chrom_sizes[chrom])
        return there
