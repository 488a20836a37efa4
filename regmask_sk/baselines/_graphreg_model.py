"""The network of GraphReg: a tower to bins, attention between bins, a readout at the TSS.

Symbols
-------
``n``, ``d``
    Number of bins of a window, and channels of a bin.
``A``
    Adjacency, ``(batch, n, n)``: which bins are in contact.
``y``, ``mu``
    Count of a bin in the target track, and its rate.

The published network predicts CAGE of every bin of a window of 6 Mb. Here it reads the window of
a gene, bins are laid from its TSS outward, and a small network on the bin of the TSS, and on the
gene's covariates, predicts the gene's expression. Where a track of CAGE is given, the published
objective joins: the Poisson likelihood of the bins in the middle third.

References
----------
Karbalayghareh et al., "Chromatin interaction-aware gene regulatory modeling with graph attention
networks", Genome Research 32 (2022).
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regmask_sk._objectives import Outcome
from regmask_sk.backbones.conv import TokenNorm
from regmask_sk.backbones.strands import SharedStrands
from regmask_sk.baselines._bin_tower import BinLayout, BinTower
from regmask_sk.baselines._graph_attention import GraphAttention
from regmask_sk.baselines._rival import WindowModel
from regmask_sk.predictor import in_double


def poisson_loss(log_rate: Tensor, count: Tensor) -> Tensor:
    """Mean negative log likelihood of counts under Poisson distributions.

    Parameters
    ----------
    log_rate, count : Tensor of one shape
        Logarithms of the rates, and counts; these need not be whole.

    Returns
    -------
    Tensor of shape ()
        ``mean(lgamma(y + 1) + mu - y log(mu))``.

    Examples
    --------
    >>> import torch
    >>> poisson_loss(torch.zeros(2), torch.tensor([0.0, 1.0]))
    tensor(1.)
    """
    return (torch.lgamma(count + 1.0) + log_rate.exp() - count * log_rate).mean()


class BinnedTarget(nn.Module):
    """A track that is predicted bin by bin, and never read.

    Parameters
    ----------
    channel : int
        Its index among the channels of the window.
    layout : BinLayout
        Where the bins are.
    d_model : int
        Channels of a bin.
    weight : float
        Weight of its loss.
    """

    def __init__(self, channel: int, layout: BinLayout, d_model: int, weight: float) -> None:
        super().__init__()
        self.channel = channel
        self.layout = layout
        self.weight = weight
        width = max(d_model // 2, 1)
        self.log_rate = nn.Sequential(
            nn.Conv1d(d_model, width, 1), nn.ReLU(), TokenNorm(width), nn.Conv1d(width, 1, 1)
        )

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        """Poisson loss of the bins ``(batch, d, n)`` of windows ``(batch, channel, length)``."""
        layout = self.layout
        track = F.pad(x[:, self.channel], layout.padding)
        counts = track.unflatten(1, (layout.n_bins, layout.bin_size)).sum(dim=2)
        if bool((counts < 0).any()):
            raise ValueError(
                f"target_track has bins whose sum is negative ({float(counts.min()):g}); counts "
                "under a Poisson distribution are 0 or more. Name a track of counts."
            )
        # The outer thirds miss much of what is in contact with them.
        third = layout.n_bins // 3
        inner = slice(third, layout.n_bins - third)
        return self.weight * poisson_loss(self.log_rate(h)[:, 0, inner].float(), counts[:, inner])


class GraphRegModel(WindowModel):
    """Tower, graph attention, and a small network on the bin of the TSS.

    Parameters
    ----------
    tower : BinTower or SharedStrands
        From bases to bins.
    graph : list of GraphAttention
        Layers, one after the other.
    layout : BinLayout
        Where the bins are.
    channels : tuple of int
        Indices of the window's channels in the order in which the tower reads them.
    n_outputs, n_covariates : int
        Numbers of targets and of covariates.
    dropout : float
        Dropout probability before each layer of the graph and in the last network.
    target : BinnedTarget, optional
        Track to predict in training besides.
    conjoined : tuple of int, optional
        As in ``WindowModel``.
    """

    tower_index: Tensor

    def __init__(
        self,
        tower: BinTower | SharedStrands,
        graph: list[GraphAttention],
        layout: BinLayout,
        channels: tuple[int, ...],
        *,
        n_outputs: int,
        n_covariates: int,
        dropout: float,
        target: BinnedTarget | None = None,
        conjoined: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(conjoined=conjoined)
        self.tower = tower
        self.graph = nn.ModuleList(graph)
        self.middle = layout.middle
        self.dropout = nn.Dropout(dropout)
        self.target = target
        width = max(tower.out_channels // 2, 1)
        self.network = nn.Sequential(
            nn.Linear(tower.out_channels + n_covariates, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, n_outputs),
        )
        self.register_buffer("tower_index", torch.tensor(channels), persistent=False)

    def read(self, x: Tensor, covariates: Tensor, **extras: Tensor) -> Tensor:
        """Predict ``(batch, n_outputs)`` from windows and ``adjacency``."""
        return self._read(self._bins(x, extras["adjacency"]), covariates)

    def objective(self, x: Tensor, covariates: Tensor, **extras: Tensor) -> Outcome:
        """Give the prediction, and the loss of the target track where there is one."""
        h = self._bins(x, extras["adjacency"])
        predicted = self._read(h, covariates)
        penalty = predicted.new_zeros(()) if self.target is None else self.target(h, x)
        return Outcome([predicted], None, penalty, predicted.new_ones(()))

    def _bins(self, x: Tensor, adjacency: Tensor) -> Tensor:
        h = self.tower(x[:, self.tower_index])
        for layer in self.graph:
            h = layer(self.dropout(h), adjacency)
        return h

    def _read(self, h: Tensor, covariates: Tensor) -> Tensor:
        with torch.autocast(device_type=h.device.type, enabled=False):
            inputs = torch.cat([h[..., self.middle].float(), covariates], dim=1)
            return (
                cast(Tensor, self.network(inputs))
                if self.training
                else in_double(self.network, inputs)
            )
