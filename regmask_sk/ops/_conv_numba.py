"""Short depthwise convolution and SiLU on CPU, compiled with Numba.

Symbols
-------
``x``, ``s``
    Input, and what goes into the SiLU, ``(batch, length, d)``.
``k``
    Taps. Tap 0 is that of the step itself, tap 1 that of the step before it.
``W``
    Channels that a task works on at once, ``_WIDTH``: the innermost, vectorised loop.

One pass over the input forward, one backward. A task is one row of the batch and ``W``
channels; flat arrays and unsigned indices as in ``_scan_numba``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from regmask_sk.ops._numba_compiled import compiled
from regmask_sk.ops._numba_math import F32, run_tasks, sigmoid

_WIDTH = 64  # channels
_FLUSH = 64  # steps whose gradients of the taps are summed in float32, before float64

_U: Any = np.uint64
_W = _U(_WIDTH)
_0, _1 = _U(0), _U(1)


@compiled
def _forward_task(
    task: int, x: Any, taps: Any, bias: Any, out: Any, shape: Any, reverse: bool
) -> None:
    """One row of the batch and ``W`` channels; ``taps`` is ``(k, d)``."""
    length, d, k = _U(shape[0]), _U(shape[1]), _U(shape[2])
    n_groups = (d + _W - _1) // _W
    row, first = _U(task) // n_groups, _U(task) % n_groups * _W
    w = min(_W, d - first)
    s = np.zeros(_W, np.float32)
    for i_step in range(length):
        step = _U(i_step)
        t = length - _1 - step if reverse else step
        o = (row * length + t) * d + first
        for i in range(w):
            s[i] = bias[first + i]
        for i_back in range(min(k, step + _1)):
            back = _U(i_back)
            before = o + back * d if reverse else o - back * d
            at = back * d + first
            for i in range(w):
                s[i] += x[before + i] * taps[at + i]
        for i in range(w):
            out[o + i] = s[i] * sigmoid(s[i])


@compiled
def _backward_task(
    task: int,
    grad: Any,
    x: Any,
    taps: Any,
    bias: Any,
    grad_x: Any,
    grad_taps: Any,
    grad_bias: Any,
    shape: Any,
    reverse: bool,
) -> None:
    """Gradients of one row and ``W`` channels; ``grad_taps`` is ``(batch, k, d)``."""
    length, d, k = _U(shape[0]), _U(shape[1]), _U(shape[2])
    n_groups = (d + _W - _1) // _W
    row, first = _U(task) // n_groups, _U(task) % n_groups * _W
    w = min(_W, d - first)
    s = np.zeros(_W, np.float32)
    part = np.zeros((k + _1) * _W, np.float32)  # taps, then the bias, over some steps
    total = np.zeros((k + _1) * _W, np.float64)
    for i_step in range(length):
        step = _U(i_step)
        t = length - _1 - step if reverse else step
        o = (row * length + t) * d + first
        n_taps = min(k, step + _1)
        for i in range(w):
            s[i] = bias[first + i]
        for i_back in range(n_taps):
            back = _U(i_back)
            before = o + back * d if reverse else o - back * d
            at = back * d + first
            for i in range(w):
                s[i] += x[before + i] * taps[at + i]
        for i in range(w):
            gate = sigmoid(s[i])
            s[i] = grad[o + i] * gate * (F32(1.0) + s[i] * (F32(1.0) - gate))
        for i in range(w):
            part[k * _W + i] += s[i]
            grad_x[o + i] = F32(0.0)
        for i_back in range(n_taps):
            back = _U(i_back)
            before = o + back * d if reverse else o - back * d
            at = back * d + first
            for i in range(w):
                part[back * _W + i] += s[i] * x[before + i]
            for i in range(w):
                grad_x[before + i] += s[i] * taps[at + i]
        if step % _U(_FLUSH) == _0 or step + _1 == length:
            for i in range((k + _1) * _W):
                total[i] += part[i]
                part[i] = F32(0.0)
    for i in range(w):
        grad_bias[row * d + first + i] = total[k * _W + i]
        for j in range(k):
            grad_taps[(row * k + j) * d + first + i] = total[j * _W + i]


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, *, reverse: bool) -> Tensor:
    """Output in the dtype of `x`."""
    (batch, length, d), k = x.shape, weight.shape[1]
    out = torch.empty(x.shape)
    tensors = (x, weight.flip(1).T, _or_zeros(bias, d), out)
    run_tasks(
        *(_forward_task, batch * -(-d // _WIDTH), x.numel(), tensors),
        *((length, d, k), reverse),
    )
    return out.to(x.dtype)


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, *, reverse: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of all inputs, each in the dtype of its input."""
    (batch, length, d), k = x.shape, weight.shape[1]
    grad_x, grad_taps, grad_bias = (torch.empty(s) for s in (x.shape, (batch, k, d), (batch, d)))
    tensors = (grad, x, weight.flip(1).T, _or_zeros(bias, d), grad_x, grad_taps, grad_bias)
    run_tasks(
        *(_backward_task, batch * -(-d // _WIDTH), x.numel(), tensors),
        *((length, d, k), reverse),
    )
    return (
        grad_x.to(x.dtype),
        grad_taps.sum(dim=0).T.flip(1).to(weight.dtype),
        None if bias is None else grad_bias.sum(dim=0).to(bias.dtype),
    )


def _or_zeros(bias: Tensor | None, d: int) -> Tensor:
    return torch.zeros(d) if bias is None else bias
