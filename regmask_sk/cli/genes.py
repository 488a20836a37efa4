"""The genes of a command: read, joined to their values, checked and split."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from regmask_sk.cli.messages import say


def read_genes(
    args: argparse.Namespace, reading: dict[str, Any], target: str | None
) -> pd.DataFrame:
    """Read ``--loci`` and ``--values``.

    Parameters
    ----------
    args : argparse.Namespace
        Of a command that has the options of loci.
    reading : dict
        How to read the file: a value or None for each of ``LOCI_OPTIONS``. Where the file turns
        out to be a table, ``tss_base`` is set to the base that it was read with.
    target : str or None
        Column that ``--drop-missing`` looks at, beside those of ``--values``.

    Returns
    -------
    DataFrame
        Loci, with the columns of ``--values``.

    Raises
    ------
    ValueError
        If a file is not as expected or no gene is left.
    """
    from regmask_sk.loci import read_loci

    options = {name: value for name, value in reading.items() if value is not None}
    options["file_format"] = options.pop("loci_format", "auto")
    if args.blacklist is not None:
        options["blacklist"] = args.blacklist
    if args.tss_base is None:
        base = options.pop("tss_base", 0)
    try:
        loci = read_loci(args.loci, **options)
    except ValueError as error:
        if "tss_base is None" not in str(error):
            raise
        # A table, which cannot say its base; other formats must not be told one.
        say(args, f"the tss column of {args.loci} is read as {base}-based (--tss-base {base})")
        loci = read_loci(args.loci, **options, tss_base=base)
        reading["tss_base"] = base
    if args.exclude_chroms:
        excluded = on_chromosomes(loci, args.exclude_chroms, "--exclude-chroms")
        say(args, f"left out {int(excluded.sum())} of {len(loci)} genes by --exclude-chroms")
        loci = loci[~excluded]
    table = None if args.values is None else _values_table(args.values)
    if table is not None:
        loci = _joined(loci, table, args.values)
    if args.drop_missing:
        columns = [] if table is None else [*table.columns]
        columns += [target] if target in loci.columns and target not in columns else []
        kept = loci[loci[columns].notna().all(axis=1)]
        say(args, f"left out {len(loci) - len(kept)} of {len(loci)} genes with missing values")
        loci = kept
    if loci.empty:
        raise ValueError(f"--loci: no gene is left of {args.loci}; check the file and the options")
    return loci


def _values_table(path: str) -> pd.DataFrame:
    from regmask_sk._text_files import header_of, open_text, read_columns

    with open_text(Path(path)) as lines:
        separator = "\t" if "\t" in lines.readline() else ","
    # Without a name where pandas or R wrote the row names.
    names = header_of(Path(path), separator)[0]
    return read_columns(Path(path), separator, [names]).set_index(names)


def _joined(loci: pd.DataFrame, table: pd.DataFrame, path: str) -> pd.DataFrame:
    if table.index.has_duplicates:
        twice = sorted(set(table.index[table.index.duplicated()]))
        raise ValueError(f"--values: {path} has {_some(twice)} more than once; keep one line each")
    both = sorted(set(table.columns) & set(loci.columns))
    if both:
        raise ValueError(f"--values: {path} and the loci both have {both}; rename one of them")
    if not loci.index.isin(table.index).any():
        raise ValueError(
            f"--values: no gene of the loci ({_some(loci.index)}) is in the first column of "
            f"{path} ({_some(table.index)}); use the same names in both"
        )
    return loci.join(table)


def target_values(loci: pd.DataFrame, column: str, complete: bool = True) -> pd.Series:
    """Take the target column as numbers.

    Parameters
    ----------
    loci : DataFrame
        Loci.
    column : str
        The column.
    complete : bool, default=True
        Whether every gene must have a finite value.

    Returns
    -------
    Series of float64
        One value a gene.

    Raises
    ------
    ValueError
        If there is no such column, or a value is not a number or missing; names the genes.

    Examples
    --------
    >>> loci = pd.DataFrame({"tss": [5], "level": ["high"]}, index=["abc"])
    >>> target_values(loci, "level")
    Traceback (most recent call last):
    ...
    ValueError: --target: 'level' is not a number for abc (such as 'high'); ...
    """
    if column not in loci.columns:
        numeric = [
            name for name in loci.select_dtypes("number").columns if name not in ("tss", "chrom")
        ]
        raise ValueError(
            f"--target: the loci have no column {column!r}, their numeric columns are {numeric}; "
            "name one of these, or give a table with the column as --values FILE"
        )
    values = pd.to_numeric(loci[column], errors="coerce")
    text = loci.index[(values.isna() & loci[column].notna()).to_numpy()]
    if len(text):
        raise ValueError(
            f"--target: {column!r} is not a number for {_some(text)} (such as "
            f"{str(loci[column].loc[text[0]])!r}); correct the column, or name another"
        )
    absent = loci.index[~np.isfinite(values.to_numpy(dtype=float))]
    if len(absent) and complete:
        raise ValueError(
            f"--target: {column!r} has no finite value for {_some(absent)}; fill these in, or "
            "leave the genes out with --drop-missing"
        )
    return values.astype(float)


def on_chromosomes(loci: pd.DataFrame, chroms: list[str] | None, option: str) -> pd.Series:
    """Mark the genes on the chromosomes that an option names.

    Parameters
    ----------
    loci : DataFrame
        Loci.
    chroms : list of str or None
        Chromosomes.
    option : str
        The option, for the error.

    Returns
    -------
    Series of bool
        One a gene.

    Raises
    ------
    ValueError
        If the loci have none of a chromosome.

    Examples
    --------
    >>> loci = pd.DataFrame({"chrom": ["I", "II"]}, index=["abc", "def"])
    >>> on_chromosomes(loci, ["II"], "--test-chroms").tolist()
    [False, True]
    """
    unknown = sorted(set(chroms or ()) - set(loci["chrom"]))
    if unknown:
        have = ", ".join(sorted(loci["chrom"].unique()))
        raise ValueError(f"{option}: the loci have no chromosome {unknown}; they have {have}")
    return loci["chrom"].isin(chroms or [])


def check_split(
    args: argparse.Namespace, loci: pd.DataFrame, test: pd.Series, validation: pd.Series
) -> None:
    """Make sure that test, validation and training genes are apart, and that there are some.

    Parameters
    ----------
    args : argparse.Namespace
        Of ``fit``.
    loci : DataFrame
        Loci.
    test, validation : Series of bool
        The genes of the test and validation chromosomes.

    Raises
    ------
    ValueError
        If a chromosome is in both, no gene is left, or a covariate is not a column of numbers.
    """
    both = sorted(loci["chrom"][test & validation].unique())
    if both:
        raise ValueError(
            f"--validation-chroms: {', '.join(both)} also in --test-chroms; a chromosome can be "
            "in one of them"
        )
    if (test | validation).all():
        raise ValueError("--test-chroms: no gene is left to train on; hold out fewer chromosomes")
    for name in args.covariate or ():
        if name not in loci.columns:
            raise ValueError(
                f"--covariate: the loci have no column {name!r}, they have {[*loci.columns]}; name "
                "one of these, or give a table with the column as --values FILE"
            )
        absent = loci.index[pd.to_numeric(loci[name], errors="coerce").isna().to_numpy()]
        if len(absent):
            raise ValueError(
                f"--covariate: {name!r} is missing or not a number for {_some(absent)}; fill these "
                "in, or leave the genes out of the loci"
            )


def _some(names: Sequence[Any] | pd.Index) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(str(name) for name in names[:3]) + more
