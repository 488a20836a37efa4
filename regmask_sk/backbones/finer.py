"""From a body's tokens to the finer grain of a mask.

Symbols
-------
``c``, ``d``
    Channels of the window, and of the body's tokens.
``r``, ``T``
    Resolution of the body: bases a token stands for; number of tokens, ``ceil(length / r)``.
``q``, ``G``
    Resolution of the mask: bases a gate stands for, a divisor of ``r``; number of gates,
    ``ceil(length / q)``.
``w``
    Width at the finer grain, a quarter of ``d``.

A body on few tokens knows what lies around a base, but not which of the token's bases it is
about. As on the way back of a U-Net (Ronneberger et al., 2015), its tokens are brought to the
finer grain and joined to what a few filters find there in the window itself.

References
----------
Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015: skips from fine levels to fine outputs.
"""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from regmask_sk.ops.interpolate import interpolate_linear
from regmask_sk.ops.tokens import pool_to_tokens

_TAPS = 15  # gates that a filter sees; odd, so that it is centred on its own
_LEAST_WIDTH = 4


class Detail(nn.Module):
    """Scan the window at the grain of the mask with a few filters.

    Parameters
    ----------
    in_channels : int
        Channels of the window.
    d_model : int
        Channels of the body's tokens; the filters are a quarter of that, at least 4.
    resolution : int
        Bases a gate stands for.

    Attributes
    ----------
    out_channels, resolution : int
        Number of filters; as given.

    Examples
    --------
    >>> import torch
    >>> Detail(5, 32, resolution=4)(torch.zeros(2, 5, 100)).shape
    torch.Size([2, 8, 25])
    """

    def __init__(self, in_channels: int, d_model: int, resolution: int) -> None:
        super().__init__()
        self.out_channels = max(d_model // 4, _LEAST_WIDTH)
        self.resolution = resolution
        self.scan = nn.Conv1d(in_channels, self.out_channels, _TAPS, padding=_TAPS // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, c, length)`` to ``(batch, w, G)``."""
        return F.relu(self.scan(pool_to_tokens(x, self.resolution)))


class FinerGrain(nn.Module):
    """Bring tokens to the grain of a mask, and join them to what the window shows there.

    Parameters
    ----------
    in_channels : int
        Channels of the body's tokens.
    detail : nn.Module
        Reads the window at the finer grain: a :class:`Detail`, or one that is read on both
        strands (:class:`regmask_sk.backbones.strands.SharedStrands`). All else here acts on
        each place by itself or is symmetric, so that a joined model turns with the window
        where body and detail do.
    factor : int
        Gates a token.

    Attributes
    ----------
    out_channels, resolution : int
        Those of `detail`.

    Examples
    --------
    >>> import torch
    >>> x, tokens = torch.zeros(2, 5, 100), torch.zeros(2, 32, 7)  # of 16 bp
    >>> FinerGrain(32, Detail(5, 32, resolution=4), factor=4)(tokens, x).shape
    torch.Size([2, 8, 25])
    """

    def __init__(self, in_channels: int, detail: nn.Module, factor: int) -> None:
        super().__init__()
        self.detail = detail
        self.factor = factor
        self.out_channels = cast(int, detail.out_channels)
        self.resolution = cast(int, detail.resolution)
        self.context = nn.Conv1d(in_channels, self.out_channels, 1)

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """Map tokens ``(batch, d, T)`` and the window ``(batch, c, length)`` to ``(batch, w, G)``.

        Tokens are joined by straight lines between their centres: repeated, they would put
        steps where tokens end, at bases that mean nothing.
        """
        found: Tensor = self.detail(x)
        context = interpolate_linear(self.context(h), self.factor * h.shape[2])
        return F.gelu(context[..., : found.shape[2]] + found)
