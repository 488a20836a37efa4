"""What every distribution of gates can do; see :mod:`regmask_sk.distributions`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

_LARGEST_STEP = 64.0  # within which `shifted` looks


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
        """Mean, in (0, 1); the table of :mod:`regmask_sk.distributions` says of what."""
        return torch.sigmoid(self.log_odds)

    @property
    @abstractmethod
    def std(self) -> Tensor:
        """Standard deviation of what `mean` is the mean of."""

    @property
    @abstractmethod
    def open_probability(self) -> Tensor:
        """Probability that a gate is open, as that table defines it."""

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
    def moved(self, step: Tensor) -> GateDistribution:
        """Give gates of the same family that are more open by some measure, for a step above 0."""

    @torch.no_grad()
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
            reached = self.moved(middle).log_odds >= wanted
            low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
        return self.moved(0.5 * (low + high))

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
