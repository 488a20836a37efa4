"""The elements of a report: those that change predictions most, and the motifs in them."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from regmask_sk.export import gene_elements
from regmask_sk.loci import read_regions
from regmask_sk.report._data import Genes
from regmask_sk.report._page import Table, number

_MOST_CLOSED = 256  # elements that are closed one by one
_MOST_MOTIFS = 4  # names in a cell
#: Columns that rank motifs in an element, the best first, and whether less is better.
_RANKS = (("q_value", True), ("p_value", True), ("score", False))


def read_motif_table(path: str | os.PathLike[str]) -> pd.DataFrame:
    r"""Read a table of motif occurrences.

    Parameters
    ----------
    path : str or path-like
        Tab-separated, with a header: ``chrom``, ``start``, ``end`` (0-based, half-open) and
        ``motif``, its name; optionally ``q_value``, ``p_value`` (less is better) or ``score``
        (more is better), by the first of which motifs of one element are sorted. Further columns
        are kept.

    Returns
    -------
    pandas.DataFrame
        One row an occurrence.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a column is missing, or a line is not as expected.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "motifs.tsv")
    ...     _ = path.write_text("chrom\tstart\tend\tmotif\nchr1\t10\t20\tABF1\n")
    ...     print(read_motif_table(path))
      chrom  start  end motif
    0  chr1     10   20  ABF1
    """
    table = read_regions(path)
    if "motif" not in table.columns:
        raise ValueError(
            f"{path} lacks the column 'motif'; found {list(table.columns)}. Expected a header with "
            "chrom, start, end and motif, parted by tabs."
        )
    return table


def top_elements(
    genes: Genes,
    model: Any,
    rows: NDArray[np.intp],
    masks: NDArray[Any],
    *,
    calling: dict[str, Any],
) -> pd.DataFrame:
    """Call elements outside of the promoter window and close the surest of them, one by one.

    Parameters
    ----------
    genes : Genes
        All of them.
    model : estimator
        With ``predict_masked``, or without: then elements have no effect.
    rows : ndarray of int
        Genes whose masks are given.
    masks : ndarray of shape (len(rows), length)
        Their masks.
    calling : dict
        Options of :func:`regmask_sk.gene_elements`.

    Returns
    -------
    DataFrame
        One row an element, those with the greatest effect first: ``gene, chrom, start, end``,
        ``distance`` (base pairs from the TSS to the element's middle, downstream positive),
        ``mask`` (mean over the element), ``effect`` (prediction with the gene's mask less
        prediction with this element closed). At most 256, those with the highest mean mask, and
        the widest of equals.
    """
    promoter = getattr(model, "promoter_columns_", slice(0, 0))
    found = []
    sizes = genes.windows.chrom_sizes
    for place, row in enumerate(rows.tolist()):
        called = gene_elements(genes.windows, row, masks[place], chrom_sizes=sizes, **calling)
        start, length = int(genes.windows.starts[row]), genes.windows.length
        turned = bool(genes.windows.reversed[row])
        for low, high in zip(called["start"], called["end"], strict=True):
            first, last = low - start, high - start
            if turned:
                first, last = length - last, length - first
            if first < promoter.stop and last > promoter.start:
                continue  # the promoter window is open in every gene, and is no finding
            found.append(
                {
                    "gene": str(genes.loci.index[row]), "chrom": called["chrom"].iloc[0],
                    "start": low, "end": high, "distance": (first + last - 1) // 2 - length // 2,
                    "mask": float(masks[place, first:last].mean()),
                    "place": place, "first": first, "last": last,
                }
            )  # fmt: skip
    columns = ["gene", "chrom", "start", "end", "distance", "mask", "place", "first", "last"]
    table = pd.DataFrame(found, columns=columns)
    table["width"] = table["end"] - table["start"]
    table = table.sort_values(["mask", "width"], ascending=False, kind="stable")
    table = table.head(_MOST_CLOSED).reset_index(drop=True)
    table["effect"] = _effects(genes, model, rows, masks, table)
    if table["effect"].notna().any():
        by_effect = table["effect"].abs().sort_values(ascending=False, kind="stable").index
        table = table.loc[by_effect].reset_index(drop=True)
    return table.drop(columns=["place", "first", "last", "width"])


def _effects(
    genes: Genes,
    model: Any,
    rows: NDArray[np.intp],
    masks: NDArray[Any],
    table: pd.DataFrame,
) -> NDArray[np.float64]:
    if not hasattr(model, "predict_masked") or table.empty:
        return np.full(len(table), np.nan)
    effects = []
    for start in range(0, len(table), 32):
        part = table.iloc[start : start + 32]
        places = part["place"].to_numpy()
        whole = masks[places]
        closed = whole.copy()
        for k, (first, last) in enumerate(zip(part["first"], part["last"], strict=True)):
            closed[k, first:last] = 0.0
        windows = genes.windows[rows[places]]
        with_it, without = (model.predict_masked(windows, m) for m in (whole, closed))
        effects.append(np.asarray(with_it) - np.asarray(without))
    return np.concatenate(effects)


def motifs_in(table: pd.DataFrame, elements: pd.DataFrame) -> list[str]:
    """Name the motifs that lie in each element, the best first.

    Parameters
    ----------
    table : DataFrame
        As :func:`read_motif_table` gives it.
    elements : DataFrame
        ``chrom``, ``start``, ``end``.

    Returns
    -------
    list of str
        Names of the motifs that lie in the element with all their bases, each once.

    Examples
    --------
    >>> hits = pd.DataFrame({"chrom": "I", "start": [5, 90], "end": [9, 99], "motif": ["A", "B"],
    ...                      "score": [1, 2]})
    >>> motifs_in(hits, pd.DataFrame({"chrom": ["I", "I"], "start": [0, 200], "end": [99, 300]}))
    ['B, A', 'none']
    """
    for column, ascending in _RANKS:
        if column in table.columns:
            table = table.sort_values(column, ascending=ascending, kind="stable")
            break
    by_chrom = dict(tuple(table.groupby(table["chrom"].astype(str), sort=False)))
    found = []
    for chrom, start, end in elements[["chrom", "start", "end"]].itertuples(index=False):
        hits = by_chrom.get(str(chrom), table.iloc[:0])
        inside = hits[(hits["start"] >= start) & (hits["end"] <= end)]
        names = list(dict.fromkeys(inside["motif"].astype(str)))
        more = len(names) - _MOST_MOTIFS
        shown = ", ".join(names[:_MOST_MOTIFS]) or "none"
        found.append(f"{shown} and {more} more" if more > 0 else shown)
    return found


def element_parts(
    elements: pd.DataFrame, motifs: pd.DataFrame | None, *, n_shown: int, calling: dict[str, Any]
) -> list[tuple[str, Any]]:
    """Show the elements with the greatest effects.

    Parameters
    ----------
    elements : DataFrame
        Of :func:`top_elements`.
    motifs : DataFrame or None
        Of :func:`read_motif_table`.
    n_shown : int
        The most rows.
    calling : dict
        Options with which they were called.

    Returns
    -------
    list of (kind, part)
        For the template.
    """
    how = (
        f"Elements are runs of bases whose mask is at least {calling['threshold']:g}, "
        f"{calling['min_width']} bp wide or more, those at most {calling['merge_gap']} bp apart "
        "joined. Those that touch the promoter window are left out: it is open in every gene."
    )
    if elements.empty:
        return [("text", how), ("text", "No element was called outside of the promoter window.")]
    shown = elements.head(n_shown)
    columns = ["gene", "element (0-based, half-open)", "bp", "distance to the TSS (bp)",
               "mean mask", "effect on the prediction"]  # fmt: skip
    rows = [
        [
            str(row.gene),
            f"{row.chrom}:{row.start:,}-{row.end:,}",
            number(int(row.end - row.start)),
            f"{row.distance:+,}",
            number(float(row.mask)),
            number(float(row.effect)),
        ]
        for row in shown.itertuples(index=False)
    ]
    texts = {1}
    if motifs is not None:
        columns.append("motifs")
        texts.add(len(columns) - 1)
        rows = [[*row, names] for row, names in zip(rows, motifs_in(motifs, shown), strict=True)]
    caption = (
        f"{len(shown)} of {len(elements)} elements, by the size of their effect: the prediction "
        "with the gene's mask less that with this one element closed, in units of the target."
        if elements["effect"].notna().any()
        else f"{len(shown)} of {len(elements)} elements, by their mean mask."
    )
    return [("text", how), ("table", Table(caption, columns, rows, frozenset(texts)))]
