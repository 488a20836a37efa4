"""Short causal convolution of each channel with itself, then SiLU, channels innermost.

Symbols
-------
``x``, ``w``, ``b``
    Input ``(batch, length, d)``, taps ``(d, k)``, bias ``(d,)``.
``s``
    What goes into the SiLU: ``s_t = b + w_(k-1) x_t + w_(k-2) x_(t-1) + ...``.

A short convolution is a few shifted products. Written so it needs no transposition to
``(batch, channel, length)`` and back, which costs more than the arithmetic, and of what it
computes only its input is kept for backward. On CUDA, kernels in Triton pass over memory once
each. State spaces on CPU do not come here: their own operator
(:func:`~regmask_sk.ops.state_space.state_space`) has the convolution in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from regmask_sk.ops._scan_torch import state_dtype
from regmask_sk.ops.selective_scan import scan_backend


def short_conv_silu(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, reverse: bool = False
) -> Tensor:
    """Depthwise causal convolution along the length, followed by SiLU.

    The numbers are those of ``F.silu(F.conv1d(...))`` with ``groups=d``, on a ``(batch, d,
    length)`` input padded with ``k - 1`` zeros on the left.

    Parameters
    ----------
    x : Tensor of shape (batch, length, d)
        Input.
    weight : Tensor of shape (d, k)
        Taps of each channel; the last one is that of the step itself.
    bias : Tensor of shape (d,), optional
        Added before the SiLU.
    reverse : bool, default=False
        Look ahead instead of back: what flipping `x` along the length, convolving, and
        flipping back would give.

    Returns
    -------
    Tensor of shape (batch, length, d)
        In the dtype of `x`.

    Raises
    ------
    ValueError
        If the shapes do not fit together.

    References
    ----------
    Gu and Dao, "Mamba: linear-time sequence modeling with selective state spaces",
    arXiv:2312.00752 (2023), section 3.4: the convolution before the state space.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([1.0, 0.0, 0.0])[None, :, None]
    >>> taps = torch.tensor([[2.0, 1.0]])
    >>> short_conv_silu(x, taps).flatten()
    tensor([0.7311, 1.7616, 0.0000])
    """
    if x.ndim != 3:
        raise ValueError(f"x must have shape (batch, length, d), got {tuple(x.shape)}.")
    if weight.ndim != 2 or weight.shape[0] != x.shape[2] or weight.shape[1] == 0:
        raise ValueError(
            f"weight must have shape (d, k) = ({x.shape[2]}, k) with k > 0 for x of shape "
            f"{tuple(x.shape)}, got {tuple(weight.shape)}."
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must have shape ({x.shape[2]},), got {tuple(bias.shape)}.")
    result: Tensor = _ShortConvSilu.apply(x, weight, bias, reverse)
    return result


class _ShortConvSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, reverse: bool) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.reverse = reverse
        return _ways(x, weight)[0](x, weight, bias, reverse=reverse, activated=True)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        convolve, differentiate = _ways(x, weight)
        grad_s, grad_w, grad_b = differentiate(grad, x, weight, bias, reverse=ctx.reverse)
        # What a step gives to later ones comes back from them: the same sum, run the other way.
        grad_x = convolve(grad_s, weight, None, reverse=not ctx.reverse, activated=False)
        return grad_x, grad_w, grad_b, None


def _ways(x: Tensor, weight: Tensor) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """How to convolve and to differentiate: in kernels where the scan has some on a GPU."""
    if scan_backend(x.device, state_dtype(x, weight)) == "triton":
        from regmask_sk.ops import _conv_triton

        return _conv_triton.convolve, _conv_triton.differentiate
    return _convolve, _differentiate


def _convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, reverse: bool, activated: bool
) -> Tensor:
    taps = weight.shape[1]
    weight = weight.to(x.dtype)
    total = x * weight[:, -1]
    if bias is not None:
        total += bias.to(x.dtype)
    for back in range(1, min(taps, x.shape[1])):
        here, there = _shifted(x.shape[1], back, reverse)
        total[:, here].addcmul_(x[:, there], weight[:, taps - 1 - back])
    return F.silu(total, inplace=True) if activated else total


def _differentiate(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, *, reverse: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of what goes into the SiLU, of the taps and of the bias."""
    taps = weight.shape[1]
    s = _convolve(x, weight, bias, reverse=reverse, activated=False)
    grad_s = torch.ops.aten.silu_backward(grad, s)
    grad_w = torch.zeros_like(weight)
    for back in range(min(taps, x.shape[1])):
        here, there = _shifted(x.shape[1], back, reverse)
        grad_w[:, taps - 1 - back] = (grad_s[:, here] * x[:, there]).sum(dim=(0, 1))
    return grad_s, grad_w, None if bias is None else grad_s.sum(dim=(0, 1)).to(bias.dtype)


def _shifted(length: int, back: int, reverse: bool) -> tuple[slice, slice]:
    """Slice steps that have one `back` steps before (after, in `reverse`) them, and that one."""
    late, early = slice(back, length), slice(0, length - back)
    return (early, late) if reverse else (late, early)


__all__ = ["short_conv_silu"]
