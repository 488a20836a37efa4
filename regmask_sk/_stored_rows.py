"""``StoredRows``: whole windows in a folder, for channels that depend on the TSS.

``FOLDER/rows-KEY/block-HASH/`` holds ``rows.json`` and one ``.npy`` file for each source. A block
is written beside its place and moved there as a whole.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from regmask_sk._files import new_folder
from regmask_sk.windows import ChannelSource, Windows

_FORMAT = 2  # of the folder; part of every key
_BLOCK_BYTES = 2**28
_ROWS_FILE = "rows.json"


class StoredRows:
    """Raw windows of some sources, in gene orientation.

    Parameters
    ----------
    folder : Path
        Folder of the cache. It need not exist.
    sources : sequence of ChannelSource
        The sources.
    windows : Windows
        Any rows; says how long windows are and how far they are shifted.
    """

    def __init__(self, folder: Path, sources: Sequence[ChannelSource], windows: Windows) -> None:
        self.sources = tuple(sources)
        self.flank = windows.jitter
        layout = [_FORMAT, windows.length, windows.jitter, windows.stranded]
        told = json.dumps([layout, [source.cache_key(fitted=False) for source in sources]])
        self.folder = folder / f"rows-{hashlib.sha256(told.encode()).hexdigest()[:32]}"
        self._places: dict[Hashable, tuple[list[NDArray[Any]], int]] = {}
        self._names: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_places": {}, "_names": set()}

    def refresh(self) -> None:
        """Take up the blocks that this or another process has written.

        Raises
        ------
        ValueError
            If a block is damaged.
        """
        for block in sorted(self.folder.glob("block-*")):
            if block.name not in self._names:
                self._load(block)

    def _load(self, block: Path) -> None:
        try:
            rows = json.loads((block / _ROWS_FILE).read_text())
            files = sorted(block.glob("*.npy"), key=lambda file: int(file.stem))
            # a plain view of the memmap: slicing it is several times cheaper
            arrays = [np.asarray(np.load(file, mmap_mode="r")) for file in files]
            if len(arrays) != len(self.sources) or any(len(a) != len(rows) for a in arrays):
                raise ValueError("its files differ in their number of rows, or some are missing")
        except (OSError, ValueError, EOFError) as error:
            raise ValueError(
                f"{block} of WindowCache is damaged: {error}. Delete this folder; it is then "
                "written anew."
            ) from error
        for place, row in enumerate(rows):
            self._places.setdefault(tuple(row), (arrays, place))
        self._names.add(block.name)

    def row(self, windows: Windows, row: int) -> list[NDArray[Any]] | None:
        """Return a row's raw arrays, one a source, or None if it is not in the folder."""
        if not self.sources:
            return []
        if not self._names:
            self.refresh()  # after unpickling
        found = self._places.get(windows.row_keys[row])
        if found is None:
            return None
        arrays, place = found
        return [array[place] for array in arrays]

    def missing(self, windows: Windows) -> list[int]:
        """Return one row for each window that is not in the folder."""
        return missing_rows(windows, self._places) if self.sources else []

    def bytes_of_a_row(self, windows: Windows) -> int:
        """Return the bytes that a row takes; it is read for that."""
        return sum(raw.nbytes for raw in self._read(windows, 0)) if self.sources else 0

    def _read(self, windows: Windows, row: int) -> list[NDArray[Any]]:
        interval = windows.interval(row, flank=self.flank)
        backward = bool(windows.reversed[row])
        return [windows.read_raw(source, interval, backward) for source in self.sources]

    def add(self, windows: Windows, rows: Sequence[int]) -> None:
        """Read rows and write them, one block after the other.

        Parameters
        ----------
        windows : Windows
            The windows.
        rows : sequence of int
            Rows that are not in the folder.

        Raises
        ------
        OSError
            If the disk is full. The blocks that were finished stay.
        """
        self.folder.mkdir(exist_ok=True)
        step = max(1, _BLOCK_BYTES // max(self.bytes_of_a_row(windows), 1))
        for begin in range(0, len(rows), step):
            self._write(windows, rows[begin : begin + step])
        self.refresh()

    def _write(self, windows: Windows, rows: Sequence[int]) -> None:
        keys = json.dumps([windows.row_keys[row] for row in rows])
        digest = hashlib.sha256(keys.encode()).hexdigest()[:32]
        with new_folder(self.folder / f"block-{digest}") as made:
            files: list[BinaryIO] = []
            try:
                for row in rows:
                    for number, raw in enumerate(self._read(windows, row)):
                        if number == len(files):
                            files.append(open(made / f"{number}.npy", "wb"))  # noqa: SIM115
                            shape = (len(rows), *raw.shape)
                            header = {
                                "descr": raw.dtype.str, "fortran_order": False, "shape": shape,
                            }  # fmt: skip
                            np.lib.format.write_array_header_1_0(files[number], header)
                        files[number].write(np.ascontiguousarray(raw).data)
                for file in files:
                    file.flush()
                    os.fsync(file.fileno())
            finally:
                for file in files:
                    file.close()
            (made / _ROWS_FILE).write_text(keys)
            for source in self.sources:
                for reader in source.readers:
                    reader.signature()  # raises if the file has changed meanwhile


def missing_rows(windows: Windows, known: Any) -> list[int]:
    """Return one row for each key that is not known yet.

    Examples
    --------
    >>> import pandas as pd
    >>> loci = pd.DataFrame({"chrom": ["1"] * 3, "tss": [5, 5, 7], "strand": ["+"] * 3})
    >>> missing_rows(Windows(loci, length=4), known={("1", 7, False, None)})
    [0]
    """
    first: dict[Hashable, int] = {}
    for row, key in enumerate(windows.row_keys):
        if key not in known:
            first.setdefault(key, row)
    return list(first.values())
