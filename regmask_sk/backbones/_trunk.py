"""Enformer's trunk: a convolutional tower, halved level by level, and attention over its tokens.

Symbols
-------
``L``
    Length of the window in bases.
``d``, ``w_i``
    Width of the transformer, and of level ``i`` of the tower: ``d / 2`` to ``d``.
level ``i``
    Stretches of ``2 ** i`` bases, ``ceil(L / 2 ** i)`` of them.

Avsec et al. (2021): a stem scans the bases, each level of the tower is pooled by attention and
convolved into the next one, and a last pooling gives the tokens that transformer blocks with
relative positions read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from typing import cast

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

_STEM_WIDTH = 15  # bases
_TOWER_WIDTH = 5  # places of a level
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
        odd = h.shape[2] % 2
        pairs = (torch.cat([h, h[..., -1:]], dim=2) if odd else h).unflatten(2, (-1, 2))
        left, right = pairs.unbind(dim=3)
        # A softmax of two is a sigmoid of what lies between them, and the logits are linear:
        # they are computed once for each two places.
        between = left - right
        return right + self.logits(between).sigmoid() * between


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


class TransformerLayer(nn.Module):
    """Pre-norm block: relative attention, then a two-layer network, each added to the input.

    Parameters
    ----------
    d_model, n_heads : int
        Channels in and out, and heads.
    key_width, value_width : int
        Width of a head's keys, and of its values, which is also the number of position features.
    dropout : float
        Dropout probability of what is added, and inside the network; of attention weights and
        position features an eighth and a fortieth of it, Enformer's proportions.
    """

    def __init__(
        self, d_model: int, *, n_heads: int, key_width: int, value_width: int, dropout: float
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.attention = RelativeAttention(
            d_model,
            n_heads=n_heads,
            key_width=key_width,
            value_width=value_width,
            n_position_features=value_width,
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


class Trunk(nn.Module):
    """Stem, tower, last pooling and transformer blocks; a subclass says how they are read.

    Parameters
    ----------
    in_channels : int
        Channels of the input.
    widths : sequence of int
        Widths of the levels of the tower, the finest first; the last one is the transformer's.
    n_layers, n_heads : int
        Number of transformer blocks, and of heads.
    key_width, value_width : int
        Width of a head's keys and of its values.
    dropout : float
        Dropout probability of what each transformer block adds.
    checkpointing : bool
        Whether the backward pass computes each level and each transformer block anew in place
        of keeping its intermediate results.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        widths: Sequence[int],
        n_layers: int,
        n_heads: int,
        key_width: int,
        value_width: int,
        dropout: float,
        checkpointing: bool,
    ) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.n_position_features = value_width
        self.stem = Stem(in_channels, widths[0])
        self.tower = nn.ModuleList(Down(narrow, wide) for narrow, wide in pairwise(widths))
        self.last_pool = AttentionPool(widths[-1])
        self.layers = nn.ModuleList(
            TransformerLayer(
                widths[-1],
                n_heads=n_heads,
                key_width=key_width,
                value_width=value_width,
                dropout=dropout,
            )
            for _ in range(n_layers)
        )

    def attend(self, h: Tensor) -> Tensor:
        """Pool the last level and run the transformer: ``(batch, d, n)`` to ``ceil(n / 2)``."""
        h = self.last_pool(h).transpose(1, 2)
        h = h.to(torch.promote_types(h.dtype, torch.float32))
        positions = position_features(h.shape[1], self.n_position_features, h.device)
        for layer in self.layers:
            h = self.run(layer, h, positions)
        return h.transpose(1, 2)

    def run(self, part: nn.Module, *given: Tensor) -> Tensor:
        """Call a part of the body, under a checkpoint where there is one."""
        if not (self.checkpointing and torch.is_grad_enabled()):
            return cast(Tensor, part(*given))
        computed = checkpoint(
            part,
            *given,
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), running_statistics_kept(part)),
        )
        return cast(Tensor, computed)


def tower_widths(d_model: int, n_levels: int, multiple: int = 1) -> list[int]:
    """Widths of the levels: two of half the body's, then in equal ratios up to all of it.

    Parameters
    ----------
    d_model : int
        Width of the body.
    n_levels : int
        Number of levels, 2 or more.
    multiple : int, default=1
        What all but the first are rounded to multiples of; it must divide `d_model`.

    Examples
    --------
    >>> tower_widths(1536, 7, multiple=128)
    [768, 768, 896, 1024, 1152, 1280, 1536]
    """
    half = max(d_model // 2, 1)
    n_steps = max(n_levels - 2, 1)
    steps = range(n_levels - 1) if n_levels > 2 else [1]
    exact = (half * (d_model / half) ** (i / n_steps) for i in steps)
    return [half, *(max(round(width / multiple), 1) * multiple for width in exact)]


def head_width(d_model: int, n_heads: int) -> int:
    """Width of a head, rounded up to a multiple of 6, which the position features ask for.

    Examples
    --------
    >>> head_width(1536, 8), head_width(64, 4)
    (192, 18)
    """
    return -(-d_model // (n_heads * N_FAMILIES)) * N_FAMILIES


@contextmanager
def running_statistics_kept(module: nn.Module) -> Iterator[None]:
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
