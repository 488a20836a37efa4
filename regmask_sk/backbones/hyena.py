"""Hyena backbone: gated long convolutions whose filters are functions of time.

Symbols
-------
``N``
    Order of the operator: ``N`` gates, ``N - 1`` long convolutions.
``d``, ``r``, ``T``
    Width of the body; resolution in bases; number of tokens, ``ceil(length / r)``.
``T_max``
    Tokens of the longest window, ``ceil(max_length / r)``.
``t``
    Time of a lag of ``k`` tokens, ``k / (T_max - 1)``: in [0, 1] whatever the length of the
    window at hand.
``h``, ``D``
    Filter of a channel, and the weight of its input (the lag 0 that is learned by itself).

The operator (Poli et al., 2023) with projections ``x_0 ... x_{N-1}, v`` of the tokens: for
each ``i`` from ``N - 1`` down to 1, ``v <- h_i * (x_i v) + D_i (x_i v)``, and the output is a
projection of ``x_0 v``. The filter is a small network over features of ``t``, times an
exponential decay. HyenaDNA (Nguyen et al., 2023) is causal: the middle of a window, where
the TSS lies, would never see its right half. Here each direction has a filter of its own
by default, and ``causal=True`` is the published operator.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from regmask_sk.backbones.conv import TokenNorm
from regmask_sk.backbones.embedding import TokenEmbedding
from regmask_sk.ops.long_conv import long_conv

_SHORT_WIDTH = 3  # tokens
_FASTEST, _SLOWEST = 0.3, 1.5  # times at which the decays of the channels reach 1 %
_DECAYED = 0.01
_LOWEST_FREQUENCY = 1e-4


class HyenaFilter(nn.Module):
    """Filters as functions of time: a network over positional features, and a decay.

    ``h(t) = scale * network(z(t)) * exp(-t |delta|)`` with the features
    ``z(t) = [t, cos(f w), -sin(f w)]``, ``w = 2 pi k / T_max`` for a lag of ``k`` tokens and
    ``f`` evenly spaced from 1e-4 to the number of bands less 1. The network is
    Linear - Sin - Linear - Sin - Linear - Sin - Linear (no bias), one Sin for all three,
    ``Sin(a) = sin(frequency * a)`` with a trainable frequency for each unit. The decays
    ``delta`` are evenly spaced over the channels and not trained.

    Parameters
    ----------
    n_channels : int
        Number of filters.
    n_times : int
        ``T_max``: number of lags over which ``t`` goes from 0 to 1.
    n_features : int, default=5
        Positional features: time, and a cosine and a sine for each band; odd.
    width : int, default=64
        Width of the network.
    frequency : float, default=10.0
        What the frequencies start from.
    scale : float, default=1.0
        Constant factor of the filters.

    Examples
    --------
    >>> HyenaFilter(8, n_times=100)(30).shape
    torch.Size([8, 30])
    """

    decay: Tensor
    bands: Tensor

    def __init__(
        self,
        n_channels: int,
        *,
        n_times: int,
        n_features: int = 5,
        width: int = 64,
        frequency: float = 10.0,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.n_times = n_times
        self.scale = scale
        n_bands = (n_features - 1) // 2
        self.layers = nn.ModuleList(
            [nn.Linear(n_features, width), nn.Linear(width, width), nn.Linear(width, width)]
        )
        self.last = nn.Linear(width, n_channels, bias=False)
        self.frequency = nn.Parameter(torch.full((width,), frequency))
        bands = torch.linspace(_LOWEST_FREQUENCY, max(n_bands - 1, _LOWEST_FREQUENCY), n_bands)
        decay = torch.linspace(
            math.log(_DECAYED) / _SLOWEST, math.log(_DECAYED) / _FASTEST, n_channels
        )
        self.register_buffer("bands", bands, persistent=False)
        self.register_buffer("decay", decay, persistent=False)

    def forward(self, n_lags: int) -> Tensor:
        """Make the filters, ``(n_channels, n_lags)``, at lags 0 to ``n_lags - 1``."""
        weight = self.last.weight
        # Neighbouring lags differ by less than bfloat16 can tell.
        with torch.autocast(weight.device.type, enabled=False):
            lag = torch.arange(n_lags, device=weight.device, dtype=weight.dtype)
            t = lag[:, None] / max(self.n_times - 1, 1)
            angle = self.bands * (2 * math.pi / self.n_times) * lag[:, None]
            h = torch.cat([t, angle.cos(), -angle.sin()], dim=1)
            for layer in self.layers:
                h = torch.sin(self.frequency * layer(h))
            h = torch.einsum("cw,kw->ck", weight, h)
            return self.scale * h * torch.exp(-self.decay.abs()[:, None] * t[:, 0])


class HyenaOperator(nn.Module):
    """Long convolutions and elementwise gates, in turn.

    Parameters
    ----------
    d_model : int
        Channels in and out.
    n_times : int
        Largest number of tokens, over which the filters' time goes from 0 to 1.
    order : int, default=2
        Number of gates, one more than of long convolutions.
    causal : bool, default=False
        Whether a token sees only itself and what lies to its left. Otherwise there is a
        second set of filters for what lies to its right, and the short convolution is
        centred; at lag 0 the filters of both directions add up.
    filter_features, filter_width, filter_scale
        ``n_features``, ``width`` and ``scale`` of :class:`HyenaFilter`.

    References
    ----------
    Poli et al., "Hyena hierarchy: towards larger convolutional language models", ICML 2023
    (arXiv 2302.10866), definition 3.1 and section 3.3.

    Examples
    --------
    >>> import torch
    >>> HyenaOperator(8, n_times=100)(torch.zeros(2, 30, 8)).shape
    torch.Size([2, 30, 8])
    """

    def __init__(
        self,
        d_model: int,
        *,
        n_times: int,
        order: int = 2,
        causal: bool = False,
        filter_features: int = 5,
        filter_width: int = 64,
        filter_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.order = order
        self.causal = causal
        n_projections = (order + 1) * d_model
        self.in_proj = nn.Linear(d_model, n_projections)
        self.short_conv = nn.Conv1d(
            n_projections,
            n_projections,
            _SHORT_WIDTH,
            groups=n_projections,
            padding=_SHORT_WIDTH - 1 if causal else _SHORT_WIDTH // 2,
        )
        self.filters = nn.ModuleList(
            HyenaFilter(
                (order - 1) * d_model,
                n_times=n_times,
                n_features=filter_features,
                width=filter_width,
                scale=filter_scale,
            )
            for _ in range(1 if causal else 2)
        )
        self.skip = nn.Parameter(torch.randn(order - 1, d_model))
        self.out_proj = nn.Linear(d_model, d_model)

    def forward(self, u: Tensor) -> Tensor:
        """Map ``(batch, T, d_model)`` to the same shape."""
        n_tokens = u.shape[1]
        # One product gives the layout (batch, channel, T) that the transforms need.
        projected = torch.einsum("cd,btd->bct", self.in_proj.weight, u)
        projected = projected + self.in_proj.bias[:, None].to(projected.dtype)
        *gates, v = self.short_conv(projected)[..., :n_tokens].chunk(self.order + 1, dim=1)
        filters = self.taps(n_tokens).chunk(self.order - 1)
        for i, gate in enumerate(reversed(gates[1:])):
            v = long_conv(v * gate, filters[i], self.skip[i], causal=self.causal)
        return self.out_proj((v * gates[0]).transpose(1, 2))

    def taps(self, n_lags: int) -> Tensor:
        """Taps of the ``order - 1`` sets of filters, in the layout of ``long_conv``."""
        if self.causal:
            return self.filters[0](n_lags)
        left, right = (each(n_lags) for each in self.filters)
        at_once = left[:, :1] + right[:, :1]
        return torch.cat([right[:, 1:].flip(1), at_once, left[:, 1:]], dim=1)


class HyenaLayer(nn.Module):
    """Pre-norm block: the operator, then a two-layer network, each added to the input.

    Parameters
    ----------
    operator : HyenaOperator
        What mixes the tokens.
    d_model : int
        Channels in and out.
    dropout : float
        Dropout probability of what is added.
    branch_scale : float
        Factor of the initial weights of the two last projections, for a stack of ``n`` blocks
        ``(2 n) ** -0.5``: the sum of all branches then does not grow with ``n`` (Radford et
        al., "Language models are unsupervised multitask learners", 2019).
    """

    def __init__(
        self, operator: HyenaOperator, d_model: int, dropout: float, *, branch_scale: float
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.operator = operator
        self.norm_mlp = nn.LayerNorm(d_model)
        last = nn.Linear(4 * d_model, d_model)
        self.mlp = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(approximate="tanh"), last)
        self.dropout = nn.Dropout(dropout)
        for projection in (operator.out_proj, last):
            nn.init.zeros_(projection.bias)
            with torch.no_grad():
                projection.weight.mul_(branch_scale)

    def forward(self, h: Tensor) -> Tensor:
        """Map ``(batch, T, d_model)`` to the same shape, in float32 or wider."""
        h = h + self.dropout(self.operator(self.norm(h)))
        return h + self.dropout(self.mlp(self.norm_mlp(h)))


class HyenaBackbone(nn.Module):
    """Hyena operators on tokens: each token sees the whole window.

    Parameters
    ----------
    in_channels : int
        Channels of the input.
    d_model : int, default=64
        Width of the body, and number of output channels.
    n_layers : int, default=4
        Number of blocks.
    dropout : float, default=0.1
        Dropout probability of the embedding and of what each block adds.
    resolution : int, default=16
        Bases a token stands for.
    checkpointing : bool, default=False
        Whether the backward pass computes each block anew in place of keeping its
        intermediate results.
    causal : bool, default=False
        Whether the operators see only what lies to the left, as published. With
        ``resolution=1`` so does the whole body; the embedding of coarser tokens looks a few
        tokens to the right.
    order : int, default=2
        Order of the operators, 2 or more.
    max_length : int, default=200_000
        Longest window in base pairs. It sets the unit of the filters' time, so that a filter
        means the same in windows of any length up to it; filters of a body made for long
        windows vary little over a short one. The estimators hand over the length of their
        windows.
    filter_features : int, default=5
        Positional features of the filters, odd, 3 or more.
    filter_width : int, default=64
        Width of the networks that make the filters.

    Attributes
    ----------
    out_channels : int
        Equal to `d_model`.
    resolution : int
        Bases a token stands for.
    takes_max_length : bool
        True: ``make_backbone`` hands the length of the windows over as `max_length`.

    Raises
    ------
    ValueError
        If `order`, `filter_features` or `max_length` is out of range; by ``forward``, if the
        window is longer than `max_length`.

    Notes
    -----
    The filters have a constant factor ``T_max ** -0.5``, which keeps the sums over long
    windows near the size of their terms. It is a choice of units: the published filters are
    those of a last layer ``T_max ** 0.5`` times smaller. The last norm is a batch norm, not the
    published layer norm, which would make all tokens equally strong: the readout adds tokens
    up, and could not tell much from little. Time is ``O(T log T)``.

    References
    ----------
    Poli et al., "Hyena hierarchy: towards larger convolutional language models", ICML 2023
    (arXiv 2302.10866).
    Nguyen et al., "HyenaDNA: long-range genomic sequence modeling at single nucleotide
    resolution", NeurIPS 2023 (arXiv 2306.15794).

    Examples
    --------
    >>> import torch
    >>> body = HyenaBackbone(5, d_model=8, n_layers=2, resolution=16)
    >>> body(torch.zeros(2, 5, 100)).shape
    torch.Size([2, 8, 7])
    """

    takes_max_length = True

    def __init__(
        self,
        in_channels: int,
        *,
        d_model: int = 64,
        n_layers: int = 4,
        dropout: float = 0.1,
        resolution: int = 16,
        checkpointing: bool = False,
        causal: bool = False,
        order: int = 2,
        max_length: int = 200_000,
        filter_features: int = 5,
        filter_width: int = 64,
    ) -> None:
        super().__init__()
        if order < 2:
            raise ValueError(
                f"order={order}; expected 2 or more: an operator of order 1 has no long "
                "convolution."
            )
        if filter_features < 3 or filter_features % 2 == 0:
            raise ValueError(
                f"filter_features={filter_features}; expected an odd number, 3 or more: time, and "
                "a cosine and a sine for each band."
            )
        if max_length < 1:
            raise ValueError(f"max_length={max_length}; expected 1 bp or more.")
        self.out_channels = d_model
        self.resolution = resolution
        self.max_length = max_length
        self.checkpointing = checkpointing
        n_times = -(-max_length // resolution)
        self.embedding = TokenEmbedding(in_channels, d_model, resolution)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            HyenaLayer(
                HyenaOperator(
                    d_model,
                    n_times=n_times,
                    order=order,
                    causal=causal,
                    filter_features=filter_features,
                    filter_width=filter_width,
                    filter_scale=n_times**-0.5,
                ),
                d_model,
                dropout,
                branch_scale=(2 * n_layers) ** -0.5,
            )
            for _ in range(n_layers)
        )
        self.norm = TokenNorm(d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, in_channels, length)`` to ``(batch, out_channels, T)``."""
        if x.shape[-1] > self.max_length:
            raise ValueError(
                f"x has {x.shape[-1]} columns, more than max_length={self.max_length}, to which "
                "the filters' time is scaled. Build the body with a larger max_length."
            )
        h = self.embedding(x).transpose(1, 2)
        h = self.dropout(h.to(torch.promote_types(h.dtype, torch.float32)))
        for layer in self.layers:
            if self.checkpointing and torch.is_grad_enabled():
                h = checkpoint(layer, h, use_reentrant=False)
            else:
                h = layer(h)
        return self.norm(h.transpose(1, 2))


class CausalHyenaBackbone(HyenaBackbone):
    """:class:`HyenaBackbone` with ``causal=True``, as published.

    A token sees what lies to its left; one in the middle of a window never sees the right half.

    Parameters
    ----------
    in_channels, d_model, n_layers, dropout, resolution, checkpointing, max_length
        As in :class:`HyenaBackbone`.

    Examples
    --------
    >>> import torch
    >>> body = CausalHyenaBackbone(5, d_model=8, n_layers=2, resolution=1)
    >>> body(torch.zeros(2, 5, 20)).shape
    torch.Size([2, 8, 20])
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
        max_length: int = 200_000,
    ) -> None:
        super().__init__(
            in_channels,
            d_model=d_model,
            n_layers=n_layers,
            dropout=dropout,
            resolution=resolution,
            checkpointing=checkpointing,
            causal=True,
            max_length=max_length,
        )
