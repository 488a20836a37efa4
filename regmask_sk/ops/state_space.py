"""Selective state space: short convolution, its projections, and the gated scan, as one operator.

Symbols
-------
``x``, ``z``
    Input and gate, ``(batch, length, d)``.
``s``
    Input after the convolution and SiLU, ``(batch, length, d)``.
``r``, ``n``
    Rank of the step sizes, and states of a channel.
``p``
    What ``x_proj`` makes of ``s``: step sizes of rank ``r``, then B, then C, ``(batch, length,
    r + 2 n)``.

Algorithm 2 of Gu and Dao (2023)::

    s = SiLU(conv(x));  dt, B, C = x_proj(s);  y = scan(s, softplus(dt_proj(dt)), A, B, C, D, z)

Between its steps lie tensors as large as the input: ``s`` and the step sizes forward, their
gradients backward. Where the scan runs on Numba they are not kept. Autograd has the input, the
gate and one state every few steps, and the rest is computed again in backward; both ways the
length is worked through in blocks, so that no more than a block of the rest exists at a time.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from regmask_sk.ops._scan_torch import state_dtype
from regmask_sk.ops.selective_scan import check_shapes, scan_backend, selective_scan
from regmask_sk.ops.short_conv import short_conv_silu

_BLOCK = 2048  # chunks of the scan, of 32 steps: with 256 channels 64 MiB a tensor


def state_space(
    x: Tensor,
    z: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    x_proj: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    *,
    reverse: bool = False,
) -> Tensor:
    """Run a gated selective state space with its short convolution along the length.

    Parameters
    ----------
    x, z : Tensor of shape (batch, length, d)
        Input, and what gates the output by its SiLU.
    conv_weight : Tensor of shape (d, k)
        Taps of the short convolution; the last one is that of the step itself.
    conv_bias : Tensor of shape (d,)
        Added to the convolution.
    x_proj : Tensor of shape (r + 2 n, d)
        Projects the convolved input to step sizes, B and C.
    dt_weight : Tensor of shape (d, r)
        Projects the step sizes to channels.
    dt_bias : Tensor of shape (d,)
        Added to the step sizes, of which the softplus is taken.
    A : Tensor of shape (d, n)
        Decay rates, below 0.
    D : Tensor of shape (d,)
        Weight of the convolved input in the output.
    reverse : bool, default=False
        Run from the last step to the first, the convolution included.

    Returns
    -------
    Tensor of shape (batch, length, d)
        In the dtype of `x`.

    Raises
    ------
    ValueError
        If shapes or devices do not fit together.

    References
    ----------
    Gu and Dao, "Mamba: linear-time sequence modeling with selective state spaces",
    arXiv:2312.00752 (2023), algorithm 2 and section 3.4.

    Examples
    --------
    >>> import torch
    >>> d, n, rank = 2, 1, 1
    >>> x = torch.ones(1, 3, d)
    >>> weights = torch.ones(d, 4), torch.zeros(d), torch.zeros(rank + 2 * n, d)
    >>> steps = torch.zeros(d, rank), torch.zeros(d)
    >>> y = state_space(x, x, *weights, *steps, -torch.ones(d, n), torch.ones(d))
    >>> y[0, :, 0]  # without B and C, SiLU(1), SiLU(2), SiLU(3), times SiLU(1)
    tensor([0.5344, 1.2878, 2.0892])
    """
    parameters = (conv_weight, conv_bias, x_proj, dt_weight, dt_bias, A, D)
    for name, tensor, axes in (
        *(("x", x, 3), ("conv_weight", conv_weight, 2)),
        *(("dt_weight", dt_weight, 2), ("A", A, 2)),
    ):
        if tensor.ndim != axes or 0 in tensor.shape:
            raise ValueError(
                f"{name} must have {axes} axes, none of size 0, got shape {tuple(tensor.shape)}."
            )
    d, k, rank, n = x.shape[2], conv_weight.shape[1], dt_weight.shape[1], A.shape[1]
    if x_proj.shape[0] != rank + 2 * n:
        raise ValueError(
            f"x_proj must have r + 2 n = {rank} + 2 * {n} rows for dt_weight of shape "
            f"{tuple(dt_weight.shape)} and A of shape {tuple(A.shape)}, got {x_proj.shape[0]}."
        )
    # A kernel reads as far as these shapes say, whatever there is.
    expected = {
        **{"z": (z, tuple(x.shape)), "conv_weight": (conv_weight, (d, k)), "A": (A, (d, n))},
        **{"conv_bias": (conv_bias, (d,)), "dt_bias": (dt_bias, (d,)), "D": (D, (d,))},
        **{"x_proj": (x_proj, (rank + 2 * n, d)), "dt_weight": (dt_weight, (d, rank))},
    }
    check_shapes("x", x, expected, f"x of shape {tuple(x.shape)}")
    if scan_backend(x.device, state_dtype(x, z, *parameters)) == "numba":
        save = torch.is_grad_enabled() and any(t.requires_grad for t in (x, z, *parameters))
        return _run(x, z, *parameters, reverse, save)[0]
    s = short_conv_silu(x, conv_weight, conv_bias, reverse=reverse)
    dt, b, c = F.linear(s, x_proj).split([rank, n, n], dim=-1)
    delta = F.linear(dt, dt_weight, dt_bias)
    return selective_scan(s, delta, A, b, c, D, z, delta_softplus=True, reverse=reverse)


def _steps_of_a_block() -> int:
    from regmask_sk.ops import _scan_numba

    return _BLOCK * _scan_numba.CHUNK


def _n_blocks(x: Tensor) -> int:
    return -(-x.shape[1] // _steps_of_a_block())


class _Block:
    """A stretch of the length, and what the operator has in the middle of it.

    Parameters
    ----------
    x : Tensor of shape (batch, length, d)
        Input of the operator.
    number : int
        Of the block, counted in the direction of the scan.
    parameters : tuple of Tensor
        In float32.
    reverse : bool
        Direction.
    """

    def __init__(self, x: Tensor, number: int, parameters: tuple[Tensor, ...], reverse: bool):
        from regmask_sk.ops import _conv_numba

        conv_weight, conv_bias, x_proj, dt_weight, dt_bias, A, _ = parameters
        length, size = x.shape[1], _steps_of_a_block()
        first, last = number * size, min((number + 1) * size, length)
        n_own, n_before = last - first, min(first, conv_weight.shape[1] - 1)
        self.chunks = slice(number * _BLOCK, (number + 1) * _BLOCK)  # of the states
        if reverse:
            self.steps = slice(length - last, length - first)
            self.before = slice(length - first, length - first + n_before)
            read = slice(self.steps.start, self.before.stop)
            self.own, self.halo = slice(0, n_own), slice(n_own, n_own + n_before)
            self.missing = (0, 0, 0, n_before)
        else:
            self.steps, self.before = slice(first, last), slice(first - n_before, first)
            read = slice(self.before.start, self.steps.stop)
            self.own, self.halo = slice(n_before, n_before + n_own), slice(0, n_before)
            self.missing = (0, 0, n_before, 0)
        self.x = x[:, read].float().contiguous()
        convolved = _conv_numba.forward(self.x, conv_weight, conv_bias, reverse=reverse)
        self.s = convolved[:, self.own].contiguous()
        self.p = self.s @ x_proj.T
        rank, n = dt_weight.shape[1], A.shape[1]
        self.dt, self.b, self.c = self.p.split([rank, n, n], dim=-1)
        self.delta = F.linear(self.dt, dt_weight, dt_bias)


_TENSORS = ("x", "z", "conv_weight", "conv_bias", "x_proj", "dt_weight", "dt_bias", "A", "D")
_INPUTS = ", ".join(f"Tensor {name}" for name in _TENSORS)


@torch.library.custom_op(
    "regmask_sk::state_space",
    mutates_args=(),
    schema=f"({_INPUTS}, bool reverse, bool save) -> (Tensor, Tensor)",
)
def _run(x: Tensor, z: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
    """Output, and the states that backward starts its chunks from (empty without `save`)."""
    from regmask_sk.ops import _scan_numba

    *parameters, reverse, save = given
    single = tuple(t.float() for t in parameters)
    A, D = single[-2:]
    out = torch.empty(x.shape)
    states = torch.empty(_scan_numba.states_shape(*_sizes(x, A)) if save else (0,))
    state: Tensor | None = None
    for number in range(_n_blocks(x)):
        block = _Block(x, number, single, reverse)
        place = _place(out, block.steps)
        y, _, state = _scan_numba.forward(
            *(block.s, block.delta, A, block.b, block.c, D, z[:, block.steps]),
            delta_softplus=True,
            reverse=reverse,
            save=save,
            start=state,
            out=place,
            states=states[block.chunks] if save else None,
        )
        if place is None:
            out[:, block.steps] = y
    return out.to(x.dtype), states


def _sizes(x: Tensor, A: Tensor) -> tuple[int, int, int, int]:
    batch, length, d = x.shape
    return batch, length, d, A.shape[1]


def _place(whole: Tensor, steps: slice) -> Tensor | None:
    """Give the steps of a tensor, where a kernel can write there: in one stretch of memory."""
    part = whole[:, steps]
    return part if part.is_contiguous() else None


@_run.register_fake
def _(x: Tensor, z: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
    from regmask_sk.ops import _scan_numba

    A, save = given[5], given[-1]
    shape = _scan_numba.states_shape(*_sizes(x, A)) if save else (0,)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    return out, x.new_empty(shape, dtype=torch.float32)


@torch.library.custom_op(
    "regmask_sk::state_space_backward",
    mutates_args=(),
    schema=f"(Tensor grad, {_INPUTS}, Tensor states, bool reverse)"
    f" -> ({', '.join(['Tensor'] * len(_TENSORS))})",
)
def _run_backward(grad: Tensor, x: Tensor, z: Tensor, *given: Any) -> tuple[Tensor, ...]:
    """Gradients of the nine inputs, each in the dtype of its input."""
    from regmask_sk.ops import _conv_numba, _scan_numba

    *parameters, states, reverse = given
    single = tuple(t.float() for t in parameters)
    conv_weight, conv_bias, x_proj, dt_weight, _, A, D = single
    grad_x, grad_z = torch.empty(x.shape), torch.empty(z.shape)
    sums = [torch.zeros_like(t) for t in single]
    grad_state: Tensor | None = None
    owed: tuple[slice, Tensor] | None = None  # what the block before is given by the one after
    for number in reversed(range(_n_blocks(x))):
        block = _Block(x, number, single, reverse)
        place = _place(grad_z, block.steps)
        found = _scan_numba.backward(
            *(grad[:, block.steps], block.s, block.delta, A, block.b, block.c, D),
            *(z[:, block.steps], states[block.chunks]),
            delta_softplus=True,
            reverse=reverse,
            grad_end=grad_state,
            grad_z=place,
        )
        grad_s, grad_delta, grad_a, grad_b, grad_c, grad_skip, of_z, grad_state = cast(
            "tuple[Tensor, ...]", found
        )
        if place is None:
            grad_z[:, block.steps] = of_z
        grad_p = torch.cat([grad_delta @ dt_weight, grad_b, grad_c], dim=-1)
        grad_s += grad_p @ x_proj
        # What the convolution read before the block, it gave to steps of the block alone.
        asked = F.pad(grad_s, block.missing) if any(block.missing) else grad_s
        grad_read, grad_taps, grad_conv_bias = _conv_numba.backward(
            asked, block.x, conv_weight, conv_bias, reverse=reverse
        )
        grad_x[:, block.steps] = grad_read[:, block.own]
        if owed is not None:
            grad_x[:, owed[0]] += owed[1]
        owed = (block.before, grad_read[:, block.halo].clone())
        flat_p, flat_delta = grad_p.flatten(0, 1), grad_delta.flatten(0, 1)
        parts = (
            *(grad_taps, grad_conv_bias, flat_p.T @ block.s.flatten(0, 1)),
            *(flat_delta.T @ block.dt.flatten(0, 1), flat_delta.sum(dim=0), grad_a, grad_skip),
        )
        for total, part in zip(sums, parts, strict=True):
            total += part
    gradients = zip((grad_x, grad_z, *sums), (x, z, *parameters), strict=True)
    return tuple(gradient.to(tensor.dtype) for gradient, tensor in gradients)


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

__all__ = ["state_space"]
