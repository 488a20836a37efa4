"""``StoredFile``: stretches of a genome file, unpacked once and mapped into memory.

``FOLDER/NAME-KEY/part-HASH/`` holds ``segments.json``, which lists stretches of chromosomes, and
``values.npy``, one array with the bases or values of all of them, on the plus strand, end to end.
A part is written beside its place and moved there as a whole, so that a reader sees all of it or
nothing. A file that changes has another KEY.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from regmask_sk._files import new_folder
from regmask_sk._regions import Regions
from regmask_sk.genome import PADDING_CODE, BigWigReader, FastaReader

_FORMAT = 1  # of the folder; part of every key
_PART_BASES = 2**26  # what a killed writer loses at most
_CHUNK_BASES = 2**20  # read at once
_TOP_EXPONENT = 14  # of the file's largest value in float16, whose own is 15

Segment = tuple[str, int, int]


class NotStoredError(LookupError):
    """Some of the bases that are asked for are not in the folder."""


class PrecisionError(ValueError):
    """A value does not fit into float16."""


class _Index(NamedTuple):
    """Where the stretches of a chromosome lie, sorted and without overlaps."""

    starts: list[int]
    ends: list[int]
    arrays: list[NDArray[Any]]
    offsets: list[int]  # place in the array minus place on the chromosome


class StoredFile:
    """Bases or values of a genome file, kept in a folder where they are needed.

    Parameters
    ----------
    folder : Path
        Folder of the cache. It need not exist.
    reader : FastaReader or BigWigReader
        The file.
    dtype : {"float16", "float32"}
        Of the values of a bigWig file; bases are one byte each.

    Attributes
    ----------
    unit : float
        Power of two by which stored values are multiplied to give those of the file, chosen for
        float16 such that the file's largest value is far from overflow and small ones are far from
        0; otherwise 1.

    Notes
    -----
    float16 has 11 significant bits: an error of at most 2**-11 of the value (0.05 %) or, for
    values below 4e-9 of the file's largest, of at most 2e-12 of the largest. That is checked when
    values are written. Whole numbers up to 2048 are exact.
    """

    def __init__(self, folder: Path, reader: FastaReader | BigWigReader, dtype: str) -> None:
        self.reader = reader
        self.dtype = np.dtype(np.uint8 if isinstance(reader, FastaReader) else dtype)
        self.unit, self._largest = 1.0, None
        if isinstance(reader, BigWigReader) and self.dtype == np.float16:
            self._largest = reader.largest()
            if self._largest is not None:
                exponent = math.frexp(self._largest)[1] - 1 - _TOP_EXPONENT
                self.unit = 2.0 ** max(exponent, -126)  # a normal float32
        told = json.dumps([_FORMAT, reader.signature(), self.dtype.str, self.unit])
        name = re.sub(r"[^\w.-]", "_", reader.path.name)[:64]
        self.folder = folder / f"{name}-{hashlib.sha256(told.encode()).hexdigest()[:32]}"
        self._forget()

    def _forget(self) -> None:
        self._parts: dict[str, tuple[list[Segment], NDArray[Any]]] = {}
        self._index: dict[str, _Index] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_parts": {}, "_index": {}}

    @property
    def path(self) -> Path:
        """The file."""
        return self.reader.path

    @property
    def chrom_sizes(self) -> dict[str, int]:
        """Size in base pairs of each chromosome."""
        return self.reader.chrom_sizes

    def signature(self) -> str:
        """Identify the content of the file, as `Reader.signature` does."""
        return self.reader.signature()

    # -- reading -------------------------------------------------------------------------------

    def codes(self, chrom: str, start: int, end: int) -> NDArray[np.uint8]:
        """Give the bases of an interval, as `FastaReader.codes` does.

        Raises
        ------
        NotStoredError
            If some of them are not in the folder.
        """
        return self._gather(chrom, start, end, PADDING_CODE)

    def values(self, chrom: str, start: int, end: int) -> NDArray[np.floating]:
        """Give the values of an interval, as `BigWigReader.values` does, in multiples of `unit`.

        Infinite values, which stand for none, are nan.

        Raises
        ------
        NotStoredError
            If some of them are not in the folder.
        """
        return self._gather(chrom, start, end, np.nan)

    def _gather(self, chrom: str, start: int, end: int, padding: float) -> NDArray[Any]:
        low, high = max(start, 0), min(end, self.chrom_sizes[chrom])
        if low >= high:
            return np.full(end - start, padding, self.dtype)
        if not self._parts:
            self.refresh()  # after unpickling
        index = self._index.get(chrom)
        place = bisect_right(index.starts, low) - 1 if index is not None else -1
        if index is None or place < 0 or index.ends[place] <= low:
            raise NotStoredError(f"{chrom}:{low}-{high} of {self.path}")
        array, offset = index.arrays[place], index.offsets[place]
        if index.ends[place] >= high and high - low == end - start:
            return array[low + offset : high + offset]
        out = np.full(end - start, padding, self.dtype)
        while low < high:
            if place == len(index.starts) or index.starts[place] > low:
                raise NotStoredError(f"{chrom}:{low}-{high} of {self.path}")
            stop = min(index.ends[place], high)
            offset = index.offsets[place]
            out[low - start : stop - start] = index.arrays[place][low + offset : stop + offset]
            low, place = stop, place + 1
        return out

    # -- what is there -------------------------------------------------------------------------

    @property
    def regions(self) -> Regions:
        """The stretches that are in the folder."""
        return Regions(
            {
                chrom: np.stack([index.starts, index.ends], axis=1).astype(np.int64)
                for chrom, index in self._index.items()
            }
        )

    def refresh(self) -> None:
        """Take up the parts that this or another process has written.

        Raises
        ------
        ValueError
            If a part is damaged.
        """
        new = [part for part in self.folder.glob("part-*") if part.name not in self._parts]
        for part in new:
            self._parts[part.name] = self._load(part)
        if new:
            self._sort()

    def _load(self, part: Path) -> tuple[list[Segment], NDArray[Any]]:
        try:
            listed = json.loads((part / "segments.json").read_text())["segments"]
            segments = [(str(chrom), int(start), int(end)) for chrom, start, end in listed]
            # a plain view of the memmap: slicing it is several times cheaper
            array = np.asarray(np.load(part / "values.npy", mmap_mode="r"))
            wanted = (sum(end - start for _, start, end in segments),)
            if array.shape != wanted or array.dtype != self.dtype:
                raise ValueError(
                    f"values.npy has shape {array.shape} and type {array.dtype}, expected "
                    f"{wanted} and {self.dtype}"
                )
        except (OSError, ValueError, EOFError, KeyError, TypeError) as error:
            raise ValueError(
                f"{part} of WindowCache is damaged: {error}. Delete this folder; it is then "
                "written anew."
            ) from error
        return segments, array

    def _sort(self) -> None:
        """Index all parts anew; where writers without a lock wrote the same twice, one is taken."""
        listed: dict[str, list[tuple[int, int, int, NDArray[Any]]]] = {}
        for segments, array in self._parts.values():
            place = 0
            for chrom, start, end in segments:
                listed.setdefault(chrom, []).append((start, end, place - start, array))
                place += end - start
        every = {}
        for chrom, found in listed.items():
            index = _Index([], [], [], [])
            done = 0
            for start, end, offset, array in sorted(found, key=lambda one: one[:2]):
                if end > done:
                    index.starts.append(max(start, done))
                    index.ends.append(end)
                    index.arrays.append(array)
                    index.offsets.append(offset)
                    done = end
            every[chrom] = index
        self._index = every  # at once: other threads may be reading

    # -- writing -------------------------------------------------------------------------------

    def add(self, regions: Regions) -> None:
        """Write stretches that are not there yet, one part after the other.

        Parameters
        ----------
        regions : Regions
            On the chromosomes of the file.

        Raises
        ------
        OSError
            If the disk is full. The parts that were finished stay.
        PrecisionError
            If values do not fit into float16.
        ValueError
            If the file has changed.
        """
        self.folder.mkdir(exist_ok=True)
        listed = sorted(regions.by_chrom.items())
        every = ((chrom, start, end) for chrom, array in listed for start, end in array.tolist())
        for segments in _deal(every, _PART_BASES):
            self._write(segments)
        self.refresh()

    def _write(self, segments: list[Segment]) -> None:
        told = json.dumps({"file": str(self.path), "unit": self.unit, "segments": segments})
        digest = hashlib.sha256(told.encode()).hexdigest()[:32]
        with new_folder(self.folder / f"part-{digest}") as made:
            # Plain writes: through a memory map a full disk ends the process with SIGBUS.
            with open(made / "values.npy", "wb") as file:
                shape = (sum(end - start for _, start, end in segments),)
                header = {"descr": self.dtype.str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for few in _deal(segments, _CHUNK_BASES):
                    file.write(self._read(few).data)
                file.flush()
                os.fsync(file.fileno())
            with open(made / "segments.json", "w") as listing:
                listing.write(told)
                listing.flush()
                os.fsync(listing.fileno())
            self.reader.signature()  # raises if the file has changed meanwhile

    def _read(self, segments: list[Segment]) -> NDArray[Any]:
        reader = self.reader
        if isinstance(reader, FastaReader):
            return np.concatenate([reader.codes(*segment) for segment in segments])
        values = np.concatenate([reader.values(*segment) for segment in segments])
        values[np.isinf(values)] = np.nan
        return self._pack(values, segments) if self.dtype == np.float16 else values

    def _pack(self, values: NDArray[np.float32], segments: list[Segment]) -> NDArray[np.float16]:
        unit = np.float32(self.unit)
        with np.errstate(over="ignore"):
            packed = (values / unit).astype(np.float16)
        error = packed.astype(np.float32)
        error *= unit
        error -= values
        np.abs(error, out=error)
        sizes = np.abs(values)
        largest = self._largest
        if largest is None:
            largest = float(np.nanmax(sizes, initial=0.0))
        sizes *= np.float32(2**-11)
        sizes += np.float32(largest * 2**-39)
        wrong = np.flatnonzero(error > sizes)
        if len(wrong):
            positions = np.concatenate([np.arange(start, end) for _, start, end in segments])
            chroms = np.repeat([s[0] for s in segments], [s[2] - s[1] for s in segments])
            first = wrong[0]
            raise PrecisionError(
                f"bigWig {self.path} does not fit into float16: {chroms[first]}:{positions[first]} "
                f"(0-based) has {values[first]:g}, which would come back as "
                f"{packed[first] * unit:g}; the largest value by the file's own summary is "
                f"{self._largest}. Give WindowCache dtype='float32', which keeps values as they "
                "are."
            )
        return packed


def _deal(segments: Iterable[Segment], most: int) -> Iterator[list[Segment]]:
    """Deal stretches, cut where need be, into lists of `most` bases each.

    Examples
    --------
    >>> list(_deal([("a", 0, 5), ("b", 1, 4)], most=6))
    [[('a', 0, 5), ('b', 1, 2)], [('b', 2, 4)]]
    """
    dealt: list[Segment] = []
    room = most
    for chrom, start, end in segments:
        while start < end:
            stop = min(end, start + room)
            dealt.append((chrom, start, stop))
            room -= stop - start
            start = stop
            if not room:
                yield dealt
                dealt, room = [], most
    if dealt:
        yield dealt
