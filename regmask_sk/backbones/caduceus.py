"""Caduceus backbone: Mamba layers that read in both directions.

Symbols
-------
``h``
    Tokens between layers, ``(batch, T, d_model)``.
``x``, ``z``
    The two halves of the input projection, ``(batch, T, d)`` with ``d = 2 d_model``.
``M_f``, ``M_r``
    The mixers of the two directions.

A layer of Schiff et al. (2024), section 4.1, adds ``M_f(h)`` and ``flip(M_r(flip(h)))``. The
directions share the input and output projections and have convolutions and state spaces of
their own. Both projections act on each token by itself, so they are applied once, and the
state space of the reverse direction runs from the last token to the first: nothing is flipped.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from regmask_sk.backbones.mamba import (
    EXPANSION,
    RANK_SHARE,
    MambaBackbone,
    SelectiveStateSpace,
    mix,
)


class BiMambaMixer(nn.Module):
    """Two state spaces, one in each direction, between shared projections.

    Parameters
    ----------
    d_model : int
        Width of the tokens.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        d, rank = EXPANSION * d_model, math.ceil(d_model / RANK_SHARE)
        self.in_proj = nn.Linear(d_model, 2 * d, bias=False)
        self.ahead = SelectiveStateSpace(d, rank)
        self.back = SelectiveStateSpace(d, rank)
        self.out_proj = nn.Linear(d, d_model, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        """Map ``(batch, T, d_model)`` to the same shape."""
        return mix(h, self.in_proj, [self.ahead, self.back], self.out_proj, [False, True])


class CaduceusBackbone(MambaBackbone):
    """Stack of bidirectional Mamba layers on tokens: every token sees the whole window.

    Parameters
    ----------
    in_channels : int
        Channels of the input.
    d_model : int, default=64
        Width of the tokens, and number of output channels.
    n_layers : int, default=4
        Number of layers.
    dropout : float, default=0.1
        Dropout probability of what a layer adds.
    resolution : int, default=16
        Bases a token stands for; with 1, bases are tokens.
    checkpointing : bool, default=False
        Keep only the tokens between layers in training, and compute a layer again in
        backward: about half the memory, for one more forward pass.
    embedded : bool, default=False
        Whether the input is tokens already, of `d_model` channels; `in_channels` and `resolution`
        mean nothing then.

    Attributes
    ----------
    out_channels : int
        Equal to `d_model`.
    resolution : int
        Bases a token stands for.

    References
    ----------
    Schiff et al., "Caduceus: bi-directional equivariant long-range DNA sequence modeling",
    ICML 2024.

    Examples
    --------
    >>> import torch
    >>> body = CaduceusBackbone(5, d_model=8, n_layers=2, resolution=16)
    >>> body(torch.zeros(2, 5, 100)).shape
    torch.Size([2, 8, 7])
    """

    _mixer = BiMambaMixer
