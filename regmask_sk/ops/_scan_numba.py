"""Selective scan on CPU, compiled with Numba.

Symbols
-------
``d``, ``n``
    Channels, and states of a channel. ``n`` is padded to a multiple of 4 with states whose
    B and C are 0.
``W``
    Channels that a task works on at once, ``_WIDTH``: the innermost, vectorised loop.
``K``
    Steps between two saved states, ``CHUNK``.
``a``, ``h``, ``p``
    Decay of a state in a step, the state, and ``a * h`` before the step's input is added.

A task is one row of the batch and ``W`` channels; it walks along the length, chunk by chunk, and
keeps its states in cache. Backward walks the chunks from the last to the first: it computes the
states of a chunk anew from the one saved at its start, then goes back through them.

What a chunk needs of the inputs is fetched before anything is computed from it: step by step,
the few channels of a task are too short a stretch of memory for the processor to foresee the
next one, and it would wait for each.

All arrays are flat and indexed with unsigned integers, so that there are neither reference
counts nor checks for negative indices in the way of the vectoriser. Scratch is one array with
fields a constant distance apart, so that it sees that they do not overlap; loops over scratch
run over all ``W`` channels, where there are fewer over zeros.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from regmask_sk.ops._numba_compiled import compiled
from regmask_sk.ops._numba_math import F32, LOG2_E, exp2, run_tasks, sigmoid, softplus

_WIDTH = 64  # channels: 8 AVX2 vectors
CHUNK = 32  # steps: the scratch of a chunk, 256 KiB with 16 states, stays in the L2 cache
_UNROLL = 4  # states that one loop over channels advances

_U: Any = np.uint64
_W = _U(_WIDTH)
_K = _U(CHUNK)
_KW = _K * _W
_0, _1, _2, _3, _4, _7 = (_U(i) for i in (0, 1, 2, 3, 4, 7))
_LN_2 = F32(1.0) / LOG2_E
# Where fields begin, in the scratch of the states (W of each) and of a chunk (K W of each).
_H, _A_LOG, _GRAD_H, _SUM_A = (_U(field * _WIDTH) for field in range(4))
_DT, _X, _Y, _Z, _U_, _GRAD_Y, _SLOPE = (_U(field * _WIDTH * CHUNK) for field in range(7))


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
    end: Any,
    shape: Any,
    raw_delta: bool,
    gated: bool,
    reverse: bool,
) -> None:
    """One row of the batch and ``W`` channels, from the first step to the last.

    ``decay`` is A times log2(e), ``(n, d)``; ``start`` and ``end`` are the states before the first
    step and after the last, ``(batch, n, d)``; ``states`` is ``(chunk, task, n, W)``, or empty
    where they are not to be kept.
    """
    batch, length, d, n = _U(shape[0]), _U(shape[1]), _U(shape[2]), _U(shape[3])
    n_groups = (d + _W - _1) // _W
    n_tasks = batch * n_groups
    row, group = _U(task) // n_groups, _U(task) % n_groups
    first = group * _W
    w = min(_W, d - first)
    n_chunks = (length + _K - _1) // _K
    keep = len(states) > 0
    state = np.zeros(n * _2 * _W, np.float32)
    chunk = np.zeros(_4 * _KW, np.float32)
    for s in range(n):
        for i in range(w):
            state[s * _2 * _W + i + _H] = start[(row * n + s) * d + first + i]
            state[s * _2 * _W + i + _A_LOG] = decay[s * d + first + i]
    for i_chunk in range(n_chunks):
        begin = _U(i_chunk) * _K
        size = min(_K, length - begin)
        if keep:
            at = (_U(i_chunk) * n_tasks + _U(task)) * n * _W
            for s in range(n):
                for i in range(_W):
                    states[at + s * _W + i] = state[s * _2 * _W + i + _H]
        for i_step in range(size):
            k = _U(i_step)
            o = (row * length + (length - _1 - begin - k if reverse else begin + k)) * d + first
            r = k * _W
            for i in range(w):
                chunk[r + i + _DT] = delta[o + i]
                chunk[r + i + _X] = u[o + i]
                chunk[r + i + _Y] = skip[first + i] * u[o + i]
            if gated:
                for i in range(w):
                    chunk[r + i + _Z] = z[o + i]
        if raw_delta:
            for i in range(size * _W):
                chunk[i + _DT] = softplus(chunk[i + _DT])
        for i in range(size * _W):
            chunk[i + _X] *= chunk[i + _DT]
        for i_step in range(size):
            k = _U(i_step)
            t = length - _1 - begin - k if reverse else begin + k
            m = (row * length + t) * n
            r = k * _W
            for quad in range(n // _4):
                s = quad * _4
                b0, b1, b2, b3 = b[m + s], b[m + s + _1], b[m + s + _2], b[m + s + _3]
                c0, c1, c2, c3 = c[m + s], c[m + s + _1], c[m + s + _2], c[m + s + _3]
                for i in range(_W):
                    j0 = s * _2 * _W + i
                    j1 = j0 + _2 * _W
                    j2 = j1 + _2 * _W
                    j3 = j2 + _2 * _W
                    dt = chunk[r + i + _DT]
                    x = chunk[r + i + _X]
                    h0 = exp2(dt * state[j0 + _A_LOG]) * state[j0 + _H] + x * b0
                    h1 = exp2(dt * state[j1 + _A_LOG]) * state[j1 + _H] + x * b1
                    h2 = exp2(dt * state[j2 + _A_LOG]) * state[j2 + _H] + x * b2
                    h3 = exp2(dt * state[j3 + _A_LOG]) * state[j3 + _H] + x * b3
                    state[j0 + _H] = h0
                    state[j1 + _H] = h1
                    state[j2 + _H] = h2
                    state[j3 + _H] = h3
                    chunk[r + i + _Y] += h0 * c0 + h1 * c1 + h2 * c2 + h3 * c3
        if gated:
            for i in range(size * _W):
                chunk[i + _Y] *= chunk[i + _Z] * sigmoid(chunk[i + _Z])
        for i_step in range(size):
            k = _U(i_step)
            o = (row * length + (length - _1 - begin - k if reverse else begin + k)) * d + first
            for i in range(w):
                out[o + i] = chunk[k * _W + i + _Y]
    for s in range(n):
        for i in range(w):
            end[(row * n + s) * d + first + i] = state[s * _2 * _W + i + _H]


@compiled
def _backward_task(
    task: int,
    grad: Any,
    u: Any,
    delta: Any,
    decay: Any,
    b: Any,
    c: Any,
    skip: Any,
    z: Any,
    states: Any,
    grad_end: Any,
    grad_start: Any,
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
    n_tasks = batch * n_groups
    row, group = _U(task) // n_groups, _U(task) % n_groups
    first = group * _W
    w = min(_W, d - first)
    n_chunks = (length + _K - _1) // _K
    state = np.zeros(n * _4 * _W, np.float32)
    chunk = np.zeros(_7 * _KW, np.float32)
    past = np.zeros(_K * n * _2 * _W, np.float32)  # a, and a * h, of each step and state
    by_b = np.zeros(_W, np.float32)  # sum over states of their gradient times B
    by_a = np.zeros(_W, np.float32)  # and times p times A
    sum_skip = np.zeros(_W, np.float32)  # over a chunk; over the whole length in float64
    total_a = np.zeros(n * _W, np.float64)
    total_skip = np.zeros(_W, np.float64)
    for s in range(n):
        for i in range(w):
            state[s * _4 * _W + i + _A_LOG] = decay[s * d + first + i]
            state[s * _4 * _W + i + _GRAD_H] = grad_end[(row * n + s) * d + first + i]
    for back in range(n_chunks):
        i_chunk = n_chunks - _1 - back
        begin = i_chunk * _K
        size = min(_K, length - begin)
        at = (i_chunk * n_tasks + _U(task)) * n * _W
        for s in range(n):
            for i in range(_W):
                state[s * _4 * _W + i + _H] = states[at + s * _W + i]
        for i_step in range(size):
            k = _U(i_step)
            o = (row * length + (length - _1 - begin - k if reverse else begin + k)) * d + first
            r = k * _W
            for i in range(w):
                chunk[r + i + _DT] = delta[o + i]
                chunk[r + i + _U_] = u[o + i]
                chunk[r + i + _GRAD_Y] = grad[o + i]
                chunk[r + i + _Y] = skip[first + i] * u[o + i]
            if gated:
                for i in range(w):
                    chunk[r + i + _Z] = z[o + i]
        if raw_delta:
            for i in range(size * _W):
                raw = chunk[i + _DT]
                chunk[i + _DT] = softplus(raw)
                chunk[i + _SLOPE] = sigmoid(raw)
        for i in range(size * _W):
            chunk[i + _X] = chunk[i + _DT] * chunk[i + _U_]
        if gated:
            for i in range(size * _W):
                raw = chunk[i + _Z]
                gate = sigmoid(raw)
                asked = chunk[i + _GRAD_Y]
                chunk[i + _GRAD_Y] = asked * raw * gate
                chunk[i + _Z] = asked * gate * (F32(1.0) + raw * (F32(1.0) - gate))
        for i_step in range(size):
            k = _U(i_step)
            t = length - _1 - begin - k if reverse else begin + k
            m = (row * length + t) * n
            r = k * _W
            for quad in range(n // _4):
                s = quad * _4
                b0, b1, b2, b3 = b[m + s], b[m + s + _1], b[m + s + _2], b[m + s + _3]
                c0, c1, c2, c3 = c[m + s], c[m + s + _1], c[m + s + _2], c[m + s + _3]
                for i in range(_W):
                    j0 = s * _4 * _W + i
                    j1 = j0 + _4 * _W
                    j2 = j1 + _4 * _W
                    j3 = j2 + _4 * _W
                    k0 = (k * n + s) * _2 * _W + i
                    k1 = k0 + _2 * _W
                    k2 = k1 + _2 * _W
                    k3 = k2 + _2 * _W
                    dt = chunk[r + i + _DT]
                    x = chunk[r + i + _X]
                    a0 = exp2(dt * state[j0 + _A_LOG])
                    a1 = exp2(dt * state[j1 + _A_LOG])
                    a2 = exp2(dt * state[j2 + _A_LOG])
                    a3 = exp2(dt * state[j3 + _A_LOG])
                    p0 = a0 * state[j0 + _H]
                    p1 = a1 * state[j1 + _H]
                    p2 = a2 * state[j2 + _H]
                    p3 = a3 * state[j3 + _H]
                    h0 = p0 + x * b0
                    h1 = p1 + x * b1
                    h2 = p2 + x * b2
                    h3 = p3 + x * b3
                    past[k0] = a0
                    past[k1] = a1
                    past[k2] = a2
                    past[k3] = a3
                    past[k0 + _W] = p0
                    past[k1 + _W] = p1
                    past[k2 + _W] = p2
                    past[k3 + _W] = p3
                    state[j0 + _H] = h0
                    state[j1 + _H] = h1
                    state[j2 + _H] = h2
                    state[j3 + _H] = h3
                    chunk[r + i + _Y] += h0 * c0 + h1 * c1 + h2 * c2 + h3 * c3
        for left in range(size):
            k = size - _1 - left
            t = length - _1 - begin - k if reverse else begin + k
            o = (row * length + t) * d + first
            m = (row * length + t) * n
            r = k * _W
            through = F32(0.0)
            for i in range(_W):
                by_b[i] = F32(0.0)
                by_a[i] = F32(0.0)
                through += chunk[r + i + _GRAD_Y] * chunk[r + i + _X]
            for pair in range(n // _2):
                s = pair * _2
                b0, b1, c0, c1 = b[m + s], b[m + s + _1], c[m + s], c[m + s + _1]
                sum_b0, sum_b1, sum_c0, sum_c1 = F32(0.0), F32(0.0), F32(0.0), F32(0.0)
                for i in range(_W):
                    j0 = s * _4 * _W + i
                    j1 = j0 + _4 * _W
                    k0 = (k * n + s) * _2 * _W + i
                    k1 = k0 + _2 * _W
                    grad_y = chunk[r + i + _GRAD_Y]
                    x = chunk[r + i + _X]
                    dt = chunk[r + i + _DT]
                    p0 = past[k0 + _W]
                    p1 = past[k1 + _W]
                    g0 = state[j0 + _GRAD_H] + grad_y * c0
                    g1 = state[j1 + _GRAD_H] + grad_y * c1
                    state[j0 + _GRAD_H] = g0 * past[k0]
                    state[j1 + _GRAD_H] = g1 * past[k1]
                    sum_b0 += g0 * x
                    sum_b1 += g1 * x
                    sum_c0 += grad_y * p0
                    sum_c1 += grad_y * p1
                    q0 = g0 * p0
                    q1 = g1 * p1
                    by_b[i] += g0 * b0 + g1 * b1
                    by_a[i] += q0 * state[j0 + _A_LOG] + q1 * state[j1 + _A_LOG]
                    state[j0 + _SUM_A] += q0 * dt
                    state[j1 + _SUM_A] += q1 * dt
                partial = group * batch * length * n + m + s
                grad_b[partial] = sum_b0
                grad_b[partial + _1] = sum_b1
                grad_c[partial] = sum_c0 + through * b0
                grad_c[partial + _1] = sum_c1 + through * b1
            for i in range(w):
                grad_y = chunk[r + i + _GRAD_Y]
                sum_skip[i] += grad_y * chunk[r + i + _U_]
                grad_u[o + i] = by_b[i] * chunk[r + i + _DT] + grad_y * skip[first + i]
            for i in range(w):
                asked = by_b[i] * chunk[r + i + _U_] + by_a[i] * _LN_2
                grad_delta[o + i] = asked * chunk[r + i + _SLOPE] if raw_delta else asked
            if gated:
                for i in range(w):
                    grad_z[o + i] = chunk[r + i + _Y] * chunk[r + i + _Z]
        for s in range(n):
            for i in range(_W):
                total_a[s * _W + i] += state[s * _4 * _W + i + _SUM_A]
                state[s * _4 * _W + i + _SUM_A] = F32(0.0)
        for i in range(w):
            total_skip[i] += sum_skip[i]
            sum_skip[i] = F32(0.0)
    for i in range(w):
        grad_skip[row * d + first + i] = total_skip[i]
    for s in range(n):
        for i in range(w):
            at = (row * n + s) * d + first + i
            grad_a[at] = total_a[s * _W + i]
            grad_start[at] = state[s * _4 * _W + i + _GRAD_H]


def states_shape(batch: int, length: int, d: int, n: int) -> tuple[int, ...]:
    """Shape of the states that forward keeps for backward, one every ``K`` steps."""
    n_groups, n_chunks = -(-d // _WIDTH), -(-length // CHUNK)
    return (n_chunks, batch * n_groups, -(-n // _UNROLL) * _UNROLL, _WIDTH)


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
    start: Tensor | None = None,
    out: Tensor | None = None,
    states: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output in the dtype of `u`, the states at the start of each chunk, and the last state.

    States are float32; ``start``, the state before the first step, and the last one are
    ``(batch, n, d)`` with ``n`` padded. Without ``start`` that state is 0. ``out`` and
    ``states``, contiguous and float32, are written to where they are given.
    """
    batch, length, d = u.shape
    a_padded, b, c = _padded(A, B, C)
    n = a_padded.shape[0]
    out = torch.empty(u.shape) if out is None else out
    if states is None:
        states = torch.empty(states_shape(batch, length, d, n) if save else (0,))
    # A state of 0 starts as nan where A is not finite: the clipped exponential would hide it.
    zero = (a_padded * 0.0).expand(batch, n, d)
    end = torch.empty(batch, n, d)
    tensors = (
        *(u, delta, a_padded * float(LOG2_E), zero if start is None else start + zero, b, c),
        *(_or_zeros(D, d), _or_zeros(z, 0), out, states, end),
    )
    options = ((batch, length, d, n), delta_softplus, z is not None, reverse)
    run_tasks(_forward_task, batch * -(-d // _WIDTH), out.numel() * n, tensors, *options)
    return out.to(u.dtype), states, end


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
    grad_end: Tensor | None = None,
    grad_z: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    """Gradients of the seven inputs, each in the dtype of its input, and that of the first state.

    ``grad_end`` is the gradient of the last state, 0 without it; ``grad_z``, contiguous and
    float32, is written to where it is given.
    """
    batch, length, d = u.shape
    n = A.shape[1]
    a_padded, b, c = _padded(A, B, C)
    n_padded, n_groups = a_padded.shape[0], -(-d // _WIDTH)
    grad_u, grad_delta = torch.empty(u.shape), torch.empty(u.shape)
    if grad_z is None:
        grad_z = torch.empty(u.shape if z is not None else (0,))
    grad_a, grad_start = torch.empty(batch, n_padded, d), torch.empty(batch, n_padded, d)
    grad_b = torch.empty(n_groups, batch, length, n_padded)
    grad_c = torch.empty_like(grad_b)
    grad_skip = torch.empty(batch, d)
    tensors = (
        *(grad, u, delta, a_padded * float(LOG2_E), b, c, _or_zeros(D, d), _or_zeros(z, 0)),
        *(states, torch.zeros(batch, n_padded, d) if grad_end is None else grad_end, grad_start),
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
        grad_start,
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
