"""Best match of each motif in each token: a convolution, and the largest score of a token.

Symbols
-------
``x``
    Window, ``(batch, c, length)``.
``w``, ``b``
    Motifs ``(d, c, k)``, ``k`` odd, and their biases ``(d,)``.
``r``, ``T``
    Bases a token stands for, and number of tokens, ``ceil(length / r)``.

Scores of single bases take ``d / c`` times the memory of the window and are needed for their
maximum only. On CPU, in float32, they are computed a block at a time and never held; backward
visits the one base of each token that won.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from regmask_sk.ops.selective_scan import scan_backend


def best_match(x: Tensor, weight: Tensor, bias: Tensor, resolution: int) -> Tensor:
    """Scan every base with motifs and keep each token's best score.

    The numbers are those of ``F.max_pool1d(F.conv1d(...), resolution, ceil_mode=True)`` on a
    window padded with ``k // 2`` zeros on either side.

    Parameters
    ----------
    x : Tensor of shape (batch, c, length)
        Window.
    weight : Tensor of shape (d, c, k)
        Motifs of an odd width.
    bias : Tensor of shape (d,)
        Added to each motif's scores.
    resolution : int
        Bases a token stands for.

    Returns
    -------
    Tensor of shape (batch, d, T)
        In the dtype of `x`, and under autocast in that of its convolutions.

    Raises
    ------
    ValueError
        If the shapes do not fit together.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([[[0.0, 1.0, 0.0, 0.0, 2.0]]])
    >>> best_match(x, torch.ones(1, 1, 1), torch.zeros(1), 2)
    tensor([[[1., 0., 2.]]])
    """
    if x.ndim != 3:
        raise ValueError(f"x must have shape (batch, c, length), got {tuple(x.shape)}.")
    if weight.ndim != 3 or weight.shape[1] != x.shape[1] or weight.shape[2] % 2 == 0:
        raise ValueError(
            f"weight must have shape (d, c, k) = (d, {x.shape[1]}, k) with k odd for x of shape "
            f"{tuple(x.shape)}, got {tuple(weight.shape)}."
        )
    if bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must have shape ({len(weight)},), got {tuple(bias.shape)}.")
    plain = torch.is_autocast_enabled(x.device.type) or resolution == 1
    if x.dtype == torch.float32 and not plain and scan_backend(x.device, x.dtype) == "numba":
        best, _ = _best_match(x, weight, bias, resolution)
        return best
    scores = F.conv1d(x, weight, bias, padding=weight.shape[2] // 2)
    return F.max_pool1d(scores, resolution, ceil_mode=True) if resolution > 1 else scores


# -- the compiled kernel as an operator of torch, which torch.compile leaves whole -----------


@torch.library.custom_op(
    "regmask_sk::best_match",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor bias, int resolution) -> (Tensor, Tensor)",
)
def _best_match(x: Tensor, weight: Tensor, bias: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
    """Scores, and which base of its token each is at."""
    from regmask_sk.ops import _best_match_numba

    return _best_match_numba.forward(x, weight, bias, resolution)


@torch.library.custom_op(
    "regmask_sk::best_match_backward",
    mutates_args=(),
    schema=(
        "(Tensor grad, Tensor x, Tensor weight, Tensor place, int resolution, bool to_input)"
        " -> (Tensor, Tensor, Tensor)"
    ),
)
def _best_match_backward(
    grad: Tensor, x: Tensor, weight: Tensor, place: Tensor, resolution: int, to_input: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of window (empty unless `to_input`), motifs and biases."""
    from regmask_sk.ops import _best_match_numba

    grad_x, grad_weight, grad_bias = _best_match_numba.backward(
        grad, x, weight, place, resolution, to_input=to_input
    )
    return x.new_empty(0) if grad_x is None else grad_x, grad_weight, grad_bias


@_best_match.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
    best = x.new_empty(x.shape[0], weight.shape[0], -(-x.shape[2] // resolution))
    return best, torch.empty_like(best, dtype=torch.int64)


@_best_match_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    *_, to_input = rest
    return (
        torch.empty_like(x, memory_format=torch.contiguous_format) if to_input else x.new_empty(0),
        torch.empty_like(weight, memory_format=torch.contiguous_format),
        weight.new_empty(weight.shape[0]),
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, _, ctx.resolution = inputs
    ctx.save_for_backward(x, weight, output[1])
    ctx.mark_non_differentiable(output[1])


def _differentiate(ctx: Any, grad: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    x, weight, place = ctx.saved_tensors
    to_input = ctx.needs_input_grad[0]
    grad_x, grad_weight, grad_bias = _best_match_backward(
        grad, x, weight, place, ctx.resolution, to_input
    )
    return grad_x if to_input else None, grad_weight, grad_bias, None


_best_match.register_autograd(_differentiate, setup_context=_keep)

__all__ = ["best_match"]
