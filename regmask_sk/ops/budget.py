"""Hold a share: the one step, the same for all gates, by which they keep a budget."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_LOWEST, _HIGHEST = -40.0, 40.0
_PRECISION = 1e-4


def step_to_share(share: Callable[[float], float], wanted: float) -> float:
    """Find by bisection the smallest step at which a growing share reaches what is wanted.

    Parameters
    ----------
    share : callable
        Share kept as a function of a step from -40 to 40; it must not fall.
    wanted : float
        Share to reach.

    Returns
    -------
    float
        To 1e-4; 40 where the share is never reached.

    Examples
    --------
    >>> round(step_to_share(lambda step: (step + 40.0) / 80.0, 0.75), 3)
    20.0
    """
    low, high = _LOWEST, _HIGHEST
    while high - low > _PRECISION:
        middle = 0.5 * (low + high)
        if share(middle) < wanted:
            low = middle
        else:
            high = middle
    return high


def following_step(
    step: float, share: Callable[[Tensor], Tensor], like: Tensor, *, width: float = 0.05
) -> Tensor:
    """Give a step the gradient with which it keeps the share where it is.

    The step that holds ``share(step) = wanted`` depends on the gates. By the implicit function
    theorem its derivative is ``-d share / d gates`` over ``d share / d step``; the latter is
    taken by a central difference.

    Parameters
    ----------
    step : float
        Where the share is what is wanted.
    share : callable
        Differentiable share kept at a step, a tensor without dimensions.
    like : Tensor
        Gives dtype and device.
    width : float, default=0.05
        Of the difference, to either side.

    Returns
    -------
    Tensor of shape ()
        Equal to `step`, with a gradient to the gates.

    Examples
    --------
    Opening one of two gates closes the other, so that their mean stays.

    >>> import torch
    >>> gates = torch.tensor([0.3, -0.3], requires_grad=True)
    >>> share = lambda step: torch.sigmoid(gates + step).mean()
    >>> (gates + following_step(0.0, share, gates))[0].backward()
    >>> gates.grad.round(decimals=2)
    tensor([ 0.5000, -0.5000])
    """
    at = like.new_tensor(step)
    reached = share(at)
    with torch.no_grad():
        slope = (share(at + width) - share(at - width)) / (2.0 * width)
    return at - (reached - reached.detach()) / slope.clamp_min(1e-6)
