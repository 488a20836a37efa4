"""Selective scan on CPU, compiled with Numba.

Symbols
-------
``d``, ``n``
    Channels, and states of a channel. ``n`` is padded to a multiple of 4 with states whose
    B and C are 0.
``W``
    Channels that a task works on at once, ``_WIDTH``: the innermost, vectorised loop.
``K``
    Steps between two saved states, ``_CHUNK``.
``a``, ``h``, ``p``
    Decay of a state in a step, the state, and ``a * h`` before the step's input is added.

A task is one row of the batch and ``W`` channels; it walks along the length and keeps its
states in cache. Backward walks the chunks from the last to the first: it computes the states
of a chunk anew from the one saved at its start, then goes back through them.

All arrays are flat and indexed with unsigned integers, so that there are neither reference
counts nor checks for negative indices in the way of the vectoriser; ``W`` is a constant, so
that it knows that states do not overlap.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from regmask_sk.ops._numba_compiled import compiled
from regmask_sk.ops._numba_math import F32, LOG2_E, exp2, run_tasks, sigmoid, softplus

_WIDTH = 64  # channels: 8 AVX2 vectors
_CHUNK = 32  # steps: the scratch of a chunk, 256 KiB with 16 states, stays in the L2 cache
_UNROLL = 4  # states that one loop over channels advances

_U: Any = np.uint64
_W = _U(_WIDTH)
_K = _U(_CHUNK)
_0, _1, _2, _3, _4 = _U(0), _U(1), _U(2), _U(3), _U(4)


@compiled
def _forward_task(
    task: int,
    u: Any,
    delta: Any,
    decay: Any,
    start: Any,
    b: Any,
    c: Any,
    skip: Any,
    z: Any,
    out: Any,
    states: Any,
    shape: Any,
    raw_delta: bool,
    gated: bool,
    reverse: bool,
) -> None:
    """One row of the batch and ``W`` channels, from the first step to the last.

    ``decay`` is A times log2(e), ``start`` the first state, both ``(n, d)``; ``states`` is
    ``(task, chunk, n, W)``, or empty where they are not to be kept.
    """
    length, d, n = _U(shape[1]), _U(shape[2]), _U(shape[3])
    n_groups = (d + _W - _1) // _W
    row, group = _U(task) // n_groups, _U(task) % n_groups
    first = group * _W
    w = min(_W, d - first)
    n_chunks = (length + _K - _1) // _K
    keep = len(states) > 0
    h = np.zeros(n * _W, np.float32)
    a_log = np.zeros(n * _W, np.float32)
    dt = np.zeros(_W, np.float32)
    x = np.zeros(_W, np.float32)
    y = np.zeros(_W, np.float32)
    for s in range(n):
        for i in range(w):
            h[s * _W + i] = start[s * d + first + i]
            a_log[s * _W + i] = decay[s * d + first + i]
    for i_step in range(length):
        step = _U(i_step)
        if keep and step % _K == _0:
            at = (_U(task) * n_chunks + step // _K) * n * _W
            for i in range(n * _W):
                states[at + i] = h[i]
        t = length - _1 - step if reverse else step
        o = (row * length + t) * d + first
        m = (row * length + t) * n
        if raw_delta:
            for i in range(w):
                dt[i] = softplus(delta[o + i])
        else:
            for i in range(w):
                dt[i] = delta[o + i]
        for i in range(w):
            x[i] = dt[i] * u[o + i]
            y[i] = skip[first + i] * u[o + i]
        for quad in range(n // _4):
            s = quad * _4
            b0, b1, b2, b3 = b[m + s], b[m + s + _1], b[m + s + _2], b[m + s + _3]
            c0, c1, c2, c3 = c[m + s], c[m + s + _1], c[m + s + _2], c[m + s + _3]
            for i in range(w):
                j0 = s * _W + i
                j1 = j0 + _W
                j2 = j1 + _W
                j3 = j2 + _W
                h0 = exp2(dt[i] * a_log[j0]) * h[j0] + x[i] * b0
                h1 = exp2(dt[i] * a_log[j1]) * h[j1] + x[i] * b1
                h2 = exp2(dt[i] * a_log[j2]) * h[j2] + x[i] * b2
                h3 = exp2(dt[i] * a_log[j3]) * h[j3] + x[i] * b3
                h[j0] = h0
                h[j1] = h1
                h[j2] = h2
                h[j3] = h3
                y[i] += h0 * c0 + h1 * c1 + h2 * c2 + h3 * c3
        if gated:
            for i in range(w):
                out[o + i] = y[i] * z[o + i] * sigmoid(z[o + i])
        else:
            for i in range(w):
                out[o + i] = y[i]


@compiled
def _backward_task(
    task: int,
    grad: Any,
    u: Any,
    delta: Any,
    decay: Any,
    a_matrix: Any,
    b: Any,
    c: Any,
    skip: Any,
    z: Any,
    states: Any,
    grad_u: Any,
    grad_delta: Any,
    grad_a: Any,
    grad_b: Any,
    grad_c: Any,
    grad_skip: Any,
    grad_z: Any,
    shape: Any,
    raw_delta: bool,
    gated: bool,
    reverse: bool,
) -> None:
    """Gradients of one row of the batch and ``W`` channels, from the last chunk to the first.

    ``grad_a`` is ``(batch, n, d)``, ``grad_skip`` ``(batch, d)``, ``grad_b`` and ``grad_c``
    ``(group, batch, length, n)``: no two tasks write to the same place.
    """
    batch, length, d, n = _U(shape[0]), _U(shape[1]), _U(shape[2]), _U(shape[3])
    n_groups = (d + _W - _1) // _W
    row, group = _U(task) // n_groups, _U(task) % n_groups
    first = group * _W
    w = min(_W, d - first)
    n_chunks = (length + _K - _1) // _K
    h = np.zeros(n * _W, np.float32)
    grad_h = np.zeros(n * _W, np.float32)  # what the steps after this one ask of the state
    a_log = np.zeros(n * _W, np.float32)
    a_nat = np.zeros(n * _W, np.float32)
    sum_a = np.zeros(n * _W, np.float32)  # over a chunk; over the whole length in float64
    sum_skip = np.zeros(_W, np.float32)
    total_a = np.zeros(n * _W, np.float64)
    total_skip = np.zeros(_W, np.float64)
    a = np.zeros(_K * n * _W, np.float32)
    p = np.zeros(_K * n * _W, np.float32)
    y = np.zeros(_K * _W, np.float32)
    dts = np.zeros(_K * _W, np.float32)
    xs = np.zeros(_K * _W, np.float32)
    dt = np.zeros(_W, np.float32)
    x = np.zeros(_W, np.float32)
    grad_y = np.zeros(_W, np.float32)
    by_b = np.zeros(_W, np.float32)  # sum over states of their gradient times B
    by_a = np.zeros(_W, np.float32)  # and times p times A
    for s in range(n):
        for i in range(w):
            a_log[s * _W + i] = decay[s * d + first + i]
            a_nat[s * _W + i] = a_matrix[s * d + first + i]
    for back in range(n_chunks):
        chunk = n_chunks - _1 - back
        begin = chunk * _K
        size = min(_K, length - begin)
        at = (_U(task) * n_chunks + chunk) * n * _W
        for i in range(n * _W):
            h[i] = states[at + i]
        for i_step in range(size):
            k = _U(i_step)
            t = length - _1 - begin - k if reverse else begin + k
            o = (row * length + t) * d + first
            m = (row * length + t) * n
            r = k * _W
            if raw_delta:
                for i in range(w):
                    dt[i] = softplus(delta[o + i])
            else:
                for i in range(w):
                    dt[i] = delta[o + i]
            for i in range(w):
                x[i] = dt[i] * u[o + i]
                dts[r + i] = dt[i]
                xs[r + i] = x[i]
            for s in range(n):
                j = s * _W
                kj = k * n * _W + j
                b_s = b[m + s]
                for i in range(w):
                    a_i = exp2(dt[i] * a_log[j + i])
                    p_i = a_i * h[j + i]
                    a[kj + i] = a_i
                    p[kj + i] = p_i
                    h[j + i] = p_i + x[i] * b_s
            if gated:
                for i in range(w):
                    y[r + i] = skip[first + i] * u[o + i]
                for s in range(n):
                    c_s = c[m + s]
                    for i in range(w):
                        y[r + i] += h[s * _W + i] * c_s
        for left in range(size):
            k = size - _1 - left
            t = length - _1 - begin - k if reverse else begin + k
            o = (row * length + t) * d + first
            m = (row * length + t) * n
            r = k * _W
            if gated:
                for i in range(w):
                    gate = sigmoid(z[o + i])
                    grad_y[i] = grad[o + i] * z[o + i] * gate
                    slope = gate * (F32(1.0) + z[o + i] * (F32(1.0) - gate))
                    grad_z[o + i] = grad[o + i] * y[r + i] * slope
            else:
                for i in range(w):
                    grad_y[i] = grad[o + i]
            through = F32(0.0)
            for i in range(w):
                dt[i] = dts[r + i]
                x[i] = xs[r + i]
                by_b[i] = F32(0.0)
                by_a[i] = F32(0.0)
                through += grad_y[i] * x[i]
            for s in range(n):
                j = s * _W
                kj = k * n * _W + j
                b_s, c_s = b[m + s], c[m + s]
                sum_b, sum_c = F32(0.0), F32(0.0)
                for i in range(w):
                    g = grad_h[j + i] + grad_y[i] * c_s
                    grad_h[j + i] = g
                    by_b[i] += g * b_s
                    sum_b += g * x[i]
                    sum_c += grad_y[i] * p[kj + i]
                partial = group * batch * length * n + m + s
                grad_b[partial] = sum_b
                grad_c[partial] = sum_c + through * b_s
                for i in range(w):
                    g = grad_h[j + i] * p[kj + i]
                    by_a[i] += g * a_nat[j + i]
                    p[kj + i] = g
                for i in range(w):
                    sum_a[j + i] += p[kj + i] * dt[i]
                    grad_h[j + i] *= a[kj + i]
            for i in range(w):
                sum_skip[i] += grad_y[i] * u[o + i]
                grad_u[o + i] = by_b[i] * dt[i] + grad_y[i] * skip[first + i]
            if raw_delta:
                for i in range(w):
                    slope = sigmoid(delta[o + i])
                    grad_delta[o + i] = (by_b[i] * u[o + i] + by_a[i]) * slope
            else:
                for i in range(w):
                    grad_delta[o + i] = by_b[i] * u[o + i] + by_a[i]
        for i in range(n * _W):
            total_a[i] += sum_a[i]
            sum_a[i] = F32(0.0)
        for i in range(w):
            total_skip[i] += sum_skip[i]
            sum_skip[i] = F32(0.0)
    for i in range(w):
        grad_skip[row * d + first + i] = total_skip[i]
    for s in range(n):
        for i in range(w):
            grad_a[(row * n + s) * d + first + i] = total_a[s * _W + i]


def states_shape(batch: int, length: int, d: int, n: int) -> tuple[int, ...]:
    """Shape of the states that forward keeps for backward, one every ``K`` steps."""
    n_groups, n_chunks = -(-d // _WIDTH), -(-length // _CHUNK)
    return (batch * n_groups, n_chunks, -(-n // _UNROLL) * _UNROLL, _WIDTH)


def forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    *,
    delta_softplus: bool,
    reverse: bool,
    save: bool,
) -> tuple[Tensor, Tensor]:
    """Output in the dtype of `u`, and the states at the start of each chunk in float32."""
    batch, length, d = u.shape
    n = A.shape[1]
    a_padded, b, c = _padded(A, B, C)
    out = torch.empty(u.shape)
    states = torch.empty(states_shape(batch, length, d, n) if save else (0,))
    # A state of 0 starts as nan where A is not finite: the clipped exponential would hide it.
    tensors = (
        *(u, delta, a_padded * float(LOG2_E), a_padded * 0.0, b, c),
        *(_or_zeros(D, d), _or_zeros(z, 0), out, states),
    )
    shape = (batch, length, d, a_padded.shape[0])
    options = (shape, delta_softplus, z is not None, reverse)
    run_tasks(_forward_task, batch * -(-d // _WIDTH), out.numel() * n, tensors, *options)
    return out.to(u.dtype), states


def backward(
    grad: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    states: Tensor,
    *,
    delta_softplus: bool,
    reverse: bool,
) -> tuple[Tensor | None, ...]:
    """Gradients of all inputs, each in the dtype of its input."""
    batch, length, d = u.shape
    n = A.shape[1]
    a_padded, b, c = _padded(A, B, C)
    n_padded, n_groups = a_padded.shape[0], -(-d // _WIDTH)
    grad_u, grad_delta = torch.empty(u.shape), torch.empty(u.shape)
    grad_z = torch.empty(u.shape if z is not None else (0,))
    grad_a = torch.empty(batch, n_padded, d)
    grad_b = torch.empty(n_groups, batch, length, n_padded)
    grad_c = torch.empty_like(grad_b)
    grad_skip = torch.empty(batch, d)
    tensors = (
        *(grad, u, delta, a_padded * float(LOG2_E), a_padded, b, c),
        *(_or_zeros(D, d), _or_zeros(z, 0), states),
        *(grad_u, grad_delta, grad_a, grad_b, grad_c, grad_skip, grad_z),
    )
    shape = (batch, length, d, n_padded)
    options = (shape, delta_softplus, z is not None, reverse)
    run_tasks(_backward_task, batch * n_groups, u.numel() * n, tensors, *options)
    return (
        grad_u.to(u.dtype),
        grad_delta.to(delta.dtype),
        grad_a.sum(dim=0)[:n].T.to(A.dtype),
        grad_b.sum(dim=0)[..., :n].to(B.dtype),
        grad_c.sum(dim=0)[..., :n].to(C.dtype),
        None if D is None else grad_skip.sum(dim=0).to(D.dtype),
        None if z is None else grad_z.to(z.dtype),
    )


def _padded(A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give A as ``(n, d)``, B and C, in float32, with as many states as the kernels unroll."""
    more = -A.shape[1] % _UNROLL
    transposed = A.detach().float().T
    if more:
        transposed = torch.nn.functional.pad(transposed, (0, 0, 0, more))
        B, C = (torch.nn.functional.pad(x.detach().float(), (0, more)) for x in (B, C))
    return transposed, B, C


def _or_zeros(tensor: Tensor | None, size: int) -> Tensor:
    return torch.zeros(size) if tensor is None else tensor
