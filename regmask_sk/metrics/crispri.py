"""Element-gene pairs of CRISPRi screens: a table of them, and scores of each pair.

A screen silences an element and measures a gene: the pair is *regulated* where expression falls.
A mask scores a pair by what it keeps of the element in the gene's window.

References
----------
Gschwind et al., "An encyclopedia of enhancer-gene regulatory interactions in the human genome",
bioRxiv 2023.11.09.563812: the combined table of K562 screens and its use as a benchmark.
Fulco et al., "Activity-by-contact model of enhancer-promoter regulation from thousands of CRISPR
perturbations", Nature Genetics 51 (2019): activity x contact.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from regmask_sk._contact_maps import GAMMA, power_law
from regmask_sk.metrics._checks import score_batches

if TYPE_CHECKING:
    from regmask_sk.windows import Windows

Reduction = Literal["sum", "mean", "max"]

# Columns of the published benchmark tables, and what we call them.
_COLUMNS = {
    "chrom": "chrom",
    "chromStart": "start",
    "chromEnd": "end",
    "measuredGeneSymbol": "gene",
    "startTSS": "tss",
    "distanceToTSS": "distance",
    "Regulated": "regulated",
}
PAIR_COLUMNS = tuple(_COLUMNS.values())
"""Columns that a table of pairs has."""


def read_crispri_pairs(path: str | os.PathLike[str]) -> pd.DataFrame:
    r"""Read a table of CRISPRi element-gene pairs in the layout of the ENCODE-rE2G benchmark.

    Parameters
    ----------
    path : path-like
        Tab-separated text, plain or compressed, with a row for each tested pair and the columns
        ``chrom, chromStart, chromEnd`` (the element, 0-based and half-open),
        ``measuredGeneSymbol, startTSS`` (0-based), ``distanceToTSS`` (base pairs) and
        ``Regulated`` (TRUE or FALSE). More columns are kept as they are.

    Returns
    -------
    pandas.DataFrame
        The same rows, with these columns named ``chrom, start, end, gene, tss, distance,
        regulated``, the last as booleans.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If columns are missing, an element is empty, a coordinate is missing or no whole number,
        or `Regulated` is neither TRUE nor FALSE.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> header = "chrom chromStart chromEnd measuredGeneSymbol startTSS distanceToTSS Regulated"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "pairs.tsv")
    ...     lines = [header, "chr1 100 600 GATA1 5000 4650 TRUE"]
    ...     _ = path.write_text("\n".join(lines).replace(" ", "\t"))
    ...     read_crispri_pairs(path)
      chrom  start  end   gene   tss  distance  regulated
    0  chr1    100  600  GATA1  5000      4650       True
    """
    table = pd.read_csv(path, sep="\t", low_memory=False)
    missing = [name for name in _COLUMNS if name not in table.columns]
    if missing:
        raise ValueError(
            f"{path} has no columns {missing}; its columns are {list(table.columns)[:12]}. "
            "Expected the layout of the ENCODE-rE2G CRISPR benchmark, tab-separated."
        )
    table = table.rename(columns=_COLUMNS)
    flags = table["regulated"].astype(str).str.upper().map({"TRUE": True, "FALSE": False})
    if flags.isna().any():
        found = sorted({str(value) for value in table["regulated"][flags.isna()]})[:5]
        raise ValueError(
            f"{path}: column Regulated holds {found}; expected TRUE or FALSE. Leave those rows out."
        )
    table["regulated"] = flags.astype(bool)
    check_pairs(table, str(path))
    return table


def check_pairs(pairs: pd.DataFrame, name: str) -> None:
    """Refuse a table that is none of pairs.

    Parameters
    ----------
    pairs : pandas.DataFrame
        The table.
    name : str
        What it is, for errors.

    Raises
    ------
    ValueError
        If columns are missing, coordinates are not whole, or an element is empty.
    """
    missing = [column for column in PAIR_COLUMNS if column not in pairs.columns]
    if missing:
        raise ValueError(
            f"{name} lacks the columns {missing}; found {list(pairs.columns)[:12]}. Read the table "
            "with read_crispri_pairs, or rename its columns."
        )
    for column in ("start", "end", "tss", "distance"):
        if not pd.api.types.is_integer_dtype(pairs[column]):
            raise ValueError(
                f"{name}: column {column} has dtype {pairs[column].dtype}; expected whole numbers "
                "of base pairs, without missing ones."
            )
    n_empty = int((pairs["end"] <= pairs["start"]).sum())
    if n_empty:
        raise ValueError(
            f"{name}: {n_empty} of {len(pairs)} elements have end <= start; expected 0-based "
            "half-open intervals."
        )


def mask_pair_scores(
    pairs: pd.DataFrame,
    windows: Windows,
    masks: ArrayLike | Iterable[ArrayLike],
    *,
    reduction: Reduction = "sum",
    gene_column: str | None = None,
) -> NDArray[np.float64]:
    """Score element-gene pairs by what a gene's mask keeps of the element.

    Parameters
    ----------
    pairs : pandas.DataFrame
        Columns ``chrom, start, end, gene, tss, distance, regulated``: :func:`read_crispri_pairs`.
    windows : Windows
        The genes' windows, on the assembly of the pairs; their channels are not read.
    masks : array-like of shape (n_genes, length) or (length,), or an iterator of rows
        Masks or attributions in gene orientation, row by row as `windows`. One vector, such as a
        position-only mask, stands for every gene.
    reduction : {"sum", "mean", "max"}, default="sum"
        The mask's mass over those bases of the element that the window has, its mean, or its
        largest value.
    gene_column : str, optional
        Column of ``windows.loci`` that has the names of ``pairs["gene"]``; by default its index.

    Returns
    -------
    ndarray of shape (n_pairs,)
        NaN where the gene has no window, or the window has no base of the element. What has no
        score is no negative: :func:`pair_table` leaves such pairs out for every predictor.

    Raises
    ------
    ValueError
        If columns are missing, no gene is shared, a gene has several windows (keep one TSS a
        gene), a gene's chromosome is another one in the windows, shapes do not agree, or
        `reduction` is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> from regmask_sk.windows import Windows
    >>> loci = pd.DataFrame({"chrom": ["chr1"], "tss": [1000], "strand": ["-"]}, index=["GATA1"])
    >>> mask = np.zeros((1, 200))
    >>> mask[0, :10] = 0.5  # the 5' end of the window: 1091 to 1100 on the plus strand
    >>> pairs = pd.DataFrame({
    ...     "chrom": "chr1", "start": [1090, 950, 5000], "end": [1200, 960, 5500],
    ...     "gene": "GATA1", "tss": 1000, "distance": [145, 45, 4250], "regulated": True,
    ... })
    >>> mask_pair_scores(pairs, Windows(loci, length=200), mask)
    array([ 5.,  0., nan])
    """
    if reduction not in get_args(Reduction):
        raise ValueError(f"reduction is {reduction!r}; expected one of {get_args(Reduction)}.")
    check_pairs(pairs, "pairs")
    loci = windows.loci
    if gene_column is not None and gene_column not in loci.columns:
        raise ValueError(
            f"gene_column is {gene_column!r}; the columns of windows.loci are {list(loci.columns)}."
        )
    genes = pd.Index(loci.index if gene_column is None else loci[gene_column])
    wanted = pairs["gene"].unique()
    if not genes.isin(wanted).any():
        raise ValueError(
            f"no gene of the pairs has a window: {[str(name) for name in wanted[:3]]} against "
            f"{[str(name) for name in genes[:3]]}. Use the same names, or give gene_column."
        )
    twice = genes[genes.duplicated() & genes.isin(wanted)].unique()
    if len(twice):
        raise ValueError(
            f"{len(twice)} genes of the pairs have several windows, such as {twice[0]!r}. Keep one "
            "row a gene, that of the TSS which the screen assigns."
        )
    row_of = pd.Series(np.arange(len(genes)), index=genes)
    rows = pairs["gene"].map(row_of[~genes.duplicated()]).to_numpy(dtype=np.float64)
    known = np.flatnonzero(~np.isnan(rows))
    rows = np.where(np.isnan(rows), -1, rows).astype(np.int64)
    chroms, own = loci["chrom"].to_numpy(dtype=str), pairs["chrom"].to_numpy(dtype=str)
    apart = known[chroms[rows[known]] != own[known]]
    if len(apart):
        pair = pairs.iloc[apart[0]]
        raise ValueError(
            f"{len(apart)} pairs lie on another chromosome than the window of their gene, the "
            f"first {pair['gene']!r}: {pair['chrom']} against {chroms[rows[apart[0]]]}. Name "
            "chromosomes alike, and use one assembly."
        )
    scores = np.full(len(pairs), np.nan)
    by_row: dict[int, list[int]] = {}
    for number, row in zip(known.tolist(), rows[known].tolist(), strict=True):
        by_row.setdefault(row, []).append(number)
    begin = pairs["start"].to_numpy() - windows.starts[rows]
    end = pairs["end"].to_numpy() - windows.starts[rows]
    length = windows.length
    low, high = np.clip(begin, 0, length), np.clip(end, 0, length)
    turned = windows.reversed[rows]
    first, last = np.where(turned, length - high, low), np.where(turned, length - low, high)
    reduce: Callable[[NDArray[np.float64]], np.float64] = getattr(np, reduction)
    for row, batch in enumerate(score_batches(masks, len(windows), length, 1)):
        for number in by_row.get(row, ()):
            if low[number] < high[number]:
                scores[number] = reduce(batch[0, first[number] : last[number]])
    return scores


def activity_contact(
    pairs: pd.DataFrame,
    activity: Iterable[str] = ("DHS.RPM", "H3K27ac.RPM"),
    *,
    contact: str | None = None,
    gamma: float = GAMMA,
    shortest: int = 5_000,
    normalise: bool = False,
) -> NDArray[np.float64]:
    """Score pairs by activity times contact, the baseline that needs no window.

    Parameters
    ----------
    pairs : pandas.DataFrame
        Pairs, with columns of the element's signal.
    activity : iterable of str, default=("DHS.RPM", "H3K27ac.RPM")
        Columns whose geometric mean is the activity.
    contact : str, optional
        Column of contact; by default a power law of the distance.
    gamma : float, default=0.87
        Exponent of the power law.
    shortest : int, default=5000
        Base pairs; smaller distances count as that.
    normalise : bool, default=False
        Whether to divide by the sum over the elements in the table that were tested for the same
        gene. The published score divides by the sum over *all* elements within 5 Mb, which a
        table of tested pairs does not have.

    Returns
    -------
    ndarray of shape (n_pairs,)
        Scores; with `normalise` NaN where those of a gene are all 0.

    Raises
    ------
    ValueError
        If a column is missing, or holds negative or missing values.

    References
    ----------
    Fulco et al., Nature Genetics 51 (2019).

    Examples
    --------
    >>> import pandas as pd
    >>> pairs = pd.DataFrame({
    ...     "chrom": "chr1", "start": [0, 50], "end": [10, 60], "gene": "a", "tss": 0,
    ...     "distance": [1000, 10_000], "regulated": [True, False], "DHS.RPM": [4.0, 1.0],
    ...     "H3K27ac.RPM": [1.0, 1.0],
    ... })
    >>> activity_contact(pairs, gamma=1.0, shortest=1000)
    array([2. , 0.1])
    """
    check_pairs(pairs, "pairs")
    names = [activity] if isinstance(activity, str) else list(activity)
    columns = [*names] if contact is None else [*names, contact]
    missing = [name for name in columns if name not in pairs.columns]
    if missing or not names:
        raise ValueError(
            f"pairs lacks the columns {missing} of activity and contact; found "
            f"{list(pairs.columns)[:12]}. Name columns that it has."
        )
    for name in columns:
        values = pairs[name].to_numpy(dtype=np.float64)
        if not (values >= 0).all():
            raise ValueError(
                f"column {name} holds {int((~(values >= 0)).sum())} negative or missing values; "
                "expected signal of 0 or more."
            )
    signal = pairs[names].to_numpy(dtype=np.float64)
    strength = np.prod(signal, axis=1) ** (1 / len(names))
    if contact is None:
        meeting = power_law(pairs["distance"].abs(), bin_size=shortest, gamma=gamma)
    else:
        meeting = pairs[contact].to_numpy(dtype=np.float64)
    scores = pd.Series(strength * meeting)
    if normalise:
        total = scores.groupby(pairs["gene"].to_numpy()).transform("sum")
        scores = scores / total.where(total > 0)
    return scores.to_numpy(dtype=np.float64)
