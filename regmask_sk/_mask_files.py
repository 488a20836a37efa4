"""The three files that masks are written to: a bigWig, a BED and an npz, each as a stream.

Each is a context manager that finishes its file on leaving, unless an error is on its way.
"""

from __future__ import annotations

import heapq
import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyBigWig
from numpy.typing import NDArray

# Entries handed to pyBigWig at once: each call closes a block of the file, so few and long ones.
_ENTRIES = 32_768


class Element(NamedTuple):
    """One line of the BED file; the order of the fields is the order of the lines."""

    start: int
    end: int
    name: str
    score: int
    strand: str


class BigWigTrack(AbstractContextManager["BigWigTrack"]):
    """Combine overlapping masks in a rolling buffer and write what no later one can change.

    Parameters
    ----------
    path : Path
        File to write.
    sizes : mapping of str to int
        Chromosome sizes in base pairs, in the order in which the chromosomes will come.
    length : int
        Greatest length of a mask.
    combine : {"max", "mean"}
        What a base gets that several masks cover.
    """

    def __init__(
        self, path: Path, sizes: Mapping[str, int], length: int, combine: Literal["max", "mean"]
    ):
        self._path = path
        self._file = pyBigWig.open(str(path), "w")
        self._file.addHeader(list(sizes.items()))
        self._combine = combine
        # The buffer begins at genomic position _start; up to _end it holds masks, then zeros.
        # Windows come sorted by start, so that nothing held reaches further than one window.
        self._held: NDArray[Any] = np.zeros(
            length, dtype=np.float32 if combine == "max" else np.float64
        )
        self._depth = np.zeros(length, dtype=np.int32)
        self._chrom, self._start, self._end = "", 0, 0
        # The last run stays open: the next stretch may go on with the same value.
        self._open: tuple[int, int, np.float32] | None = None
        self._queue: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]] = []
        self._n_queued = self._covered = 0

    def add(self, chrom: str, start: int, values: NDArray[np.floating]) -> None:
        """Add a mask in genomic orientation; ``(chrom, start)`` never decreases."""
        if chrom != self._chrom:
            self._finish_chromosome()
            self._chrom, self._start, self._end = chrom, start, start
        self._settle(start)
        n = len(values)
        if self._combine == "max":
            np.maximum(self._held[:n], values, out=self._held[:n], casting="same_kind")
        else:
            np.add(self._held[:n], values, out=self._held[:n])
        self._depth[:n] += 1
        self._end = max(self._end, start + n)

    def _settle(self, upto: int) -> None:
        """Hand on the bases before ``upto`` and move the buffer there."""
        n = min(upto, self._end) - self._start
        if n > 0:
            done = self._held[:n]
            self._queue_runs(done if self._combine == "max" else done / self._depth[:n])
            left = self._end - self._start - n
            for array in (self._held, self._depth):
                array[:left] = array[n : n + left]
                array[left : left + n] = 0
        self._start, self._end = upto, max(self._end, upto)

    def _queue_runs(self, values: NDArray[np.floating]) -> None:
        values = values.astype(np.float32)  # as the file holds them: equality is decided here
        change = np.flatnonzero(values[1:] != values[:-1]) + 1
        first = np.concatenate(([0], change))
        starts, ends = self._start + first, self._start + np.append(change, len(values))
        run_values = values[first]
        if self._open is not None:
            start, end, value = self._open
            if end == starts[0] and value == run_values[0]:
                starts[0] = start
            else:
                starts, ends = np.append(start, starts), np.append(end, ends)
                run_values = np.append(value, run_values)
        self._open = (int(starts[-1]), int(ends[-1]), run_values[-1])
        if len(starts) > 1:
            self._queue.append((starts[:-1], ends[:-1], run_values[:-1]))
            self._n_queued += len(starts) - 1
        if self._n_queued >= _ENTRIES:
            self._write_queue()

    def _write_queue(self) -> None:
        if self._n_queued:
            starts, ends, values = (np.concatenate(part) for part in zip(*self._queue, strict=True))
            self._file.addEntries(
                np.full(len(starts), self._chrom), starts, ends=ends, values=values
            )
            self._covered += int((ends - starts).sum())
        self._queue, self._n_queued = [], 0

    def _finish_chromosome(self) -> None:
        self._settle(self._end)
        if self._open is not None:
            start, end, value = self._open
            self._queue.append((np.array([start]), np.array([end]), np.array([value])))
            self._n_queued += 1
            self._open = None
        self._write_queue()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._file.close()
            return
        self._finish_chromosome()
        self._file.close()
        # pyBigWig reports no error at closing, when the index is written: read it back.
        with pyBigWig.open(str(self._path)) as written:
            found = written.header()["nBasesCovered"]
        if found != self._covered:
            raise OSError(
                f"the bigWig file holds {found} bases after writing {self._covered}. Check the "
                "free space of its disk."
            )


class BedLines(AbstractContextManager["BedLines"]):
    """Write elements sorted, holding those that a later window may still precede.

    Parameters
    ----------
    path : Path
        File to write.
    """

    def __init__(self, path: Path):
        self._file = path.open("w", encoding="utf-8", newline="\n")
        self._chrom = ""
        self._waiting: list[Element] = []
        self.n_written = 0

    def add(self, chrom: str, start: int, elements: Sequence[Element]) -> None:
        """Add the elements of a window that begins at ``start``, which never decreases."""
        self._write(None if chrom != self._chrom else start)
        self._chrom = chrom
        for element in elements:
            heapq.heappush(self._waiting, element)

    def _write(self, before: int | None) -> None:
        while self._waiting and (before is None or self._waiting[0].start < before):
            e = heapq.heappop(self._waiting)
            self._file.write(
                f"{self._chrom}\t{e.start}\t{e.end}\t{e.name}\t{e.score}\t{e.strand}\n"
            )
            self.n_written += 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._file:
            if kind is None:
                self._write(None)


class NpzRows(AbstractContextManager["NpzRows"]):
    """Collect rows in any order in a temporary file, then pack it into the archive.

    Parameters
    ----------
    path : Path
        File to write.
    shape : (int, int)
        Number of genes and length.
    columns : mapping of str to ndarray of shape (n_genes,)
        Further members of the archive.
    """

    def __init__(self, path: Path, shape: tuple[int, int], columns: Mapping[str, NDArray[Any]]):
        self._path, self._columns = path, columns
        self._spool = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 (closed in __exit__)
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._spool, header)
        self._offset = self._spool.tell()

    def write(self, rows: NDArray[np.int64], masks: NDArray[np.floating]) -> None:
        """Write each mask to its place."""
        for row, mask in zip(rows.tolist(), masks.astype("<f4"), strict=True):
            self._spool.seek(self._offset + row * mask.nbytes)
            self._spool.write(mask.tobytes())

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._spool:
            if kind is None:
                self._pack()

    def _pack(self) -> None:
        with zipfile.ZipFile(self._path, "w", zipfile.ZIP_DEFLATED) as archive:
            self._spool.seek(0)
            with archive.open("masks.npy", "w", force_zip64=True) as member:
                shutil.copyfileobj(self._spool, member, 1 << 20)
            for name, column in self._columns.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, column, allow_pickle=False)
