"""Random gates: smooth blocks that know nothing of a gene, and samples that pass a gradient.

References
----------
Maddison et al., "The concrete distribution", ICLR 2017: relaxed Bernoulli gates.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_FLOOR_SHARE = 0.3  # of the random masks whose closed tokens let something through
_HIGHEST_FLOOR = 0.25  # of what such a token lets through


def random_block_masks(
    n_samples: int,
    n_tokens: int,
    *,
    open_share: float = 0.25,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Random masks made of smooth blocks, as the predictor sees them in training.

    White noise is smoothed with a window of random width (1 to 16 tokens) and cut at a
    quantile. The share kept is drawn from Beta(1, 2), so that sparse masks, which are
    what the predictor will be asked about, come more often than dense ones. Under three
    masks of ten the closed tokens are let through by some part of at most a quarter, as soft
    masks do.

    Parameters
    ----------
    n_samples, n_tokens : int
        Shape of the result.
    open_share : float, default=0.25
        Probability that a window is left fully open.
    generator : torch.Generator, optional
        Source of random numbers; torch's global one by default.

    Returns
    -------
    Tensor of shape (n_samples, n_tokens)
        In [0, 1].

    Examples
    --------
    >>> import torch
    >>> random_block_masks(2, 8, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([2, 8])
    """
    noise = torch.rand(n_samples, n_tokens, generator=generator)
    widths = 2 ** torch.randint(0, 5, (n_samples,), generator=generator)
    for width in (2, 4, 8, 16):
        chosen = widths == width
        if width < n_tokens and bool(chosen.any()):
            padded = F.pad(noise[chosen], (width // 2, width - 1 - width // 2), mode="reflect")
            noise[chosen] = F.avg_pool1d(padded, width, stride=1)
    rank = noise.argsort(dim=1).argsort(dim=1)
    share = 1.0 - torch.rand(n_samples, 1, generator=generator).sqrt()
    masks = (rank < share * n_tokens).float()
    floor = _HIGHEST_FLOOR * torch.rand(n_samples, 1, generator=generator)
    has_floor = torch.rand(n_samples, 1, generator=generator) < _FLOOR_SHARE
    masks = torch.maximum(masks, floor * has_floor)
    masks[torch.rand(n_samples, generator=generator) < open_share] = 1.0
    return masks


def sample_relaxed_bernoulli(openness: Tensor, temperature: float, noise: float = 1.0) -> Tensor:
    """Reparameterised sample of relaxed Bernoulli gates (Maddison et al., 2017, eq. 4).

    Parameters
    ----------
    openness : Tensor
        Log-odds of the gates.
    temperature : float
        Above 0; the smaller, the closer to 0 and 1.
    noise : float, default=1.0
        Factor of the logistic noise; 1 makes it the distribution of that name.

    Returns
    -------
    Tensor of the shape of `openness`
        In (0, 1), with a gradient to `openness`.

    Examples
    --------
    >>> import torch
    >>> sample_relaxed_bernoulli(torch.full((3,), 50.0), 0.5)
    tensor([1., 1., 1.])
    """
    uniform = torch.rand_like(openness).clamp(1e-6, 1.0 - 1e-6)
    return torch.sigmoid((openness + noise * torch.logit(uniform)) / temperature)


def straight_through(soft: Tensor, hard: Tensor) -> Tensor:
    """Value of `hard` in forward, gradient of `soft` in backward.

    Examples
    --------
    >>> import torch
    >>> soft = torch.tensor([0.4], requires_grad=True)
    >>> straight_through(soft, (soft > 0.3).float()).sum().backward()
    >>> soft.grad
    tensor([1.])
    """
    # The brackets matter: (1 + soft) - soft would be off by a rounding.
    return hard.detach() + (soft - soft.detach())
