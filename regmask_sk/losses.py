"""Losses of the masked expression model: pure functions of tensors.

Symbols
-------
``a, b``
    Parameters of the mask's Beta distribution, one pair a position.
``prior_a, prior_b``
    Parameters of the sparsity prior, a Beta distribution with mean
    ``prior_a / (prior_a + prior_b)``.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

RegressionLoss = Literal["squared_error", "huber"]
Continuity = Literal["difference", "transitions"]


def regression_loss(
    predicted: Tensor, target: Tensor, weight: Tensor | None = None, *, loss: RegressionLoss
) -> Tensor:
    """Weighted mean of a regression loss over samples and outputs.

    Parameters
    ----------
    predicted, target : Tensor of shape (batch, n_outputs)
        Predictions and measurements, in units of the standardised target.
    weight : Tensor of shape (batch,), optional
        Non-negative sample weights; ``None`` weighs all samples alike.
    loss : {"squared_error", "huber"}
        ``"huber"`` is quadratic up to 1 and linear beyond.

    Returns
    -------
    Tensor of shape ()
        The weighted mean; 0 where all weights of the batch are 0.

    Raises
    ------
    ValueError
        If the shapes differ: broadcasting one against the other would give a wrong
        loss without an error.

    Examples
    --------
    >>> import torch
    >>> regression_loss(torch.zeros(2, 1), torch.ones(2, 1), loss="squared_error").item()
    1.0
    """
    if predicted.shape != target.shape:
        raise ValueError(
            f"predicted has shape {tuple(predicted.shape)} and target {tuple(target.shape)}; "
            "both must be (batch, n_outputs). Reshape the target before the loss."
        )
    if loss == "squared_error":
        each = F.mse_loss(predicted, target, reduction="none")
    else:
        each = F.huber_loss(predicted, target, reduction="none")
    each = each.mean(dim=1)
    if weight is None:
        return each.mean()
    return (each * weight).sum() / weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)


def kl_beta(a: Tensor, b: Tensor, prior_a: float, prior_b: float) -> Tensor:
    """Kullback-Leibler divergence from Beta(a, b) to Beta(prior_a, prior_b), elementwise.

    Parameters
    ----------
    a, b : Tensor of any shape
        Positive parameters of the mask's distribution.
    prior_a, prior_b : float
        Positive parameters of the sparsity prior.

    Returns
    -------
    Tensor of the shape of `a`
        The divergence in nats.

    Notes
    -----
    The closed form in log-gamma and digamma functions. Its gradient grows without
    bound as a parameter goes to 0, so callers keep both parameters above a floor.

    Examples
    --------
    >>> import torch
    >>> abs(kl_beta(torch.tensor(2.0), torch.tensor(3.0), 2.0, 3.0).item()) < 1e-6
    True
    """
    prior_a_, prior_b_ = a.new_tensor(prior_a), b.new_tensor(prior_b)
    log_normaliser = torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
    prior_log_normaliser = (
        torch.lgamma(prior_a_) + torch.lgamma(prior_b_) - torch.lgamma(prior_a_ + prior_b_)
    )
    return (
        prior_log_normaliser
        - log_normaliser
        + (a - prior_a_) * torch.digamma(a)
        + (b - prior_b_) * torch.digamma(b)
        + (prior_a_ - a + prior_b_ - b) * torch.digamma(a + b)
    )


def kl_bernoulli(log_odds: Tensor, prior_mean: float) -> Tensor:
    """Kullback-Leibler divergence from Bernoulli gates to Bernoulli(prior_mean), elementwise.

    Parameters
    ----------
    log_odds : Tensor of any shape
        Log-odds of being open.
    prior_mean : float
        Probability of being open under the prior, strictly between 0 and 1.

    Returns
    -------
    Tensor of the shape of `log_odds`
        ``p log(p / prior_mean) + (1 - p) log((1 - p) / (1 - prior_mean))`` in nats, finite for
        any log-odds.

    References
    ----------
    Paranjape et al., "An information bottleneck approach for controlling conciseness in
    rationale extraction", EMNLP 2020.

    Examples
    --------
    >>> import torch
    >>> kl_bernoulli(torch.tensor([0.0, 100.0]), 0.5)
    tensor([0.0000, 0.6931])
    """
    p = torch.sigmoid(log_odds)
    open_ = F.logsigmoid(log_odds) - math.log(prior_mean)
    closed = F.logsigmoid(-log_odds) - math.log1p(-prior_mean)
    return p * open_ + torch.sigmoid(-log_odds) * closed


def beta_prior(mean: float, concentration: float) -> tuple[float, float]:
    """Parameters of the Beta prior with a given mean and concentration.

    Parameters
    ----------
    mean : float
        Share of bases that the prior keeps open, strictly between 0 and 1.
    concentration : float
        Sum of the two parameters: how many observations the prior counts for.

    Returns
    -------
    tuple of float
        ``(mean * concentration, (1 - mean) * concentration)``.

    Examples
    --------
    >>> beta_prior(0.1, 100.0)
    (10.0, 90.0)
    """
    return mean * concentration, (1.0 - mean) * concentration


def continuity_penalty(mask: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring mask values (Lei et al., 2016).

    Parameters
    ----------
    mask : Tensor of shape (batch, length)
        Mask values in [0, 1].

    Returns
    -------
    Tensor of shape ()
        0 for a mask without edges; 0 as well where there is but one position.

    See Also
    --------
    transition_penalty : Counts undecided neighbours too.

    Examples
    --------
    >>> import torch
    >>> continuity_penalty(torch.tensor([[0.0, 0.0, 1.0]])).item()
    0.5
    """
    if mask.shape[-1] < 2:
        return mask.new_zeros(())
    return mask.diff(dim=-1).abs().mean()


def transition_penalty(opened: Tensor) -> Tensor:
    """Give the expected share of neighbouring gates that differ, one open and one closed.

    For independent gates that are open with the probabilities ``p`` this is the mean of
    ``p[t] * (1 - p[t + 1]) + (1 - p[t]) * p[t + 1]`` (Bastings et al., 2019, section 4).

    Parameters
    ----------
    opened : Tensor of shape (batch, length)
        Probabilities of being open, in [0, 1].

    Returns
    -------
    Tensor of shape ()
        0 where all gates are surely open or surely closed together; 0 as well where there is but
        one position.

    See Also
    --------
    continuity_penalty : Does not count how undecided gates are: two neighbours at 1/2 cost
        nothing there, as one value follows the other, and 1/2 here, as their samples differ half
        of the time. Both agree on masks of 0 and 1. So this one also pushes gates to a decision.

    Examples
    --------
    >>> import torch
    >>> undecided = torch.tensor([[0.5, 0.5]])
    >>> transition_penalty(undecided), continuity_penalty(undecided)
    (tensor(0.5000), tensor(0.))
    """
    if opened.shape[-1] < 2:
        return opened.new_zeros(())
    left, right = opened[..., :-1], opened[..., 1:]
    return (left * (1.0 - right) + (1.0 - left) * right).mean()
