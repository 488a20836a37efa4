"""Root-mean-square norm, in one pass over the input where the scan runs on Numba.

``y = x / sqrt(mean(x**2) + eps) * weight``, the mean being over the channels (Zhang and Sennrich
2019, equation 4).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from regmask_sk.ops._scan_torch import state_dtype
from regmask_sk.ops.selective_scan import scan_backend


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Divide each row by the root mean square of its channels.

    Parameters
    ----------
    x : Tensor of shape (..., d)
        Input.
    weight : Tensor of shape (d,)
        Factor of each channel.
    eps : float
        Added to the mean of the squares.

    Returns
    -------
    Tensor of shape (..., d)
        In the dtype of `x`.

    Raises
    ------
    ValueError
        If the weight does not fit the input.

    References
    ----------
    Zhang and Sennrich, "Root mean square layer normalization", NeurIPS 2019.

    Examples
    --------
    >>> import torch
    >>> rms_norm(torch.tensor([[3.0, -4.0]]), torch.ones(2), 0.0)
    tensor([[ 0.8485, -1.1314]])
    """
    if weight.ndim != 1 or x.ndim == 0 or weight.shape[0] != x.shape[-1]:
        raise ValueError(
            f"weight must have shape (d,) with the d of x of shape {tuple(x.shape)}, got "
            f"{tuple(weight.shape)}."
        )
    if x.numel() and scan_backend(x.device, state_dtype(x, weight)) == "numba":
        return _norm(x, weight, eps)[0]
    return F.rms_norm(x, weight.shape, weight.to(x.dtype), eps)


@torch.library.custom_op(
    "regmask_sk::rms_norm",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)",
)
def _norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Output, and what each row was multiplied by."""
    from regmask_sk.ops import _norm_numba

    return _norm_numba.forward(x, weight, eps)


@_norm.register_fake
def _(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    return out, x.new_empty(x.shape[:-1], dtype=torch.float32)


@torch.library.custom_op(
    "regmask_sk::rms_norm_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor x, Tensor weight, Tensor scale) -> (Tensor, Tensor)",
)
def _norm_backward(grad: Tensor, x: Tensor, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of input and weight."""
    from regmask_sk.ops import _norm_numba

    return _norm_numba.backward(grad, x, weight, scale)


@_norm_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    return out, torch.empty_like(weight)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, _ = inputs
    ctx.save_for_backward(x, weight, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # the scales have no gradient: not even zeros


def _differentiate(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Any, ...]:
    if grad is None:  # nothing was made of the output
        return None, None, None
    return (*_norm_backward(grad, *ctx.saved_tensors), None)


_norm.register_autograd(_differentiate, setup_context=_keep)

__all__ = ["rms_norm"]
