"""The masked expression model: a generator of masks and a predictor of what they keep.

Symbols
-------
``x``
    Input, ``(batch, channel, length)``.
``T``
    Number of the bodies' tokens, ``ceil(length / resolution)``.
``G``
    Number of gates, ``ceil(length / mask_resolution)``: as many as tokens, or a multiple where
    the mask is finer than the bodies.
``openness``
    Log-odds of a gate's mean, ``(batch, G)``: above 0 a gate is more open than closed.
``m``
    Mask over bases, ``(batch, length)`` in [0, 1].
``forced``
    Bases about which no gate decides, ``(batch, length)``: -1 closed, 1 open, 0 free. The
    promoter is open whatever it says.
``a, b``
    Parameters of a gate whose family has two, such as Beta.

The generator reads the window and gives each gate its distribution; the predictor sees
``x * m`` and ``m`` itself, so that a closed base and an absent one differ. How the two
are trained is told in :mod:`regmask_sk._training`.

References
----------
Su et al., "Learning to discover regulatory elements for gene expression prediction",
ICLR 2025: Beta gates from sequence and signals, the information bottleneck.
Jethani et al., "Have we learned to explain?", AISTATS 2021: why the predictor must be
trained under masks that do not come from the generator.
Maddison et al., "The concrete distribution", ICLR 2017: relaxed Bernoulli gates.
Schiff et al., "Caduceus: bi-directional equivariant long-range DNA sequence modeling",
ICML 2024: reverse-complement symmetry by shared weights, or by averaging both strands.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from regmask_sk.distributions import DISTRIBUTIONS, DistributionName, GateDistribution
from regmask_sk.ops.evidence import EvidencePreset, seq2exp_gates
from regmask_sk.ops.strands import reverse_complement
from regmask_sk.ops.tokens import distance_bins, pool_to_tokens

MaskKind = Literal["soft", "hard", "topk"]
Evidence = Literal["learned"] | EvidencePreset

#: Floor under the parameters of gates that have two: the gradient of the divergence to the
#: prior is of the order of the inverse square of a parameter.
BETA_FLOOR = 0.05
_LOG_ODDS_LIMIT = 12.0
_POSITION_KNOTS = 64  # of the learned bias of a gate's position, linear in between
_GATE_SCALE = 3.0  # of the log-odds: gates must open and close within a few hundred steps
_END = 1e-6  # how near to 0 or 1 samples are not told apart
_SMOOTHED = 3  # gates over which the log-odds of gates are averaged; odd
_HEADS = 4  # attention heads of the readout
_SUMMED_TOKENS = 64  # number of tokens for which the readout's sum is taken as it is
_CLOSED = 1e-4  # weight, against 1, of a closed token in the readout's attention


class MaskOutput(NamedTuple):
    """What the model gives for a batch.

    Attributes
    ----------
    prediction : Tensor of shape (batch, n_outputs)
        In units of the standardised target.
    mask : Tensor of shape (batch, length)
        The mask under which the prediction was made, in [0, 1].
    """

    prediction: Tensor
    mask: Tensor


class Room(NamedTuple):
    """What gates decide about.

    Attributes
    ----------
    free : Tensor of shape (batch, G)
        Number of bases of each gate that are neither closed nor open in any case.
    opened : Tensor of shape (batch,)
        Number of bases of each window that are open in any case, promoter included.
    """

    free: Tensor
    opened: Tensor


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
        position = F.interpolate(self.position, self.n_gates, mode="linear")[:, 0]
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
        # The order in which a matrix product sums depends on a row's place in the batch. In
        # double precision that is lost in rounding, so that a window's prediction is the same
        # to the last bit wherever it stands.
        weights = {name: value.double() for name, value in self.network.named_parameters()}
        read = functional_call(self.network, weights, (inputs.double(),))
        return contributions + read.to(contributions.dtype)


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
        h = self.backbone(torch.cat([x[:, self.body_index] * m, m], dim=1))
        kept = pool_to_tokens(m, self.resolution)[:, 0]
        with torch.autocast(device_type=x.device.type, enabled=False):
            return self.readout(h.float(), kept.float(), covariates, exact=exact)


class MaskedExpressionModel(nn.Module):
    """Generator and predictor, and the rules by which gates become masks.

    Parameters
    ----------
    generator : Generator
        Gives gates.
    predictor : Predictor
        Predicts from the masked window.
    length : int
        Length of the window in base pairs.
    promoter : tuple of int
        ``(first, last + 1)`` column of the promoter window, which is always kept.
    sparsity : float
        Share of bases that ``"topk"`` keeps, promoter included.
    conjoined : tuple of int, optional
        For each channel of the window the channel of the opposite strand. If given, a model
        in evaluation reads either strand and averages the two: the openness of its gates,
        and its predictions (post-hoc conjoining, Schiff et al., 2024).

    Attributes
    ----------
    resolution, n_tokens : int
        Bases a token of the predictor's body stands for, and number of its tokens.
    mask_resolution, n_gates : int
        Bases a gate stands for, and number of gates.
    soft_shift, hard_shift : Tensor of shape ()
        Added to the openness before a soft or a hard mask is read, so that the mean
        share kept on the training rows is the budget.
    """

    soft_shift: Tensor
    hard_shift: Tensor
    free_bases: Tensor
    complement: Tensor

    def __init__(
        self,
        generator: Generator,
        predictor: Predictor,
        *,
        length: int,
        promoter: tuple[int, int],
        sparsity: float,
        conjoined: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.conjoined = conjoined is not None
        self.register_buffer("complement", torch.tensor(conjoined or ()).long(), persistent=False)
        self.generator = generator
        self.predictor = predictor
        self.length = length
        self.promoter = promoter
        self.sparsity = sparsity
        self.resolution = predictor.resolution
        self.n_tokens = -(-length // self.resolution)
        self.mask_resolution = generator.mask_resolution
        self.n_gates = -(-length // self.mask_resolution)
        self.register_buffer("soft_shift", torch.zeros(()))
        self.register_buffer("hard_shift", torch.zeros(()))
        # Bases of each gate that the promoter does not already keep: what the gate decides.
        free = torch.ones(self.n_gates * self.mask_resolution)
        free[length:] = 0.0
        free[promoter[0] : promoter[1]] = 0.0
        self.register_buffer(
            "free_bases", free.view(self.n_gates, self.mask_resolution).sum(1), persistent=False
        )

    def start_generator(self) -> None:
        """Give the generator's body the weights of the predictor's, where they are alike.

        What tells elements from the rest is what predicts expression, so the generator
        starts from the features that the predictor has learned.
        """
        if torch.equal(self.generator.body_index, self.predictor.body_index):
            self.generator.backbone.load_state_dict(self.predictor.backbone.state_dict())

    def gate_distribution(self, x: Tensor) -> GateDistribution:
        """Distribution of the gates, ``(batch, G)``, before any shift.

        A conjoined model in evaluation averages the parameters that either strand gives.
        """
        gates: GateDistribution = self.generator(x)
        if self.conjoined and not self.training:
            turned = vars(self.generator(reverse_complement(x, self.complement)))
            gates = replace(
                gates,  # type: ignore[type-var]
                **{
                    name: 0.5 * (value + turned[name].flip(1))
                    for name, value in vars(gates).items()
                    if isinstance(value, Tensor)
                },
            )
        return gates

    def openness(self, x: Tensor) -> Tensor:
        """Log-odds of each gate's mean, ``(batch, G)``, before any shift."""
        return self.gate_distribution(x).log_odds

    def room(self, forced: Tensor | None) -> Room | None:
        """Bases that the gates of each window decide about, where that differs by window."""
        if forced is None:
            return None
        forced = self._with_promoter(forced)
        free = F.pad((forced == 0).float(), (0, self.n_gates * self.mask_resolution - self.length))
        free = free.view(-1, self.n_gates, self.mask_resolution).sum(2)
        return Room(free, (forced > 0).float().sum(1))

    def _with_promoter(self, forced: Tensor) -> Tensor:
        first, last = self.promoter
        ones = torch.ones_like(forced[:, first:last])
        return torch.cat([forced[:, :first], ones, forced[:, last:]], dim=1)

    def gates(self, openness: Tensor, kind: MaskKind, room: Room | None = None) -> Tensor:
        """Deterministic gates of a fitted model, ``(batch, G)``, of the wanted kind."""
        if kind == "soft":
            return torch.sigmoid(openness + self.soft_shift)
        if kind == "hard":
            return (openness + self.hard_shift > 0).to(openness.dtype)
        return self.topk_gates(openness, room)

    def shifted(self, gates: GateDistribution, kind: MaskKind) -> GateDistribution:
        """Distribution of the gates of a fitted model, as a kind of mask reads them."""
        shift = {"soft": float(self.soft_shift), "hard": float(self.hard_shift)}.get(kind, 0.0)
        return gates if shift == 0.0 else gates.shifted(shift)

    def drawn_gates(
        self,
        gates: GateDistribution,
        kind: MaskKind,
        noise: Tensor | None = None,
        room: Room | None = None,
    ) -> Tensor:
        """Sample the gates of a fitted model, ``(batch, G)``, of the wanted kind."""
        gates = self.shifted(gates, kind)
        if kind == "soft":
            return gates.draw(noise)
        drawn = gates.sample(noise)
        if kind == "hard":
            return (drawn > 0.5).to(drawn.dtype)
        return self.topk_of_sample(drawn, gates, room)

    def mask_std(
        self, gates: GateDistribution, kind: MaskKind, forced: Tensor | None = None
    ) -> Tensor:
        """Give the standard deviation of each base's gate; 0 where a base is forced."""
        std = self.shifted(gates, kind).std
        always_open = self.expand(torch.zeros_like(std), forced)
        return self.expand(std, forced) * (1.0 - always_open)

    def topk_gates(self, openness: Tensor, room: Room | None = None) -> Tensor:
        """Open as many of the most open gates of each window as the budget allows."""
        if room is None:
            promoter_bases = self.promoter[1] - self.promoter[0]
            room = Room(
                self.free_bases.expand_as(openness),
                openness.new_full((len(openness),), promoter_bases),
            )
        wanted = (self.sparsity * self.length - room.opened).clamp_min(0.0).unsqueeze(1)
        ranked = openness.masked_fill(room.free == 0, -torch.inf)
        order = ranked.argsort(dim=1, descending=True)
        costs = room.free.gather(1, order)
        # A gate is opened while at least half of its bases fit into what is left.
        opened = (costs.cumsum(dim=1) - 0.5 * costs <= wanted).to(openness.dtype)
        return torch.zeros_like(openness).scatter(1, order, opened)

    def topk_of_sample(
        self, drawn: Tensor, gates: GateDistribution, room: Room | None = None
    ) -> Tensor:
        """Open as many of the largest sampled gates of each window as the budget allows.

        Gates sampled at 0 or 1 are ranked among themselves by their means: hard concrete gates
        often lie there.
        """
        score, log_odds = torch.logit(drawn.detach(), _END), gates.log_odds.detach()
        at_end = (drawn <= _END) | (drawn >= 1.0 - _END)
        return self.topk_gates(score + torch.where(at_end, 1e-3 * log_odds, 0.0), room)

    def expand(self, gates: Tensor, forced: Tensor | None = None) -> Tensor:
        """Mask over bases, ``(batch, length)``, from gates; forced bases, and last the promoter."""
        mask = gates.repeat_interleave(self.mask_resolution, dim=1)[:, : self.length]
        if forced is not None:
            mask = torch.where(forced < 0, 0.0, torch.where(forced > 0, 1.0, mask))
        return self._with_promoter(mask)

    def open_window(self, x: Tensor, forced: Tensor | None = None) -> Tensor:
        """Mask that keeps all but the bases that are closed in any case, ``(batch, length)``."""
        if forced is None:
            return torch.ones_like(x[:, 0])
        return self.expand(x.new_ones(len(x), self.n_gates), forced)

    def kept_share(self, gates: Tensor, room: Room | None = None) -> Tensor:
        """Share of each window's bases that gates keep, promoter included, ``(batch,)``."""
        if room is not None:
            return ((gates * room.free).sum(1) + room.opened) / self.length
        promoter_bases = self.promoter[1] - self.promoter[0]
        return (gates @ self.free_bases + promoter_bases) / self.length

    def predict(self, x: Tensor, mask: Tensor, covariates: Tensor) -> Tensor:
        """Predict ``(batch, n_outputs)`` under a mask, as a fitted model does.

        In training the predictor is called by itself.
        """
        exact = not self.training
        predicted = self.predictor(x, mask, covariates, exact=exact)
        if self.conjoined and not self.training:
            turned = reverse_complement(x, self.complement)
            predicted = 0.5 * (
                predicted + self.predictor(turned, mask.flip(1), covariates, exact=exact)
            )
        return predicted

    def forward(
        self,
        x: Tensor,
        covariates: Tensor,
        mask: Tensor | None = None,
        forced: Tensor | None = None,
        *,
        kind: MaskKind = "soft",
    ) -> MaskOutput:
        """Predict under the model's own mask, or under a mask that is given.

        Parameters
        ----------
        x : Tensor of shape (batch, channel, length)
            The window.
        covariates : Tensor of shape (batch, n_covariates)
            Standardised covariates.
        mask : Tensor of shape (batch, length), optional
            Mask to predict under, as it is; by default the generator's own.
        forced : Tensor of shape (batch, length), optional
            Bases that the generator's masks close (-1) or open (1) in any case.
        kind : {"soft", "hard", "topk"}
            How the generator's mask is read.

        Returns
        -------
        MaskOutput
            Prediction and mask.
        """
        if mask is None:
            gates = self.gates(self.openness(x), kind, self.room(forced))
            mask = self.expand(gates, forced)
        return MaskOutput(self.predict(x, mask, covariates), mask)
