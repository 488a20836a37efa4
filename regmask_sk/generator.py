"""The generator: reads a window and gives each of its gates a distribution.

Symbols are those of :mod:`regmask_sk.masking`.

References
----------
Su et al., "Learning to discover regulatory elements for gene expression prediction",
ICLR 2025: Beta gates from sequence and signals.
Maddison et al., "The concrete distribution", ICLR 2017: relaxed Bernoulli gates.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regmask_sk.distributions import DISTRIBUTIONS, DistributionName, GateDistribution
from regmask_sk.ops.evidence import EvidencePreset, seq2exp_gates
from regmask_sk.ops.interpolate import interpolate_linear
from regmask_sk.ops.tokens import pool_to_tokens

Evidence = Literal["learned"] | EvidencePreset

#: Floor under the parameters of gates that have two: the gradient of the divergence to the
#: prior is of the order of the inverse square of a parameter.
BETA_FLOOR = 0.05
_LOG_ODDS_LIMIT = 12.0
_POSITION_KNOTS = 64  # of the learned bias of a gate's position, linear in between
_GATE_SCALE = 3.0  # of the log-odds: gates must open and close within a few hundred steps
_SMOOTHED = 3  # gates over which the log-odds of gates are averaged; odd


class Generator(nn.Module):
    """Reads a window and gives each gate its distribution.

    Parameters
    ----------
    backbone : nn.Module
        Body, from the channels it reads plus a mask of ones to tokens.
    body_channels : tuple of int
        Indices of the channels that the body reads.
    signal_channels : tuple of int
        Indices of the channels that add evidence of their own, track by track.
    n_gates : int
        Number of gates of a window.
    distribution : {"beta", "kumaraswamy", "hard_concrete", "relaxed_bernoulli"}
        Family of the gates, see :mod:`regmask_sk.distributions`.
    evidence : {"learned", "seq2exp-soft", "seq2exp-hard"}, default="learned"
        How tracks enter gates of two parameters: with learned weights, or by the published
        formulas, :func:`regmask_sk.ops.evidence.seq2exp_gates`, in which nothing is learned.
    signal_complement : tuple of int, optional
        For each signal the one that holds it on the opposite strand. If given, the gates
        turn with the window: position and tracks weigh the same on either strand. The body
        must do so too; see :class:`regmask_sk.backbones.strands.SharedStrands`.
    finer : nn.Module, optional
        From the body's tokens and the channels that it reads to places of which each gate has
        one; see :class:`regmask_sk.backbones.finer.FinerGrain`. By default gates stand for the
        body's tokens.

    Attributes
    ----------
    mask_resolution : int
        Bases a gate stands for.

    Notes
    -----
    A gate of one parameter, the location of hard concrete and relaxed Bernoulli gates, has a
    location that adds up the body's reading, the evidence of each track, and a learned bias of
    the position in the window, averaged over each gate and its two neighbours: elements are
    longer than a gate.

    Of a gate of two parameters the body gives ``Beta(a1, b1)`` and each scaled track ``s`` gives
    ``Beta(1 + w * max(s, 0), 1 + w * max(-s, 0) + v)`` with learned non-negative ``w``
    and ``v``. The normalised product of Beta densities is again a Beta density, with
    parameters ``a1 + sum(a2 - 1)`` and ``b1 + sum(b2 - 1)`` (Su et al. 2025,
    Proposition 2); the -1 that belongs to it is kept here. Kumaraswamy gates take the same two
    numbers; for them the product is no longer exact.
    """

    body_index: Tensor
    signal_index: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        *,
        body_channels: tuple[int, ...],
        signal_channels: tuple[int, ...],
        n_gates: int,
        distribution: DistributionName,
        evidence: Evidence = "learned",
        signal_complement: tuple[int, ...] | None = None,
        finer: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.finer = finer
        read = backbone if finer is None else finer
        self.signal_complement = None if signal_complement is None else list(signal_complement)
        # Any: its parameters are given by position, one or two.
        self.distribution: Any = DISTRIBUTIONS[distribution]
        self.mask_resolution = cast(int, read.resolution)
        self.n_gates = n_gates
        n_parameters = self.distribution.n_parameters
        self.head = nn.Conv1d(cast(int, read.out_channels), n_parameters, 1)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)
        self.evidence = evidence
        if evidence == "learned":
            self.track_weight = nn.Parameter(torch.zeros(len(signal_channels)))
        if n_parameters == 2 and evidence == "learned":
            self.track_offset = nn.Parameter(torch.zeros(len(signal_channels)))
        if n_parameters == 1:
            self.position = nn.Parameter(torch.zeros(1, 1, min(n_gates, _POSITION_KNOTS)))
        self.register_buffer("body_index", torch.tensor(body_channels), persistent=False)
        self.register_buffer(
            "signal_index", torch.tensor(signal_channels, dtype=torch.long), persistent=False
        )

    def forward(self, x: Tensor) -> GateDistribution:
        """Distribution of the gates.

        Parameters
        ----------
        x : Tensor of shape (batch, channel, length)
            The window.

        Returns
        -------
        GateDistribution of shape (batch, G), float32
            Of the generator's family.
        """
        window = torch.cat([x[:, self.body_index], torch.ones_like(x[:, :1])], dim=1)
        h = self.backbone(window)
        if self.finer is not None:
            h = self.finer(h, window)
        # The head and all that follows stay in float32 under autocast: Beta has no
        # half-precision sampler, and its divergence overflows in half precision.
        with torch.autocast(device_type=x.device.type, enabled=False):
            raw = self.head(h.float())
            tracks = pool_to_tokens(x[:, self.signal_index].float(), self.mask_resolution)
            if self.distribution.n_parameters == 1:
                return cast(GateDistribution, self.distribution(self._location(raw, tracks)))
            return cast(GateDistribution, self.distribution(*self._shapes(raw, tracks)))

    def _location(self, raw: Tensor, tracks: Tensor) -> Tensor:
        evidence = torch.einsum("bct,c->bt", tracks, self._track_weight())
        position = interpolate_linear(self.position, self.n_gates)[:, 0]
        if self.signal_complement is not None:
            position = 0.5 * (position + position.flip(1))
        location = F.avg_pool1d(
            _GATE_SCALE * (raw[:, 0] + evidence + position).unsqueeze(1),
            _SMOOTHED,
            stride=1,
            padding=_SMOOTHED // 2,
            count_include_pad=False,
        )[:, 0]
        return location.clamp(-_LOG_ODDS_LIMIT, _LOG_ODDS_LIMIT)

    def _shapes(self, raw: Tensor, tracks: Tensor) -> tuple[Tensor, Tensor]:
        if self.evidence != "learned":
            shapes = seq2exp_gates(raw[:, 0], raw[:, 1], tracks, self.evidence)
            # The hard variant's a goes to 0 where there is no signal.
            return shapes[0].clamp_min(BETA_FLOOR), shapes[1].clamp_min(BETA_FLOOR)
        weight = F.softplus(self._track_weight())[:, None]
        a = F.softplus(raw[:, 0]) + BETA_FLOOR + (weight * tracks.clamp_min(0)).sum(1)
        b = F.softplus(raw[:, 1]) + BETA_FLOOR + (weight * (-tracks).clamp_min(0)).sum(1)
        return a, b + F.softplus(self.track_offset).sum()

    def _track_weight(self) -> Tensor:
        if self.signal_complement is None:
            return self.track_weight
        return 0.5 * (self.track_weight + self.track_weight[self.signal_complement])
