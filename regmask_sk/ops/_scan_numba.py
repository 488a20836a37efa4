"""Selective scan on CPU, compiled with Numba.

Symbols
-------
``d``, ``n``
    Channels, and states of a channel. ``n`` is padded to a multiple of 4 with states whose
    B and C are 0.
``W``
    Channels that a task works on at once, ``_WIDTH``: the innermost, vectorised loop. Fewer where
    there are fewer, but full vectors.
``K``
    Steps between two saved states, ``CHUNK``.
``a``, ``h``, ``p``
    Decay of a state in a step, the state, and ``a * h`` before the step's input is added.
``r``
    Rank of the step sizes, padded as ``n`` is. With ``r`` of 0 they come as ``(batch, length, d)``,
    else as what is projected to them.

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
from numba import njit
from torch import Tensor

from regmask_sk.ops._numba_compiled import OPTIONS, compiled
from regmask_sk.ops._numba_math import (
    F32,
    LOG2_E,
    Job,
    exp2,
    run_jobs,
    sigmoid,
    softplus,
    softplus_and_slope,
)

_WIDTH = 128  # channels: 16 AVX2 vectors, as the start of a loop costs as much as a few
_VECTOR = 32  # channels that are a whole number of vectors, however the compiler unrolls
CHUNK = 32  # steps: the scratch of a chunk, 512 KiB with 16 states, stays near the L2 cache
_UNROLL = 4  # states that one loop over channels advances

_U: Any = np.uint64
_W, _V = _U(_WIDTH), _U(_VECTOR)
_K = _U(CHUNK)
_KW = _K * _W
_0, _1, _2, _3, _4, _5, _6, _7, _8 = (_U(i) for i in range(9))
_LN_2 = F32(1.0) / LOG2_E
# Where fields begin, in the scratch of the states (W of each) and of a chunk (K W of each).
_H, _A_LOG, _GRAD_H, _SUM_A = (_U(field * _WIDTH) for field in range(4))
_DT, _X, _Y, _Z, _U_, _GRAD_Y, _SLOPE, _GATE = (_U(i * _WIDTH * CHUNK) for i in range(8))
_BY_B, _BY_A = _Y, _GATE  # backward's, when it needs the others no more
# Behind the states: what there is of each channel once, then the rows of the step sizes.
_SKIP, _BIAS, _SUM_SKIP, _SUM_BIAS, _ROWS = (_U(field * _WIDTH) for field in range(5))


@njit(inline="always", **OPTIONS)
def _place_parameters(
    state: Any,
    at: Any,
    skip: Any,
    dt_weight: Any,
    dt_bias: Any,
    first: Any,
    w: Any,
    d: Any,
    rank: Any,
) -> None:
    """Put what there is of each channel into the scratch: loops see two arrays at most."""
    for i in range(w):
        state[at + _SKIP + i] = skip[first + i]
    if rank > _0:
        for i in range(w):
            state[at + _BIAS + i] = dt_bias[first + i]
    for q in range(rank):
        for i in range(w):
            state[at + _ROWS + q * _W + i] = dt_weight[q * d + first + i]


@njit(inline="always", **OPTIONS)
def _project_step(
    chunk: Any, r: Any, low: Any, from_: Any, state: Any, at: Any, wide: Any, rank: Any
) -> None:
    """Step sizes of one step: weights and bias, times what stands at ``low[from_]``."""
    for i in range(wide):
        chunk[r + i + _DT] = state[at + _BIAS + i]
    for eight in range(rank // _8):
        q = from_ + eight * _8
        x0, x1, x2, x3 = low[q], low[q + _1], low[q + _2], low[q + _3]
        x4, x5, x6, x7 = low[q + _4], low[q + _5], low[q + _6], low[q + _7]
        o = at + _ROWS + eight * _8 * _W
        for i in range(wide):
            chunk[r + i + _DT] += (
                x0 * state[o + i]
                + x1 * state[o + i + _W]
                + x2 * state[o + i + _2 * _W]
                + x3 * state[o + i + _3 * _W]
            ) + (
                x4 * state[o + i + _4 * _W]
                + x5 * state[o + i + _5 * _W]
                + x6 * state[o + i + _6 * _W]
                + x7 * state[o + i + _7 * _W]
            )


@compiled
def forward_task(
    task: int,
    u: Any,
    delta: Any,
    dt_weight: Any,
    dt_bias: Any,
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
    add: bool,
) -> None:
    """One row of the batch and ``W`` channels, from the first step to the last.

    ``decay`` is A times log2(e), ``(n, d)``; ``start`` and ``end`` are the states before the first
    step and after the last, ``(batch, n, d)``; ``states`` is ``(chunk, task, n, W)``, or empty
    where they are not to be kept. With `add`, ``out`` is added to.

    ``shape`` is ``(batch, length, d, n, r, stride, pitch, gate_stride)``. Between two steps of B,
    C and what is projected to step sizes are ``stride`` numbers, between two of ``z``
    ``gate_stride``; ``z`` and ``out`` have ``pitch`` steps a row, so that they may be a stretch of
    something longer.
    """
    batch, length, d, n = _U(shape[0]), _U(shape[1]), _U(shape[2]), _U(shape[3])
    rank, stride, pitch, gate_stride = _U(shape[4]), _U(shape[5]), _U(shape[6]), _U(shape[7])
    n_groups = (d + _W - _1) // _W
    n_tasks = batch * n_groups
    row, group = _U(task) // n_groups, _U(task) % n_groups
    first = group * _W
    w = min(_W, d - first)
    wide = (min(_W, d) + _V - _1) // _V * _V
    n_chunks = (length + _K - _1) // _K
    keep = len(states) > 0
    once = n * _2 * _W
    state = np.zeros(once + _ROWS + rank * _W, np.float32)
    chunk = np.zeros(_4 * _KW, np.float32)
    _place_parameters(state, once, skip, dt_weight, dt_bias, first, w, d, rank)
    for s in range(n):
        for i in range(w):
            state[s * _2 * _W + i + _H] = start[(row * n + s) * d + first + i]
            state[s * _2 * _W + i + _A_LOG] = decay[s * d + first + i]
    for i_chunk in range(n_chunks):
        begin = _U(i_chunk) * _K
        size = min(_K, length - begin)
        if keep:
            at = (_U(i_chunk) * n_tasks + _U(task)) * n * wide
            for s in range(n):
                for i in range(wide):
                    states[at + s * wide + i] = state[s * _2 * _W + i + _H]
        for i_step in range(size):
            k = _U(i_step)
            t = length - _1 - begin - k if reverse else begin + k
            o = (row * length + t) * d + first
            r = k * wide
            for i in range(w):
                chunk[r + i + _X] = u[o + i]
            if rank == _0:
                for i in range(w):
                    chunk[r + i + _DT] = delta[o + i]
            else:
                _project_step(chunk, r, delta, (row * length + t) * stride, state, once, wide, rank)
            if gated:
                o = (row * pitch + t) * gate_stride + first
                for i in range(w):
                    chunk[r + i + _Z] = z[o + i]
            for i in range(wide):
                chunk[r + i + _Y] = state[once + _SKIP + i] * chunk[r + i + _X]
        if raw_delta:
            for i in range(size * wide):
                chunk[i + _DT] = softplus(chunk[i + _DT])
        for i in range(size * wide):
            chunk[i + _X] *= chunk[i + _DT]
        for i_step in range(size):
            k = _U(i_step)
            t = length - _1 - begin - k if reverse else begin + k
            m = (row * length + t) * stride
            r = k * wide
            for quad in range(n // _4):
                s = quad * _4
                b0, b1, b2, b3 = b[m + s], b[m + s + _1], b[m + s + _2], b[m + s + _3]
                c0, c1, c2, c3 = c[m + s], c[m + s + _1], c[m + s + _2], c[m + s + _3]
                for i in range(wide):
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
            for i in range(size * wide):
                chunk[i + _Y] *= chunk[i + _Z] * sigmoid(chunk[i + _Z])
        for i_step in range(size):
            k = _U(i_step)
            o = (row * pitch + (length - _1 - begin - k if reverse else begin + k)) * d + first
            if add:
                for i in range(w):
                    out[o + i] += chunk[k * wide + i + _Y]
            else:
                for i in range(w):
                    out[o + i] = chunk[k * wide + i + _Y]
    for s in range(n):
        for i in range(w):
            end[(row * n + s) * d + first + i] = state[s * _2 * _W + i + _H]


@compiled
def backward_task(
    task: int,
    grad: Any,
    u: Any,
    delta: Any,
    dt_weight: Any,
    dt_bias: Any,
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
    grad_dt_weight: Any,
    grad_dt_bias: Any,
    grad_a: Any,
    grad_b: Any,
    grad_c: Any,
    grad_skip: Any,
    grad_z: Any,
    out: Any,
    shape: Any,
    raw_delta: bool,
    gated: bool,
    reverse: bool,
    add: bool,
) -> None:
    """Gradients of one row of the batch and ``W`` channels, from the last chunk to the first.

    ``grad_a`` is ``(batch, n, d)``, ``grad_skip`` ``(batch, d)``, ``grad_b`` and ``grad_c``
    ``(group, batch, length, n)``: no two tasks write to the same place. Gradients of parameters
    are added to what is there, with `add` those of ``z`` as well, and the output of forward, which
    is given again where there is an ``out`` and a gate. ``shape`` is that of forward, and
    ``grad_z`` is laid out as ``z``.
    """
    batch, length, d, n = _U(shape[0]), _U(shape[1]), _U(shape[2]), _U(shape[3])
    rank, stride, pitch, gate_stride = _U(shape[4]), _U(shape[5]), _U(shape[6]), _U(shape[7])
    n_groups = (d + _W - _1) // _W
    n_tasks = batch * n_groups
    row, group = _U(task) // n_groups, _U(task) % n_groups
    first = group * _W
    w = min(_W, d - first)
    wide = (min(_W, d) + _V - _1) // _V * _V
    n_chunks = (length + _K - _1) // _K
    again = len(out) > 0
    once = n * _4 * _W
    state = np.zeros(once + _ROWS + rank * _W, np.float32)
    sums = np.zeros(rank * _W, np.float32)  # of the gradients of the rows of the step sizes
    chunk = np.zeros(_8 * _KW, np.float32)
    past = np.empty(_K * n * _2 * _W, np.float32)  # a, and a * h, of each step and state
    # Over a chunk sums are float32, over the whole length float64.
    total_a = np.zeros(n * _W, np.float64)
    total_skip = np.zeros(_W, np.float64)
    total_dt = np.zeros((rank + _1) * _W, np.float64)
    _place_parameters(state, once, skip, dt_weight, dt_bias, first, w, d, rank)
    for s in range(n):
        for i in range(w):
            state[s * _4 * _W + i + _A_LOG] = decay[s * d + first + i]
            state[s * _4 * _W + i + _GRAD_H] = grad_end[(row * n + s) * d + first + i]
    for back in range(n_chunks):
        i_chunk = n_chunks - _1 - back
        begin = i_chunk * _K
        size = min(_K, length - begin)
        at = (i_chunk * n_tasks + _U(task)) * n * wide
        for s in range(n):
            for i in range(wide):
                state[s * _4 * _W + i + _H] = states[at + s * wide + i]
        for i_step in range(size):
            k = _U(i_step)
            t = length - _1 - begin - k if reverse else begin + k
            o = (row * length + t) * d + first
            r = k * wide
            for i in range(w):
                chunk[r + i + _U_] = u[o + i]
            if rank == _0:
                for i in range(w):
                    chunk[r + i + _DT] = delta[o + i]
            else:
                _project_step(chunk, r, delta, (row * length + t) * stride, state, once, wide, rank)
            o = (row * pitch + t) * d + first
            for i in range(w):
                chunk[r + i + _GRAD_Y] = grad[o + i]
            if gated:
                o = (row * pitch + t) * gate_stride + first
                for i in range(w):
                    chunk[r + i + _Z] = z[o + i]
            for i in range(wide):
                chunk[r + i + _Y] = state[once + _SKIP + i] * chunk[r + i + _U_]
        if raw_delta:
            for i in range(size * wide):
                chunk[i + _DT], chunk[i + _SLOPE] = softplus_and_slope(chunk[i + _DT])
        for i in range(size * wide):
            chunk[i + _X] = chunk[i + _DT] * chunk[i + _U_]
        if gated:
            for i in range(size * wide):
                raw = chunk[i + _Z]
                gate = sigmoid(raw)
                asked = chunk[i + _GRAD_Y]
                chunk[i + _GATE] = raw * gate
                chunk[i + _GRAD_Y] = asked * raw * gate
                chunk[i + _Z] = asked * gate * (F32(1.0) + raw * (F32(1.0) - gate))
        for i_step in range(size):
            k = _U(i_step)
            t = length - _1 - begin - k if reverse else begin + k
            m = (row * length + t) * stride
            r = k * wide
            for quad in range(n // _4):
                s = quad * _4
                b0, b1, b2, b3 = b[m + s], b[m + s + _1], b[m + s + _2], b[m + s + _3]
                c0, c1, c2, c3 = c[m + s], c[m + s + _1], c[m + s + _2], c[m + s + _3]
                for i in range(wide):
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
        for i_step in range(size):
            k = _U(i_step)
            t = row * pitch + (length - _1 - begin - k if reverse else begin + k)
            r = k * wide
            if gated:
                o = t * gate_stride + first
                if add:
                    for i in range(w):
                        grad_z[o + i] += chunk[r + i + _Y] * chunk[r + i + _Z]
                else:
                    for i in range(w):
                        grad_z[o + i] = chunk[r + i + _Y] * chunk[r + i + _Z]
            if again:
                o = t * d + first
                if add:
                    for i in range(w):
                        out[o + i] += chunk[r + i + _Y] * chunk[r + i + _GATE]
                else:
                    for i in range(w):
                        out[o + i] = chunk[r + i + _Y] * chunk[r + i + _GATE]
            for i in range(wide):
                chunk[r + i + _BY_B] = F32(0.0)  # sum over states of their gradient times B
                chunk[r + i + _BY_A] = F32(0.0)  # and times p times A
        for left in range(size):
            k = size - _1 - left
            t = length - _1 - begin - k if reverse else begin + k
            m = (row * length + t) * stride
            r = k * wide
            through = F32(0.0)
            for i in range(wide):
                through += chunk[r + i + _GRAD_Y] * chunk[r + i + _X]
            for pair in range(n // _2):
                s = pair * _2
                b0, b1, c0, c1 = b[m + s], b[m + s + _1], c[m + s], c[m + s + _1]
                sum_b0, sum_b1, sum_c0, sum_c1 = F32(0.0), F32(0.0), F32(0.0), F32(0.0)
                for i in range(wide):
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
                    chunk[r + i + _BY_B] += g0 * b0 + g1 * b1
                    chunk[r + i + _BY_A] += q0 * state[j0 + _A_LOG] + q1 * state[j1 + _A_LOG]
                    state[j0 + _SUM_A] += q0 * dt
                    state[j1 + _SUM_A] += q1 * dt
                partial = group * batch * length * stride + m + s
                grad_b[partial] = sum_b0
                grad_b[partial + _1] = sum_b1
                grad_c[partial] = sum_c0 + through * b0
                grad_c[partial + _1] = sum_c1 + through * b1
        # The gradient of the step size replaces by_a, that of the input by_b.
        for i in range(size * wide):
            by_b = chunk[i + _BY_B]
            chunk[i + _BY_A] = by_b * chunk[i + _U_] + chunk[i + _BY_A] * _LN_2
            chunk[i + _BY_B] = by_b * chunk[i + _DT]
        if raw_delta:
            for i in range(size * wide):
                chunk[i + _BY_A] *= chunk[i + _SLOPE]
        for i_step in range(size):
            k = _U(i_step)
            t = length - _1 - begin - k if reverse else begin + k
            o = (row * length + t) * d + first
            m = (row * length + t) * stride
            r = k * wide
            for i in range(wide):
                grad_y = chunk[r + i + _GRAD_Y]
                state[once + _SUM_SKIP + i] += grad_y * chunk[r + i + _U_]
                chunk[r + i + _BY_B] += grad_y * state[once + _SKIP + i]
            for i in range(w):
                grad_u[o + i] = chunk[r + i + _BY_B]
            if rank == _0:
                for i in range(w):
                    grad_delta[o + i] = chunk[r + i + _BY_A]
        if rank > _0:
            # Four steps at a time; what is beyond the last one has no gradient.
            for i in range(size * wide, (size + _3) // _4 * _4 * wide):
                chunk[_U(i) + _BY_A] = F32(0.0)
            for four in range((size + _3) // _4):
                k0 = _U(four) * _4
                k1, k2, k3 = (
                    min(k0 + _1, size - _1),
                    min(k0 + _2, size - _1),
                    min(k0 + _3, size - _1),
                )
                t = row * length + (length - _1 - begin if reverse else begin)
                m0 = (t - k0 if reverse else t + k0) * stride
                m1 = (t - k1 if reverse else t + k1) * stride
                m2 = (t - k2 if reverse else t + k2) * stride
                m3 = (t - k3 if reverse else t + k3) * stride
                r0 = k0 * wide + _BY_A
                r1 = r0 + wide
                r2 = r1 + wide
                r3 = r2 + wide
                for i in range(wide):
                    state[once + _SUM_BIAS + i] += (chunk[r0 + i] + chunk[r1 + i]) + (
                        chunk[r2 + i] + chunk[r3 + i]
                    )
                partial = group * batch * length * stride
                for pair in range(rank // _2):
                    q = pair * _2
                    d0, e0 = delta[m0 + q], delta[m0 + q + _1]
                    d1, e1 = delta[m1 + q], delta[m1 + q + _1]
                    d2, e2 = delta[m2 + q], delta[m2 + q + _1]
                    d3, e3 = delta[m3 + q], delta[m3 + q + _1]
                    to = q * _W
                    for i in range(wide):
                        a0, a1, a2, a3 = chunk[r0 + i], chunk[r1 + i], chunk[r2 + i], chunk[r3 + i]
                        sums[to + i] += (a0 * d0 + a1 * d1) + (a2 * d2 + a3 * d3)
                        sums[to + i + _W] += (a0 * e0 + a1 * e1) + (a2 * e2 + a3 * e3)
                    from_ = once + _ROWS + q * _W
                    d0, d1, d2, d3 = F32(0.0), F32(0.0), F32(0.0), F32(0.0)
                    e0, e1, e2, e3 = F32(0.0), F32(0.0), F32(0.0), F32(0.0)
                    for i in range(wide):
                        x, y = state[from_ + i], state[from_ + i + _W]
                        d0 += chunk[r0 + i] * x
                        d1 += chunk[r1 + i] * x
                        d2 += chunk[r2 + i] * x
                        d3 += chunk[r3 + i] * x
                        e0 += chunk[r0 + i] * y
                        e1 += chunk[r1 + i] * y
                        e2 += chunk[r2 + i] * y
                        e3 += chunk[r3 + i] * y
                    # From the last one: where steps are missing, the one that is there comes last.
                    grad_delta[partial + m3 + q], grad_delta[partial + m3 + q + _1] = d3, e3
                    grad_delta[partial + m2 + q], grad_delta[partial + m2 + q + _1] = d2, e2
                    grad_delta[partial + m1 + q], grad_delta[partial + m1 + q + _1] = d1, e1
                    grad_delta[partial + m0 + q], grad_delta[partial + m0 + q + _1] = d0, e0
        for s in range(n):
            for i in range(wide):
                total_a[s * _W + i] += state[s * _4 * _W + i + _SUM_A]
                state[s * _4 * _W + i + _SUM_A] = F32(0.0)
        for i in range(wide):
            total_skip[i] += state[once + _SUM_SKIP + i]
            total_dt[rank * _W + i] += state[once + _SUM_BIAS + i]
            state[once + _SUM_SKIP + i] = F32(0.0)
            state[once + _SUM_BIAS + i] = F32(0.0)
        for i in range(rank * _W):
            total_dt[i] += sums[i]
            sums[i] = F32(0.0)
    for i in range(w):
        grad_skip[row * d + first + i] += total_skip[i]
        grad_dt_bias[row * d + first + i] += total_dt[rank * _W + i]
    for s in range(rank):
        for i in range(w):
            grad_dt_weight[(row * rank + s) * d + first + i] += total_dt[s * _W + i]
    for s in range(n):
        for i in range(w):
            at = (row * n + s) * d + first + i
            grad_a[at] += total_a[s * _W + i]
            grad_start[at] = state[s * _4 * _W + i + _GRAD_H]


def states_shape(batch: int, length: int, d: int, n: int) -> tuple[int, ...]:
    """Shape of the states that forward keeps for backward, one every ``K`` steps."""
    width = -(-min(d, _WIDTH) // _VECTOR) * _VECTOR
    return (-(-length // CHUNK), batch * n_groups(d), padded(n), width)


def n_groups(d: int) -> int:
    """Give the number of tasks that share the channels of a row."""
    return -(-d // _WIDTH)


def padded(n: int) -> int:
    """Round a number of states up to what the kernels unroll."""
    return -(-n // _UNROLL) * _UNROLL


def padded_rank(rank: int) -> int:
    """Round the rank of step sizes up to what the kernels unroll."""
    return -(-rank // 8) * 8


def decay_rates(A: Tensor) -> tuple[Tensor, Tensor]:
    """Give A times log2(e), ``(n, d)`` with ``n`` padded, and the first states of that shape.

    Those are 0, but nan where A is not finite: the clipped exponential would hide it.
    """
    rates = A.detach().float().T
    rates = torch.nn.functional.pad(rates, (0, 0, 0, padded(A.shape[1]) - A.shape[1]))
    return rates * float(LOG2_E), rates * 0.0


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
    decay, start = decay_rates(A)
    b, c = _with_padding(B), _with_padding(C)
    n = decay.shape[0]
    sizes = (batch, length, d, n, 0, n, length, d)
    out = torch.empty(u.shape)
    states = torch.empty(states_shape(batch, length, d, n) if save else (0,))
    tensors = (
        *(u, delta, *_NO_PROJECTION, decay, start.expand(batch, n, d), b, c),
        *(_or_zeros(D, d), _or_zeros(z, 0), out, states, torch.empty(batch, n, d)),
    )
    options = (sizes, delta_softplus, z is not None, reverse, False)
    run_jobs([Job(forward_task, batch * n_groups(d), tensors, options)], out.numel() * n)
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
    """Gradients of the seven inputs, each in the dtype of its input."""
    batch, length, d = u.shape
    decay, _ = decay_rates(A)
    n = decay.shape[0]
    sizes = (batch, length, d, n, 0, n, length, d)
    grad_u, grad_delta = torch.empty(u.shape), torch.empty(u.shape)
    grad_z = torch.empty(u.shape if z is not None else (0,))
    grad_a, grad_skip = torch.zeros(batch, n, d), torch.zeros(batch, d)
    grad_b = torch.empty(n_groups(d), batch, length, n)
    grad_c = torch.empty_like(grad_b)
    tensors = (
        *(grad, u, delta, *_NO_PROJECTION, decay, _with_padding(B), _with_padding(C)),
        *(_or_zeros(D, d), _or_zeros(z, 0), states, torch.zeros(batch, n, d)),
        *(torch.empty(batch, n, d), grad_u, grad_delta, torch.empty(0), torch.zeros(batch, d)),
        *(grad_a, grad_b, grad_c, grad_skip, grad_z, torch.empty(0)),
    )
    options = (sizes, delta_softplus, z is not None, reverse, False)
    run_jobs([Job(backward_task, batch * n_groups(d), tensors, options)], u.numel() * n)
    return (
        grad_u.to(u.dtype),
        grad_delta.to(delta.dtype),
        grad_a.sum(dim=0)[: A.shape[1]].T.to(A.dtype),
        grad_b.sum(dim=0)[..., : B.shape[2]].to(B.dtype),
        grad_c.sum(dim=0)[..., : C.shape[2]].to(C.dtype),
        None if D is None else grad_skip.sum(dim=0).to(D.dtype),
        None if z is None else grad_z.to(z.dtype),
    )


_NO_PROJECTION = (torch.empty(0), torch.empty(0))  # of the step sizes: they come as they are


def _with_padding(x: Tensor) -> Tensor:
    return torch.nn.functional.pad(x.detach(), (0, padded(x.shape[-1]) - x.shape[-1]))


def _or_zeros(tensor: Tensor | None, size: int) -> Tensor:
    return torch.zeros(size) if tensor is None else tensor
