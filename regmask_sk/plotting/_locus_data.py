"""What a picture of a locus shows, cut out of windows and tables, and checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

if TYPE_CHECKING:
    from regmask_sk.windows import Windows

_SEQUENCE = ("A", "C", "G", "T")
_COMPLEMENT = str.maketrans("ACGT", "TGCA")
_BOXES = ("exon", "CDS")


def row_of(windows: Windows, gene: int | str) -> int:
    """Find the row of a gene.

    Parameters
    ----------
    windows : Windows
        Of all genes.
    gene : int or str
        Its row, negative from the end, or its name.

    Returns
    -------
    int
        The row.

    Raises
    ------
    ValueError
        If no row, or more than one, has the name.
    IndexError
        If there is no such row.
    """
    if not isinstance(gene, str):
        row = int(gene)
        if not -len(windows) <= row < len(windows):
            raise IndexError(f"row {row} is out of range: n_samples={len(windows)}.")
        return row % len(windows)
    rows = np.flatnonzero(windows.loci.index.astype(str) == gene)
    if len(rows) != 1:
        raise ValueError(
            f"{len(rows)} rows have the name {gene!r}; expected one. Give the number of the row, "
            "or a name as the index has it."
        )
    return int(rows[0])


def region_in(region: tuple[int, int] | None, start: int, end: int) -> tuple[int, int]:
    """Return what is shown of a window, or say that it is not in it."""
    if region is None:
        return start, end
    first, last = (int(position) for position in region)
    if not start <= first < last <= end:
        raise ValueError(
            f"region is {tuple(region)}; expected (start, end), 0-based and half-open, inside the "
            f"window {start}-{end}."
        )
    return first, last


def drawn_channels(names: tuple[str, ...], asked: Sequence[str] | None) -> list[str]:
    """Name the channels that get a panel, from top to bottom."""
    if asked is None:
        validity = {f"{name}_covered" for name in names}
        return [name for name in names if name not in _SEQUENCE and name not in validity]
    missing = [name for name in asked if name not in names]
    if missing:
        raise ValueError(
            f"channels {missing} are not among those of windows, {names}. Name some of these, or "
            "leave channels out to draw every track."
        )
    return list(asked)


def sequence_of(names: Sequence[str], sample: NDArray[Any], step: int, shown: slice) -> str | None:
    """Read the bases of the plus strand from the channels of one window.

    Parameters
    ----------
    names : sequence of str
        Channels.
    sample : ndarray of shape (n_channels, length)
        The window, in gene orientation.
    step : int
        -1 where it is read on the minus strand.
    shown : slice
        Columns to return, in genomic orientation.

    Returns
    -------
    str or None
        N where a base is none of the four; None without the channels A, C, G and T.

    Examples
    --------
    >>> sequence_of("ACGT", np.eye(4)[:, [0, 0, 2]], -1, slice(None))
    'CTT'
    """
    if not set(_SEQUENCE) <= set(names):
        return None
    one_hot = np.stack([sample[list(names).index(base)] for base in _SEQUENCE])
    codes = np.where(one_hot.max(axis=0) > 0, one_hot.argmax(axis=0), len(_SEQUENCE))
    bases = "".join("ACGTN"[code] for code in codes[::step][shown].tolist())
    return bases.translate(_COMPLEMENT) if step < 0 else bases


def spans(
    table: pd.DataFrame | None, argument: str, chrom: str, start: int, end: int
) -> list[tuple[int, int]] | None:
    """Return the intervals of a table that lie in what is shown, cut to it."""
    if table is None:
        return None
    found = _inside(table, argument, chrom, start, end)
    return [
        (max(int(a), start), min(int(b), end))
        for a, b in zip(found["start"], found["end"], strict=True)
    ]


def gene_models(table: pd.DataFrame, chrom: str, start: int, end: int) -> pd.DataFrame:
    """Gather the rows of an annotation into genes with their exons.

    Parameters
    ----------
    table : DataFrame
        ``start``, ``end`` and, if there, ``chrom``, ``strand``, ``name`` and ``feature``.
    chrom : str
        The chromosome.
    start, end : int
        What is shown, 0-based, half-open.

    Returns
    -------
    DataFrame
        ``start, end, strand, name, exons``; the ends are not cut. Rows of the features exon and
        CDS go to the genes of their strand that hold them.

    Examples
    --------
    >>> table = pd.DataFrame({"start": [10, 10, 40], "end": [60, 20, 60], "strand": "+",
    ...                       "name": "a", "feature": ["gene", "exon", "exon"]})
    >>> gene_models(table, "chr1", 0, 100)["exons"][0]
    [(10, 20), (40, 60)]
    """
    found = _inside(table, "genes", chrom, start, end).reset_index(drop=True)
    for column, default in (("strand", "."), ("name", ""), ("feature", "gene")):
        if column not in found.columns:
            found[column] = default
    is_box = found["feature"].isin(_BOXES)
    genes, boxes = found[~is_box], found[is_box]
    exons = []
    for gene in genes.itertuples(index=False):
        mine = boxes[
            (boxes["start"] >= gene.start)
            & (boxes["end"] <= gene.end)
            & (boxes["strand"] == gene.strand)
        ]
        exons.append(sorted(set(zip(mine["start"].tolist(), mine["end"].tolist(), strict=True))))
    made = genes[["start", "end", "strand", "name"]].reset_index(drop=True)
    made["exons"] = pd.Series(exons, dtype=object)
    return made


def _inside(table: pd.DataFrame, argument: str, chrom: str, start: int, end: int) -> pd.DataFrame:
    missing = [name for name in ("start", "end") if name not in table.columns]
    if missing:
        raise ValueError(
            f"{argument} lacks the columns {missing}; found {list(table.columns)}. Give 0-based "
            "half-open genomic intervals, as gene_elements and read_regions do."
        )
    if "chrom" in table.columns:
        table = table[table["chrom"] == chrom]
    return table[(table["end"] > start) & (table["start"] < end)]
