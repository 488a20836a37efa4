"""Convolutional backbone: a motif stem and residual dilated convolutions on tokens.

Symbols
-------
``c``
    Input channels.
``d``
    Width of the body, ``d_model``.
``r``
    Resolution: bases a token stands for.
``T``
    Number of tokens, ``ceil(length / r)``.

The stem scans every base and keeps the best match of each token, so that a motif counts
wherever in the token it lies; the means of the input channels over a token gate what the
stem found there (gated linear units, Dauphin et al., 2017), so that "this motif in open
chromatin" is one product away. The dilation doubles from block to block up to 64 tokens
and then starts again, as in the dilated tower of Basenji (Kelley et al., 2018).
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regmask_sk.ops.best_match import best_match
from regmask_sk.ops.tokens import pool_to_tokens

_MOTIF_WIDTH = 15  # bases; odd, so that a match is centred on its base
_GATE_WIDTH = 5  # tokens
_DILATIONS = 7  # 1 to 64 tokens, then again


class TokenNorm(nn.BatchNorm1d):
    """Batch normalisation of tokens that also trains on a single one.

    A batch of one window of one token has no variance: it is normalised by the running
    statistics, which it does not change.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``(batch, n_channels, T)``; the shape stays."""
        if self.training and input.shape[0] * input.shape[2] == 1:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(input)


class ConvStem(nn.Module):
    """Scan every base, keep each token's best match, gate it by the token's means.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the window and of the tokens.
    resolution : int
        Bases a token stands for.
    """

    def __init__(self, in_channels: int, out_channels: int, resolution: int) -> None:
        super().__init__()
        self.resolution = resolution
        self.scan = nn.Conv1d(in_channels, out_channels, _MOTIF_WIDTH)
        self.norm = TokenNorm(out_channels)
        self.gate = nn.Conv1d(in_channels, out_channels, _GATE_WIDTH, padding=_GATE_WIDTH // 2)

    def forward(self, x: Tensor, means: Tensor) -> Tensor:
        """Map ``(batch, c, length)`` and its token means ``(batch, c, T)`` to tokens."""
        h = best_match(x, self.scan.weight, cast(Tensor, self.scan.bias), self.resolution)
        return F.relu(self.norm(h)) * torch.sigmoid(self.gate(means))


class ResidualBlock(nn.Module):
    """Dilated and pointwise convolution, each after norm and GELU, added to the input.

    Parameters
    ----------
    n_channels : int
        Channels in and out.
    dilation : int
        Distance in tokens between the three taps of the convolution.
    dropout : float
        Probability of leaving out a channel of what is added.
    """

    def __init__(self, n_channels: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.norm = TokenNorm(n_channels)
        self.conv = nn.Conv1d(n_channels, n_channels, 3, padding=dilation, dilation=dilation)
        self.norm_mix = TokenNorm(n_channels)
        self.mix = nn.Conv1d(n_channels, n_channels, 1)
        self.dropout = nn.Dropout1d(dropout)
        for parameter in self.mix.parameters():  # each block starts as the identity
            nn.init.zeros_(parameter)

    def forward(self, h: Tensor) -> Tensor:
        """Map ``(batch, n_channels, T)`` to the same shape."""
        update = self.mix(F.gelu(self.norm_mix(self.conv(F.gelu(self.norm(h))))))
        return h + self.dropout(update)


def residual_tower(n_channels: int, n_layers: int, dropout: float) -> nn.Sequential:
    """Residual blocks whose dilation doubles up to 64 tokens and then starts again."""
    return nn.Sequential(
        *(ResidualBlock(n_channels, 2 ** (i % _DILATIONS), dropout) for i in range(n_layers))
    )


class ConvBackbone(nn.Module):
    """Motif stem, then residual dilated convolutions on tokens.

    Parameters
    ----------
    in_channels : int
        Channels of the input.
    d_model : int, default=64
        Width of the body, and number of output channels.
    n_layers : int, default=4
        Number of residual blocks.
    dropout : float, default=0.1
        Dropout probability inside the residual blocks.
    resolution : int, default=16
        Bases a token stands for.

    Attributes
    ----------
    out_channels : int
        Equal to `d_model`.
    resolution : int
        Bases a token stands for.

    References
    ----------
    Kelley et al., "Sequential regulatory activity prediction across chromosomes with
    convolutional neural networks", Genome Research 28 (2018).
    Dauphin et al., "Language modeling with gated convolutional networks", ICML 2017.

    Examples
    --------
    >>> import torch
    >>> body = ConvBackbone(5, d_model=8, n_layers=2, resolution=16)
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
    ) -> None:
        super().__init__()
        self.out_channels = d_model
        self.resolution = resolution
        self.stem = ConvStem(in_channels, d_model, resolution)
        self.means = nn.Conv1d(in_channels, d_model, 1)
        self.tower = residual_tower(d_model, n_layers, dropout)
        self.norm = TokenNorm(d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, in_channels, length)`` to ``(batch, out_channels, T)``."""
        means = pool_to_tokens(x, self.resolution)
        h = self.stem(x, means) + self.means(means)
        return F.gelu(self.norm(self.tower(h)))
