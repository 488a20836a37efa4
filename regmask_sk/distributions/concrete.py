"""Hard concrete and relaxed Bernoulli gates; symbols as in :mod:`regmask_sk.distributions`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from regmask_sk.distributions.base import GateDistribution
from regmask_sk.losses import kl_bernoulli
from regmask_sk.ops.gates import logistic_noise

_N_NODES = 12  # of the Gauss-Legendre rule for the moments of hard concrete gates


@dataclass(frozen=True, eq=False)
class HardConcrete(GateDistribution):
    """Hard concrete gates: relaxed Bernoulli gates, stretched and clipped to [0, 1].

    They are exactly 0 and exactly 1 with probabilities above 0.

    Parameters
    ----------
    log_alpha : Tensor
        Location; above 0 a gate is more open than closed.
    temperature : float, default=2/3
        Above 0.
    gamma, zeta : float, default=-0.1, 1.1
        Ends of the stretched interval, ``gamma < 0 < 1 < zeta`` with ``gamma + zeta = 1``.

    Notes
    -----
    Moments are integrals of P(z > x) over x, by a Gauss-Legendre rule of 12 nodes, right to
    1e-6 of themselves.

    Examples
    --------
    >>> gates = HardConcrete(torch.tensor([0.0]))
    >>> gates.mean, gates.sample(torch.tensor([-9.0]))
    (tensor([0.5000]), tensor([0.]))
    """

    log_alpha: Tensor
    temperature: float = 2.0 / 3.0
    gamma: float = -0.1
    zeta: float = 1.1
    n_parameters: ClassVar[int] = 1

    def _moment(self, order: int, log_alpha: Tensor) -> Tensor:
        """``E[z ** order]``, the integral of ``order x ** (order - 1) P(z > x)`` over (0, 1)."""
        nodes, weights = np.polynomial.legendre.leggauss(_N_NODES)
        moment = torch.zeros_like(log_alpha)
        for node, weight in zip(0.5 + 0.5 * nodes, 0.5 * weights, strict=True):
            concrete = (node - self.gamma) / (self.zeta - self.gamma)
            shift = self.temperature * math.log(concrete / (1.0 - concrete))
            factor = float(weight * order * node ** (order - 1))
            moment = moment + factor * torch.sigmoid(log_alpha - shift)
        return moment

    @property
    def log_odds(self) -> Tensor:
        """Log-odds of the mean; the mean of ``1 - z`` is that of a gate at ``-log_alpha``."""
        return self._moment(1, self.log_alpha).log() - self._moment(1, -self.log_alpha).log()

    @property
    def std(self) -> Tensor:
        """Standard deviation; a gate at ``-log_alpha`` has the same."""
        closed = -self.log_alpha.abs()
        variance = self._moment(2, closed) - self._moment(1, closed).square()
        return variance.clamp_min(0.0).sqrt()

    @property
    def open_probability(self) -> Tensor:
        """P(z > 0) (Louizos et al., 2018, eq. 12)."""
        return torch.sigmoid(self.log_alpha - self.temperature * math.log(-self.gamma / self.zeta))

    def sample(self, noise: Tensor | None = None) -> Tensor:
        """Reparameterised sample; where it is clipped, it has no gradient."""
        if noise is None:
            noise = logistic_noise(self.log_alpha)
        concrete = torch.sigmoid((self.log_alpha + noise) / self.temperature)
        return (concrete * (self.zeta - self.gamma) + self.gamma).clamp(0.0, 1.0)

    def moved(self, step: Tensor) -> GateDistribution:
        """Give gates with another location."""
        return replace(self, log_alpha=self.log_alpha + step)

    def kl(self, prior_mean: float, prior_concentration: float) -> Tensor:
        """Divergence of Bernoulli(open_probability) from Bernoulli(prior_mean)."""
        shift = self.temperature * math.log(-self.gamma / self.zeta)
        return kl_bernoulli(self.log_alpha - shift, prior_mean)


@dataclass(frozen=True, eq=False)
class RelaxedBernoulli(GateDistribution):
    """Relaxed Bernoulli gates.

    A sample between 0 and 1 stands in for a Bernoulli gate, so that a gradient passes. Mean and
    standard deviation are those of the Bernoulli gate, which a sample cut at 1/2 has exactly.

    Parameters
    ----------
    log_alpha : Tensor
        Log-odds of being open.
    temperature : float, default=0.5
        Above 0; the smaller, the closer samples are to 0 and 1.

    Examples
    --------
    >>> gates = RelaxedBernoulli(torch.tensor([50.0]))
    >>> gates.sample(), gates.mean
    (tensor([1.]), tensor([1.]))
    """

    log_alpha: Tensor
    temperature: float = 0.5
    n_parameters: ClassVar[int] = 1

    @property
    def log_odds(self) -> Tensor:
        """Log-odds of being open."""
        return self.log_alpha

    @property
    def std(self) -> Tensor:
        """Standard deviation of the Bernoulli gate, ``sqrt(p (1 - p))``."""
        return (torch.sigmoid(self.log_alpha) * torch.sigmoid(-self.log_alpha)).sqrt()

    @property
    def open_probability(self) -> Tensor:
        """P(z > 1/2), which is the mean of the Bernoulli gate."""
        return torch.sigmoid(self.log_alpha)

    def sample(self, noise: Tensor | None = None) -> Tensor:
        """Reparameterised sample (Maddison et al., 2017, eq. 4)."""
        if noise is None:
            noise = logistic_noise(self.log_alpha)
        return torch.sigmoid((self.log_alpha + noise) / self.temperature)

    def draw(self, noise: Tensor | None = None) -> Tensor:
        """Sample the Bernoulli gate: a relaxed sample, cut at 1/2."""
        return (self.sample(noise) > 0.5).to(self.log_alpha.dtype)

    @torch.no_grad()
    def shifted(self, shift: float) -> GateDistribution:
        """Give relaxed Bernoulli gates with other log-odds."""
        return self.moved(self.log_alpha.new_tensor(shift))

    def moved(self, step: Tensor) -> GateDistribution:
        """Give gates with another location."""
        return replace(self, log_alpha=self.log_alpha + step)

    def kl(self, prior_mean: float, prior_concentration: float) -> Tensor:
        """Divergence of Bernoulli(open_probability) from Bernoulli(prior_mean)."""
        return kl_bernoulli(self.log_alpha, prior_mean)
