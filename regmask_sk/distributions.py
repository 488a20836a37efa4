"""Distributions of gates: four families on [0, 1] with one interface.

Symbols
-------
``z``
    A gate, in [0, 1].
``a, b``
    Parameters of a Beta or a Kumaraswamy gate, both above 0.
``log_alpha``
    Location of a hard concrete or a relaxed Bernoulli gate, on the scale of log-odds.
``t``
    Temperature of these two.
``gamma, zeta``
    Ends of the interval to which a hard concrete gate is stretched before it is clipped.

An object holds the parameters of a batch of gates, any shape, and is not changed. Gates of one
object are independent, unless `sample` is given noise that is not.

==================  ==========================  ==================  =========================
family              mean, std                   open_probability    kl
==================  ==========================  ==================  =========================
Beta                of the gate                 P(z > 1/2)          to the Beta prior, exact
Kumaraswamy         of the gate                 P(z > 1/2)          to the Beta prior, to 1e-5
HardConcrete        of the gate                 P(z > 0)            Bernoulli(open_probability)
                                                                    to Bernoulli(prior_mean)
RelaxedBernoulli    of the Bernoulli gate that  P(z > 1/2)          Bernoulli(open_probability)
                    it relaxes                                      to Bernoulli(prior_mean)
==================  ==========================  ==================  =========================

References
----------
Su et al., "Learning to discover regulatory elements for gene expression prediction",
ICLR 2025: Beta gates and their prior.
Kumaraswamy, "A generalized probability density function for double-bounded random processes",
Journal of Hydrology 46, 1980.
Bastings, Aziz, Titov, "Interpretable neural predictions with differentiable binary variables",
ACL 2019: Kumaraswamy gates.
Louizos, Welling, Kingma, "Learning sparse neural networks through L0 regularization", ICLR
2018: hard concrete gates.
Maddison, Mnih, Teh, "The concrete distribution", ICLR 2017: relaxed Bernoulli gates.
Figurnov, Mohamed, Mnih, "Implicit reparameterization gradients", NeurIPS 2018.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import betainc, betaincinv, betaln
from torch import Tensor

from regmask_sk.losses import beta_prior, kl_bernoulli, kl_beta
from regmask_sk.ops.gates import logistic_noise

DistributionName = Literal["beta", "kumaraswamy", "hard_concrete", "relaxed_bernoulli"]

_N_NODES = 12  # of the Gauss-Legendre rule for the moments of hard concrete gates
_STEP, _RANGE = 0.5, 14.0  # of the trapezoidal rule for the divergence of Kumaraswamy gates
_LARGEST_STEP = 64.0  # within which `shifted` looks
_NEAR_ONE = -15.0  # log(1 - z ** a) below which a gate counts as 1 there
_RELATIVE_STEP = 1e-4  # of the central difference in the gradient of Beta quantiles


class GateDistribution(ABC):
    """Distribution of a batch of gates.

    Attributes
    ----------
    n_parameters : int
        How many parameters a gate has: 1, a location, or 2, `a` and `b`.
    """

    n_parameters: ClassVar[int]

    @property
    @abstractmethod
    def log_odds(self) -> Tensor:
        """Log-odds of `mean`, without the rounding that a mean near 1 would bring."""

    @property
    def mean(self) -> Tensor:
        """Mean, in (0, 1); the table above says of what."""
        return torch.sigmoid(self.log_odds)

    @property
    @abstractmethod
    def std(self) -> Tensor:
        """Standard deviation of what `mean` is the mean of."""

    @property
    @abstractmethod
    def open_probability(self) -> Tensor:
        """Probability that a gate is open, as the table above defines it."""

    @abstractmethod
    def sample(self, noise: Tensor | None = None) -> Tensor:
        """Reparameterised sample.

        Parameters
        ----------
        noise : Tensor of the gates' shape, optional
            Standard logistic noise, which is mapped to gates by the quantile function. Any
            dependence between its entries becomes one between gates and leaves the
            distribution of each as it is. By default independent noise is drawn from
            torch's global generator.

        Returns
        -------
        Tensor of the gates' shape
            In [0, 1], with a gradient to the parameters.
        """

    def draw(self, noise: Tensor | None = None) -> Tensor:
        """Sample what `mean` and `std` describe, without a promise of a gradient.

        Parameters
        ----------
        noise : Tensor of the gates' shape, optional
            As in `sample`.

        Returns
        -------
        Tensor of the gates' shape
            As `sample` gives it; relaxed Bernoulli gates are cut at 1/2.
        """
        return self.sample(noise)

    @abstractmethod
    def _moved(self, step: Tensor) -> GateDistribution:
        """Give gates of the same family that are more open by some measure, for a step above 0."""

    def shifted(self, shift: float) -> GateDistribution:
        """Give gates of the same family whose means have other log-odds.

        Parameters
        ----------
        shift : float
            What is added to `log_odds`, from -40 to 40.

        Returns
        -------
        GateDistribution
            Without a gradient. Beta gates keep ``a + b``; Kumaraswamy gates keep ``a * b``, and
            their step is found by bisection to 1e-4, as is that of hard concrete gates.
        """
        wanted = self.log_odds.detach() + shift
        low = torch.full_like(wanted, -_LARGEST_STEP)
        high = -low
        while float((high - low).max()) > 1e-4:
            middle = 0.5 * (low + high)
            reached = self._moved(middle).log_odds >= wanted
            low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
        return self._moved(0.5 * (low + high))

    @abstractmethod
    def kl(self, prior_mean: float, prior_concentration: float) -> Tensor:
        """Kullback-Leibler divergence from the sparsity prior, gate by gate.

        Parameters
        ----------
        prior_mean : float
            Share of gates that the prior opens, strictly between 0 and 1.
        prior_concentration : float
            Sum of the parameters of the Beta prior. The prior of hard concrete and relaxed
            Bernoulli gates, a Bernoulli distribution, has no such parameter.

        Returns
        -------
        Tensor of the gates' shape
            In nats.
        """


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

    def shifted(self, shift: float) -> GateDistribution:
        """Give Beta gates of the same ``a + b`` whose means have other log-odds."""
        return self._moved(self.a.new_tensor(shift))

    def _moved(self, step: Tensor) -> GateDistribution:
        total, log_odds = (self.a + self.b).detach(), self.log_odds.detach() + step
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

    def _moved(self, step: Tensor) -> GateDistribution:
        factor = (0.5 * step).exp()
        return Kumaraswamy(self.a.detach() * factor, self.b.detach() / factor)

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

    def _moved(self, step: Tensor) -> GateDistribution:
        return replace(self, log_alpha=self.log_alpha.detach() + step)

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

    def shifted(self, shift: float) -> GateDistribution:
        """Give relaxed Bernoulli gates with other log-odds."""
        return self._moved(self.log_alpha.new_tensor(shift))

    def _moved(self, step: Tensor) -> GateDistribution:
        return replace(self, log_alpha=self.log_alpha.detach() + step)

    def kl(self, prior_mean: float, prior_concentration: float) -> Tensor:
        """Divergence of Bernoulli(open_probability) from Bernoulli(prior_mean)."""
        return kl_bernoulli(self.log_alpha, prior_mean)


#: The families by the names that ``RegMaskRegressor(gate_distribution=...)`` takes.
DISTRIBUTIONS: dict[str, type[GateDistribution]] = {
    "beta": Beta,
    "kumaraswamy": Kumaraswamy,
    "hard_concrete": HardConcrete,
    "relaxed_bernoulli": RelaxedBernoulli,
}
