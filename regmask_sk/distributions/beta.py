"""Beta gates, whose quantiles pass a gradient; symbols as in :mod:`regmask_sk.distributions`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.special import betainc, betaincinv, betaln
from torch import Tensor

from regmask_sk.distributions.base import GateDistribution
from regmask_sk.losses import beta_prior, kl_beta

_RELATIVE_STEP = 1e-4  # of the central difference in the gradient of quantiles


@dataclass(frozen=True, eq=False)
class Beta(GateDistribution):
    """Beta gates.

    Parameters
    ----------
    a, b : Tensor of one shape
        Positive parameters.

    Examples
    --------
    >>> gates = Beta(torch.tensor([2.0]), torch.tensor([6.0]))
    >>> gates.mean, gates.kl(0.25, 8.0)
    (tensor([0.2500]), tensor([0.]))
    """

    a: Tensor
    b: Tensor
    n_parameters: ClassVar[int] = 2

    @property
    def log_odds(self) -> Tensor:
        """Log-odds of the mean, ``log(a / b)``."""
        return self.a.log() - self.b.log()

    @property
    def std(self) -> Tensor:
        """Standard deviation, in closed form."""
        total = self.a + self.b
        return (self.a * self.b / (total + 1.0)).sqrt() / total

    @property
    def open_probability(self) -> Tensor:
        """P(z > 1/2), an incomplete beta function; computed by scipy, without a gradient."""
        a, b = (parameter.detach().cpu().numpy().astype(np.float64) for parameter in self._both)
        return torch.from_numpy(np.asarray(betainc(b, a, 0.5))).to(self.a)

    @property
    def _both(self) -> tuple[Tensor, Tensor]:
        return self.a, self.b

    def sample(self, noise: Tensor | None = None) -> Tensor:
        """Reparameterised sample; with `noise` by the quantile function, else by torch's sampler.

        Both pass the implicit gradient (Figurnov et al., 2018). The quantile function is
        scipy's and runs on the CPU.
        """
        if noise is not None:
            quantile: Tensor = _BetaQuantile.apply(self.a, self.b, noise)
            return quantile
        if not bool(torch.isfinite(self.a).all() and torch.isfinite(self.b).all()):
            # What is no number is left to the loss, which says what to do about it.
            return torch.full_like(self.a, torch.nan)
        return torch.distributions.Beta(self.a, self.b).rsample()

    @torch.no_grad()
    def shifted(self, shift: float) -> GateDistribution:
        """Give Beta gates of the same ``a + b`` whose means have other log-odds."""
        return self.moved(self.a.new_tensor(shift))

    def moved(self, step: Tensor) -> GateDistribution:
        """Give Beta gates with other log-odds of their means and the same ``a + b``."""
        total, log_odds = self.a + self.b, self.log_odds + step
        return Beta(total * torch.sigmoid(log_odds), total * torch.sigmoid(-log_odds))

    def kl(self, prior_mean: float, prior_concentration: float) -> Tensor:
        """Divergence from the Beta prior, in closed form."""
        return kl_beta(self.a, self.b, *beta_prior(prior_mean, prior_concentration))


class _BetaQuantile(torch.autograd.Function):
    """Quantile function of Beta gates at the probability of logistic noise.

    The gradient follows from ``F(z; a, b)`` staying what it is (Figurnov et al., 2018):
    ``dz/da = -(dF/da) / p(z)``. The derivative of F is a central difference in float64.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, noise: Tensor) -> Tensor:
        """Quantiles, of the shape of `a`."""
        double = [x.detach().cpu().numpy().astype(np.float64) for x in (a, b, noise)]
        probability = 1.0 / (1.0 + np.exp(-double[2]))
        z = np.asarray(betaincinv(double[0], double[1], probability))
        ctx.parameters, ctx.z = double[:2], z
        return torch.from_numpy(z).to(a)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        """Give the gradients to `a` and `b`; none to the noise."""
        (a, b), z = ctx.parameters, ctx.z
        with np.errstate(all="ignore"):  # of ends that are 0 or 1 in float64, see below
            p = np.exp((a - 1.0) * np.log(z) + (b - 1.0) * np.log1p(-z) - betaln(a, b))
            steps = (_RELATIVE_STEP * a, _RELATIVE_STEP * b)
            by_a = (betainc(a + steps[0], b, z) - betainc(a - steps[0], b, z)) / (2 * steps[0])
            by_b = (betainc(a, b + steps[1], z) - betainc(a, b - steps[1], z)) / (2 * steps[1])
            # A gate at the very end of the interval stays there.
            slopes = [np.nan_to_num(-by / p, posinf=0.0, neginf=0.0) for by in (by_a, by_b)]
        first, second = (gradients[0] * torch.from_numpy(s).to(gradients[0]) for s in slopes)
        return first, second, None
