"""How often two places of a chromosome meet: a power law of their distance, and cooler files."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from regmask_sk._files import beside_of, sync_folder
from regmask_sk._text_files import as_integers, read_columns
from regmask_sk.genome import Reader, shorten

TABLE_COLUMNS = ("bin1", "bin2", "hic_contact")
"""Columns of a table of contacts: two bins of a chromosome, counted from 0, and their contact."""

GAMMA = 0.87
"""Exponent by which contact falls with distance in the activity-by-contact model."""

_PER_KB = 1_000.0


def power_law(distance: ArrayLike, *, bin_size: int, gamma: float = GAMMA) -> NDArray[np.float64]:
    """Contact that is expected at a distance, 1 at 1 kb.

    Parameters
    ----------
    distance : array of any shape
        Base pairs, 0 or more.
    bin_size : int
        Base pairs. Distances below it count as that: within a bin and between neighbours
        nothing is known of the distance.
    gamma : float, default=0.87
        Exponent of the decay.

    Returns
    -------
    ndarray of the shape of `distance`, float64
        ``(max(distance, bin_size) / 1000) ** -gamma``.

    References
    ----------
    Fulco et al., "Activity-by-contact model of enhancer-promoter regulation from thousands of
    CRISPR perturbations", Nature Genetics 51 (2019).

    Examples
    --------
    >>> power_law([0, 5_000, 50_000], bin_size=5_000).round(4)
    array([0.2465, 0.2465, 0.0333])
    """
    apart = np.maximum(np.asarray(distance, dtype=np.float64), bin_size)
    return (apart / _PER_KB) ** -gamma


def import_cooler() -> Any:
    """Import the package cooler, which is an option.

    Raises
    ------
    ImportError
        If it is not installed; the message names the extra that has it.
    """
    try:
        import cooler
    except ImportError as error:
        raise ImportError(
            "a contact map is read by the package cooler, which cannot be imported: "
            f"{error}. Install it with `pip install regmask_sk[contacts]`."
        ) from error
    return cooler


class CoolerReader(Reader):
    """Contacts of a cooler file with bins of one size.

    Parameters
    ----------
    contacts : str or path-like
        A ``.cool`` file, or a map in a file of several, as ``"x.mcool::resolutions/5000"``.
    balance : bool or str, default=True
        Whether counts are multiplied by the weights of their bins in column ``weight``, or the
        column that has them. Weights named KR, VC and VC_SQRT divide, as cooler has it.
    chrom_alias : mapping of str to str, optional
        Name in the loci to name in the file.

    Raises
    ------
    ImportError
        If the package cooler is not installed.
    FileNotFoundError
        If there is no such file.
    ValueError
        If there is no such map, its bins are not of one size, or it has no such weights.

    Examples
    --------
    >>> CoolerReader("nothing.mcool::resolutions/5000")
    Traceback (most recent call last):
    ...
    FileNotFoundError: cooler nothing.mcool cannot be read: No such file or directory. ...
    """

    kind = "cooler"

    def __init__(
        self,
        contacts: str | os.PathLike[str],
        *,
        balance: bool | str = True,
        chrom_alias: Mapping[str, str] | None = None,
    ) -> None:
        path, _, group = os.fspath(contacts).partition("::")
        self.group = group.strip("/")
        self.balance = balance
        super().__init__(path, chrom_alias)

    def _reset(self) -> None:
        super()._reset()
        self._bin_size = 0
        self._first_bins: dict[str, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "group": self.group, "balance": self.balance}

    @property
    def bin_size(self) -> int:
        """Base pairs of a bin."""
        self._chroms()
        return self._bin_size

    def signature(self) -> str:
        """Identify file, map and weights; see ``Reader.signature``."""
        return f"{super().signature()}|{self.group}|{self.balance}"

    def close(self) -> None:
        """Forget the map; the file itself is open only while it is read."""
        self._local.__dict__.pop("handle", None)
        self._local.__dict__.pop("pid", None)

    def contacts(
        self, chrom: str, rows: tuple[int, int], columns: tuple[int, int]
    ) -> NDArray[np.float64]:
        """Read the contacts of some bins of a chromosome with others.

        Parameters
        ----------
        chrom : str
            Chromosome, as the loci name it.
        rows, columns : tuple of two int
            Bins, counted from 0 in the chromosome, half-open; they may run off it.

        Returns
        -------
        ndarray of shape (n_rows, n_columns), float64
            In the unit of the file: counts, or balanced counts. nan for bins without a weight
            and for those off the chromosome.

        Raises
        ------
        ValueError
            If the chromosome is unknown or the file is damaged.
        """
        name, _, _ = self._clip(chrom, 0, 0)
        n_bins = -(-self.chrom_sizes[chrom] // self._bin_size)
        found = np.full((rows[1] - rows[0], columns[1] - columns[0]), np.nan)
        top, bottom = (min(max(place, 0), n_bins) for place in rows)
        left, right = (min(max(place, 0), n_bins) for place in columns)
        if top < bottom and left < right:
            first = self._first_bins[name]
            try:
                matrix = self._handle().matrix(balance=self.balance, sparse=False)
                block = matrix[first + top : first + bottom, first + left : first + right]
            except (OSError, KeyError, RuntimeError) as error:
                raise self._broken(error) from error
            found[top - rows[0] : bottom - rows[0], left - columns[0] : right - columns[0]] = block
        return found

    def _open(self) -> Any:
        # By its address, not as an open file: cooler then opens the file for each read, and no
        # handle of HDF5 is ever shared over a fork.
        cooler = import_cooler()
        try:
            return cooler.Cooler(f"{self.path}::/{self.group}")
        except (KeyError, OSError, ValueError) as error:
            try:
                maps = cooler.fileops.list_coolers(str(self.path))
            except (KeyError, OSError, ValueError):
                raise self._broken(error) from error
            wanted = f"at {self.group!r}" if self.group else "at its root"
            raise ValueError(
                f"cooler {self.path} has no contact map {wanted}; it has {shorten(maps)}. Name one "
                f"of them, as '{self.path.name}::PLACE'."
            ) from error

    def _read_sizes(self) -> dict[str, int]:
        handle = self._open()
        if handle.binsize is None:
            raise self._broken("its bins are not of one size (fragments of a digest?)")
        weights = "weight" if self.balance is True else (self.balance or None)
        known = list(handle.bins().columns)
        if weights is not None and weights not in known:
            raise ValueError(
                f"cooler {self.path} has no weights {weights!r} of its bins, only the columns "
                f"{shorten(known)}. Run `cooler balance` on it, name another column with "
                "balance=, or take raw counts with balance=False."
            )
        sizes = {str(name): int(size) for name, size in handle.chromsizes.items()}
        self._bin_size = int(handle.binsize)
        first = 0
        for name, size in sizes.items():
            self._first_bins[name] = first
            first += -(-size // self._bin_size)
        return sizes


def tables_to_cooler(
    tables: Mapping[str, Path],
    path: str | os.PathLike[str],
    *,
    chrom_sizes: Mapping[str, int],
    bin_size: int,
) -> None:
    """Write tables of contacts as one cooler file.

    Parameters
    ----------
    tables : mapping of str to Path
        Comma-separated table of each chromosome, with the columns ``bin1, bin2, hic_contact``;
        each pair of bins once, in either order. Chromosomes without a table have no contacts.
    path : path-like
        File to write; it is moved into place when it is complete.
    chrom_sizes : mapping of str to int
        Base pairs of each chromosome, in the order of the file.
    bin_size : int
        Base pairs of a bin.

    Raises
    ------
    ImportError
        If the package cooler is not installed.
    FileExistsError
        If there is a file at `path`.
    ValueError
        If there is no table, a chromosome has no size, or a table has no such columns, a bin off
        its chromosome, a negative contact, or a pair of bins with two contacts.

    Notes
    -----
    One table at a time is in memory. A contact that a table leaves empty stays without a value;
    pairs that no table has are contacts of 0.
    """
    cooler, target = import_cooler(), Path(path)
    if target.exists():
        raise FileExistsError(f"{target} exists. Take another path, or remove it.")
    unknown = sorted(set(tables) - set(chrom_sizes))
    if unknown or not tables:
        raise ValueError(
            f"contacts of {unknown or 'no chromosome'}; expected some of {shorten(chrom_sizes)}."
        )
    n_bins = {chrom: -(-size // bin_size) for chrom, size in chrom_sizes.items()}

    def pixels() -> Iterator[pd.DataFrame]:
        first = 0
        for chrom, n in n_bins.items():
            if chrom in tables:
                table = _read_contacts(tables[chrom], n, f"{chrom}, of {chrom_sizes[chrom]} bp")
                table[["bin1_id", "bin2_id"]] += first
                yield table
            first += n

    beside = beside_of(target)
    try:
        with warnings.catch_warnings():
            for kind in (FutureWarning, DeprecationWarning):  # cooler's own
                warnings.simplefilter("ignore", kind)
            cooler.create_cooler(
                str(beside),
                cooler.binnify(pd.Series(dict(chrom_sizes)), bin_size),
                pixels(),
                dtypes={"count": np.float32},
                ordered=True,
            )
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(target.parent)


def _read_contacts(path: Path, n_bins: int, chrom: str) -> pd.DataFrame:
    """Read a table as pixels of the upper triangle, sorted, bins counted in the chromosome."""
    table = read_columns(path, ",", [])
    missing = [name for name in TABLE_COLUMNS if name not in table.columns]
    if missing:
        raise ValueError(f"{path} lacks the columns {missing}; it has {list(table.columns)}.")
    one, other = (as_integers(table[name], name, path).to_numpy() for name in TABLE_COLUMNS[:2])
    low, high = np.minimum(one, other), np.maximum(one, other)
    count = pd.to_numeric(table[TABLE_COLUMNS[2]], errors="coerce").to_numpy(np.float32)
    off, negative = (low < 0) | (high >= n_bins), count < 0
    if off.any():
        row = int(np.flatnonzero(off)[0])
        raise ValueError(
            f"{path}, data row {row + 1}: bins {one[row]} and {other[row]}; expected 0 to "
            f"{n_bins - 1} for {chrom}. Check the assembly and the size of bins."
        )
    if negative.any():
        row = int(np.flatnonzero(negative)[0])
        raise ValueError(f"{path}, data row {row + 1}: contact {count[row]}; expected 0 or more.")
    found = pd.DataFrame({"bin1_id": low, "bin2_id": high, "count": count}).drop_duplicates()
    twice = found.duplicated(["bin1_id", "bin2_id"])
    if twice.any():
        pair = found.loc[twice, ["bin1_id", "bin2_id"]].iloc[0].tolist()
        raise ValueError(f"{path} has two contacts of bins {pair[0]} and {pair[1]}; expected one.")
    return found.sort_values(["bin1_id", "bin2_id"], ignore_index=True)
