"""``Windows``: the lazy array of shape (n_samples, n_channels, length) around each gene's TSS."""

from __future__ import annotations

import operator
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, NoReturn, Protocol, overload

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from regmask_sk.genome import Reader
from regmask_sk.loci import check_loci


class Interval(NamedTuple):
    """A stretch of a chromosome, 0-based and half-open; it may run off at either end.

    Attributes
    ----------
    chrom : str
        Chromosome.
    start, end : int
        Base pairs; `start` may be negative, `end` beyond the chromosome.
    cell_type : str or None
        Cell type of the row, where the loci have that column.
    tss : int or None
        0-based TSS of the row, which is not the middle of a window that is shifted.
    """

    chrom: str
    start: int
    end: int
    cell_type: str | None = None
    tss: int | None = None


class ChannelSource(Protocol):
    """What gives ``Windows`` some of its channels.

    A window passes through three forms: *raw*, as the file has it; *compact*, the smallest that
    nothing needs to be learned for any more; and float32 channels. ``WindowCache`` keeps the first
    on disk and the second in memory.
    """

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the channels."""

    @property
    def readers(self) -> tuple[Reader, ...]:
        """The files that the channels come from."""

    def read(self, interval: Interval) -> NDArray[Any]:
        """Read the raw form of shape (k, end - start), 5' to 3' on the plus strand."""

    def reverse(self, raw: NDArray[Any]) -> NDArray[Any]:
        """Turn a raw window into the same window read on the other strand."""

    def compact(self, raw: NDArray[Any], cell_type: str | None) -> NDArray[Any]:
        """Turn the raw form into the compact one, of shape (k, length)."""

    def expand(self, compact: NDArray[Any], out: NDArray[np.float32]) -> None:
        """Write the channels of a compact window into `out`, of shape (n_channels, length)."""

    def cache_key(self, *, fitted: bool) -> str:
        """Identify the raw form, or with `fitted` also what was learned for the compact one."""


class WindowStore(Protocol):
    """Windows that ``WindowCache`` has read already."""

    @property
    def layout(self) -> tuple[int, bool]:
        """Length of the windows, and whether they are stranded."""

    @property
    def flank(self) -> int:
        """Base pairs kept on either side of the window."""

    def row(self, windows: Windows, row: int) -> tuple[NDArray[Any], ...] | None:
        """Return a row's compact arrays, one for each of the first sources, or None.

        They are in gene orientation and of length ``windows.length + 2 * flank``.
        """


@dataclass(frozen=True, eq=False)
class Windows:
    """A window around each TSS, read when a row is asked for.

    Looks like an array of shape (n_samples, n_channels, length). Slicing rows gives a smaller
    ``Windows`` and reads nothing; one integer reads one row.

    Parameters
    ----------
    loci : pandas.DataFrame of n_samples rows
        Columns ``chrom``, ``tss`` (0-based), ``strand``, optionally ``cell_type`` and covariates.
    length : int
        Width of a window in base pairs.
    sources : tuple of ChannelSource, default=()
        Where the channels come from, in order.
    stranded : bool, default=True
        Whether windows of genes on the minus strand are read 5' to 3' on that strand.
    jitter : int, default=0
        Base pairs by which a training loop may shift windows; see `read`.
    store : WindowStore, optional
        Rows that were read already, set by ``WindowCache``.

    Attributes
    ----------
    shape : tuple of three int
        (n_samples, n_channels, length).
    channel_names : tuple of str
        Names of the channels, such as ``("A", "C", "G", "T", "H3K27ac")``.
    starts : ndarray of shape (n_samples,), int64
        0-based genomic start of each window; may be negative.
    reversed : ndarray of shape (n_samples,), bool
        Whether the window is read on the minus strand.
    chrom_sizes : dict
        Size in base pairs of each chromosome that the sources' files have.

    Notes
    -----
    Column ``length // 2`` is the TSS on either strand. On the plus strand column *j* is position
    ``tss - length // 2 + j``, on the minus strand (if `stranded`) ``tss + length // 2 - j``.

    Examples
    --------
    >>> import pandas as pd
    >>> loci = pd.DataFrame(
    ...     {"chrom": ["chr1", "chr1"], "tss": [100, 200], "strand": ["+", "-"]}, index=["a", "b"]
    ... )
    >>> windows = Windows(loci, length=10)
    >>> windows.shape, windows.starts.tolist()
    ((2, 0, 10), [95, 196])
    >>> windows[[1]].interval(0, shift=2)
    Interval(chrom='chr1', start=194, end=204, cell_type=None, tss=200)
    """

    loci: pd.DataFrame
    length: int
    sources: tuple[ChannelSource, ...] = ()
    stranded: bool = True
    jitter: int = 0
    store: WindowStore | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if len(self.loci):  # no rows is right for a slice
            check_loci(self.loci)
        for name, least in (("length", 1), ("jitter", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise ValueError(f"{name} is {value!r}; expected an integer of at least {least}.")
            object.__setattr__(self, name, int(value))
        if self.store is not None and self.store.layout != (self.length, self.stranded):
            raise ValueError(
                f"store holds windows of (length, stranded) {self.store.layout}; these have "
                f"{(self.length, self.stranded)}. Give store=None."
            )
        names = self.channel_names
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(
                f"channels {repeated} occur more than once among {names}. Give each track a name "
                "of its own."
            )

    # -- the look of an array ------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n_samples, n_channels, length)."""
        return len(self.loci), len(self.channel_names), self.length

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return 3

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """The type of what is read."""
        return np.dtype(np.float32)

    @cached_property
    def channel_names(self) -> tuple[str, ...]:
        """Names of the channels, in order."""
        return tuple(name for source in self.sources for name in source.channel_names)

    @property
    def nbytes(self) -> int:
        """Bytes that all windows would take as an array."""
        return int(np.prod(self.shape, dtype=object)) * 4

    def __len__(self) -> int:
        return len(self.loci)

    def __repr__(self) -> str:
        return f"Windows(n={len(self)}, length={self.length}, channels={self.channel_names})"

    @overload
    def __getitem__(self, key: int | np.integer) -> NDArray[np.float32]: ...
    @overload
    def __getitem__(self, key: slice | ArrayLike | tuple[Any, ...]) -> Windows: ...
    def __getitem__(self, key: Any) -> Windows | NDArray[np.float32]:
        """Read one row (an integer), or select rows (anything else) without reading.

        Parameters
        ----------
        key : int, slice, sequence of int, array of bool of shape (n_samples,)
            Rows; ``X[key, ...]`` means the same.

        Returns
        -------
        ndarray of shape (n_channels, length), float32, or Windows
            The row, or the selected rows.
        """
        if isinstance(key, tuple):
            rows, *rest = key or (slice(None),)
            whole = (Ellipsis, slice(None))
            if any(isinstance(part, np.ndarray) or part not in whole for part in rest):
                raise IndexError(
                    "Windows are indexed by row only. Read a row with windows[i] and index the "
                    "array that it gives."
                )
            key = slice(None) if rows is Ellipsis else rows
        if isinstance(key, int | np.integer) and not isinstance(key, bool):
            return self.read(int(key))
        return self._rows(key)

    def _rows(self, key: Any) -> Windows:
        if not isinstance(key, slice):
            rows = np.asarray(key)
            if rows.ndim != 1:
                raise IndexError(f"rows have {rows.ndim} axes; expected one, or an integer.")
            if rows.dtype == bool:
                if len(rows) != len(self):
                    raise IndexError(
                        f"the array of bool has {len(rows)} entries for {len(self)} rows."
                    )
                rows = np.flatnonzero(rows)
            elif len(rows) == 0:
                rows = rows.astype(np.int64)
            elif not np.issubdtype(rows.dtype, np.integer):
                raise IndexError(f"rows have dtype {rows.dtype}; expected integers or bool.")
            outside = (rows < -len(self)) | (rows >= len(self))
            if outside.any():
                raise IndexError(f"row {rows[outside][0]} is out of range: n_samples={len(self)}.")
            key = rows
        made = object.__new__(Windows)  # these rows have been checked
        made.__setstate__({**self.__getstate__(), "loci": self.loci.iloc[key]})
        return made

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NoReturn:
        raise TypeError(
            f"these Windows are read row by row and would take {self.nbytes / 1e9:.3g} GB as an "
            f"array of shape {self.shape}. Use to_numpy(max_bytes=...) if that is what you want."
        )

    def to_numpy(self, max_bytes: int = 2**30) -> NDArray[np.float32]:
        """Read all windows into one array.

        Parameters
        ----------
        max_bytes : int, default=2**30
            The most that the array may take.

        Returns
        -------
        ndarray of shape (n_samples, n_channels, length), float32
            The windows.

        Raises
        ------
        ValueError
            If it would take more than `max_bytes`.
        """
        if self.nbytes > max_bytes:
            raise ValueError(
                f"an array of shape {self.shape} takes {self.nbytes} bytes "
                f"({self.nbytes / 1e9:.3g} GB); max_bytes is {max_bytes}. Raise it, or take fewer "
                "rows."
            )
        out = np.empty(self.shape, dtype=np.float32)
        for row in range(len(self)):
            self.read(row, out=out[row])
        return out

    # -- where the windows lie -----------------------------------------------------------------

    @cached_property
    def reversed(self) -> NDArray[np.bool_]:
        """Whether each window is read on the minus strand."""
        return (self.loci["strand"] == "-").to_numpy(dtype=bool) & self.stranded

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """0-based genomic start of each window."""
        tss = self._tss
        half = self.length // 2
        return np.where(self.reversed, tss + half - self.length + 1, tss - half)

    @property
    def chrom_sizes(self) -> dict[str, int]:
        """Size in base pairs of each chromosome that the sources' files have."""
        sizes: dict[str, int] = {}
        for reader in self.readers:
            sizes |= reader.chrom_sizes
        return sizes

    @property
    def readers(self) -> tuple[Reader, ...]:
        """The files that the channels come from."""
        return tuple(reader for source in self.sources for reader in source.readers)

    @cached_property
    def complement(self) -> tuple[int, ...]:
        """For each channel the channel that holds it on the other strand (A and T, C and G)."""
        partner = {"A": "T", "T": "A", "C": "G", "G": "C"}
        place = {name: i for i, name in enumerate(self.channel_names)}
        if not {"A", "C", "G", "T"} <= set(place):
            return tuple(range(len(place)))
        return tuple(place[partner.get(name, name)] for name in self.channel_names)

    @cached_property
    def row_keys(self) -> tuple[Hashable, ...]:
        """What each row's window depends on: chrom, tss, whether reversed, cell type."""
        tss = self.loci["tss"].tolist()
        return tuple(zip(self._chroms, tss, self.reversed.tolist(), self.cell_types, strict=True))

    @cached_property
    def _tss(self) -> NDArray[np.int64]:
        return self.loci["tss"].to_numpy(dtype=np.int64)

    @cached_property
    def _chroms(self) -> list[str]:
        return self.loci["chrom"].tolist()

    @cached_property
    def cell_types(self) -> list[str | None]:
        """Cell type of each row; None where the loci have none."""
        if "cell_type" not in self.loci.columns:
            return [None] * len(self)
        column = self.loci["cell_type"]
        known = column.notna()
        return [str(name) if ok else None for name, ok in zip(column, known, strict=True)]

    def __getstate__(self) -> dict[str, Any]:
        # what is derived from the fields is derived again
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def interval(self, row: int, shift: int = 0, *, flank: int = 0) -> Interval:
        """Return where a window lies.

        Parameters
        ----------
        row : int
            Row; negative from the end.
        shift : int, default=0
            Base pairs in the gene's own direction (on the minus strand, to smaller positions).
        flank : int, default=0
            Base pairs added at both ends.

        Returns
        -------
        Interval
            0-based, half-open, on the plus strand.
        """
        row = self._row(row)
        moved = -shift if self.reversed[row] else shift
        start = int(self.starts[row]) + moved - flank
        end = start + self.length + 2 * flank
        return Interval(self._chroms[row], start, end, self.cell_types[row], int(self._tss[row]))

    def _row(self, row: int) -> int:
        row = operator.index(row)
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} is out of range: n_samples={len(self)}.")
        return row % len(self)

    # -- reading -------------------------------------------------------------------------------

    def read(
        self, row: int, shift: int = 0, *, out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Read one window, in gene orientation.

        Parameters
        ----------
        row : int
            Row; negative from the end.
        shift : int, default=0
            Base pairs by which the window is moved in the gene's own direction. Up to `jitter` it
            is served by the cache, where there is one.
        out : ndarray of shape (n_channels, length), float32, optional
            Where to write it; a new array by default.

        Returns
        -------
        ndarray of shape (n_channels, length), float32
            `out`. Bases that are not A, C, G or T, and those off the chromosome, are zero in all
            sequence channels.
        """
        row = self._row(row)
        if out is None:
            out = np.empty(self.shape[1:], dtype=np.float32)
        channel = 0
        for source, compact in zip(self.sources, self.compact_row(row, shift), strict=True):
            after = channel + len(source.channel_names)
            source.expand(compact, out[channel:after])
            channel = after
        return out

    def compact_row(self, row: int, shift: int = 0) -> Iterator[NDArray[Any]]:
        """Read a window in the compact form, source by source.

        Parameters
        ----------
        row : int
            Row.
        shift : int, default=0
            As in `read`.

        Yields
        ------
        ndarray of shape (k, length)
            The compact array of each source in turn, in gene orientation.
        """
        row = self._row(row)
        stored: tuple[NDArray[Any], ...] = ()
        begin = 0
        if self.store is not None and abs(shift) <= self.store.flank:
            stored = self.store.row(self, row) or ()
            begin = self.store.flank + shift
        for number, source in enumerate(self.sources):
            if number < len(stored):
                yield stored[number][:, begin : begin + self.length]
            else:
                interval = self.interval(row, shift)
                raw = self.read_raw(source, interval, bool(self.reversed[row]))
                yield source.compact(raw, interval.cell_type)

    @staticmethod
    def read_raw(source: ChannelSource, interval: Interval, reverse: bool) -> NDArray[Any]:
        """Read the raw form of an interval from a source, in gene orientation."""
        raw = source.read(interval)
        return source.reverse(raw) if reverse else raw

    def with_source(self, source: ChannelSource) -> Windows:
        """Return Windows with the channels of one more source at the end.

        Parameters
        ----------
        source : ChannelSource
            Its channel names must be new.

        Returns
        -------
        Windows
            Of the same rows.

        Raises
        ------
        ValueError
            If a channel name occurs already.
        """
        return replace(self, sources=(*self.sources, source))
