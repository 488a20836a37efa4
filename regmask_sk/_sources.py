"""Where channels come from: sequence and signal tracks, as ``Windows`` reads them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regmask_sk._regions import Regions
from regmask_sk._stored_files import StoredFile
from regmask_sk.genome import PADDING_CODE, BigWigReader, FastaReader, Reader, shorten
from regmask_sk.windows import Interval, Windows

_ACGT = np.arange(4, dtype=np.uint8)[:, None]
_SAMPLED_PER_WINDOW = 16_384
_MOST_TABLES = 64  # of 256 KiB


@dataclass(frozen=True, eq=False)
class SequenceSource:
    """Channels A, C, G and T of a FASTA file; compact form: one code a base.

    Parameters
    ----------
    reader : FastaReader or StoredFile
        The file.
    """

    reader: FastaReader | StoredFile
    channel_names: tuple[str, ...] = field(default=("A", "C", "G", "T"), init=False)

    @property
    def readers(self) -> tuple[Reader, ...]:
        """The file."""
        return (self.reader,)  # type: ignore[return-value]

    def readers_of(self, cell_type: str | None) -> tuple[Reader, ...]:
        """Return the file."""
        return self.readers

    def over(self, stored: Callable[[Reader], StoredFile]) -> SequenceSource:
        """Return the same channels of a stored file."""
        return replace(self, reader=stored(*self.readers))

    def read(self, interval: Interval) -> NDArray[np.uint8]:
        """Read codes of shape (1, length)."""
        return self.reader.codes(interval.chrom, interval.start, interval.end)[None]

    def reverse(self, raw: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Reverse and complement."""
        # A and T, C and G add up to 3; 3 - 4 wraps to 255 and becomes 4 again.
        return np.minimum(np.uint8(3) - raw[:, ::-1], np.uint8(PADDING_CODE))

    def compact(self, raw: NDArray[np.uint8], cell_type: str | None) -> NDArray[np.uint8]:
        """Return the codes as they are."""
        return raw

    def expand(self, compact: NDArray[np.uint8], out: NDArray[np.float32]) -> None:
        """Write the codes one-hot; padding and unknown bases are zero in all four."""
        np.equal(compact, _ACGT, out=out, casting="unsafe")

    def cache_key(self, *, fitted: bool) -> str:
        """Identify the file."""
        return self.reader.signature()


@dataclass(frozen=True, eq=False)
class SignalSource:
    """Channels of bigWig tracks; compact form: scaled values, nan where uncovered.

    Over stored files of float16 the raw form has that type, in the unit of each file. It has 65,536
    values, so the compact one is looked up: 30 times faster than asinh.

    Parameters
    ----------
    tracks : dict of str to dict of (str or None) to BigWigReader or StoredFile
        Files of each track by cell type; None for all cell types.
    scales : dict of str to dict of (str or None) to dict of str to float, or None
        The same for ``center`` and ``scale``; None to leave the values as they are.
    missing : {"zero", "mask", "error"}
        What becomes of uncovered bases.
    blacklist : Regions
        Their bases count as uncovered.
    """

    tracks: Mapping[str, Mapping[str | None, BigWigReader | StoredFile]]
    scales: dict[str, dict[str | None, dict[str, float]]] | None
    missing: str
    blacklist: Regions

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the tracks, then with missing="mask" of their channels of coverage."""
        covered = [f"{name}_covered" for name in self.tracks] if self.missing == "mask" else []
        return (*self.tracks, *covered)

    @property
    def readers(self) -> tuple[Reader, ...]:
        """The files."""
        return tuple(reader for files in self.tracks.values() for reader in files.values())  # type: ignore[misc]

    def readers_of(self, cell_type: str | None) -> tuple[Reader, ...]:
        """Return the files of rows of a cell type, one for each track."""
        return tuple(_of_cell_type(files, name, cell_type) for name, files in self.tracks.items())

    def over(self, stored: Callable[[Reader], StoredFile]) -> SignalSource:
        """Return the same channels of stored files."""
        tracks = {
            name: {cell_type: stored(reader) for cell_type, reader in files.items()}  # type: ignore[arg-type]
            for name, files in self.tracks.items()
        }
        return replace(self, tracks=tracks)

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}

    @cached_property
    def _dtype(self) -> np.dtype[np.floating]:
        """Type of the raw form."""
        (dtype,) = {np.dtype(getattr(reader, "dtype", np.float32)) for reader in self.readers}
        return dtype

    @cached_property
    def _tables(self) -> dict[str | None, NDArray[np.float32]]:
        return {}

    def check_cell_types(self, cell_types: Iterable[str | None]) -> None:
        """Raise if a track has no file or no scale for one of the cell types."""
        for cell_type in dict.fromkeys(cell_types):
            for name, files in self.tracks.items():
                _of_cell_type(files, name, cell_type)
                if self.scales is not None:
                    _of_cell_type(self.scales[name], name, cell_type)

    def read(self, interval: Interval) -> NDArray[np.floating]:
        """Read values of shape (n_tracks, length), nan where uncovered."""
        chrom, start, end, cell_type, _ = interval
        raw = np.full((len(self.tracks), end - start), np.nan, dtype=self._dtype)
        for values, name in zip(raw, self.tracks, strict=True):
            reader = _of_cell_type(self.tracks[name], name, cell_type)
            sizes = reader.chrom_sizes
            if chrom in sizes:  # check_chromosomes has decided whether it may be absent
                values[:] = reader.values(chrom, start, end)
                if self._dtype == np.float32:  # StoredFile has done it
                    values[np.isinf(values)] = np.nan  # the log-ratio of nothing
            if self.missing == "error":
                inside = values[max(0, -start) : max(0, sizes.get(chrom, 0) - start)]
                holes = int(np.isnan(inside).sum())
                if holes:
                    raise ValueError(
                        f"track {name!r} ({reader.path}) has no value for {holes} bases of "
                        f"{chrom}:{start}-{end}. Give missing='zero' or missing='mask', or leave "
                        "this gene out."
                    )
        for begin, stop in self.blacklist.within(chrom, start, end):
            raw[:, max(0, begin - start) : stop - start] = np.nan
        return raw

    def reverse(self, raw: NDArray[np.floating]) -> NDArray[np.floating]:
        """Flip."""
        return raw[:, ::-1]

    def compact(self, raw: NDArray[np.floating], cell_type: str | None) -> NDArray[np.float32]:
        """Scale the values, and with missing="zero" set uncovered bases to zero."""
        if raw.dtype == np.float16:
            return self._looked_up(raw.view(np.uint16), cell_type)
        values = np.array(raw, dtype=np.float32, order="C")
        if self.scales is not None:
            learned = [_of_cell_type(self.scales[name], name, cell_type) for name in self.tracks]
            values -= np.array([[one["center"]] for one in learned], dtype=np.float32)
            values /= np.array([[one["scale"]] for one in learned], dtype=np.float32)
            np.arcsinh(values, out=values)
        if self.missing != "mask":
            values[np.isnan(values)] = 0.0
        return values

    def _looked_up(self, raw: NDArray[np.uint16], cell_type: str | None) -> NDArray[np.float32]:
        tables = self._tables.get(cell_type)
        if tables is None:
            if len(self._tables) * len(self.tracks) >= _MOST_TABLES:
                self._tables.clear()
            units = [[reader.unit] for reader in self.readers_of(cell_type)]  # type: ignore[attr-defined]
            every = np.arange(2**16, dtype=np.uint16).view(np.float16)
            every = np.where(np.isfinite(every), every, np.float16(np.nan)).astype(np.float32)
            with np.errstate(over="ignore"):  # beyond the file's largest value
                tables = self.compact(every * np.array(units, dtype=np.float32), cell_type)
            self._tables[cell_type] = tables
        values = np.empty(raw.shape, np.float32)
        for table, codes, out in zip(tables, raw, values, strict=True):
            np.take(table, codes, out=out, mode="clip")  # "raise" would copy
        return values

    def unscaled(
        self, values: NDArray[np.float32], name: str, cell_type: str | None
    ) -> NDArray[np.float64]:
        """Turn values of a track back into the units of its file.

        Parameters
        ----------
        values : ndarray of any shape
            What windows hold of the track.
        name : str
            The track.
        cell_type : str or None
            Cell type of the row.

        Returns
        -------
        ndarray of the same shape, float64
            To the precision of float32. Uncovered bases have the center of the scale: 0 where
            the track has no negative values.
        """
        raw = values.astype(np.float64)
        if self.scales is None:
            return raw
        learned = _of_cell_type(self.scales[name], name, cell_type)
        return np.sinh(raw) * learned["scale"] + learned["center"]

    def expand(self, compact: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Write the values, and with missing="mask" 1 where covered and 0 elsewhere."""
        n_tracks = len(self.tracks)
        values = out[:n_tracks]
        values[:] = compact
        if self.missing == "mask":
            holes = np.isnan(values)
            np.logical_not(holes, out=out[n_tracks:], casting="unsafe")
            values[holes] = 0.0

    def cache_key(self, *, fitted: bool) -> str:
        """Identify the files, and with `fitted` the scales."""
        files = [
            (name, cell_type, reader.signature())
            for name, by_type in self.tracks.items()
            for cell_type, reader in by_type.items()
        ]
        learned = (self.missing, self.scales) if fitted else self.missing == "error"
        return repr((files, self.blacklist.digest(), learned))


@dataclass(frozen=True, eq=False)
class RawTrack:
    """A track of windows, in the units of its file.

    Parameters
    ----------
    channel : int
        Its channel.
    source : channel source or None
        Where it comes from, with a method ``unscaled``; None where windows have raw values.
    name : str
        Its name.
    """

    channel: int
    source: Any = None
    name: str = ""

    @classmethod
    def of(cls, windows: Windows, name: str) -> RawTrack:
        """Find the track of a name among the channels of windows."""
        sources = [s for s in windows.sources if name in s.channel_names and hasattr(s, "unscaled")]
        return cls(windows.channel_names.index(name), sources[0] if sources else None, name)

    def read(self, x: NDArray[np.float32], cell_type: str | None) -> NDArray[np.float64]:
        """Give the values of a window, ``(channels, length)``, as ``(length,)``."""
        values = x[self.channel]
        if self.source is None:
            return values.astype(np.float64)
        raw: NDArray[np.float64] = self.source.unscaled(values, self.name, cell_type)
        return raw


def _of_cell_type(by_type: Mapping[str | None, Any], name: str, cell_type: str | None) -> Any:
    found = by_type.get(None, by_type.get(cell_type))
    if found is None:
        raise ValueError(
            f"track {name!r} has no file, or no rows in fit, for cell_type {cell_type!r}; it has "
            f"{shorten(map(str, by_type))}. Add it to tracks, and rows of it to fit."
        )
    return found


def learn_scale(
    source: SignalSource, windows: Windows, rows: Sequence[int], n_windows: int
) -> dict[str, float]:
    """Learn center and scale of one file from some windows.

    Parameters
    ----------
    source : SignalSource
        Of one track.
    windows : Windows
        The windows.
    rows : sequence of int
        Rows that may be read, all of one file.
    n_windows : int
        The first rows that are read; more only as long as nothing but zeros is found.

    Returns
    -------
    dict of str to float
        ``center`` and ``scale``.

    Raises
    ------
    ValueError
        If no row has a value.
    """
    samples: list[NDArray[np.float32]] = []
    empty = True
    for number, row in enumerate(rows):
        if number >= n_windows and not empty:
            break
        values = source.read(windows.interval(row))[0]
        values = values[~np.isnan(values)]
        empty = empty and not values.any()
        samples.append(values[:: max(1, len(values) // _SAMPLED_PER_WINDOW)])
    values = np.concatenate(samples)
    (name,) = source.tracks
    path = _of_cell_type(source.tracks[name], name, windows.cell_types[rows[0]]).path
    if not len(values):
        raise ValueError(
            f"track {name!r} ({path}) has no value in any of the {len(rows)} windows given to fit. "
            "Check that it covers their chromosomes, or leave the track out."
        )
    center = float(np.median(values)) if values.min() < 0 else 0.0
    distances = np.abs(values - np.float32(center))
    distances = distances[distances > 0]
    if not len(distances):
        warnings.warn(
            f"track {name!r} ({path}) is {center:g} wherever it has a value in the windows given "
            "to fit: it tells the model nothing.",
            UserWarning,
            stacklevel=4,
        )
        return {"center": center, "scale": 1.0}
    return {"center": center, "scale": float(np.median(distances))}
