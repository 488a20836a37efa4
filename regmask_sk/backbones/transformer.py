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
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from regmask_sk.backbones._relative_attention import (
    N_FAMILIES,
    RelativeAttention,
    position_features,
)
from regmask_sk.backbones.conv import TokenNorm
from regmask_sk.ops.tokens import pool_to_tokens

_STEM_WIDTH = 15  # bases
_TOWER_WIDTH = 5  # places of a level
_RETURN_WIDTH = 3  # places of a level
# Enformer's dropout rates of attention weights and of position features, as parts of its rate
# of 0.4 of what a block adds.
_ATTENTION_PART, _POSITION_PART = 0.05 / 0.4, 0.01 / 0.4


class FastGELU(nn.Module):
    """The approximation ``x sigmoid(1.702 x)`` of the GELU (Hendrycks & Gimpel, 2016)."""

    def forward(self, h: Tensor) -> Tensor:
        """Map a tensor of any shape to the same shape."""
        return F.silu(1.702 * h) / 1.702  # one tensor less to keep than in the formula


class ConvBlock(nn.Sequential):
    """Batch norm, GELU and a convolution that keeps the length.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels in and out.
    width : int
        Taps of the convolution, odd.
    """

    def __init__(self, in_channels: int, out_channels: int, width: int) -> None:
        convolution = nn.Conv1d(in_channels, out_channels, width, padding=width // 2)
        super().__init__(TokenNorm(in_channels), FastGELU(), convolution)


class AttentionPool(nn.Module):
    """Halve the length: the mean of each two neighbours, weighted by a softmax.

    The logits are linear in the channels, at first twice the channel itself, so that pooling
    starts near the maximum. A last place without a neighbour is kept as it is.

    Parameters
    ----------
    n_channels : int
        Channels in and out.

    Examples
    --------
    >>> import torch
    >>> AttentionPool(3)(torch.zeros(2, 3, 5)).shape
    torch.Size([2, 3, 3])
    """

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.logits = nn.Conv1d(n_channels, n_channels, 1, bias=False)
        with torch.no_grad():
            self.logits.weight.copy_(2 * torch.eye(n_channels)[..., None])

    def forward(self, h: Tensor) -> Tensor:
        """Map ``(batch, n_channels, n)`` to ``(batch, n_channels, ceil(n / 2))``."""
        missing = h.shape[2] % 2
        logits = F.pad(self.logits(h), (0, missing), value=-math.inf)
        weights = logits.unflatten(2, (-1, 2)).softmax(dim=3)
        return (F.pad(h, (0, missing)).unflatten(2, (-1, 2)) * weights).sum(dim=3)


class Stem(nn.Module):
    """Scan every base with filters of motif width, then mix the channels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.scan = nn.Conv1d(in_channels, out_channels, _STEM_WIDTH, padding=_STEM_WIDTH // 2)
        self.mix = ConvBlock(out_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, in_channels, L)`` to level 0, ``(batch, out_channels, L)``."""
        h = self.scan(x)
        return h + self.mix(h)


class Down(nn.Module):
    """From one level of the tower to the next coarser one."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.pool = AttentionPool(in_channels)
        self.conv = ConvBlock(in_channels, out_channels, _TOWER_WIDTH)
        self.mix = ConvBlock(out_channels, out_channels, 1)

    def forward(self, h: Tensor) -> Tensor:
        """Map ``(batch, in_channels, n)`` to ``(batch, out_channels, ceil(n / 2))``."""
        h = self.conv(self.pool(h))
        return h + self.mix(h)


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


class TransformerLayer(nn.Module):
    """Pre-norm block: relative attention, then a two-layer network, each added to the input.

    Parameters
    ----------
    d_model, n_heads, head_width : int
        Channels in and out, heads, and width of a head's keys, values and position features.
    dropout : float
        Dropout probability of what is added, and inside the network.
    """

    def __init__(self, d_model: int, n_heads: int, head_width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.attention = RelativeAttention(
            d_model,
            n_heads=n_heads,
            key_width=head_width,
            value_width=head_width,
            n_position_features=head_width,
            dropout=_ATTENTION_PART * dropout,
            position_dropout=_POSITION_PART * dropout,
        )
        self.dropout = nn.Dropout(dropout)
        self.mlp = nn.Sequential(
            nn.LayerNorm(d_model),
            nn.Linear(d_model, 2 * d_model),
            nn.Dropout(dropout),
            nn.ReLU(),
            nn.Linear(2 * d_model, d_model),
            nn.Dropout(dropout),
        )

    def forward(self, h: Tensor, positions: Tensor) -> Tensor:
        """Map ``(batch, n, d_model)`` to the same shape."""
        h = h + self.dropout(self.attention(self.norm(h), positions))
        return h + self.mlp(h)


class TransformerBackbone(nn.Module):
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
        super().__init__()
        if pool < 4 or pool & (pool - 1):
            raise ValueError(
                f"pool={pool}; expected a power of two, 4 or more: the tower halves the length "
                "level by level."
            )
        if n_heads < 1:
            raise ValueError(f"n_heads={n_heads}; expected 1 or more.")
        self.out_channels = d_model
        self.resolution = resolution
        self.checkpointing = checkpointing
        self.finest = math.gcd(resolution, pool)
        self.head_width = -(-d_model // (n_heads * N_FAMILIES)) * N_FAMILIES
        widths = _tower_widths(d_model, pool.bit_length() - 1)
        self.stem = Stem(in_channels, widths[0])
        self.tower = nn.ModuleList(Down(narrow, wide) for narrow, wide in pairwise(widths))
        self.last_pool = AttentionPool(d_model)
        self.layers = nn.ModuleList(
            TransformerLayer(d_model, n_heads, self.head_width, dropout) for _ in range(n_layers)
        )
        of_level = [*widths, d_model]  # the last one is the transformer's
        finest_level = self.finest.bit_length() - 1
        self.way_back = nn.ModuleList(
            Up(of_level[i + 1], of_level[i]) for i in reversed(range(finest_level, len(widths)))
        )
        self.out = ConvBlock(of_level[finest_level], d_model, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, in_channels, L)`` to ``(batch, out_channels, ceil(L / r))``."""
        levels = [self._run(self.stem, x)]
        for down in self.tower:
            levels.append(self._run(down, levels[-1]))
        h = self.last_pool(levels[-1]).transpose(1, 2)
        h = h.to(torch.promote_types(h.dtype, torch.float32))
        positions = position_features(h.shape[1], self.head_width, h.device)
        for layer in self.layers:
            h = self._run(layer, h, positions)
        h = h.transpose(1, 2)
        for up, found in zip(self.way_back, reversed(levels), strict=False):
            h = self._run(up, h, found)
        return pool_to_tokens(self.out(h), self.resolution // self.finest)

    def _run(self, module: nn.Module, *given: Tensor) -> Any:
        """Call a part of the body, under a checkpoint where there is one."""
        if not (self.checkpointing and torch.is_grad_enabled()):
            return module(*given)
        return checkpoint(
            module,
            *given,
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), _running_statistics_kept(module)),
        )


def _tower_widths(d_model: int, n_levels: int) -> list[int]:
    """Widths of the levels: two of half the body's, then in equal ratios up to all of it."""
    half = max(d_model // 2, 1)
    n_steps = max(n_levels - 2, 1)
    steps = range(n_levels - 1) if n_levels > 2 else [1]
    return [half, *(round(half * (d_model / half) ** (i / n_steps)) for i in steps)]


@contextmanager
def _running_statistics_kept(module: nn.Module) -> Iterator[None]:
    """Batch norms whose running statistics a second pass over the same batch leaves alone."""
    norms = [each for each in module.modules() if isinstance(each, TokenNorm)]
    momenta = [norm.momentum for norm in norms]
    counts = [norm.num_batches_tracked for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
            norm.num_batches_tracked = None
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
