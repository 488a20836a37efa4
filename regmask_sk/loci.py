"""The loci table: one row a gene, with its transcription start site.

Positions are 0-based in the table; each file format is converted by its own rule.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
import pandas as pd

from regmask_sk._text_files import (
    as_integers,
    bed_lines,
    open_text,
    read_annotation,
    read_bed,
    read_columns,
)

FileFormat = Literal["auto", "table", "bed", "gtf", "gff3"]
_Known = Literal["table", "bed", "gtf", "gff3"]

_SUFFIXES: dict[str, _Known] = {
    ".bed": "bed",
    ".csv": "table",
    ".gff": "gff3",
    ".gff3": "gff3",
    ".gtf": "gtf",
    ".tab": "table",
    ".tsv": "table",
    ".txt": "table",
}


def read_loci(
    path: str | os.PathLike[str],
    *,
    file_format: FileFormat = "auto",
    tss_base: Literal[0, 1] | None = None,
    separator: str | None = None,
    name_column: str = "gene",
    chrom_column: str = "chrom",
    tss_column: str = "tss",
    strand_column: str = "strand",
    allow_unstranded: bool = False,
    feature: str = "gene",
    name_attribute: str | None = None,
    blacklist: str | os.PathLike[str] | None = None,
) -> pd.DataFrame:
    r"""Read genes and their transcription start sites (TSS) from a table, BED, GTF or GFF3 file.

    Parameters
    ----------
    path : str or path-like
        The file, plain or compressed with gzip.
    file_format : {"auto", "table", "bed", "gtf", "gff3"}, default="auto"
        Format of the file; "auto" goes by its name (.tsv, .csv, .txt, .tab; .bed; .gtf; .gff3,
        .gff; each with or without .gz).
    tss_base : {0, 1}, optional
        Coordinate of the first base of a chromosome in the TSS column of a table, for which it
        must be given. BED and GTF/GFF3 have their own rules: the TSS is the first base of the
        interval on the plus strand, its last on the minus strand.
    separator : str, optional
        Column separator of a table; by default a tab if the header has one, else a comma.
    name_column, chrom_column, tss_column, strand_column : str
        Columns of a table.
    allow_unstranded : bool, default=False
        Whether strand may be ``.``; such a gene is read as if on the plus strand, and needs a
        table, because the TSS of an interval depends on its strand.
    feature : str, default="gene"
        Feature type (third column) of the GTF/GFF3 rows to read.
    name_attribute : str, optional
        Attribute of a GTF/GFF3 row that names the gene; by default ``gene_id`` in GTF and ``ID`` in
        GFF3.
    blacklist : str or path-like, optional
        BED file; genes whose TSS lies in one of its regions are left out, with a warning.

    Returns
    -------
    pandas.DataFrame
        Index ``gene``; columns ``chrom``, ``tss`` (int64, 0-based), ``strand``, then the other
        columns of a table.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file or a value in it is not what is expected; the message says where.

    Warns
    -----
    UserWarning
        If names or positions occur more than once, or genes are left out for the blacklist.

    See Also
    --------
    check_loci : Checks a table made by other means.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "genes.tsv")
    ...     _ = path.write_text("gene\tchrom\ttss\tstrand\tgc\nabc\tchr1\t101\t-\t0.4\n")
    ...     print(read_loci(path, tss_base=1))
         chrom  tss strand   gc
    gene
    abc   chr1  100      -  0.4
    """
    path = Path(path)
    found = _find_format(path, file_format)
    if found == "table":
        if tss_base not in (0, 1):
            raise ValueError(
                f"tss_base is {tss_base}; expected 0 or 1, the coordinate of a chromosome's first "
                f"base in column {tss_column!r} of {path}. A table does not say which it is."
            )
        columns = {
            name_column: "gene",
            chrom_column: "chrom",
            tss_column: "tss",
            strand_column: "strand",
        }
        loci = _read_table(path, separator, columns)
        if (loci["tss"] < tss_base).any():
            gene = loci[loci["tss"] < tss_base].iloc[0]
            raise ValueError(
                f"column {tss_column!r} of {path} holds {gene['tss']} (gene {gene['gene']!r}), "
                f"which is before the first base, {tss_base}. Check tss_base."
            )
        loci["tss"] -= tss_base
    else:
        if tss_base is not None:
            raise ValueError(
                f"tss_base is {tss_base}, but {path} is read as {found}, which has its own "
                "rule. Leave tss_base out, or give file_format='table'."
            )
        if found == "bed":
            intervals = read_bed(path, n_required=6).rename(columns={"name": "gene"})
        else:
            intervals = read_annotation(path, found, feature, name_attribute)
        loci = _tss_of_intervals(intervals, path)[["gene", "chrom", "tss", "strand"]]
    nameless = loci["gene"].isna() | (loci["gene"] == "")
    if nameless.any():
        gene = loci[nameless].iloc[0]
        raise ValueError(
            f"{path}: {int(nameless.sum())} genes have no name, the first at {gene['chrom']}:"
            f"{gene['tss']} (0-based). Give each a name, or choose another column or attribute "
            "with name_column or name_attribute."
        )
    loci = loci.set_index("gene")
    first = ["chrom", "tss", "strand"]
    loci = loci[first + [column for column in loci.columns if column not in first]]
    try:
        check_loci(loci, allow_unstranded=allow_unstranded and found == "table")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    _warn_duplicates(loci, path)
    return loci if blacklist is None else _leave_out(loci, blacklist)


def check_loci(loci: pd.DataFrame, *, allow_unstranded: bool = True) -> pd.DataFrame:
    """Check a loci table.

    Parameters
    ----------
    loci : pandas.DataFrame
        Columns ``chrom``, ``tss`` (0-based integers) and ``strand`` (``+``, ``-`` or ``.``).
    allow_unstranded : bool, default=True
        Whether strand may be ``.``.

    Returns
    -------
    pandas.DataFrame
        `loci`, unchanged.

    Raises
    ------
    TypeError
        If `loci` is not a DataFrame.
    ValueError
        If a column is missing or holds something else; the message names the genes.

    Examples
    --------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"chrom": ["chr1"], "tss": [100], "strand": ["+"]}, index=["abc"])
    >>> check_loci(table) is table
    True
    """
    if not isinstance(loci, pd.DataFrame):
        raise TypeError(
            f"loci is a {type(loci).__name__}; expected a pandas DataFrame with columns chrom, tss "
            "and strand. read_loci reads one."
        )
    missing = [name for name in ("chrom", "tss", "strand") if name not in loci.columns]
    if missing:
        raise ValueError(
            f"loci has no column {', '.join(missing)}; its columns are {list(loci.columns)}. "
            "Rename columns, or read the table with read_loci."
        )
    repeated = loci.columns[loci.columns.duplicated()]
    if len(repeated):
        raise ValueError(f"loci has several columns named {list(repeated)}. Rename them.")
    if len(loci) == 0:
        raise ValueError("loci has no rows; expected at least one gene.")
    chrom, tss, strand = loci["chrom"], loci["tss"], loci["strand"]
    _require(loci, chrom.map(lambda value: isinstance(value, str) and value != ""), "chrom",
             "a chromosome name (str)")  # fmt: skip
    if not pd.api.types.is_integer_dtype(tss.dtype):
        raise ValueError(
            f"column tss of loci has dtype {tss.dtype}; expected integers (0-based positions). "
            "Convert it with astype('int64')."
        )
    _require(loci, tss.notna() & (tss >= 0), "tss", "a 0-based position, 0 or more")
    allowed = ["+", "-", "."] if allow_unstranded else ["+", "-"]
    hint = "" if allow_unstranded else ", or '.' with allow_unstranded=True"
    _require(loci, strand.isin(allowed), "strand", f"one of {', '.join(map(repr, allowed))}{hint}")
    return loci


def read_regions(path: str | os.PathLike[str]) -> pd.DataFrame:
    r"""Read a BED file, or a table with columns ``chrom``, ``start`` and ``end``.

    Parameters
    ----------
    path : str or path-like
        The file, plain or compressed with gzip; of narrowPeak and broadPeak files the columns that
        BED has too are read. A table is known by its header and is tab-separated; coordinates are
        0-based and half-open in either.

    Returns
    -------
    pandas.DataFrame
        Columns ``chrom``, ``start``, ``end`` (int64), then those that the file has of ``name``,
        ``score``, ``strand``, or the table's own.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a line is not a region.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "regions.bed")
    ...     _ = path.write_text("chr1\t10\t20\tx\n")
    ...     print(read_regions(path))
      chrom  start  end name
    0  chr1     10   20    x
    """
    path = Path(path)
    with open_text(path) as lines:
        first = next(bed_lines(lines), (0, [""]))[1]
    if {"chrom", "start", "end"} <= set(first):
        regions = read_columns(path, "\t", ["chrom"])
        lead = ["chrom", "start", "end"]
        regions = regions[lead + [column for column in regions.columns if column not in lead]]
        for column in ("start", "end"):
            regions[column] = as_integers(regions[column], column, path)
    else:
        regions = read_bed(path, n_required=3)
    wrong = (regions["start"] < 0) | (regions["end"] < regions["start"])
    if wrong.any():
        row = regions[wrong].iloc[0]
        raise ValueError(
            f"{path}: {int(wrong.sum())} regions have start < 0 or end < start, the first "
            f"{row['chrom']}:{row['start']}-{row['end']}. Expected 0-based half-open coordinates."
        )
    return regions


def _find_format(path: Path, file_format: str) -> _Known:
    known = get_args(_Known)
    if file_format in known:
        return cast(_Known, file_format)
    if file_format != "auto":
        raise ValueError(f"file_format is {file_format!r}; expected 'auto' or one of {known}.")
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() not in (".gz", ".bgz")]
    found = _SUFFIXES.get(suffixes[-1]) if suffixes else None
    if found is None:
        raise ValueError(
            f"the format of {path} cannot be told from its name; expected one that ends in "
            f"{', '.join(_SUFFIXES)} (with or without .gz). Give file_format, one of {known}."
        )
    return found


def _read_table(path: Path, separator: str | None, columns: dict[str, str]) -> pd.DataFrame:
    if separator is None:
        with open_text(path) as lines:
            separator = "\t" if "\t" in lines.readline() else ","
    texts = [column for column, name in columns.items() if name != "tss"]
    table = read_columns(path, separator, texts)
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ValueError(
            f"{path} has no column {', '.join(map(repr, missing))}; its columns are "
            f"{list(table.columns)}. Name the right ones with name_column, chrom_column, "
            "tss_column and strand_column, or the separator."
        )
    taken = set(table.columns) - set(columns)
    clash = [name for name in columns.values() if name in taken]
    if clash:
        raise ValueError(
            f"{path} has columns named {clash} beside those chosen by name_column, chrom_column, "
            "tss_column and strand_column. Rename or remove them."
        )
    table = table.rename(columns=columns)
    table["tss"] = as_integers(table["tss"], "tss", path, table["gene"])
    return table


def _tss_of_intervals(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Add the first base on the plus strand, the last on the minus strand."""
    wrong = (table["start"] < 0) | (table["end"] <= table["start"])
    if wrong.any():
        gene = table[wrong].iloc[0]
        raise ValueError(
            f"{path}: {int(wrong.sum())} genes have no bases, the first {gene['gene']!r} at "
            f"{gene['chrom']}:{gene['start']}-{gene['end']} (0-based, half-open)."
        )
    unknown = sorted(set(table["strand"]) - {"+", "-"})
    if unknown:
        gene = table[~table["strand"].isin(["+", "-"])].iloc[0]
        raise ValueError(
            f"{path}: strand {', '.join(map(repr, unknown))}, first of gene {gene['gene']!r}; "
            "expected '+' or '-', because the TSS is the interval's first or last base by strand. "
            "Give genes without a strand as a table with a tss column and allow_unstranded=True."
        )
    tss = np.where(table["strand"] == "+", table["start"], table["end"] - 1)
    return table.assign(tss=tss.astype("int64"))


def _require(loci: pd.DataFrame, good: pd.Series, column: str, expected: str) -> None:
    wrong = ~good.to_numpy(dtype=bool)
    if wrong.any():
        genes = [str(name) for name in loci.index[wrong][:5]]
        values = list(dict.fromkeys(map(str, loci[column][wrong])))[:5]
        raise ValueError(
            f"column {column} of loci holds {', '.join(map(repr, values))} for {int(wrong.sum())} "
            f"genes (first {', '.join(genes)}); expected {expected}."
        )


def _warn_duplicates(loci: pd.DataFrame, path: Path) -> None:
    names = loci.index[loci.index.duplicated()].unique()
    if len(names):
        warnings.warn(
            f"{path}: {len(names)} gene names occur more than once, such as "
            f"{', '.join(map(str, names[:5]))}. All rows are kept.",
            UserWarning,
            stacklevel=3,
        )
    place = ["chrom", "tss", "strand"] + [c for c in ("cell_type",) if c in loci.columns]
    same = loci.duplicated(place)
    if same.any():
        warnings.warn(
            f"{path}: {int(same.sum())} genes share their {', '.join(place)} with an earlier one, "
            f"such as {', '.join(map(str, loci.index[same][:5]))}. All rows are kept; keep such "
            "genes on one side of any split.",
            UserWarning,
            stacklevel=3,
        )


def _leave_out(loci: pd.DataFrame, blacklist: str | os.PathLike[str]) -> pd.DataFrame:
    regions = read_regions(blacklist)
    unknown = not set(regions["chrom"]) & set(loci["chrom"])
    if unknown:
        raise ValueError(
            f"blacklist {blacklist} shares no chromosome with the loci: it has "
            f"{sorted(set(regions['chrom']))[:8]}, they have {sorted(set(loci['chrom']))[:8]}."
        )
    listed = np.zeros(len(loci), dtype=bool)
    tss, chrom = loci["tss"].to_numpy(), loci["chrom"].to_numpy(dtype=object)
    for name, group in regions.groupby("chrom"):
        here = np.flatnonzero(chrom == name)
        # a position is covered where more regions have begun than ended
        begun = np.searchsorted(np.sort(group["start"].to_numpy()), tss[here], side="right")
        ended = np.searchsorted(np.sort(group["end"].to_numpy()), tss[here], side="right")
        listed[here] = begun > ended
    if listed.any():
        warnings.warn(
            f"{int(listed.sum())} of {len(loci)} genes are left out because their TSS lies in a "
            f"region of blacklist {blacklist}: {', '.join(map(str, loci.index[listed][:10]))}"
            f"{', ...' if listed.sum() > 10 else ''}.",
            UserWarning,
            stacklevel=3,
        )
    return loci[~listed]
