"""Batches of windows for a torch loader."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from regmask_sk._processes import Processes
from regmask_sk._reading import WorkerLog, read_row
from regmask_sk._regions import ForcedRegions, Regions
from regmask_sk.windows import Windows

Batch = tuple[dict[str, Tensor], tuple[Tensor, Tensor]]


class Placement(NamedTuple):
    """Where a window lies, 0-based and half-open, which end is read first, and the cell type."""

    chrom: str
    start: int
    end: int
    reverse: bool
    cell_type: str | None = None


class Reading(NamedTuple):
    """A batch of windows as a network reads them.

    Attributes
    ----------
    x : ndarray of shape (batch, channels, length), float32
        The windows.
    placements : list of Placement or None
        Where they lie, shifts and turns of augmentation counted in; None for arrays.
    """

    x: NDArray[np.float32]
    placements: list[Placement] | None


Extras = Callable[[Reading], dict[str, NDArray[np.generic]]]


def forced_bases(
    windows: Windows, forced: ForcedRegions, rows: Sequence[int], shifts: Sequence[int]
) -> NDArray[np.int8]:
    """Mark the bases of windows that masks close (-1) or open (1) in any case, as read.

    Parameters
    ----------
    windows : Windows
        The windows.
    forced : ForcedRegions
        Regions on the genome.
    rows, shifts : sequences of int
        Rows, and by how many base pairs each is shifted; see ``Windows.read``.

    Returns
    -------
    ndarray of shape (len(rows), length), int8
        In gene orientation; 0 where a mask decides.
    """
    marked = np.zeros((len(rows), windows.length), np.int8)
    for out, row, shift in zip(marked, rows, shifts, strict=True):
        chrom, start, end, *_ = windows.interval(row, shift)
        out[:] = forced.bases(chrom, start, end, reverse=bool(windows.reversed[row]))
    return marked


def off_chromosome(windows: Windows) -> Regions:
    """Give what lies beyond the ends of the chromosomes, as far as windows reach.

    Parameters
    ----------
    windows : Windows
        The windows, which may move by their ``jitter``.

    Returns
    -------
    Regions
        Positions below 0 and from the chromosome's size on; none where no window reaches them.

    Examples
    --------
    >>> import pandas as pd
    >>> loci = pd.DataFrame({"chrom": ["1", "1"], "tss": [3, 70], "strand": ["+", "-"]})
    >>> off_chromosome(Windows(loci, length=10)).by_chrom["1"].tolist()
    [[-2, 0]]
    """
    sizes, found = windows.chrom_sizes, {}
    first = windows.starts - windows.jitter
    last = windows.starts + windows.length + windows.jitter
    chroms = windows.loci["chrom"].to_numpy()
    for chrom in pd.unique(chroms):
        here = chroms == chrom
        low, high = int(first[here].min()), int(last[here].max())
        size = sizes.get(chrom, high)
        beyond = [[low, 0]] if low < 0 else []
        beyond += [[size, high]] if high > size else []
        if beyond:
            found[str(chrom)] = np.array(beyond)
    return Regions(found)


def open_in_any_case(
    windows: Windows, forced: ForcedRegions, promoter: tuple[int, int], *, most: int = 2048
) -> float:
    """Give the mean share of bases that every mask keeps: open regions and the promoter.

    Parameters
    ----------
    windows : Windows
        The windows; an evenly spaced sample of them is looked at.
    forced : ForcedRegions
        Regions on the genome.
    promoter : tuple of int
        ``(first, last + 1)`` column of the promoter window.
    most : int, default=2048
        Number of windows to look at.

    Returns
    -------
    float
        In [0, 1].

    Examples
    --------
    >>> import pandas as pd
    >>> loci = pd.DataFrame({"chrom": ["1"], "tss": [50], "strand": ["+"]})
    >>> opened = Regions({"1": np.array([[45, 48]])})
    >>> forced = ForcedRegions(Regions({}), opened)
    >>> open_in_any_case(Windows(loci, length=10), forced, (4, 6))
    0.5
    """
    rows = range(0, len(windows), -(-len(windows) // most))
    total = 0
    for row in rows:
        marked = forced_bases(windows, forced, [row], [0])[0]
        marked[promoter[0] : promoter[1]] = 1
        total += int((marked > 0).sum())
    return total / (len(rows) * windows.length)


class WindowDataset(Dataset[Batch]):
    """Batches of windows, covariates, targets and weights for a torch loader.

    Parameters
    ----------
    x : Windows or ndarray of shape (n, channels, length)
        Windows; read row by row, never as a whole.
    covariates : ndarray of shape (n, n_covariates), float32
        Standardised covariates.
    y : ndarray of shape (n, n_outputs), float32, optional
        Standardised targets; zeros where there are none.
    weight : ndarray of shape (n,), float32, optional
        Sample weights; ones where there are none.
    masks : ndarray of shape (n, length), optional
        Masks to predict under, in place of the model's own.
    forced : ForcedRegions, optional
        Regions that masks close or open in any case; `x` must be Windows.
    augment : bool, default=False
        Whether windows are shifted by their ``jitter`` and, where `complement` is given,
        reverse-complemented with probability one half.
    complement : sequence of int, optional
        For each channel the channel that holds it on the opposite strand.
    extras : callable, optional
        From a :class:`Reading` to more inputs of the network, by name, each with one entry a
        window. It must be picklable where loader workers are used.
    """

    def __init__(
        self,
        x: Windows | np.ndarray,
        covariates: np.ndarray,
        y: np.ndarray | None = None,
        weight: np.ndarray | None = None,
        *,
        masks: np.ndarray | None = None,
        forced: ForcedRegions | None = None,
        augment: bool = False,
        complement: Sequence[int] | None = None,
        extras: Extras | None = None,
    ) -> None:
        n_samples = int(x.shape[0])
        self.x = x
        self.covariates = covariates
        self.y = np.zeros((n_samples, 1), np.float32) if y is None else y
        self.weight = np.ones(n_samples, np.float32) if weight is None else weight
        self.masks = masks
        self.forced = forced
        self.augment = augment
        self.complement = None if complement is None else list(complement)
        self.extras = extras
        self.log: WorkerLog | None = None

    def watch(self, n_workers: int) -> None:
        """Have loader workers note what they read, for the message about one that dies.

        Parameters
        ----------
        n_workers : int
            Number of workers.
        """
        if isinstance(self.x, Windows) and (self.log is None or len(self.log) != n_workers):
            self.log = WorkerLog(n_workers)

    def __len__(self) -> int:
        return int(self.x.shape[0])

    def __getitem__(self, row: int) -> Batch:
        return self.__getitems__([int(row)])

    def __getitems__(self, rows: list[int]) -> Batch:
        """Read one batch; torch's loader calls this instead of one call a row."""
        forced, shifts = None, [0] * len(rows)
        turned = np.zeros(len(rows), bool)
        if isinstance(self.x, Windows):
            jitter = self.x.jitter if self.augment else 0
            shifts = torch.randint(-jitter, jitter + 1, (len(rows),)).tolist()
            x = np.empty((len(rows), *self.x.shape[1:]), np.float32)
            for out, row, shift in zip(x, rows, shifts, strict=True):
                read_row(self.x, row, shift, out, self.log)
            if self.log is not None:
                self.log.end()
            if self.forced is not None:
                forced = forced_bases(self.x, self.forced, rows, shifts)
        else:
            x = self.x[rows].astype(np.float32, copy=False)
        if self.augment and self.complement is not None:
            turned = torch.rand(len(rows)).numpy() < 0.5
            x[turned] = x[turned][:, self.complement, ::-1]
            if forced is not None:
                forced[turned] = forced[turned, ::-1]
        inputs = {
            "x": torch.from_numpy(x),
            "covariates": torch.from_numpy(self.covariates[rows]),
        }
        if forced is not None:
            inputs["forced"] = torch.from_numpy(forced)
        if self.masks is not None:
            inputs["mask"] = torch.from_numpy(self.masks[rows].astype(np.float32, copy=False))
        if self.extras is not None:
            reading = Reading(x, self._placements(rows, shifts, turned))
            more = self.extras(reading)
            inputs |= {name: torch.from_numpy(value) for name, value in more.items()}
        return inputs, (torch.from_numpy(self.y[rows]), torch.from_numpy(self.weight[rows]))

    def _placements(
        self, rows: Sequence[int], shifts: Sequence[int], turned: NDArray[np.bool_]
    ) -> list[Placement] | None:
        if not isinstance(self.x, Windows):
            return None
        placed = []
        for row, shift, turn in zip(rows, shifts, turned, strict=True):
            chrom, start, end, cell_type, *_ = self.x.interval(row, shift)
            reverse = bool(self.x.reversed[row]) != bool(turn)
            placed.append(Placement(chrom, start, end, reverse, cell_type))
        return placed


def batch_sizes(n_rows: int, batch_size: int, n_processes: int = 1) -> list[int]:
    """Sizes of the batches of an epoch, such that each process has a row of each.

    Parameters
    ----------
    n_rows, batch_size, n_processes : int
        With neither `n_rows` nor `batch_size` below `n_processes`.

    Returns
    -------
    list of int
        A rest of fewer rows than there are processes joins the batch before it.

    Examples
    --------
    >>> batch_sizes(10, 4), batch_sizes(9, 4, n_processes=2)
    ([4, 4, 2], [4, 5])
    """
    sizes = [batch_size] * (n_rows // batch_size)
    rest = n_rows % batch_size
    if rest >= n_processes:
        sizes.append(rest)
    elif rest:
        sizes[-1] += rest
    return sizes


class BatchShares(Sampler[list[int]]):
    """Rows of one process of each batch of an epoch.

    Parameters
    ----------
    order : Sampler of int
        All rows, in an order that is the same in all processes.
    batch_size : int
        Rows of a batch of all processes together.
    processes : Processes
        Who shares them.
    part_ways : bool, default=False
        Whether each process has random numbers of its own once the order is drawn.
    """

    def __init__(
        self,
        order: Sampler[int],
        batch_size: int,
        processes: Processes,
        *,
        part_ways: bool = False,
    ) -> None:
        self.order = order
        self.processes = processes
        self.part_ways = part_ways
        self.sizes = batch_sizes(len(order), batch_size, processes.count)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[list[int]]:
        rows = list(self.order)
        if self.part_ways:
            self.processes.part_ways()
        start = 0
        for size in self.sizes:
            own = self.processes.rows(size)
            yield rows[start + own.start : start + own.stop]
            start += size
