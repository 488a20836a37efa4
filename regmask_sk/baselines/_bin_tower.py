"""From bases to bins: the convolutions of GraphReg, for sequence, tracks or both.

Symbols
-------
``b``, ``r``
    Base pairs of a bin and of a cell; ``r`` divides ``b``.
``n``
    Number of bins, odd: the TSS is in the middle one.
``d``
    Width of the tower, ``d_model``.

As in Seq-GraphReg, the sequence is scanned base by base and pooled to cells; as in Epi-GraphReg,
tracks are averaged over cells. What both give is joined, and pooled on to bins. Each step pools by
one prime factor of ``r``, or of ``b / r``: for cells of 100 bp and bins of 5 kb by 2, 2, 5, 5 and
2, 5, 5, as published.

References
----------
Karbalayghareh et al., Genome Research 32 (2022).
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regmask_sk.backbones.conv import TokenNorm
from regmask_sk.ops.best_match import best_match
from regmask_sk.ops.tokens import pool_to_tokens

_MOTIF_WIDTH = 21  # bases of the first scan of the sequence
_CELL_WIDTH = 25  # cells of the first step to bins
_NEXT_WIDTH = 3  # of every later step


class BinLayout(NamedTuple):
    """Bins laid from the middle of a window outward, an odd number of them.

    The middle of the window, where the TSS is, is the middle of a bin. The outermost bins may
    reach beyond the window.

    Attributes
    ----------
    length, bin_size : int
        Base pairs of the window and of a bin.

    Examples
    --------
    >>> layout = BinLayout(length=64, bin_size=10)
    >>> layout.n_bins, layout.middle, layout.padding
    (7, 3, (3, 3))
    """

    length: int
    bin_size: int

    @property
    def n_bins(self) -> int:
        """Number of bins."""
        return 2 * self.middle + 1

    @property
    def middle(self) -> int:
        """Index of the bin of the TSS."""
        return max(-(-(self.length - self.bin_size) // (2 * self.bin_size)), 0)

    @property
    def padding(self) -> tuple[int, int]:
        """Base pairs by which the outermost bins reach beyond either end of the window."""
        excess = self.n_bins * self.bin_size - self.length
        return excess // 2, excess - excess // 2

    def lowest(self, start: int, *, reverse: bool) -> int:
        """Give the first position of the bins of a window that begins at `start` of a chromosome.

        Parameters
        ----------
        start : int
            First position of the window, 0-based, on the plus strand.
        reverse : bool
            Whether the window is read on the minus strand.

        Returns
        -------
        int
            Position; may be negative.
        """
        return start - self.padding[reverse]


def prime_factors(number: int) -> list[int]:
    """Give the prime factors of a number, the smallest first; ``[1]`` for 1.

    Examples
    --------
    >>> prime_factors(100), prime_factors(50), prime_factors(1)
    ([2, 2, 5, 5], [2, 5, 5], [1])
    """
    factors, factor = [], 2
    while factor * factor <= number:
        if number % factor:
            factor += 1
        else:
            factors.append(factor)
            number //= factor
    if number > 1 or not factors:
        factors.append(number)
    return factors


class PooledConv(nn.Module):
    """Convolution, the largest of each few places, ReLU, batch norm.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels.
    width : int
        Places that the convolution reads, odd.
    pool : int
        Places that become one.
    """

    def __init__(self, in_channels: int, out_channels: int, width: int, pool: int) -> None:
        super().__init__()
        self.pool = pool
        self.scan = nn.Conv1d(in_channels, out_channels, width)
        self.norm = TokenNorm(out_channels)

    def forward(self, h: Tensor) -> Tensor:
        """Map ``(batch, in_channels, T)`` to ``(batch, out_channels, ceil(T / pool))``."""
        best = best_match(h, self.scan.weight, cast(Tensor, self.scan.bias), self.pool)
        # The largest before ReLU is the largest after it, and a smaller tensor to keep.
        return self.norm(F.relu(best))


class BinTower(nn.Module):
    """Convolutions from the bases of a window to its bins.

    Parameters
    ----------
    n_sequence, n_tracks : int
        Channels that are scanned base by base, and that are averaged over cells; the input has
        first the ones, then the others.
    layout : BinLayout
        Where the bins are.
    cell_size : int
        Base pairs of a cell; it divides those of a bin.
    d_model : int
        Width.
    dropout : float
        Dropout probability after each step to bins.

    Attributes
    ----------
    out_channels, resolution : int
        Channels of a bin, `d_model`, and its base pairs.

    Examples
    --------
    >>> import torch
    >>> tower = BinTower(4, 1, BinLayout(64, 8), cell_size=2, d_model=8, dropout=0.0)
    >>> tower(torch.zeros(2, 5, 64)).shape
    torch.Size([2, 8, 9])
    """

    def __init__(
        self,
        n_sequence: int,
        n_tracks: int,
        layout: BinLayout,
        *,
        cell_size: int,
        d_model: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.layout = layout
        self.out_channels = d_model
        self.resolution = layout.bin_size
        self.cell_size = cell_size
        self.n_sequence = n_sequence
        to_cells: list[nn.Module] = []
        channels, width = n_sequence, _MOTIF_WIDTH
        if n_sequence:
            for pool in prime_factors(cell_size):
                to_cells.append(PooledConv(channels, max(d_model // 4, 1), width, pool))
                channels, width = max(d_model // 4, 1), _NEXT_WIDTH
        self.to_cells = nn.Sequential(*to_cells)
        to_bins: list[nn.Module] = []
        channels, width = channels + n_tracks, _CELL_WIDTH
        for pool in prime_factors(layout.bin_size // cell_size):
            to_bins += [PooledConv(channels, d_model, width, pool), nn.Dropout(dropout)]
            channels, width = d_model, _NEXT_WIDTH
        self.to_bins = nn.Sequential(*to_bins)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, n_sequence + n_tracks, length)`` to ``(batch, d_model, n)``."""
        x = F.pad(x, self.layout.padding)
        cells = []
        if self.n_sequence:
            cells.append(self.to_cells(x[:, : self.n_sequence]))
        if self.n_sequence < x.shape[1]:
            cells.append(pool_to_tokens(x[:, self.n_sequence :], self.cell_size))
        return self.to_bins(torch.cat(cells, dim=1))
