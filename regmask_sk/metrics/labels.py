"""Which bases of each window lie in known regions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

if TYPE_CHECKING:
    from regmask_sk.windows import Windows

_Starts = NDArray[np.int64]


def region_labels(
    windows: Windows, regions: pd.DataFrame, *, gene_column: str | None = None
) -> NDArray[np.bool_]:
    """Mark the bases of each window that lie in known regions.

    Parameters
    ----------
    windows : Windows
        The loci; their channels are not read.
    regions : pandas.DataFrame
        Columns ``chrom``, ``start`` and ``end`` (0-based, half-open), as
        :func:`regmask_sk.read_regions` gives them. Regions may overlap.
    gene_column : str, optional
        Column of `regions` that names the gene a region belongs to, in the words of the index of
        ``windows.loci``. With it only a gene's own regions count, and those of its neighbours
        are negatives; a gene that has none gets a row of False, which
        ``labels.any(axis=1)`` finds. By default every region counts for every window.

    Returns
    -------
    ndarray of shape (n_genes, length), bool
        Labels in gene orientation, as the masks have it.

    Raises
    ------
    ValueError
        If columns are missing, a region is empty, or regions and loci share no chromosome (or no
        gene, with `gene_column`).

    Examples
    --------
    >>> import pandas as pd
    >>> from regmask_sk.windows import Windows
    >>> loci = pd.DataFrame(
    ...     {"chrom": "chr1", "tss": [10, 10], "strand": ["+", "-"]}, index=["a", "b"]
    ... )
    >>> regions = pd.DataFrame({"chrom": ["chr1"], "start": [8], "end": [9]})
    >>> region_labels(Windows(loci, length=6), regions).astype(int)
    array([[0, 1, 0, 0, 0, 0],
           [0, 0, 0, 0, 0, 1]])
    """
    keys = ["chrom"] if gene_column is None else ["chrom", gene_column]
    _check_regions(windows, regions, gene_column)
    merged = {
        key: _merge(group["start"].to_numpy(np.int64), group["end"].to_numpy(np.int64))
        for key, group in regions.groupby(keys, sort=False, observed=True)
    }
    empty = np.empty(0, dtype=np.int64)
    labels = np.zeros((len(windows), windows.length), dtype=bool)
    chroms = windows.loci["chrom"].to_numpy()
    genes, reverse = windows.loci.index, windows.reversed
    for row, start in enumerate(windows.starts):
        key = (chroms[row],) if gene_column is None else (chroms[row], genes[row])
        starts, ends = merged.get(key, (empty, empty))
        first = np.searchsorted(ends, start, side="right")
        last = np.searchsorted(starts, start + windows.length, side="left")
        for k in range(first, last):
            labels[row, max(starts[k] - start, 0) : ends[k] - start] = True
        if reverse[row]:
            labels[row] = labels[row, ::-1].copy()
    return labels


def _check_regions(windows: Windows, regions: pd.DataFrame, gene_column: str | None) -> None:
    needed = ["chrom", "start", "end"] + ([] if gene_column is None else [gene_column])
    missing = [name for name in needed if name not in regions.columns]
    if missing:
        raise ValueError(
            f"regions lacks the columns {missing}; found {list(regions.columns)}. Read a BED file "
            "with read_regions, or rename the columns."
        )
    n_empty = int((regions["end"] <= regions["start"]).sum())
    if n_empty:
        raise ValueError(
            f"{n_empty} of {len(regions)} regions have end <= start; expected 0-based half-open "
            "intervals. Widen points to at least one base, or leave them out."
        )
    own = set(windows.loci["chrom"]) & set(regions["chrom"])
    if len(regions) and len(windows) and not own:
        raise ValueError(
            f"regions and loci share no chromosome: {sorted(set(regions['chrom']))[:5]} against "
            f"{sorted(set(windows.loci['chrom']))[:5]}. Rename one side."
        )
    if gene_column is not None and not set(windows.loci.index) & set(regions[gene_column]):
        raise ValueError(
            f"no gene of windows.loci is in regions[{gene_column!r}]: "
            f"{sorted(map(str, set(windows.loci.index)))[:3]} against "
            f"{sorted(map(str, set(regions[gene_column])))[:3]}. Use the same gene names."
        )


def _merge(starts: _Starts, ends: _Starts) -> tuple[_Starts, _Starts]:
    """Join overlapping and touching intervals into sorted disjoint ones."""
    order = np.argsort(starts, kind="stable")
    starts, reach = starts[order], np.maximum.accumulate(ends[order])
    opens = np.concatenate(([True], starts[1:] > reach[:-1]))
    return starts[opens], reach[np.concatenate((opens[1:], [True]))]
