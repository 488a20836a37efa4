"""Kumaraswamy gates; symbols as in :mod:`regmask_sk.distributions`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from regmask_sk.distributions.base import GateDistribution
from regmask_sk.losses import beta_prior
from regmask_sk.ops.gates import logistic_noise

_STEP, _RANGE = 0.5, 14.0  # of the trapezoidal rule for the divergence
_NEAR_ONE = -15.0  # log(1 - z ** a) below which a gate counts as 1 there


@dataclass(frozen=True, eq=False)
class Kumaraswamy(GateDistribution):
    """Kumaraswamy gates: near Beta gates, with quantiles in closed form.

    ``P(gate > z) = (1 - z ** a) ** b``.

    Parameters
    ----------
    a, b : Tensor of one shape
        Positive parameters.

    Examples
    --------
    >>> gates = Kumaraswamy(torch.tensor([1.0]), torch.tensor([3.0]))  # Beta(1, 3) as well
    >>> gates.mean, gates.open_probability
    (tensor([0.2500]), tensor([0.1250]))
    """

    a: Tensor
    b: Tensor
    n_parameters: ClassVar[int] = 2

    def _moment(self, order: int) -> Tensor:
        """``E[z ** order] = b B(1 + order / a, b)``, in float64: the log-gammas cancel."""
        a, b = self.a.double(), self.b.double()
        first = 1.0 + order / a
        return (b.log() + torch.lgamma(first) + torch.lgamma(b) - torch.lgamma(first + b)).exp()

    @property
    def log_odds(self) -> Tensor:
        """Log-odds of the mean."""
        tiny = torch.finfo(torch.float64).eps
        return torch.logit(self._moment(1), tiny).to(self.a.dtype)

    @property
    def std(self) -> Tensor:
        """Standard deviation, in closed form."""
        variance = self._moment(2) - self._moment(1).square()
        return variance.clamp_min(0.0).sqrt().to(self.a.dtype)

    @property
    def open_probability(self) -> Tensor:
        """P(z > 1/2) = ``(1 - 2 ** -a) ** b``."""
        return (self.b * torch.log(-torch.expm1(-math.log(2.0) * self.a))).exp()

    def sample(self, noise: Tensor | None = None) -> Tensor:
        """Reparameterised sample, by the quantile function."""
        if noise is None:
            noise = logistic_noise(self.a)
        return (_log1mexp(F.logsigmoid(-noise) / self.b) / self.a).exp()

    def moved(self, step: Tensor) -> GateDistribution:
        """Give gates with another ratio of ``a`` to ``b`` and the same product."""
        factor = (0.5 * step).exp()
        return Kumaraswamy(self.a * factor, self.b / factor)

    def kl(self, prior_mean: float, prior_concentration: float) -> Tensor:
        """Divergence from the Beta prior, by quadrature to about 1e-5.

        All terms but ``-E[log(1 - z)]`` are closed (Nalisnick and Smyth, "Stick-breaking
        variational autoencoders", ICLR 2017, eq. 11). That one is a series there, which needs
        more terms the smaller `b` is. It is split here into ``-E[log(1 - z ** a)] = 1 / b`` and
        the mean of the bounded ``log((1 - z ** a) / (1 - z))``, which the trapezoidal rule gives
        over the log-odds of ``F(z)``, 57 nodes. For `a` and `b` from 0.05 to 1,000 the
        divergence is off by less than 1e-5 times one plus itself.
        """
        prior_a, prior_b = beta_prior(prior_mean, prior_concentration)
        a, b = self.a, self.b
        nodes = torch.arange(-_RANGE, _RANGE + _STEP / 2, _STEP, device=a.device, dtype=a.dtype)
        weight = torch.sigmoid(nodes) * torch.sigmoid(-nodes)
        # log(1 - z ** a), by the definition of the distribution; nodes come last.
        log_power = F.logsigmoid(nodes) / b.unsqueeze(-1)
        log_z = _log1mexp(log_power) / a.unsqueeze(-1)
        at_end = log_power < _NEAR_ONE  # log z would underflow, and the ratio is a
        ratio = torch.where(
            at_end,
            a.log().unsqueeze(-1),
            log_power - _log1mexp(log_z.masked_fill(at_end, -1.0)),
        )
        ratio = ratio @ (weight / weight.sum())
        log_beta = math.lgamma(prior_a) + math.lgamma(prior_b) - math.lgamma(prior_a + prior_b)
        entropy = (a * b).log() - (b - 1.0) / b
        first = (1.0 - prior_a / a) * (-np.euler_gamma - torch.digamma(b + 1.0))
        return first + entropy + log_beta + (prior_b - 1.0) * (1.0 / b + ratio)


def _log1mexp(x: Tensor) -> Tensor:
    """``log(1 - exp(x))`` for ``x < 0``, with a relative precision at either end."""
    half = -math.log(2.0)
    near = torch.log(-torch.expm1(x.clamp(half, -torch.finfo(x.dtype).tiny)))
    return torch.where(x > half, near, torch.log1p(-x.clamp_max(half).exp()))
