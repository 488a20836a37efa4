"""Readers of FASTA and bigWig files: a path, plus a handle for each process and thread.

Coordinates are 0-based and half-open. A window may run off its chromosome: the part outside comes
back as padding, so that what is returned always has ``end - start`` values.
"""

from __future__ import annotations

import os
import struct
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyBigWig
import pyfaidx
from numpy.typing import NDArray
from pyfaidx import FastaIndexingError

from regmask_sk._fasta_index import (
    StaleIndexError,
    UnwritableIndexError,
    build_missing,
    check_index,
)

PADDING_CODE = 4
"""The code of every base that is not A, C, G or T, and of padding."""

_CODES = bytes(b"ACGT".find(bytes([byte]).upper()) % 5 for byte in range(256))  # -1 % 5 == 4
_BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
_BIGWIG, _BIGBED, _CHROM_TREE, _INDEX = 0x888FFC26, 0x8789F2EB, 0x78CA8C91, 0x2468ACE0


def shorten(names: Iterable[object], most: int = 8) -> str:
    """List names for a message, cut after `most`.

    Examples
    --------
    >>> shorten(["a", "b", "c"], most=2)
    "'a', 'b' and 1 more"
    """
    listed = [repr(str(name)) for name in names]
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return (", ".join(listed[:most]) + more) or "none"


class Reader(ABC):
    """A genome file that can be pickled, forked and read from several threads.

    An open handle that is shared over a fork returns other bases than those asked for, so every
    process, and every thread in it, opens its own at its first read.

    Parameters
    ----------
    path : str or path-like
        The file.
    chrom_alias : mapping of str to str, optional
        Name in the loci to name in the file, for the chromosomes that are named differently. An
        entry whose name in the file does not occur in it is not used, so that one mapping serves
        files of several naming schemes.
    """

    kind: ClassVar[str]

    def __init__(
        self, path: str | os.PathLike[str], chrom_alias: Mapping[str, str] | None = None
    ) -> None:
        self.path = Path(path)
        self.chrom_alias = dict(chrom_alias or {})
        self._reset()
        self._chroms()

    def _reset(self) -> None:
        self._local = threading.local()
        self._located: dict[str, tuple[str, int]] | None = None
        self._sizes: dict[str, int] | None = None
        self._signature: tuple[int, int] | None = None
        # Called before each read; loader workers note by it which file they are at.
        self.on_read: Callable[[], None] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "chrom_alias": self.chrom_alias}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    @property
    def chrom_sizes(self) -> dict[str, int]:
        """Size in base pairs of each chromosome, named as the loci name it."""
        located = self._chroms()
        if self._sizes is None:  # kept, for an assembly may have 100,000 scaffolds
            self._sizes = {name: size for name, (_, size) in located.items()}
        return self._sizes

    def signature(self) -> str:
        """Identify the content of the file by its path, size and time of change.

        Returns
        -------
        str
            Differs after any change to the file, to its path or to `chrom_alias`.

        Raises
        ------
        ValueError
            If the file has changed since this reader opened it.
        """
        self._chroms()
        size, changed = self._check_unchanged()
        alias = sorted(self.chrom_alias.items())
        return f"{self.kind}|{self.path.resolve()}|{size}|{changed}|{alias}"

    def _check_unchanged(self) -> tuple[int, int]:
        """Give size and time of change, which are those that the file had at first."""
        found = self._stat()
        if found != self._signature:
            raise ValueError(
                f"{self.kind} {self.path} has changed on disk since it was opened. Fit again."
            )
        return found

    def close(self) -> None:
        """Close the handle of this thread; the next read opens it again."""
        handle = self._local.__dict__.pop("handle", None)
        if handle is not None and self._local.__dict__.pop("pid", None) == os.getpid():
            handle.close()

    def _stat(self) -> tuple[int, int]:
        try:
            status = self.path.stat()
        except OSError as error:
            raise FileNotFoundError(
                f"{self.kind} {self.path} cannot be read: {error.strerror}. Check the path."
            ) from error
        if not self.path.is_file():
            raise ValueError(f"{self.kind} {self.path} is not a file.")
        return status.st_size, status.st_mtime_ns

    def _chroms(self) -> dict[str, tuple[str, int]]:
        """Name in the loci -> (name in the file, size)."""
        if self._located is None:
            self._signature = self._stat()
            sizes = self._read_sizes()
            alias = {loci: file for loci, file in self.chrom_alias.items() if file in sizes}
            hidden = set(alias.values())
            located = {name: (name, size) for name, size in sizes.items() if name not in hidden}
            located.update({loci: (file, sizes[file]) for loci, file in alias.items()})
            self._located = located
        return self._located

    def _handle(self) -> Any:
        local = self._local
        if self.on_read is not None:
            self.on_read()
        if getattr(local, "pid", None) != os.getpid():
            self._chroms()
            self._check_unchanged()
            local.handle = self._open()
            local.pid = os.getpid()
        return local.handle

    def _clip(self, chrom: str, start: int, end: int) -> tuple[str, int, int]:
        if end < start:
            raise ValueError(f"end is {end}; expected at least start, which is {start}.")
        try:
            name, size = self._chroms()[chrom]
        except KeyError:
            raise ValueError(
                f"chromosome {chrom!r} is not in {self.kind} {self.path}, which has "
                f"{shorten(self._chroms())}. Give chrom_alias={{{chrom!r}: name in the file}}."
            ) from None
        return name, min(max(start, 0), size), min(max(end, 0), size)

    def _broken(self, cause: object) -> ValueError:
        if self._located is not None:  # it was whole when it was opened
            try:
                self._check_unchanged()
            except (OSError, ValueError) as error:
                return ValueError(str(error))
        return ValueError(
            f"{self.kind} {self.path} cannot be read: {cause}. Check that it is complete and of "
            "the right kind."
        )

    @abstractmethod
    def _open(self) -> Any:
        """Open a handle that has a method ``close``."""

    @abstractmethod
    def _read_sizes(self) -> dict[str, int]:
        """Check the file and return the chromosomes' sizes under their names in the file."""


class FastaReader(Reader):
    r"""Bases of a FASTA file, plain or bgzipped, as small integers.

    The index beside the file (``.fai``, and ``.gzi`` of a bgzipped one) is used, and written if
    there is none.

    Parameters
    ----------
    path : str or path-like
        FASTA file; a compressed one must come from bgzip and its name must end in ``.gz``.
    chrom_alias : mapping of str to str, optional
        Name in the loci to name in the file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not a FASTA file, is truncated, or its index does not belong to it.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "genome.fa")
    ...     _ = path.write_text(">chr1\nACGTN\n")
    ...     reader = FastaReader(path)
    ...     print(reader.chrom_sizes, reader.codes("chr1", -1, 6))
    {'chr1': 5} [4 0 1 2 3 4 4]
    """

    kind = "FASTA"

    def codes(self, chrom: str, start: int, end: int) -> NDArray[np.uint8]:
        """Read the bases of an interval.

        Parameters
        ----------
        chrom : str
            Chromosome, as the loci name it.
        start, end : int
            0-based, half-open; may run off the chromosome.

        Returns
        -------
        ndarray of shape (end - start,), uint8
            0 for A, 1 for C, 2 for G, 3 for T in either case, 4 for anything else and for padding.

        Raises
        ------
        ValueError
            If the chromosome is unknown or the file does not hold what its index says.
        """
        name, low, high = self._clip(chrom, start, end)
        codes = np.full(end - start, PADDING_CODE, dtype=np.uint8)
        if low < high:
            try:
                bases = self._handle().from_file(name, low + 1, high).encode()
            except (OSError, ValueError, AssertionError) as error:
                raise self._broken(error) from error
            if len(bases) != high - low:
                raise self._broken(
                    f"{name}:{low}-{high} has {len(bases)} bases instead of {high - low}"
                )
            codes[low - start : high - start] = np.frombuffer(bases.translate(_CODES), np.uint8)
        return codes

    def _compressed(self) -> bool:
        return self.path.name.lower().endswith((".gz", ".bgz"))

    def _open(self) -> Any:
        with warnings.catch_warnings():
            # pyfaidx warns of an old index, and would rebuild it; check_index looks closer.
            warnings.simplefilter("ignore", RuntimeWarning)
            return pyfaidx.Faidx(str(self.path), as_raw=True, rebuild=False)

    def _read_sizes(self) -> dict[str, int]:
        self._check_format()
        indexes = [Path(f"{self.path}.fai")]
        if self._compressed():
            indexes.append(Path(f"{self.path}.gzi"))
        try:
            build_missing(self.path, indexes)
            handle = self._open()
            try:
                check_index(handle)
            finally:
                handle.close()
        except StaleIndexError as error:
            raise ValueError(
                f"the index {indexes[0]} does not belong to FASTA {self.path}: {error}. It is "
                "stale, or the file is truncated. If the file is right, delete "
                f"{' and '.join(index.name for index in indexes)}; they are then written anew."
            ) from error
        except UnwritableIndexError as error:
            raise ValueError(
                f"FASTA {self.path} has no index {error.index.name}, and it cannot be written "
                f"({error}). Run `samtools faidx {self.path}` where the folder can be written to, "
                "or copy the file to a folder of your own."
            ) from error
        except (OSError, ValueError, IndexError, struct.error, FastaIndexingError) as error:
            raise self._broken(error) from error
        return {name: int(record.rlen) for name, record in handle.index.items()}

    def _check_format(self) -> None:
        with self.path.open("rb") as file:
            head = file.read(18)
            file.seek(max(0, self.path.stat().st_size - len(_BGZF_END)))
            tail = file.read()
        zipped = head[:2] == b"\x1f\x8b"
        if not head:
            raise self._broken("it is empty")
        if not zipped and not head.lstrip().startswith((b">", b";")):
            raise self._broken(f"a FASTA file does not begin with {head!r}")
        if zipped != self._compressed():
            raise self._broken(
                "its name must end in .gz if, and only if, it is compressed: rename it"
            )
        if zipped and head[12:14] != b"BC":
            raise self._broken(
                "it was compressed with gzip, which cannot be read from the middle; use bgzip "
                "(gunzip FILE, then bgzip it)"
            )
        if zipped and tail != _BGZF_END:
            raise self._broken("it is truncated: the end mark of a bgzipped file is missing")


class BigWigReader(Reader):
    """Values of a bigWig file.

    Parameters
    ----------
    path : str or path-like
        Local bigWig file.
    chrom_alias : mapping of str to str, optional
        Name in the loci to name in the file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not a bigWig file or is truncated.

    Examples
    --------
    >>> import tempfile, pyBigWig
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "signal.bw")
    ...     with pyBigWig.open(str(path), "w") as file:
    ...         file.addHeader([("chr1", 4)])
    ...         file.addEntries(["chr1"], [1], ends=[3], values=[2.5])
    ...     reader = BigWigReader(path)
    ...     print(reader.chrom_sizes, reader.values("chr1", 0, 5))
    {'chr1': 4} [nan 2.5 2.5 nan nan]
    """

    kind = "bigWig"

    def values(self, chrom: str, start: int, end: int) -> NDArray[np.float32]:
        """Read the values of an interval.

        Parameters
        ----------
        chrom : str
            Chromosome, as the loci name it.
        start, end : int
            0-based, half-open; may run off the chromosome.

        Returns
        -------
        ndarray of shape (end - start,), float32
            The value of each base; nan where the file has none and off the chromosome.

        Raises
        ------
        ValueError
            If the chromosome is unknown or the file is damaged.
        """
        name, low, high = self._clip(chrom, start, end)
        found: NDArray[np.float32] | None = None
        if low < high:
            try:
                found = self._handle().values(name, low, high, numpy=True)
            except RuntimeError as error:
                raise self._broken(f"{name}:{low}-{high}: {error}") from error
            if len(found) != high - low:
                raise self._broken(
                    f"{name}:{low}-{high} has {len(found)} values instead of {high - low}"
                )
            if high - low == end - start:
                return found.astype(np.float32, copy=False)
        values = np.full(end - start, np.nan, dtype=np.float32)
        if found is not None:
            values[low - start : high - start] = found
        return values

    def largest(self) -> float | None:
        """Return the largest distance of a value from 0, as the file's own summary says.

        Returns
        -------
        float or None
            None where the file has no summary, or none of a float32 above 0: libBigWig writes
            2e-308 where all values are 0.
        """
        with self.path.open("rb") as file:
            order = "<" if file.read(4) == struct.pack("<I", _BIGWIG) else ">"
            file.seek(44)
            place = struct.unpack(f"{order}Q", file.read(8))[0]
            file.seek(place + 8)  # after the number of bases covered
            low, high = struct.unpack(f"{order}2d", file.read(16)) if place else (np.nan, np.nan)
        largest = max(abs(low), abs(high))
        bounds = np.finfo(np.float32)
        return largest if bounds.smallest_subnormal <= largest <= bounds.max else None

    def _open(self) -> Any:
        try:
            return pyBigWig.open(str(self.path))
        except RuntimeError as error:
            raise self._broken(error) from error

    def _read_sizes(self) -> dict[str, int]:
        self._check_format()
        with self._open() as handle:
            sizes = handle.chroms()
        if not sizes:
            raise self._broken("it names no chromosome")
        return {str(name): int(size) for name, size in sizes.items()}

    def _check_format(self) -> None:
        # Checked here because pyBigWig's errors all read the same, and a file without the parts
        # that its header names can end the process.
        size = self.path.stat().st_size
        with self.path.open("rb") as file:

            def number(offset: int, code: str) -> int:
                file.seek(offset)
                found = file.read(struct.calcsize(code))
                return struct.unpack(code, found)[0] if offset < size - 4 else -1

            head = file.read(8)
            order = ">" if head[:4] == struct.pack(">I", _BIGWIG) else "<"
            mark = struct.pack(f"{order}I", _BIGWIG)
            if head[:4] in (struct.pack("<I", _BIGBED), struct.pack(">I", _BIGBED)):
                raise self._broken("it is a bigBed file, which holds regions and not a signal")
            if head[:4] != mark:
                raise self._broken(f"a bigWig file does not begin with {head!r}")
            file.seek(max(0, size - 4))
            if size < 68 or file.read() != mark:
                raise self._broken("it is truncated: the end mark of a bigWig file is missing")
            for offset, part in ((8, _CHROM_TREE), (24, _INDEX)):
                place = number(offset, f"{order}Q")
                if place == 0:
                    raise self._broken("it holds no values")
                if number(place, f"{order}I") != part:
                    raise self._broken("it is damaged: a part that its header names is missing")


def check_chromosomes(
    loci: pd.DataFrame, readers: Iterable[Reader], *, allow_absent: bool = True
) -> None:
    """Check that loci and genome files speak of the same chromosomes of the same assembly.

    Parameters
    ----------
    loci : pandas.DataFrame
        Columns ``chrom`` and ``tss`` (0-based); the names of the genes as index.
    readers : iterable of FastaReader and BigWigReader
        The files.
    allow_absent : bool, default=True
        Whether a bigWig file may lack some (not all) of the loci's chromosomes, with a warning:
        many programs leave out chromosomes without data. A FASTA file may not.

    Raises
    ------
    ValueError
        If chromosomes of the loci are not in a file, two files give a chromosome different sizes,
        or a gene's TSS lies beyond the end of its chromosome.

    Warns
    -----
    UserWarning
        If a bigWig file lacks some of the loci's chromosomes.

    Examples
    --------
    >>> import pandas as pd
    >>> check_chromosomes(pd.DataFrame({"chrom": ["chr1"], "tss": [5]}, index=["g"]), [])
    """
    readers = list(readers)
    chroms = list(dict.fromkeys(loci["chrom"]))
    for reader in readers:
        absent = [chrom for chrom in chroms if chrom not in reader.chrom_sizes]
        if not absent:
            continue
        message = (
            f"{len(absent)} of the {len(chroms)} chromosomes of the loci are not in {reader.kind} "
            f"{reader.path}: {shorten(absent)}. The file has {shorten(reader.chrom_sizes)}. "
        )
        if isinstance(reader, FastaReader) or len(absent) == len(chroms) or not allow_absent:
            raise ValueError(
                message + "If it names them differently, give chrom_alias={name in the loci: name "
                "in the file}; otherwise leave those genes out."
            )
        warnings.warn(
            message + "Their windows count as uncovered. If the file names them differently, give "
            "chrom_alias={name in the loci: name in the file}.",
            UserWarning,
            stacklevel=3,
        )
    sizes: dict[str, tuple[int, Reader]] = {}
    for reader in sorted(readers, key=lambda reader: reader.kind != FastaReader.kind):
        for chrom, size in reader.chrom_sizes.items():
            known, first = sizes.setdefault(chrom, (size, reader))
            if known != size:
                raise ValueError(
                    f"chromosome {chrom!r} has {known} bp in {first.kind} {first.path} and {size} "
                    f"bp in {reader.kind} {reader.path}: two assemblies. Use files of one assembly."
                )
    # Not Series.map, which makes categories of the sizes where the names are categories.
    ends = np.array([sizes[chrom][0] if chrom in sizes else np.inf for chrom in loci["chrom"]])
    beyond = np.flatnonzero(loci["tss"].to_numpy(dtype=np.int64) >= ends)
    if len(beyond):
        gene = beyond[0]
        chrom = loci["chrom"].iloc[gene]
        raise ValueError(
            f"the tss of {len(beyond)} genes lies beyond the end of its chromosome: "
            f"{shorten(loci.index[beyond])}. The first is at {loci['tss'].iloc[gene]} (0-based) "
            f"of {chrom!r}, which has {sizes[chrom][0]} bp in {sizes[chrom][1].path}. Check that "
            "loci and files are of one assembly, and tss_base."
        )
