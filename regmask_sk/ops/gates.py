"""Random gates: smooth blocks that know nothing of a gene, and the noise of sampled ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_FLOOR_SHARE = 0.3  # of the random masks whose closed tokens let something through
_HIGHEST_FLOOR = 0.25  # of what such a token lets through


def random_block_masks(
    n_samples: int,
    n_gates: int,
    *,
    open_share: float = 0.25,
    gates_per_token: int = 1,
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
    n_samples, n_gates : int
        Shape of the result.
    open_share : float, default=0.25
        Probability that a window is left fully open.
    gates_per_token : int, default=1
        Gates that share the fate of a token. With more than one, the tokens of each mask begin
        at a gate of its own, so that blocks keep their widths in base pairs while their edges
        fall on any gate.
    generator : torch.Generator, optional
        Source of random numbers; torch's global one by default.

    Returns
    -------
    Tensor of shape (n_samples, n_gates)
        In [0, 1].

    Examples
    --------
    >>> import torch
    >>> random_block_masks(2, 8, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([2, 8])
    """
    if gates_per_token > 1:
        n_tokens = -(-n_gates // gates_per_token) + 1
        tokens = random_block_masks(n_samples, n_tokens, open_share=open_share, generator=generator)
        first = torch.randint(0, gates_per_token, (n_samples, 1), generator=generator)
        return tokens.gather(1, (torch.arange(n_gates) + first) // gates_per_token)
    n_tokens = n_gates
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


def logistic_noise(like: Tensor, correlation: float = 0.0) -> Tensor:
    """Draw standard logistic noise, independent or correlated along the last axis.

    Parameters
    ----------
    like : Tensor of shape (..., T)
        Gives shape, type and device.
    correlation : float, default=0.0
        Length scale in tokens, 0 for independent noise. Entries ``d`` tokens apart are the
        logistic quantiles of normal variables with the correlation
        ``exp(-d ** 2 / (2 * correlation ** 2))`` (a Gaussian copula), so that each entry alone
        is standard logistic whatever the correlation.

    Returns
    -------
    Tensor of the shape of `like`
        From torch's global generator. In magnitude at most about 14 without a correlation.

    Examples
    --------
    >>> import torch
    >>> logistic_noise(torch.zeros(2, 5), correlation=3.0).shape
    torch.Size([2, 5])
    """
    if correlation == 0.0:
        return torch.logit(torch.rand_like(like).clamp(1e-6, 1.0 - 1e-6))
    # White noise smoothed by a Gaussian has the square of that Gaussian as correlation. It is
    # smoothed in a circle that is longer than the window by the width of the smoothing, so that
    # the window's ends know nothing of each other.
    n_tokens = like.shape[-1]
    reach = max(int(4.0 * correlation), 1)
    size = n_tokens + 2 * reach
    offset = torch.arange(size, device=like.device, dtype=like.dtype)
    offset = torch.minimum(offset, size - offset)
    kernel = torch.exp(-((offset / correlation) ** 2)) * (offset <= reach)
    kernel = kernel / kernel.square().sum().sqrt()
    white = torch.randn(*like.shape[:-1], size, device=like.device, dtype=like.dtype)
    smooth = torch.fft.irfft(torch.fft.rfft(white) * torch.fft.rfft(kernel), size)
    normal = smooth[..., :n_tokens]
    return torch.special.log_ndtr(normal) - torch.special.log_ndtr(-normal)


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
