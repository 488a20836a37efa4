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

from typing import Literal

from regmask_sk.distributions.base import GateDistribution
from regmask_sk.distributions.beta import Beta
from regmask_sk.distributions.concrete import HardConcrete, RelaxedBernoulli
from regmask_sk.distributions.kumaraswamy import Kumaraswamy

__all__ = [
    "DISTRIBUTIONS",
    "Beta",
    "DistributionName",
    "GateDistribution",
    "HardConcrete",
    "Kumaraswamy",
    "RelaxedBernoulli",
]

DistributionName = Literal["beta", "kumaraswamy", "hard_concrete", "relaxed_bernoulli"]

#: The families by the names that ``RegMaskRegressor(gate_distribution=...)`` takes.
DISTRIBUTIONS: dict[str, type[GateDistribution]] = {
    "beta": Beta,
    "kumaraswamy": Kumaraswamy,
    "hard_concrete": HardConcrete,
    "relaxed_bernoulli": RelaxedBernoulli,
}
