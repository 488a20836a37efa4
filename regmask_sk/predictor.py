"""The predictor: a body that reads what a mask keeps, and a readout from tokens to outputs.

Symbols are those of :mod:`regmask_sk.masking`.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from regmask_sk.backbones.conv import ConvBackbone
from regmask_sk.backbones.kept import can_read_kept, read_kept
from regmask_sk.ops.tokens import distance_bins, pool_to_tokens

_HEADS = 4  # attention heads of the readout
_SUMMED_TOKENS = 64  # number of tokens for which the readout's sum is taken as it is
_CLOSED = 1e-4  # weight, against 1, of a closed token in the readout's attention


def in_double(network: nn.Module, inputs: Tensor) -> Tensor:
    """Evaluate a small network in double precision.

    The order in which a matrix product sums depends on a row's place in the batch. In double
    precision that is lost in rounding, so that a window's prediction is the same to the last
    bit wherever it stands.

    Parameters
    ----------
    network : nn.Module
        Layers on the last axis.
    inputs : Tensor of shape (batch, n_inputs)
        What it reads.

    Returns
    -------
    Tensor of shape (batch, n_outputs)
        In the dtype of `inputs`.

    Examples
    --------
    >>> import torch
    >>> in_double(torch.nn.Linear(3, 2), torch.zeros(4, 3)).shape
    torch.Size([4, 2])
    """
    weights = {name: value.double() for name, value in network.named_parameters()}
    read: Tensor = functional_call(network, weights, (inputs.double(),))
    return read.to(inputs.dtype)


class Readout(nn.Module):
    """Scalar outputs from tokens, by a sum and by a small network.

    The sum of gated contributions serves elements whose position means nothing. The
    network reads means over bins of the distance to the TSS, and the tokens that a few
    attention heads pick among those that the mask keeps. Covariates join the network.

    Parameters
    ----------
    in_channels : int
        Channels of the tokens.
    n_outputs, n_covariates : int
        Numbers of targets and of covariates.
    n_tokens, resolution : int
        Number of tokens, and bases a token stands for.
    dropout : float
        Dropout probability of the network, on its input and on its hidden layer.
    both_directions : bool, default=False
        Whether tokens are read from either end and the two readings averaged, so that the
        outputs do not change where the tokens are reversed.
    """

    bins: Tensor

    def __init__(
        self,
        in_channels: int,
        n_outputs: int,
        n_covariates: int,
        *,
        n_tokens: int,
        resolution: int,
        dropout: float,
        both_directions: bool = False,
    ) -> None:
        super().__init__()
        self.both_directions = both_directions
        bin_channels = max(in_channels // 4, 1)
        self.register_buffer("bins", distance_bins(n_tokens, resolution), persistent=False)
        n_bins = self.bins.shape[1]
        self.gate = nn.Conv1d(in_channels, n_outputs, 1)
        self.value = nn.Conv1d(in_channels, n_outputs, 1)
        self.to_bins = nn.Conv1d(in_channels, bin_channels, 1)
        self.attention = nn.Conv1d(in_channels, _HEADS, 1)
        n_inputs = n_bins * bin_channels + _HEADS * in_channels + n_covariates
        self.network = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(n_inputs, in_channels),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(in_channels, n_outputs),
        )
        for parameter in self.value.parameters():
            nn.init.zeros_(parameter)
        # A sum over many tokens would learn faster than all else by as much.
        self.sum_scale = (_SUMMED_TOKENS / n_tokens) ** 0.5

    def forward(
        self, h: Tensor, kept: Tensor, covariates: Tensor, *, exact: bool = False
    ) -> Tensor:
        """Map tokens to outputs.

        Parameters
        ----------
        h : Tensor of shape (batch, in_channels, T)
            Tokens.
        kept : Tensor of shape (batch, T)
            Share of each token's bases that the mask keeps.
        covariates : Tensor of shape (batch, n_covariates)
            Standardised covariates.
        exact : bool, default=False
            Whether outputs are the same to the last bit wherever in the batch a window
            stands; for evaluation.

        Returns
        -------
        Tensor of shape (batch, n_outputs)
            In units of the standardised target.
        """
        outputs = self._read(h, kept, covariates, exact)
        if self.both_directions:
            outputs = 0.5 * (outputs + self._read(h.flip(2), kept.flip(1), covariates, exact))
        return outputs

    def _read(self, h: Tensor, kept: Tensor, covariates: Tensor, exact: bool) -> Tensor:
        contributions = (torch.sigmoid(self.gate(h)) * self.value(h)).sum(dim=2) * self.sum_scale
        weight = (self.attention(h) + torch.log(kept + _CLOSED).unsqueeze(1)).softmax(dim=2)
        picked = weight @ h.transpose(1, 2)
        parts = [(self.to_bins(h) @ self.bins).flatten(1), picked.flatten(1), covariates]
        inputs = torch.cat(parts, dim=1)
        if not exact:
            return contributions + self.network(inputs)
        return contributions + in_double(self.network, inputs)


class Predictor(nn.Module):
    """Predicts expression from what a mask keeps, and from nothing else of the window.

    Parameters
    ----------
    backbone : nn.Module
        Body with one channel more than the window: the mask, last.
    readout : Readout
        From tokens to outputs.
    channels : tuple of int
        Indices of the window's channels in the order in which the body reads them.
    """

    body_index: Tensor

    def __init__(self, backbone: nn.Module, readout: Readout, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.backbone = backbone
        self.readout = readout
        self.resolution = cast(int, backbone.resolution)
        self.register_buffer("body_index", torch.tensor(channels), persistent=False)

    def forward(
        self, x: Tensor, mask: Tensor, covariates: Tensor, *, exact: bool = False
    ) -> Tensor:
        """Predict ``(batch, n_outputs)`` from ``x * mask`` and the mask."""
        m = mask.unsqueeze(1).to(x.dtype)
        masked = torch.cat([x[:, self.body_index] * m, m], dim=1)
        n_tokens = -(-x.shape[2] // self.resolution)
        # Under autocast its rows would be of two dtypes.
        plain = torch.is_grad_enabled() or torch.is_autocast_enabled(x.device.type)
        if not plain and can_read_kept(self.backbone, n_tokens):
            h = read_kept(cast(ConvBackbone, self.backbone), masked)
        else:
            h = self.backbone(masked)
        kept = pool_to_tokens(m, self.resolution)[:, 0]
        with torch.autocast(device_type=x.device.type, enabled=False):
            return self.readout(h.float(), kept.float(), covariates, exact=exact)
