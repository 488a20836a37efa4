"""Where ``WindowCache`` keeps windows: in memory, or in a folder of ``.npy`` files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regmask_sk.windows import Windows

_FORMAT = 1  # of the folder; part of every key
_BLOCK_BYTES = 2**28
_ROWS_FILE = "rows.json"


def content_key(windows: Windows, *, fitted: bool) -> str:
    """Identify what is stored of the windows, whatever their rows.

    Parameters
    ----------
    windows : Windows
        The windows.
    fitted : bool
        Whether what the sources have learned is part of it.

    Returns
    -------
    str
        Hexadecimal digest that changes with the files (path, size, time of change), with the
        sources' parameters, and with the windows' length, jitter and orientation.
    """
    parts = [_FORMAT, windows.length, windows.jitter, windows.stranded]
    keys = [source.cache_key(fitted=fitted) for source in windows.sources]
    return hashlib.sha256(json.dumps([parts, keys]).encode()).hexdigest()[:32]


def _read_raw(
    windows: Windows, row: int, flank: int, n_sources: int | None = None
) -> list[NDArray[Any]]:
    interval = windows.interval(row, flank=flank)
    backward = bool(windows.reversed[row])
    sources = windows.sources[:n_sources]
    return [windows.read_raw(source, interval, backward) for source in sources]


def _missing_rows(windows: Windows, known: Any) -> list[int]:
    """One row for each key that is not known yet."""
    first: dict[Hashable, int] = {}
    for row, key in enumerate(windows.row_keys):
        if key not in known:
            first.setdefault(key, row)
    return list(first.values())


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
            raws = _read_raw(windows, row, self.flank, self.n_sources)
            stored = tuple(
                source.compact(raw, windows.cell_types[row])
                for source, raw in zip(windows.sources, raws, strict=False)
            )
            for array in stored:
                array.flags.writeable = False
            n_bytes = sum(array.nbytes for array in stored)
            if self.nbytes + n_bytes <= self.max_bytes:
                self._rows[key] = stored
                self.nbytes += n_bytes
        return stored

    def expected_bytes(self, windows: Windows) -> int:
        """Bytes that the store will hold once these windows have been read.

        Parameters
        ----------
        windows : Windows
            The windows; one of them is read.
        """
        missing = _missing_rows(windows, self._rows)
        if not missing:
            return self.nbytes
        each = sum(array.nbytes for array in self.row(windows, missing[0]))
        return min(self.nbytes + each * (len(missing) - 1), self.max_bytes)

    def fill(self, windows: Windows) -> None:
        """Read the rows that are not here yet.

        Raises
        ------
        ValueError
            If they would take more than ``max_bytes``.
        """
        missing = _missing_rows(windows, self._rows)
        for number, row in enumerate(missing):
            before = self.nbytes
            stored = self.row(windows, row)
            if number == 0:
                each = sum(array.nbytes for array in stored)
                expected = before + each * len(missing)
                if expected > self.max_bytes:
                    raise ValueError(
                        f"{len(missing)} windows would take {expected / 1e9:.3g} GB of memory; "
                        f"max_bytes is {self.max_bytes} ({self.max_bytes / 1e9:.3g} GB). Raise it, "
                        "give path, a folder to keep them in, or leave WindowCache out."
                    )


class FolderStore:
    """Raw windows in a folder, shared by all processes that use it.

    ``FOLDER/KEY/block-HASH/`` holds ``rows.json`` and one ``.npy`` file for each source. A block is
    written under another name and moved into place as a whole, so that a reader sees all of it or
    nothing, and a second writer of the same rows leaves the first one's block alone.

    Parameters
    ----------
    folder : path-like
        Made if it does not exist.
    key : str
        Content key.
    windows : Windows
        Any rows; says how long windows are.
    """

    def __init__(self, folder: str | os.PathLike[str], key: str, windows: Windows) -> None:
        self.folder = Path(folder) / key
        self.key = key
        self.layout = (windows.length, windows.stranded)
        self.flank = windows.jitter
        self._places: dict[Hashable, tuple[list[NDArray[Any]], int]] = {}
        self._names: set[str] = set()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"path {str(folder)!r} of WindowCache cannot be used as a folder: {error}."
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_places": {}, "_names": set()}

    def __len__(self) -> int:
        return len(self._places)

    def refresh(self) -> None:
        """Take up the blocks that this or another process has written."""
        for block in sorted(self.folder.glob("block-*")):
            if block.name not in self._names:
                self._load(block)

    def _load(self, block: Path) -> None:
        try:
            rows = json.loads((block / _ROWS_FILE).read_text())
            files = sorted(block.glob("*.npy"), key=lambda file: int(file.stem))
            # a plain view of the memmap: slicing it is several times cheaper
            arrays = [np.asarray(np.load(file, mmap_mode="r")) for file in files]
            if any(len(array) != len(rows) for array in arrays):
                raise ValueError("its files differ in their number of rows")
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(
                f"the block {block} of WindowCache is damaged: {error}. Delete it; it is then "
                "written anew."
            ) from error
        for place, row in enumerate(rows):
            self._places.setdefault(tuple(row), (arrays, place))
        self._names.add(block.name)

    def row(self, windows: Windows, row: int) -> tuple[NDArray[Any], ...] | None:
        """Return a row's compact arrays, or None if it is not in the folder."""
        if not self._names:
            self.refresh()  # after unpickling
        found = self._places.get(windows.row_keys[row])
        if found is None:
            return None
        arrays, place = found
        return tuple(
            source.compact(array[place], windows.cell_types[row])
            for source, array in zip(windows.sources, arrays, strict=False)
        )

    def fill(self, windows: Windows) -> None:
        """Read the rows that are not in the folder yet, and write them there.

        Raises
        ------
        ValueError
            If they do not fit on the disk.
        """
        self.refresh()
        missing = _missing_rows(windows, self._places)
        if not missing or not windows.sources:
            return
        each = sum(raw.nbytes for raw in _read_raw(windows, missing[0], self.flank))
        free = shutil.disk_usage(self.folder).free
        if each * len(missing) > free:
            raise ValueError(
                f"{len(missing)} windows take {each * len(missing) / 1e9:.3g} GB and the disk of "
                f"{self.folder} has {free / 1e9:.3g} GB left. Give WindowCache another path."
            )
        step = max(1, _BLOCK_BYTES // max(each, 1))
        for begin in range(0, len(missing), step):
            self._write(windows, missing[begin : begin + step])
        self.refresh()

    def _write(self, windows: Windows, rows: Sequence[int]) -> None:
        keys = json.dumps([windows.row_keys[row] for row in rows])
        block = self.folder / f"block-{hashlib.sha256(keys.encode()).hexdigest()[:32]}"
        if block.exists():
            return
        made = self.folder / f"tmp-{os.getpid()}-{uuid.uuid4().hex}"
        made.mkdir()
        try:
            arrays: list[Any] = []
            for place, row in enumerate(rows):
                for number, raw in enumerate(_read_raw(windows, row, self.flank)):
                    if place == 0:
                        arrays.append(
                            np.lib.format.open_memmap(
                                made / f"{number}.npy",
                                mode="w+",
                                dtype=raw.dtype,
                                shape=(len(rows), *raw.shape),
                            )
                        )
                    arrays[number][place] = raw
            for array in arrays:
                array.flush()
            (made / _ROWS_FILE).write_text(keys)
            try:
                os.replace(made, block)
            except OSError:
                if not block.exists():  # otherwise another process was first, with the same rows
                    raise
        finally:
            shutil.rmtree(made, ignore_errors=True)
