"""Straight lines between values at even distances, with a gradient that can be repeated."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def interpolate_linear(x: Tensor, size: int) -> Tensor:
    """Interpolate along the last axis, between the centres of cells of equal width.

    Parameters
    ----------
    x : Tensor of shape (batch, channel, n)
        Values at the centres of `n` cells.
    size : int
        Number of cells wanted; those at the ends, beyond the outermost centres, have their value.

    Returns
    -------
    Tensor of shape (batch, channel, size)
        The numbers of ``F.interpolate(x, size, mode="linear")``, whose gradient on CUDA is added
        up in an order of its own each time, and which refuses to work after
        ``torch.use_deterministic_algorithms(True)``. Then another way is taken.

    Examples
    --------
    >>> interpolate_linear(torch.tensor([[[0.0, 2.0]]]), 4)
    tensor([[[0.0000, 0.5000, 1.5000, 2.0000]]])
    """
    if x.device.type == "cpu" or not torch.are_deterministic_algorithms_enabled():
        return F.interpolate(x, size, mode="linear")
    return _by_index(x, size)


def _by_index(x: Tensor, size: int) -> Tensor:
    n = x.shape[2]
    place = (torch.arange(size, dtype=torch.float64, device=x.device) + 0.5) * (n / size) - 0.5
    place = place.clamp(0, n - 1)
    left = place.floor().long()
    weight = (place - left).to(x.dtype)
    right = (left + 1).clamp(max=n - 1)
    return x.index_select(2, left) * (1 - weight) + x.index_select(2, right) * weight


__all__ = ["interpolate_linear"]
