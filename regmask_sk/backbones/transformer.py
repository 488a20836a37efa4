"""Transformer backbone: Enformer on coarse tokens, brought back to the grain of the mask.

Symbols
-------
``L``, ``r``
    Length of the window and resolution, in bases.
``d``, ``w_i``
    Width of the body, and of level ``i`` of the tower: ``d / 2`` to ``d``.
``p``
    Bases of a token of the transformer.
level ``i``
    Stretches of ``2 ** i`` bases, ``ceil(L / 2 ** i)`` of them.

The trunk is that of Enformer (Avsec et al., 2021): a convolutional stem, a tower whose levels
are halved by attention pooling, and transformer blocks with relative positions. Its tokens
are too coarse for a mask, so that, as in a U-Net (Ronneberger et al., 2015) and in Borzoi
(Linder et al., 2025), they are repeated and joined to the tower's own levels on the way back.
Nothing is padded to whole tokens: where a level has an odd number of places its last one is
pooled alone, so that no place stands for bases outside the window.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from regmask_sk.backbones._trunk import ConvBlock, Trunk, head_width, tower_widths
from regmask_sk.ops.tokens import pool_to_tokens

_RETURN_WIDTH = 3  # places of a level


class Up(nn.Module):
    """From one level to the next finer one, joined to what the tower found there."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.project = ConvBlock(in_channels, out_channels, 1)
        self.conv = ConvBlock(out_channels, out_channels, _RETURN_WIDTH)

    def forward(self, h: Tensor, found: Tensor) -> Tensor:
        """Map level ``i + 1`` and the tower's level ``i`` to level ``i``."""
        repeated = self.project(h).repeat_interleave(2, dim=2)[..., : found.shape[2]]
        h = repeated + found
        return h + self.conv(h)


class TransformerBackbone(Trunk):
    """Convolutional tower, attention over coarse tokens, and a way back to fine ones.

    Parameters
    ----------
    in_channels : int
        Channels of the input.
    d_model : int, default=64
        Width of the transformer, and number of output channels. The tower widens from half
        of it.
    n_layers : int, default=4
        Number of transformer blocks.
    dropout : float, default=0.1
        Dropout probability of what each transformer block adds; of attention weights and
        position features an eighth and a fortieth of it, Enformer's proportions.
    resolution : int, default=16
        Bases a token of the output stands for. The way back ends at the largest power of two
        that divides it, `pool` at most; what is left is averaged: with 48 the levels go back
        to 16 bp, and three places are averaged. A power of two is cheapest; an odd resolution
        goes all the way back to bases.
    checkpointing : bool, default=False
        Whether the backward pass computes each level and each transformer block anew in place
        of keeping its intermediate results.
    pool : int, default=128
        Bases a token of the transformer stands for, a power of two, 4 or more.
    n_heads : int, default=4
        Number of heads. The width of a head is ``d_model / n_heads``, rounded up to a multiple
        of 6, which the position features ask for.

    Attributes
    ----------
    out_channels : int
        Equal to `d_model`.
    resolution : int
        Bases a token of the output stands for.

    Raises
    ------
    ValueError
        If `pool` is no power of two, or `n_heads` is less than 1.

    Notes
    -----
    Attention takes ``O((L / pool) ** 2)`` time and memory a head. Half-lives and means of the
    position features scale with the number of tokens, as published: a body is of use at the
    length it was trained at.

    References
    ----------
    Avsec et al., "Effective gene expression prediction from sequence by integrating
    long-range interactions", Nature Methods 18 (2021).
    Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015.
    Linder et al., "Predicting RNA-seq coverage from DNA sequence as a unifying model of gene
    regulation", Nature Genetics 57 (2025).

    Examples
    --------
    >>> import torch
    >>> body = TransformerBackbone(5, d_model=8, n_layers=2, resolution=16)
    >>> body(torch.zeros(2, 5, 100)).shape
    torch.Size([2, 8, 7])
    """

    def __init__(
        self,
        in_channels: int,
        *,
        d_model: int = 64,
        n_layers: int = 4,
        dropout: float = 0.1,
        resolution: int = 16,
        checkpointing: bool = False,
        pool: int = 128,
        n_heads: int = 4,
    ) -> None:
        if pool < 4 or pool & (pool - 1):
            raise ValueError(
                f"pool={pool}; expected a power of two, 4 or more: the tower halves the length "
                "level by level."
            )
        if n_heads < 1:
            raise ValueError(f"n_heads={n_heads}; expected 1 or more.")
        width = head_width(d_model, n_heads)
        widths = tower_widths(d_model, pool.bit_length() - 1)
        super().__init__(
            in_channels,
            widths=widths,
            n_layers=n_layers,
            n_heads=n_heads,
            key_width=width,
            value_width=width,
            dropout=dropout,
            checkpointing=checkpointing,
        )
        self.head_width = width
        self.out_channels = d_model
        self.resolution = resolution
        self.finest = math.gcd(resolution, pool)
        of_level = [*widths, d_model]  # the last one is the transformer's
        finest_level = self.finest.bit_length() - 1
        self.way_back = nn.ModuleList(
            Up(of_level[i + 1], of_level[i]) for i in reversed(range(finest_level, len(widths)))
        )
        self.out = ConvBlock(of_level[finest_level], d_model, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, in_channels, L)`` to ``(batch, out_channels, ceil(L / r))``."""
        levels = [self.run(self.stem, x)]
        for down in self.tower:
            levels.append(self.run(down, levels[-1]))
        h = self.attend(levels[-1])
        for up, found in zip(self.way_back, reversed(levels), strict=False):
            h = self.run(up, h, found)
        return pool_to_tokens(self.out(h), self.resolution // self.finest)
