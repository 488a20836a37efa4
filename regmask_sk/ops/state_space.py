"""Selective state spaces: short convolution, projections, gated scan and output, as one operator.

Symbols
-------
``x``, ``z``
    Input and gate, ``(batch, length, d)``, side by side in one tensor.
``s``
    Input after the convolution and SiLU, ``(batch, length, d)``.
``r``, ``n``
    Rank of the step sizes, and states of a channel.
``y``
    Sum of the outputs of all directions, ``(batch, length, d)``.
``o``
    What ``y`` is projected to, ``(batch, length, d_model)``.
``m``
    Directions: one or, for a bidirectional layer, two.

In each direction algorithm 2 of Gu and Dao (2023), then the output projection of its section 3.4,
which is one for all directions (Schiff et al. 2024, section 4.1)::

    s = SiLU(conv(x));  dt, B, C = x_proj(s);  y += scan(s, softplus(dt_proj(dt)), A, B, C, D, z)
    o = out_proj(y)

Between its steps lie tensors as large as the input: ``s``, the step sizes and ``y`` forward, their
gradients backward. Where the scan runs on Numba they are not kept. Autograd has the input, the
gate and one state every few steps, and the rest is computed again in backward, but for the scan:
with the states at hand, its output comes out of its backward pass, which the gradient of the
output projection needs. `keep_outputs` makes use of that in checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import create_selective_checkpoint_contexts

from regmask_sk.ops._scan_torch import state_dtype
from regmask_sk.ops.selective_scan import check_shapes, scan_backend, selective_scan
from regmask_sk.ops.short_conv import short_conv_silu


def state_space(
    xz: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    x_proj: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    out_weight: Tensor,
    *,
    reverse: Sequence[bool] = (False,),
) -> Tensor:
    """Run gated selective state spaces along the length and project the sum of their outputs.

    Parameters
    ----------
    xz : Tensor of shape (batch, length, 2 d)
        Input, and behind it what gates the outputs by its SiLU.
    conv_weight : Tensor of shape (m, d, k)
        Taps of the short convolution; the last one is that of the step itself.
    conv_bias : Tensor of shape (m, d)
        Added to the convolution.
    x_proj : Tensor of shape (m, r + 2 n, d)
        Projects the convolved input to step sizes, B and C.
    dt_weight : Tensor of shape (m, d, r)
        Projects the step sizes to channels.
    dt_bias : Tensor of shape (m, d)
        Added to the step sizes, of which the softplus is taken.
    A : Tensor of shape (m, d, n)
        Decay rates, below 0.
    D : Tensor of shape (m, d)
        Weight of the convolved input in the output.
    out_weight : Tensor of shape (d_model, d)
        Projects the sum of the outputs; in the dtype of `xz`.
    reverse : sequence of bool, default=(False,)
        Of each of the `m` directions, whether it runs from the last step to the first, the
        convolution included.

    Returns
    -------
    Tensor of shape (batch, length, d_model)
        In the dtype of `xz`.

    Raises
    ------
    ValueError
        If shapes, dtypes or devices do not fit together.

    References
    ----------
    Gu and Dao, "Mamba: linear-time sequence modeling with selective state spaces",
    arXiv:2312.00752 (2023), algorithm 2 and section 3.4; Schiff et al., "Caduceus: bi-directional
    equivariant long-range DNA sequence modeling", ICML 2024, section 4.1.

    Examples
    --------
    >>> import torch
    >>> d, n, rank = 2, 1, 1
    >>> xz = torch.ones(1, 3, 2 * d)
    >>> weights = torch.ones(1, d, 4), torch.zeros(1, d), torch.zeros(1, rank + 2 * n, d)
    >>> steps = torch.zeros(1, d, rank), torch.zeros(1, d)
    >>> rest = -torch.ones(1, d, n), torch.ones(1, d), torch.eye(d)
    >>> o = state_space(xz, *weights, *steps, *rest)
    >>> o[0, :, 0]  # without B and C, SiLU(1), SiLU(2), SiLU(3), times SiLU(1)
    tensor([0.5344, 1.2878, 2.0892])
    """
    parameters = (conv_weight, conv_bias, x_proj, dt_weight, dt_bias, A, D)
    for name, tensor, axes in (
        *(("xz", xz, 3), ("conv_weight", conv_weight, 3), ("out_weight", out_weight, 2)),
        *(("dt_weight", dt_weight, 3), ("A", A, 3)),
    ):
        if tensor.ndim != axes or 0 in tensor.shape:
            raise ValueError(
                f"{name} must have {axes} axes, none of size 0, got shape {tuple(tensor.shape)}."
            )
    m, d = conv_weight.shape[:2]
    rank, n = dt_weight.shape[2], A.shape[2]
    if len(reverse) != m:
        raise ValueError(
            f"reverse must have an entry for each of the {m} directions of conv_weight, got "
            f"{len(reverse)}."
        )
    if x_proj.ndim != 3 or x_proj.shape[1] != rank + 2 * n:
        raise ValueError(
            f"x_proj must have r + 2 n = {rank} + 2 * {n} rows for dt_weight of shape "
            f"{tuple(dt_weight.shape)} and A of shape {tuple(A.shape)}, got shape "
            f"{tuple(x_proj.shape)}."
        )
    # A kernel reads as far as these shapes say, whatever there is.
    expected = {
        **{"xz": (xz, (*xz.shape[:2], 2 * d)), "A": (A, (m, d, n))},
        **{"conv_bias": (conv_bias, (m, d)), "dt_bias": (dt_bias, (m, d)), "D": (D, (m, d))},
        **{"x_proj": (x_proj, (m, rank + 2 * n, d)), "dt_weight": (dt_weight, (m, d, rank))},
        "out_weight": (out_weight, (out_weight.shape[0], d)),
    }
    sizes = f"conv_weight of shape {tuple(conv_weight.shape)}"
    check_shapes("xz", xz, expected, sizes)
    if out_weight.dtype != xz.dtype:
        raise ValueError(
            f"out_weight must have the dtype of xz, {xz.dtype}, got {out_weight.dtype}. Convert it."
        )
    if scan_backend(xz.device, state_dtype(xz, *parameters)) == "numba":
        tensors = (xz, *parameters, out_weight)
        save = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        return _run(*tensors, list(reverse), save)[0]
    x, z = xz.chunk(2, dim=2)
    outputs = []
    for i, back in enumerate(reverse):
        s = short_conv_silu(x, conv_weight[i], conv_bias[i], reverse=back)
        dt, b, c = F.linear(s, x_proj[i]).split([rank, n, n], dim=-1)
        delta = F.linear(dt, dt_weight[i], dt_bias[i])
        outputs.append(
            selective_scan(s, delta, A[i], b, c, D[i], z, delta_softplus=True, reverse=back)
        )
    return F.linear(sum(outputs[1:], outputs[0]), out_weight)


def keep_outputs() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of a checkpoint that keeps what state spaces give, and computes all else again.

    For the argument ``context_fn`` of `torch.utils.checkpoint.checkpoint`. The output and the
    states of a state space on Numba take less memory than its input and gate, and to compute them
    again would cost a scan in each direction.

    Returns
    -------
    tuple of two context managers
        For the forward pass, and for the one in backward.
    """
    made = create_selective_checkpoint_contexts([torch.ops.regmask_sk.state_space.default])
    return cast("tuple[AbstractContextManager[None], AbstractContextManager[None]]", made)


_PARAMETERS = ("conv_weight", "conv_bias", "x_proj", "dt_weight", "dt_bias", "A", "D")
_TENSORS = ("xz", *_PARAMETERS, "out_weight")
_INPUTS = ", ".join(f"Tensor {name}" for name in _TENSORS)


@torch.library.custom_op(
    "regmask_sk::state_space",
    mutates_args=(),
    schema=f"({_INPUTS}, bool[] reverse, bool save) -> (Tensor, Tensor)",
)
def _run(xz: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
    """Output, and the states that backward starts its chunks from (empty without `save`)."""
    from regmask_sk.ops import _state_space_numba

    *parameters, out_weight, reverse, save = given
    y, states = _state_space_numba.forward(xz, parameters, reverse, save=save)
    return y.to(xz.dtype) @ out_weight.T, states


@_run.register_fake
def _(xz: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
    from regmask_sk.ops import _state_space_numba

    A, _, out_weight, _, save = given[-5:]
    shape = _state_space_numba.states_shape(xz, A) if save else (A.shape[0], 0)
    out = xz.new_empty((*xz.shape[:2], out_weight.shape[0]))
    return out, xz.new_empty(shape, dtype=torch.float32)


@torch.library.custom_op(
    "regmask_sk::state_space_backward",
    mutates_args=(),
    schema=f"(Tensor grad, {_INPUTS}, Tensor states, bool[] reverse)"
    f" -> ({', '.join(['Tensor'] * len(_TENSORS))})",
)
def _run_backward(grad: Tensor, xz: Tensor, *given: Any) -> tuple[Tensor, ...]:
    """Gradients of the inputs, each in the dtype of its input."""
    from regmask_sk.ops import _state_space_numba

    *parameters, out_weight, states, reverse = given
    y, grad_xz, found = _state_space_numba.backward(
        grad @ out_weight, xz, parameters, states, reverse
    )
    grad_out_weight = grad.flatten(0, 1).T @ y.flatten(0, 1).to(grad.dtype)
    gradients = (grad_xz, *found, grad_out_weight)
    inputs = (xz, *parameters, out_weight)
    return tuple(g.to(t.dtype) for g, t in zip(gradients, inputs, strict=True))


@_run_backward.register_fake
def _(grad: Tensor, *given: Any) -> tuple[Tensor, ...]:
    return tuple(
        torch.empty_like(t, memory_format=torch.contiguous_format) for t in given[: len(_TENSORS)]
    )


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.reverse, _ = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # the states have no gradient: not even zeros


def _differentiate(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Any, ...]:
    if grad is None:  # nothing was made of the output
        return (None,) * (len(_TENSORS) + 2)
    return (*_run_backward(grad, *ctx.saved_tensors, ctx.reverse), None, None)


_run.register_autograd(_differentiate, setup_context=_keep)

__all__ = ["keep_outputs", "state_space"]
