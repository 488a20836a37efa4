"""Short convolution and SiLU on CUDA, written in Triton.

Symbols
-------
``d``, ``TAPS``
    Channels, and taps of each.
``T``, ``W``
    Steps and channels of a tile; one program takes a tile of one row of the batch.
``pitch``
    Numbers from one step of the input to the next: it may be a part of a wider tensor.

The gradient of the input is the same convolution, run the other way, of the gradient of what goes
into the SiLU. Nothing is added up atomically: each tile writes its part of the gradients of taps
and bias.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from regmask_sk.ops._triton_math import as_rows, on_device_of_first, sigmoid

_STEPS, _CHANNELS = 64, 64  # of a tile


@triton.jit
def _shifted(  # type: ignore[no-untyped-def]
    x_ptr, row, t, back, channel, length, d, pitch, REVERSE: tl.constexpr
):
    """Load the steps that lie ``back`` before others (behind them, in reverse), 0 outside."""
    there = t + back if REVERSE else t - back
    inside = (there >= 0) & (there < length)
    o = (row * length + there)[:, None] * pitch + channel[None, :]
    x = tl.load(x_ptr + o, mask=inside[:, None] & (channel < d)[None, :], other=0.0)
    return x.to(tl.float32)


@triton.jit
def _shifted_sum(  # type: ignore[no-untyped-def]
    x_ptr,
    w_ptr,
    bias_ptr,
    row,
    t,
    channel,
    length,
    d,
    pitch,
    TAPS: tl.constexpr,
    BIASED: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """Sum of each step and those before it (behind it, in reverse), times the taps."""
    real = channel < d
    total = tl.zeros((t.shape[0], channel.shape[0]), tl.float32)
    if BIASED:
        total += tl.load(bias_ptr + channel, mask=real, other=0.0).to(tl.float32)[None, :]
    for back in tl.static_range(TAPS):
        x = _shifted(x_ptr, row, t, back, channel, length, d, pitch, REVERSE)
        tap = tl.load(w_ptr + channel * TAPS + TAPS - 1 - back, mask=real, other=0.0)
        total += x * tap.to(tl.float32)[None, :]
    return total


@triton.jit(do_not_specialize=["length"])
def _convolve_kernel(  # type: ignore[no-untyped-def]
    x_ptr,
    w_ptr,
    bias_ptr,
    out_ptr,
    length,
    d,
    pitch,
    T: tl.constexpr,
    W: tl.constexpr,
    TAPS: tl.constexpr,
    BIASED: tl.constexpr,
    REVERSE: tl.constexpr,
    ACTIVATED: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    t = tl.program_id(1) * T + tl.arange(0, T)
    channel = tl.program_id(2) * W + tl.arange(0, W)
    s = _shifted_sum(
        x_ptr, w_ptr, bias_ptr, row, t, channel, length, d, pitch, TAPS, BIASED, REVERSE
    )
    if ACTIVATED:
        s *= sigmoid(s)
    o = (row * length + t)[:, None] * d + channel[None, :]
    tl.store(out_ptr + o, s, mask=(t < length)[:, None] & (channel < d)[None, :])


@triton.jit(do_not_specialize=["length"])
def _differentiate_kernel(  # type: ignore[no-untyped-def]
    grad_ptr,
    x_ptr,
    w_ptr,
    bias_ptr,
    grad_s_ptr,
    grad_w_ptr,
    grad_bias_ptr,
    length,
    d,
    pitch,
    T: tl.constexpr,
    W: tl.constexpr,
    TAPS: tl.constexpr,
    BIASED: tl.constexpr,
    REVERSE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    t = tl.program_id(1) * T + tl.arange(0, T)
    channel = tl.program_id(2) * W + tl.arange(0, W)
    real = channel < d
    s = _shifted_sum(
        x_ptr, w_ptr, bias_ptr, row, t, channel, length, d, pitch, TAPS, BIASED, REVERSE
    )
    gate = sigmoid(s)
    o = (row * length + t)[:, None] * d + channel[None, :]
    both = (t < length)[:, None] & real[None, :]
    grad = tl.load(grad_ptr + o, mask=both, other=0.0).to(tl.float32)
    grad_s = grad * gate * (1.0 + s * (1.0 - gate))
    tl.store(grad_s_ptr + o, grad_s, mask=both)
    part = row * tl.num_programs(1) + tl.program_id(1)
    if BIASED:
        tl.store(grad_bias_ptr + part * d + channel, tl.sum(grad_s, axis=0), mask=real)
    for back in tl.static_range(TAPS):
        x = _shifted(x_ptr, row, t, back, channel, length, d, pitch, REVERSE)
        found = tl.sum(grad_s * x, axis=0)
        tl.store(grad_w_ptr + (part * TAPS + TAPS - 1 - back) * d + channel, found, mask=real)


@on_device_of_first
def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, reverse: bool, activated: bool
) -> Tensor:
    """Convolve, and take the SiLU if asked to; in the dtype of `x`."""
    batch, length, d = x.shape
    x, pitch = as_rows(x)
    out = x.new_empty(x.shape)
    grid = (batch, -(-length // _STEPS), -(-d // _CHANNELS))
    _convolve_kernel[grid](
        *(x, weight.contiguous(), x if bias is None else bias.contiguous(), out),
        *(length, d, pitch),
        **{"T": _STEPS, "W": _CHANNELS, "TAPS": weight.shape[1]},
        **{"BIASED": bias is not None, "REVERSE": reverse, "ACTIVATED": activated},
    )
    return out


@on_device_of_first
def differentiate(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, *, reverse: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of what goes into the SiLU, of the taps and of the bias."""
    batch, length, d = x.shape
    x, pitch = as_rows(x)
    taps = weight.shape[1]
    tiles = -(-length // _STEPS)
    grad_s = x.new_empty(x.shape)
    grad_w = x.new_empty((batch * tiles, taps, d), dtype=torch.float32)
    grad_bias = x.new_empty((batch * tiles, d), dtype=torch.float32)
    _differentiate_kernel[(batch, tiles, -(-d // _CHANNELS))](
        *(grad.contiguous(), x, weight.contiguous(), x if bias is None else bias.contiguous()),
        *(grad_s, grad_w, grad_bias, length, d, pitch),
        **{"T": _STEPS, "W": _CHANNELS, "TAPS": taps},
        **{"BIASED": bias is not None, "REVERSE": reverse},
    )
    found = None if bias is None else grad_bias.sum(dim=0).to(bias.dtype)
    return grad_s, grad_w.sum(dim=0).T.to(weight.dtype), found
