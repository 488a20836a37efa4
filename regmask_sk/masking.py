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

The :class:`~regmask_sk.generator.Generator` reads the window and gives each gate its
distribution; the :class:`~regmask_sk.predictor.Predictor` sees
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
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regmask_sk.distributions import GateDistribution
from regmask_sk.generator import Generator
from regmask_sk.ops.strands import reverse_complement
from regmask_sk.predictor import Predictor

MaskKind = Literal["soft", "hard", "topk"]

_END = 1e-6  # how near to 0 or 1 samples are not told apart


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
