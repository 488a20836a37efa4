"""The opposite strand of a window."""

from __future__ import annotations

from torch import Tensor


def reverse_complement(x: Tensor, complement: Tensor) -> Tensor:
    """Turn windows ``(batch, channel, length)`` to the opposite strand.

    Parameters
    ----------
    x : Tensor of shape (batch, channel, length)
        Windows.
    complement : Tensor of shape (channel,), int64
        For each channel the channel that holds it on the opposite strand.

    Returns
    -------
    Tensor of the shape of `x`
        A copy; turning twice gives `x` again.

    Examples
    --------
    >>> import torch
    >>> a_then_c = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]])
    >>> g_then_t = reverse_complement(a_then_c, torch.tensor([3, 2, 1, 0]))
    >>> g_then_t[0].argmax(dim=0)
    tensor([2, 3])
    """
    return x[:, complement].flip(2)
