"""Root-mean-square norm on CPU, compiled with Numba.

Symbols
-------
``x``
    Input, ``(n_rows, d)``.
``scale``
    One over the root mean square of a row, ``(n_rows,)``.

One pass over the input each way, where torch composes the norm of operations that each are one
(``examples/benchmark_scan.py --parts norm`` compares them). A task is some rows; flat arrays and
unsigned indices as in ``_scan_numba``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from regmask_sk.ops._numba_compiled import compiled
from regmask_sk.ops._numba_math import F32, Job, run_jobs

_TILE = 256  # rows

_U: Any = np.uint64
_T = _U(_TILE)


@compiled
def _forward_task(
    task: int, x: Any, weight: Any, out: Any, scale: Any, shape: Any, eps: float
) -> None:
    """Norm of some rows; ``shape`` is ``(n_rows, d)``."""
    n_rows, d = _U(shape[0]), _U(shape[1])
    begin = _U(task) * _T
    for i_row in range(begin, min(begin + _T, n_rows)):
        row = _U(i_row)
        o = row * d
        total = F32(0.0)
        for i in range(d):
            total += x[o + i] * x[o + i]
        r = F32(1.0) / np.sqrt(total / F32(d) + F32(eps))
        scale[row] = r
        for i in range(d):
            out[o + i] = x[o + i] * r * weight[i]


@compiled
def _backward_task(
    task: int,
    grad: Any,
    x: Any,
    weight: Any,
    scale: Any,
    grad_x: Any,
    grad_weight: Any,
    shape: Any,
) -> None:
    """Gradients of some rows; ``grad_weight`` is ``(task, d)``."""
    n_rows, d = _U(shape[0]), _U(shape[1])
    begin = _U(task) * _T
    part = np.zeros(d, np.float32)
    for i_row in range(begin, min(begin + _T, n_rows)):
        row = _U(i_row)
        o = row * d
        r = scale[row]
        along = F32(0.0)
        for i in range(d):
            along += grad[o + i] * weight[i] * x[o + i]
        along *= r * r * r / F32(d)
        for i in range(d):
            grad_x[o + i] = grad[o + i] * weight[i] * r - x[o + i] * along
        for i in range(d):
            part[i] += grad[o + i] * x[o + i] * r
    for i in range(d):
        grad_weight[_U(task) * d + i] = part[i]


def forward(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Output in the dtype of `x`, and the scale of each row in float32."""
    d = x.shape[-1]
    n_rows = x.numel() // d
    out, scale = torch.empty(x.shape), torch.empty(x.shape[:-1])
    tensors = (x, weight, out, scale)
    job = Job(_forward_task, -(-n_rows // _TILE), tensors, ((n_rows, d), eps))
    run_jobs([job], x.numel())
    return out.to(x.dtype), scale


def backward(grad: Tensor, x: Tensor, weight: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of input and weight, each in the dtype of its input."""
    d = x.shape[-1]
    n_rows = x.numel() // d
    n_tasks = -(-n_rows // _TILE)
    grad_x, grad_weight = torch.empty(x.shape), torch.empty(n_tasks, d)
    tensors = (grad, x, weight, scale, grad_x, grad_weight)
    run_jobs([Job(_backward_task, n_tasks, tensors, ((n_rows, d),))], x.numel())
    return grad_x.to(x.dtype), grad_weight.sum(dim=0).to(weight.dtype)
