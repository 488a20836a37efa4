"""The index beside a FASTA file: written in one step, compared to the file before it is used."""

from __future__ import annotations

import os
import shutil
import tempfile
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyfaidx
from Bio.bgzf import make_virtual_offset


class StaleIndexError(ValueError):
    """The index does not describe the file."""


class UnwritableIndexError(OSError):
    """An index is missing, and its folder cannot be written to.

    Parameters
    ----------
    cause : OSError
        Why it could not be written.
    index : Path
        The index.
    """

    def __init__(self, cause: OSError, index: Path) -> None:
        super().__init__(cause.strerror or str(cause))
        self.index = index


def build_missing(fasta: Path, indexes: Sequence[Path]) -> None:
    """Write the indexes that do not exist, each in one step.

    Parameters
    ----------
    fasta : Path
        FASTA file.
    indexes : sequence of Path
        Its ``.fai``, and for a bgzipped file its ``.gzi``.

    Raises
    ------
    UnwritableIndexError
        If the folder cannot be written to.
    OSError, ValueError
        If the file is not a FASTA file.
    """
    missing = [index for index in indexes if not index.exists()]
    if not missing:
        return
    try:
        beside = tempfile.mkdtemp(prefix=f".{fasta.name}.", dir=fasta.parent)
    except OSError as error:
        raise UnwritableIndexError(error, missing[0]) from error
    try:
        link = Path(beside, fasta.name)
        link.symlink_to(fasta.resolve())
        try:
            pyfaidx.Faidx(str(link), as_raw=True).close()
        except (ValueError, pyfaidx.FastaIndexingError) as error:
            raise ValueError(str(error).replace(str(link), str(fasta))) from error
        for index in missing:
            os.replace(Path(beside, index.name), index)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def check_index(handle: Any) -> None:
    """Compare the index to the file at both ends of every record.

    An index is stale if the file was changed after it was written. The times of the two files do
    not tell: copying can give the index the earlier one, and a changed file can be put back under
    its old time.

    Parameters
    ----------
    handle : pyfaidx.Faidx
        The open file.

    Raises
    ------
    StaleIndexError
        If a record is not where the index says, or there are other records.
    """
    records = sorted(handle.index.items(), key=lambda item: item[1].offset)
    end = 0  # of the record before
    try:
        for name, record in records:
            between = _raw(handle, end, record.offset - end) if record.offset > end else b""
            headers = [line for line in between.splitlines() if line.startswith(b">")]
            fits = len(headers) == 1 and between.endswith(b"\n")
            fits = fits and headers[0][1:].split()[:1] == [name.encode()]
            end = record.offset + record.rlen
            if record.lenc and record.rlen:
                newline = record.lenb - record.lenc
                end += (record.rlen - 1) // record.lenc * newline
                fits = fits and _raw(handle, end - 1, 1) not in (b"", b"\n", b"\r", b">")
                if record.rlen > record.lenc:
                    wrap = _raw(handle, record.offset + record.lenc - 1, 1 + newline)
                    fits = fits and wrap[:1].strip() != b"" and wrap[1:].strip() == b""
            if not fits:
                raise StaleIndexError(f"{name!r} is not where the index says, or of another length")
        rest = _raw(handle, end, 65_536)
    except (OSError, EOFError) as error:
        raise StaleIndexError(f"it cannot be followed through the file ({error})") from error
    except ValueError as error:
        if isinstance(error, StaleIndexError):
            raise
        raise StaleIndexError(f"it cannot be followed through the file ({error})") from error
    if rest.strip():
        raise StaleIndexError("the file goes on after the last record of the index")
    if not records:
        raise StaleIndexError("it is empty")


def _raw(handle: Any, offset: int, size: int) -> bytes:
    """Read bytes at a position of the uncompressed file."""
    blocks = getattr(handle, "gzi_index", None)
    if blocks is None:
        handle.file.seek(offset)
    else:
        block = blocks[bisect_right(blocks, offset, key=lambda block: block.ustart) - 1]
        handle.file.seek(make_virtual_offset(block.cstart, offset - block.ustart))
    return handle.file.read(size)
