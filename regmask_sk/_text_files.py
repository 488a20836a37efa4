"""Text files of intervals and tables: plain or gzipped, with errors that say file and line."""

from __future__ import annotations

import gzip
import io
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal
from urllib.parse import unquote

import numpy as np
import pandas as pd

# Not applied to names: a gene may be called NA, or a chromosome.
_MISSING = ["", "#N/A", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"]
_GTF_ATTRIBUTE = re.compile(r'\s*([^\s;"]+)\s+(?:"([^"]*)"|([^;"\s]+))\s*(?:;|$)')
_BED_COLUMNS = ("chrom", "start", "end", "name", "score", "strand")
_BEDPE_COLUMNS = ("chrom1", "start1", "end1", "chrom2", "start2", "end2")


@contextmanager
def open_text(path: Path) -> Iterator[IO[str]]:
    """Open a file, compressed or not, and say which one it is if it cannot be read."""
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == b"\x1f\x8b"
        opener = gzip.open if zipped else open
        with opener(path, "rt", encoding="utf-8-sig") as lines:
            yield lines
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist. Check the path.") from None
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} cannot be read as text: {error}. Check that it is complete and of the right "
            "kind."
        ) from error


def header_of(path: Path, separator: str) -> list[str]:
    """Names of a table's columns, as they are written; ``""`` for one without a name."""
    with open_text(path) as lines:
        line = next(iter(lines), "").rstrip("\r\n")
    if not line:
        raise ValueError(f"{path} cannot be read as a table: it is empty, or its first line is.")
    try:
        row = pd.read_csv(
            io.StringIO(line), sep=separator, header=None, dtype=str, keep_default_na=False
        )
    except ValueError as error:
        raise ValueError(f"the first line of {path} cannot be read: {error}.") from error
    names = [str(name) for name in row.iloc[0]]
    # pandas would give the second of a name another one, and it would not be missed.
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"{path} has several columns named {', '.join(map(repr, twice))}. Rename or remove all "
            "but one."
        )
    return names


def read_columns(path: Path, separator: str, texts: list[str]) -> pd.DataFrame:
    """Read a table with a header; the columns `texts` are kept as they are written."""
    names = header_of(path, separator)
    with open_text(path) as lines, warnings.catch_warnings():
        # pandas would cut rows that are longer than the header.
        warnings.simplefilter("error", pd.errors.ParserWarning)
        next(lines)
        try:
            table = pd.read_csv(
                lines,
                sep=separator,
                names=names,
                index_col=False,
                dtype=dict.fromkeys(texts, str),
                keep_default_na=False,
                na_values={name: _MISSING for name in names if name not in texts},
            )
        except (ValueError, pd.errors.ParserWarning) as error:
            if isinstance(error, UnicodeDecodeError):
                raise
            raise ValueError(
                f"{path} cannot be read as a table: {str(error).strip().rstrip('.')}. Check that "
                "all rows have the fields of the header and that quotes are closed."
            ) from error
    if len(table) == 0:
        raise ValueError(f"{path} has a header and no rows; expected at least one.")
    _refuse_fields_over_lines(table, path)
    return table


def _refuse_fields_over_lines(table: pd.DataFrame, path: Path) -> None:
    """Between a stray quote and the next one rows are swallowed: they become one field."""
    for name in table.columns:
        if pd.api.types.is_numeric_dtype(table[name].dtype):
            continue
        broken = table[name].map(lambda value: isinstance(value, str) and "\n" in value)
        if broken.any():
            row = int(np.flatnonzero(broken)[0])
            first = str(table[name].iloc[row]).splitlines()[0]
            raise ValueError(
                f"column {name!r} of {path} has a field that goes on over a line's end: data row "
                f"{row + 1}, from {first!r} on. Remove the stray quote, or the line break."
            )


def as_integers(
    column: pd.Series, name: str, path: Path, genes: pd.Series | None = None
) -> pd.Series:
    """Turn a column into int64, or say which value is not an integer."""
    numbers = pd.to_numeric(column, errors="coerce").astype("float64")
    wrong = ~np.isfinite(numbers) | (numbers % 1 != 0)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        where = f"data row {row + 1}" if genes is None else f"gene {genes.iloc[row]!r}"
        raise ValueError(
            f"column {name!r} of {path} holds {int(wrong.sum())} values that are not integers, the "
            f"first {str(column.iloc[row])!r} ({where}). Expected positions in base pairs."
        )
    return numbers.astype("int64")


def bed_lines(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Give number and fields of each line that is no comment, track or browser line."""
    for number, line in enumerate(lines, start=1):
        text = line.rstrip("\r\n")
        fields = text.split("\t") if "\t" in text else text.split()
        # "track name=x", but not a scaffold that is called track_7
        if line.strip() and text[0] != "#" and text.split()[0] not in ("track", "browser"):
            yield number, fields


def read_bed(path: Path, n_required: int) -> pd.DataFrame:
    """Read the first 3 to 6 columns of a BED file, those that all lines have."""
    rows = []
    with open_text(path) as lines:
        for number, fields in bed_lines(lines):
            if len(fields) < n_required:
                raise ValueError(
                    f"{path}, line {number}: {len(fields)} columns; expected at least {n_required} "
                    f"({', '.join(_BED_COLUMNS[:n_required])})."
                )
            try:
                rows.append((fields[0], int(fields[1]), int(fields[2]), *fields[3:6]))
            except ValueError:
                raise ValueError(
                    f"{path}, line {number}: start {fields[1]!r} and end {fields[2]!r} are not "
                    "both integers. Expected BED: chrom, start, end, without a header."
                ) from None
    if not rows:
        raise ValueError(f"{path} holds no regions; expected at least one line of BED.")
    width = min(map(len, rows))
    return pd.DataFrame([row[:width] for row in rows], columns=list(_BED_COLUMNS[:width]))


def read_bedpe(path: Path) -> pd.DataFrame:
    """Read the six columns of a BEDPE file that say where the two ends of a loop are."""
    rows = []
    with open_text(path) as lines:
        for number, fields in bed_lines(lines):
            if len(fields) < len(_BEDPE_COLUMNS):
                raise ValueError(
                    f"{path}, line {number}: {len(fields)} columns; expected at least "
                    f"{len(_BEDPE_COLUMNS)} ({', '.join(_BEDPE_COLUMNS)})."
                )
            try:
                one, other = (int(fields[1]), int(fields[2])), (int(fields[4]), int(fields[5]))
            except ValueError:
                raise ValueError(
                    f"{path}, line {number}: {fields[1:3] + fields[4:6]} are not all integers. "
                    f"Expected BEDPE: {', '.join(_BEDPE_COLUMNS)}; a header begins with #."
                ) from None
            if not (0 <= one[0] < one[1] and 0 <= other[0] < other[1]):
                raise ValueError(
                    f"{path}, line {number}: an end at {fields[0]}:{one[0]}-{one[1]}, the other "
                    f"at {fields[3]}:{other[0]}-{other[1]}. Expected 0-based half-open "
                    "coordinates, 0 <= start < end."
                )
            rows.append((fields[0], *one, fields[3], *other))
    if not rows:
        raise ValueError(f"{path} holds no loops; expected at least one line of BEDPE.")
    return pd.DataFrame(rows, columns=list(_BEDPE_COLUMNS))


def read_annotation(
    path: Path, file_format: Literal["gtf", "gff3"], feature: str, name_attribute: str | None
) -> pd.DataFrame:
    """Read gene, chrom, start, end (0-based, half-open) and strand of one feature type."""
    attribute = name_attribute or ("gene_id" if file_format == "gtf" else "ID")
    rows = []
    features: dict[str, int] = {}
    with open_text(path) as lines:
        for number, line in enumerate(lines, start=1):
            if line.startswith("##FASTA"):
                break
            if line.startswith("#") or not line.strip():
                continue
            fields = line.rstrip("\r\n").split("\t")
            if len(fields) != 9:
                raise ValueError(
                    f"{path}, line {number}: {len(fields)} tab-separated columns; expected the 9 "
                    f"of {file_format.upper()}."
                )
            features[fields[2]] = features.get(fields[2], 0) + 1
            if fields[2] != feature:
                continue
            attributes = _attributes(fields[8], file_format)
            if attribute not in attributes:
                raise ValueError(
                    f"{path}, line {number}: no attribute {attribute!r}, only "
                    f"{list(attributes)}. Give name_attribute, or the right file_format."
                )
            try:
                start, end = int(fields[3]) - 1, int(fields[4])
            except ValueError:
                raise ValueError(
                    f"{path}, line {number}: start {fields[3]!r} and end {fields[4]!r} are not "
                    "both integers."
                ) from None
            rows.append((attributes[attribute], fields[0], start, end, fields[6]))
    if not rows:
        raise ValueError(
            f"{path} has no rows of feature {feature!r}; it has {features or 'no rows'}. "
            "Give feature."
        )
    return pd.DataFrame(rows, columns=["gene", "chrom", "start", "end", "strand"])


def _attributes(text: str, file_format: str) -> dict[str, str]:
    if file_format == "gtf":
        found = _GTF_ATTRIBUTE.findall(text)
        return {key: quoted or bare for key, quoted, bare in reversed(found)}
    pairs = (field.partition("=") for field in text.split(";"))
    return {key.strip(): unquote(value) for key, equals, value in pairs if equals}
