"""Mamba backbone: a causal stack of selective state spaces.

Symbols
-------
``h``
    Tokens between layers, ``(batch, T, d_model)``.
``x``, ``z``
    The two halves of the input projection, ``(batch, T, d)`` with ``d = 2 d_model``: what the
    state space reads, and what gates its output.
``delta``, ``B``, ``C``
    Step size ``(batch, T, d)`` and weights ``(batch, T, n)``, all functions of the token.
``A``, ``D``
    Decay rates ``(d, n)``, and weight of the input in the output, ``(d,)``.
``r``
    Rank of the step sizes, ``ceil(d_model / 16)``.

Sections 3.4 and E.2 of Gu and Dao (2023) for the block and its initial values. Token *t* sees
tokens up to *t* only: the right half of a window is unseen where the left half is read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from regmask_sk.backbones.embedding import TokenEmbedding
from regmask_sk.ops.rms_norm import rms_norm
from regmask_sk.ops.state_space import keep_outputs, state_space

EXPANSION = 2  # d / d_model
_N_STATES = 16
_TAPS = 4  # tokens that the short convolution sees
RANK_SHARE = 16  # d_model / r
_STEPS = (1e-3, 0.1)  # range of the initial step sizes, log-uniform
_SHORTEST_STEP = 1e-4
_EPS = 1e-5  # of the norms


class SelectiveStateSpace(nn.Module):
    """Parameters of a short convolution and gated selective scan in one direction; `mix` runs it.

    Parameters
    ----------
    d : int
        Channels.
    rank : int
        Rank of the step sizes.

    References
    ----------
    Gu and Dao, "Mamba: linear-time sequence modeling with selective state spaces",
    arXiv:2312.00752 (2023), algorithm 2.
    """

    def __init__(self, d: int, rank: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(d, d, _TAPS, groups=d)
        self.x_proj = nn.Linear(d, rank + 2 * _N_STATES, bias=False)
        self.dt_proj = nn.Linear(rank, d)
        rates = torch.arange(1, _N_STATES + 1, dtype=torch.float32)
        self.A_log = nn.Parameter(rates.log().repeat(d, 1))
        self.D = nn.Parameter(torch.ones(d))
        nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        low, high = math.log(_STEPS[0]), math.log(_STEPS[1])
        step = torch.empty(d).uniform_(low, high).exp().clamp_min(_SHORTEST_STEP)
        with torch.no_grad():  # the inverse of softplus
            self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))

    def parameters_in_order(self) -> tuple[Tensor, ...]:
        """Give what `regmask_sk.ops.state_space.state_space` takes of one direction."""
        assert self.conv.bias is not None
        return (
            *(self.conv.weight.squeeze(1), self.conv.bias, self.x_proj.weight),
            *(self.dt_proj.weight, self.dt_proj.bias, -torch.exp(self.A_log.float()), self.D),
        )


class MambaMixer(nn.Module):
    """Input projection, selective state space, output projection.

    Parameters
    ----------
    d_model : int
        Width of the tokens.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        d = EXPANSION * d_model
        self.in_proj = nn.Linear(d_model, 2 * d, bias=False)
        self.state_space = SelectiveStateSpace(d, math.ceil(d_model / RANK_SHARE))
        self.out_proj = nn.Linear(d, d_model, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        """Map ``(batch, T, d_model)`` to the same shape."""
        return mix(h, self.in_proj, [self.state_space], self.out_proj, [False])


def mix(
    h: Tensor,
    in_proj: nn.Linear,
    spaces: Sequence[SelectiveStateSpace],
    out_proj: nn.Linear,
    reverse: Sequence[bool],
) -> Tensor:
    """Apply a mixer's parts to ``(batch, T, d_model)``: a state space for each direction."""
    xz = in_proj(h)
    each = [space.parameters_in_order() for space in spaces]
    weight, bias, x_proj, dt_weight, dt_bias, A, D = (
        torch.stack(parts) for parts in zip(*each, strict=True)
    )
    # Under autocast the products are in half precision, and the output projection with them.
    to_out = out_proj.weight.to(xz.dtype)
    return state_space(
        *(xz, weight, bias, x_proj, dt_weight, dt_bias, A, D, to_out), reverse=reverse
    )


class _Norm(nn.RMSNorm):
    """Root-mean-square norm by our operator, with the parameters of torch's."""

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, _EPS)


class _Layer(nn.Module):
    """Norm, mixer and dropout, added to what came in."""

    def __init__(self, mixer: nn.Module, d_model: int, dropout: float) -> None:
        super().__init__()
        self.norm = _Norm(d_model, eps=_EPS)
        self.mixer = mixer
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor) -> Tensor:
        update: Tensor = self.dropout(self.mixer(self.norm(h)))
        return h + update


class MambaBackbone(nn.Module):
    """Causal stack of Mamba layers on tokens.

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
    Gu and Dao, "Mamba: linear-time sequence modeling with selective state spaces",
    arXiv:2312.00752 (2023).

    Examples
    --------
    >>> import torch
    >>> body = MambaBackbone(5, d_model=8, n_layers=2, resolution=16)
    >>> body(torch.zeros(2, 5, 100)).shape
    torch.Size([2, 8, 7])
    """

    _mixer: type[nn.Module] = MambaMixer

    def __init__(
        self,
        in_channels: int,
        *,
        d_model: int = 64,
        n_layers: int = 4,
        dropout: float = 0.1,
        resolution: int = 16,
        checkpointing: bool = False,
        embedded: bool = False,
    ) -> None:
        super().__init__()
        self.out_channels = d_model
        self.resolution = resolution
        self.checkpointing = checkpointing
        self.embedding = (
            nn.Identity() if embedded else TokenEmbedding(in_channels, d_model, resolution)
        )
        self.layers = nn.ModuleList(
            _Layer(self._mixer(d_model), d_model, dropout) for _ in range(n_layers)
        )
        self.norm = _Norm(d_model, eps=_EPS)
        for name, weight in self.named_parameters():
            if name.endswith("out_proj.weight"):  # so that the sum of the layers keeps its scale
                nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
                with torch.no_grad():
                    weight.div_(math.sqrt(n_layers))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, in_channels, length)`` to ``(batch, out_channels, T)``."""
        # Under autocast, too, the sum of the layers is kept in the dtype of the parameters.
        h = self.embedding(x).transpose(1, 2).to(self.norm.weight.dtype).contiguous()
        for layer in self.layers:
            if self.checkpointing and torch.is_grad_enabled():
                h = checkpoint(layer, h, use_reentrant=False, context_fn=keep_outputs)
            else:
                h = layer(h)
        return self.norm(h).transpose(1, 2)
