"""Where ``WindowCache`` keeps windows: in memory, or in a folder of ``.npy`` files.

In memory windows are kept one by one, ready to use. In a folder the genome's files are kept over
the places where windows lie (``_stored_files``), so that what windows share is there once, whatever
their length, strand and scaling; windows of channels that depend on the TSS are kept one by one
(``_stored_rows``).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import warnings
from collections import Counter
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from regmask_sk._files import bytes_in, locked, remove_unfinished
from regmask_sk._regions import Regions
from regmask_sk._stored_files import NotStoredError, PrecisionError, StoredFile
from regmask_sk._stored_rows import StoredRows, missing_rows
from regmask_sk.genome import BigWigReader, FastaReader, Reader
from regmask_sk.windows import Windows

_FORMAT = 2  # part of every key
_FULL = (errno.ENOSPC, errno.EDQUOT)
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


def content_key(windows: Windows) -> str:
    """Identify what windows hold, whatever their rows.

    Parameters
    ----------
    windows : Windows
        The windows.

    Returns
    -------
    str
        Hexadecimal digest that changes with the files (path, size, time of change), with the
        sources' parameters and what they have learned, and with the windows' length, jitter and
        orientation.
    """
    parts = [_FORMAT, windows.length, windows.jitter, windows.stranded]
    keys = [source.cache_key(fitted=True) for source in windows.sources]
    return hashlib.sha256(json.dumps([parts, keys]).encode()).hexdigest()[:32]


class CacheSize(NamedTuple):
    """What windows take in a cache, in bytes.

    Attributes
    ----------
    needed : int
        Of all windows.
    missing : int
        Of `needed`, what is not there yet.
    separate : int
        What the same windows would take one by one, without sharing what overlaps.
    """

    needed: int
    missing: int
    separate: int


class MemoryStore:
    """Compact windows in memory. Pickling and copying leave them behind.

    Parameters
    ----------
    key : str
        Content key.
    windows : Windows
        Any rows; says how long windows are and what their sources are.
    max_bytes : int
        The most that all rows may take. Rows beyond are read from the files at each use.
    """

    def __init__(self, key: str, windows: Windows, max_bytes: int) -> None:
        self.key = key
        self.layout = (windows.length, windows.stranded)
        self.flank = windows.jitter
        self.n_sources = len(windows.sources)
        self.max_bytes = max_bytes
        self._rows: dict[Hashable, tuple[NDArray[Any], ...]] = {}
        self.nbytes = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rows": {}, "nbytes": 0}

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, windows: Windows, row: int) -> tuple[NDArray[Any], ...]:
        """Return a row's compact arrays, reading them if they are not here yet."""
        key = windows.row_keys[row]
        stored = self._rows.get(key)
        if stored is None:
            stored = self._read(windows, row)
            for array in stored:
                array.flags.writeable = False
            n_bytes = sum(array.nbytes for array in stored)
            if self.nbytes + n_bytes <= self.max_bytes:
                self._rows[key] = stored
                self.nbytes += n_bytes
        return stored

    def _read(self, windows: Windows, row: int) -> tuple[NDArray[Any], ...]:
        interval = windows.interval(row, flank=self.flank)
        backward = bool(windows.reversed[row])
        return tuple(
            source.compact(windows.read_raw(source, interval, backward), interval.cell_type)
            for source in windows.sources[: self.n_sources]
        )

    def expected_bytes(self, windows: Windows) -> int:
        """Bytes that the store will hold once these windows have been read.

        Parameters
        ----------
        windows : Windows
            The windows; one of them is read.
        """
        return min(self.nbytes + self.estimate(windows).missing, self.max_bytes)

    def fill(self, windows: Windows) -> None:
        """Read the rows that are not here yet.

        Raises
        ------
        ValueError
            If they would take more than ``max_bytes``.
        """
        missing = missing_rows(windows, self._rows)
        expected = self.nbytes + self.estimate(windows).missing
        if expected > self.max_bytes:
            raise ValueError(
                f"{len(missing)} windows would take {expected / 1e9:.3g} GB of memory; "
                f"max_bytes is {self.max_bytes} ({self.max_bytes / 1e9:.3g} GB). Raise it, "
                "give path, a folder to keep them in, or leave WindowCache out."
            )
        for row in missing:
            self.row(windows, row)

    def estimate(self, windows: Windows) -> CacheSize:
        """Say what windows take; one of them is read for that."""
        if not len(windows):
            return CacheSize(0, 0, 0)
        each = sum(array.nbytes for array in self._read(windows, 0))
        n_windows = len(missing_rows(windows, ()))
        missing = len(missing_rows(windows, self._rows))
        return CacheSize(each * n_windows, each * missing, each * n_windows)


class FolderStore:
    """Windows from a folder of unpacked genome files, shared by all processes that use it.

    Parameters
    ----------
    folder : path-like
        Made when something is written.
    windows : Windows
        Any rows; says how long windows are and what their sources are.
    dtype : {"float16", "float32"}
        Of the values of tracks.
    max_bytes : int or None
        The most that the folder may take, with all that is in it; None for what the disk has.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        windows: Windows,
        dtype: str,
        max_bytes: int | None,
    ) -> None:
        self.folder = Path(folder)
        self.layout = (windows.length, windows.stranded)
        self.flank = windows.jitter
        self.dtype = dtype
        self.max_bytes = max_bytes
        self._files: dict[str, StoredFile] = {}
        self._over = tuple(source.over(self._stored) for source in windows.sources)
        by_row = [s for s, over in zip(windows.sources, self._over, strict=True) if over is None]
        self._rows = StoredRows(self.folder, by_row, windows)

    def _stored(self, reader: Reader) -> StoredFile:
        assert isinstance(reader, FastaReader | BigWigReader)
        key = reader.signature()
        if key not in self._files:
            self._files[key] = StoredFile(self.folder, reader, self.dtype)
        return self._files[key]

    # -- reading -------------------------------------------------------------------------------

    def row(self, windows: Windows, row: int) -> tuple[NDArray[Any], ...] | None:
        """Return a row's compact arrays, or None if it is not in the folder."""
        by_row = self._rows.row(windows, row)
        if by_row is None:
            return None
        interval = windows.interval(row, flank=self.flank)
        backward = bool(windows.reversed[row])
        left = iter(by_row)
        compact = []
        try:
            for source, over in zip(windows.sources, self._over, strict=False):
                if over is None:
                    compact.append(source.compact(next(left), interval.cell_type))
                else:
                    raw = windows.read_raw(over, interval, backward)
                    compact.append(over.compact(raw, interval.cell_type))
        except NotStoredError:
            return None
        return tuple(compact)

    # -- sizes ---------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Take up what this or another process has written."""
        for file in self._files.values():
            file.refresh()
        self._rows.refresh()

    def estimate(self, windows: Windows) -> CacheSize:
        """Say what windows take; no file is read, but one row of channels that depend on the TSS.

        Raises
        ------
        ValueError
            If what is there is damaged.
        """
        self.refresh()
        if not len(windows):
            return CacheSize(0, 0, 0)
        needed = missing = separate = 0
        for file, regions in self._wanted(windows):
            needed += file.dtype.itemsize * regions.n_bases
            missing += file.dtype.itemsize * regions.without(file.regions).n_bases
        rows = missing_rows(windows, ())
        width = windows.length + 2 * self.flank
        for cell_type, n_rows in Counter(windows.cell_types[row] for row in rows).items():
            for reader in self._readers_of(windows, cell_type):
                separate += self._stored(reader).dtype.itemsize * width * n_rows
        by_row = self._rows.bytes_of_a_row(windows)
        return CacheSize(
            needed + by_row * len(rows),
            missing + by_row * len(self._rows.missing(windows)),
            separate + by_row * len(rows),
        )

    def _readers_of(self, windows: Windows, cell_type: str | None) -> Iterator[Reader]:
        """Give the files that are kept for rows of a cell type."""
        for source, over in zip(windows.sources, self._over, strict=False):
            if over is not None:
                yield from source.readers_of(cell_type)

    def _wanted(self, windows: Windows) -> Iterator[tuple[StoredFile, Regions]]:
        """Give each file and the stretches of it that windows lie on."""
        table = pd.DataFrame(
            {
                "chrom": windows.loci["chrom"].tolist(),
                "start": windows.starts - self.flank,
                "end": windows.starts + windows.length + self.flank,
            }
        )
        rows_of: dict[str, NDArray[np.bool_]] = {}
        for cell_type in dict.fromkeys(windows.cell_types):
            rows = np.array([name == cell_type for name in windows.cell_types])
            for key in {reader.signature() for reader in self._readers_of(windows, cell_type)}:
                rows_of[key] = rows_of.get(key, False) | rows
        for key, rows in sorted(rows_of.items()):
            file = self._files[key]
            yield file, Regions.from_table(table[rows]).clipped(file.chrom_sizes)

    # -- writing -------------------------------------------------------------------------------

    def fill(self, windows: Windows, *, required: bool = True) -> None:
        """Write what windows need and the folder has not, before any of them is asked for.

        Processes that fill one folder wait for each other, and find what the others wrote.

        Parameters
        ----------
        windows : Windows
            The windows.
        required : bool, default=True
            Whether it is an error where there is no room; otherwise a warning, and windows that
            are not there are read from their files.

        Raises
        ------
        ValueError
            If it does not fit into `max_bytes` or on the disk, the folder cannot be written to,
            a file has changed, or values do not fit into float16.
        OSError
            If the disk gets full meanwhile. What was finished stays, and is used the next time.
        """
        if not self.estimate(windows).missing:
            return
        try:
            self._make()
            with locked(self.folder) as alone:
                if alone:
                    for inside in self.folder.iterdir():
                        remove_unfinished(inside)
                self._check_room(self.estimate(windows))  # others may have written it
                for file, regions in list(self._wanted(windows)):
                    new = regions.without(file.regions)
                    if new.n_bases:
                        file.add(new)
                rows = self._rows.missing(windows)
                if rows:
                    self._rows.add(windows, rows)
        except (_NoRoomError, PrecisionError) as error:
            self._give_up(error, required)
        except OSError as error:
            if error.errno in _READ_ONLY:
                self._give_up(self._read_only(error), required)
                return
            if error.errno not in _FULL:
                raise
            self.refresh()
            self._give_up(
                OSError(
                    f"the disk of {self.folder} got full while WindowCache wrote to it "
                    f"({error.strerror}); {self.estimate(windows).missing / 1e9:.3g} GB are still "
                    "to be written. What was finished stays, and is used the next time. Make "
                    "room, or give another path."
                ),
                required,
            )

    @staticmethod
    def _give_up(error: Exception, required: bool) -> None:
        if required:
            raise error
        warnings.warn(
            f"{error} Until then windows that the cache does not have are read from their files.",
            UserWarning,
            stacklevel=5,
        )

    def _make(self) -> None:
        probe = self.folder / f"probe-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except OSError as error:
            if error.errno in _FULL:
                raise
            raise self._read_only(error) from error

    def _read_only(self, error: OSError) -> _NoRoomError:
        return _NoRoomError(
            f"path {str(self.folder)!r} of WindowCache cannot be written to ({error.strerror}: "
            f"{error.filename}). Give the path of a folder that can be, or fill this one first "
            "as a user who may."
        )

    def _check_room(self, size: CacheSize) -> None:
        there = bytes_in(self.folder)
        less = ["shorter windows", "fewer tracks"]
        if self.dtype == "float32":
            less.insert(0, "dtype='float16'")
        remedy = f"{', '.join(less)}, or no WindowCache at all"
        need = (
            f"the windows take {size.needed / 1e9:.3g} GB in {self.folder}, of which "
            f"{size.missing / 1e9:.3g} GB are not there yet"
        )
        if self.max_bytes is not None and there + size.missing > self.max_bytes:
            raise _NoRoomError(
                f"{need}; with the {there / 1e9:.3g} GB that the folder holds this exceeds "
                f"max_bytes, {self.max_bytes} ({self.max_bytes / 1e9:.3g} GB). Raise max_bytes, "
                f"delete the folder if it holds what is not needed any more, or use {remedy}."
            )
        free = shutil.disk_usage(self.folder).free
        if size.missing > free:
            raise _NoRoomError(
                f"{need}, and the disk has {free / 1e9:.3g} GB left. Give WindowCache another "
                f"path, or use {remedy}."
            )


class _NoRoomError(ValueError):
    """The folder cannot take what is to be written."""
