"""Short depthwise convolution and SiLU on CPU, compiled with Numba.

Symbols
-------
``x``, ``s``
    Input, and what goes into the SiLU, ``(batch, length, d)``.
``k``
    Taps. Tap 0 is that of the step itself, tap 1 that of the step before it.
``S``
    Steps of a task, ``_BLOCK``, counted in the direction of the convolution.

One pass over the input forward, one backward. A task is ``S`` steps of one row of the batch with
all their channels, so that it reads and writes one stretch of memory; flat arrays and unsigned
indices as in ``_scan_numba``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from regmask_sk.ops._numba_compiled import compiled
from regmask_sk.ops._numba_math import F32, run_tasks, sigmoid

_BLOCK = 1024  # steps
_FLUSH = 64  # steps whose gradients of the taps are summed in float32, before float64

_U: Any = np.uint64
_S = _U(_BLOCK)
_0, _1 = _U(0), _U(1)


@compiled
def _forward_task(
    task: int, x: Any, taps: Any, bias: Any, out: Any, shape: Any, reverse: bool
) -> None:
    """``S`` steps of one row; ``taps`` is ``(k, d)``."""
    length, d, k = _U(shape[0]), _U(shape[1]), _U(shape[2])
    n_blocks = (length + _S - _1) // _S
    row, begin = _U(task) // n_blocks, _U(task) % n_blocks * _S
    s = np.zeros(d, np.float32)
    for i_step in range(begin, min(begin + _S, length)):
        step = _U(i_step)
        o = (row * length + (length - _1 - step if reverse else step)) * d
        for i in range(d):
            s[i] = bias[i] + x[o + i] * taps[i]
        for i_back in range(1, min(k, step + _1)):
            back = _U(i_back)
            before = o + back * d if reverse else o - back * d
            for i in range(d):
                s[i] += x[before + i] * taps[back * d + i]
        for i in range(d):
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
    """Gradients of ``S`` steps; ``grad_taps`` is ``(task, k, d)``, ``grad_bias`` ``(task, d)``.

    What a step gets comes from itself and the ``k - 1`` steps after it, those of the next task
    included: their gradients of ``s`` are computed there once more.
    """
    length, d, k = _U(shape[0]), _U(shape[1]), _U(shape[2])
    n_blocks = (length + _S - _1) // _S
    row, begin = _U(task) // n_blocks, _U(task) % n_blocks * _S
    end = min(begin + _S, length)
    grad_s = np.zeros(k * d, np.float32)  # of the last k steps, step t at t modulo k
    part = np.zeros((k + _1) * d, np.float32)  # taps, then the bias, over some steps
    total = np.zeros((k + _1) * d, np.float64)
    for i_step in range(begin, end + k - _1):
        step = _U(i_step)
        at = step % k * d
        if step < length:
            o = (row * length + (length - _1 - step if reverse else step)) * d
            n_taps = min(k, step + _1)
            for i in range(d):
                grad_s[at + i] = bias[i] + x[o + i] * taps[i]
            for i_back in range(1, n_taps):
                back = _U(i_back)
                before = o + back * d if reverse else o - back * d
                for i in range(d):
                    grad_s[at + i] += x[before + i] * taps[back * d + i]
            for i in range(d):
                s = grad_s[at + i]
                gate = sigmoid(s)
                grad_s[at + i] = grad[o + i] * gate * (F32(1.0) + s * (F32(1.0) - gate))
            if step < end:
                for i in range(d):
                    part[k * d + i] += grad_s[at + i]
                for i_back in range(n_taps):
                    back = _U(i_back)
                    before = o + back * d if reverse else o - back * d
                    for i in range(d):
                        part[back * d + i] += grad_s[at + i] * x[before + i]
        else:
            for i in range(d):
                grad_s[at + i] = F32(0.0)
        if step % _U(_FLUSH) == _0 or step + _1 == end:
            for i in range((k + _1) * d):
                total[i] += part[i]
                part[i] = F32(0.0)
        if step + _1 >= begin + k:
            got = step + _1 - k
            o = (row * length + (length - _1 - got if reverse else got)) * d
            at = got % k * d
            for i in range(d):
                grad_x[o + i] = grad_s[at + i] * taps[i]
            for i_back in range(1, k):
                back = _U(i_back)
                at = (got + back) % k * d
                for i in range(d):
                    grad_x[o + i] += grad_s[at + i] * taps[back * d + i]
    for i in range(d):
        grad_bias[_U(task) * d + i] = total[k * d + i]
    for i in range(k * d):
        grad_taps[_U(task) * k * d + i] = total[i]


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, *, reverse: bool) -> Tensor:
    """Output in the dtype of `x`."""
    (batch, length, d), k = x.shape, weight.shape[1]
    n_tasks = batch * -(-length // _BLOCK)
    out = torch.empty(x.shape)
    tensors = (x, weight.flip(1).T, _or_zeros(bias, d), out)
    run_tasks(
        *(_forward_task, n_tasks, x.numel(), tensors),
        *((length, d, k), reverse),
    )
    return out.to(x.dtype)


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, *, reverse: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of all inputs, each in the dtype of its input."""
    (batch, length, d), k = x.shape, weight.shape[1]
    n_tasks = batch * -(-length // _BLOCK)
    shapes = (x.shape, (n_tasks, k, d), (n_tasks, d))
    grad_x, grad_taps, grad_bias = (torch.empty(s) for s in shapes)
    tensors = (grad, x, weight.flip(1).T, _or_zeros(bias, d), grad_x, grad_taps, grad_bias)
    run_tasks(
        *(_backward_task, n_tasks, x.numel(), tensors),
        *((length, d, k), reverse),
    )
    return (
        grad_x.to(x.dtype),
        grad_taps.sum(dim=0).T.flip(1).to(weight.dtype),
        None if bias is None else grad_bias.sum(dim=0).to(bias.dtype),
    )


def _or_zeros(bias: Tensor | None, d: int) -> Tensor:
    return torch.zeros(d) if bias is None else bias
