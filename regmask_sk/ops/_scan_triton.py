"""Selective scan on CUDA, written in Triton.

Symbols
-------
``d``, ``n``, ``K``
    Channels, states of a channel (padded to a power of two, ``N``), and steps of a chunk.
``a``, ``x``, ``h``
    Decay, input ``delta u B`` and state of each step of a chunk: tiles of ``(K, N)``.
``gh``
    Gradient of the loss with respect to the state of each step.

One program takes one channel of one row of the batch, and goes through its chunks one after
the other; within a chunk the steps are combined in parallel, by an associative scan over pairs
``(a, x)``. The state at the start of each chunk is kept for backward, which takes the chunks
from the last to the first, with the scan that runs the other way. Gradients of B and C are
sums over channels and are added up atomically: their last bits depend on the order.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_CHUNK = 64  # steps


@triton.jit
def _combine(a_first, x_first, a_second, x_second):  # type: ignore[no-untyped-def]
    """Two stretches of the recurrence ``h -> a h + x``, one after the other."""
    return a_first * a_second, a_second * x_first + x_second


@triton.jit
def _softplus(raw):  # type: ignore[no-untyped-def]
    e = tl.exp(-tl.abs(raw))
    log1p = tl.where(e < 0.01, e * (1.0 - e * (0.5 - e * (1.0 / 3.0 - e * 0.25))), tl.log(1.0 + e))
    return tl.maximum(raw, 0.0) + log1p


@triton.jit
def _sigmoid(raw):  # type: ignore[no-untyped-def]
    return 1.0 / (1.0 + tl.exp(-raw))


@triton.jit
def _forward_kernel(  # type: ignore[no-untyped-def]
    u_ptr,
    delta_ptr,
    a_ptr,
    b_ptr,
    c_ptr,
    d_ptr,
    z_ptr,
    out_ptr,
    states_ptr,
    length,
    d,
    n,
    n_chunks,
    K: tl.constexpr,
    N: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    SKIP: tl.constexpr,
    GATED: tl.constexpr,
    REVERSE: tl.constexpr,
    SAVE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1)
    state = tl.arange(0, N)
    has_state = state < n
    rates = tl.load(a_ptr + channel * n + state, mask=has_state, other=0.0).to(tl.float32)
    h_start = tl.zeros((N,), tl.float32)
    for chunk in range(n_chunks):
        if SAVE:
            at = ((row * d + channel) * n_chunks + chunk) * n + state
            tl.store(states_ptr + at, h_start, mask=has_state)
        step = chunk * K + tl.arange(0, K)
        inside = step < length
        t = length - 1 - step if REVERSE else step
        o = (row * length + t) * d + channel
        u = tl.load(u_ptr + o, mask=inside, other=0.0).to(tl.float32)
        dt = tl.load(delta_ptr + o, mask=inside, other=0.0).to(tl.float32)
        if SOFTPLUS:
            dt = tl.where(inside, _softplus(dt), 0.0)
        m = ((row * length + t) * n)[:, None] + state[None, :]
        both = inside[:, None] & has_state[None, :]
        b = tl.load(b_ptr + m, mask=both, other=0.0).to(tl.float32)
        c = tl.load(c_ptr + m, mask=both, other=0.0).to(tl.float32)
        a = tl.exp(dt[:, None] * rates[None, :])
        x = (dt * u)[:, None] * b
        product, h = tl.associative_scan((a, x), 0, _combine)
        h += product * h_start[None, :]
        y = tl.sum(h * c, axis=1)
        if SKIP:
            y += tl.load(d_ptr + channel).to(tl.float32) * u
        if GATED:
            z = tl.load(z_ptr + o, mask=inside, other=0.0).to(tl.float32)
            y *= z * _sigmoid(z)
        tl.store(out_ptr + o, y, mask=inside)
        last = tl.arange(0, K)[:, None] == K - 1
        h_start = tl.sum(tl.where(last, h, 0.0), axis=0)


@triton.jit
def _backward_kernel(  # type: ignore[no-untyped-def]
    grad_ptr,
    u_ptr,
    delta_ptr,
    a_ptr,
    b_ptr,
    c_ptr,
    d_ptr,
    z_ptr,
    states_ptr,
    grad_u_ptr,
    grad_delta_ptr,
    grad_a_ptr,
    grad_b_ptr,
    grad_c_ptr,
    grad_d_ptr,
    grad_z_ptr,
    length,
    d,
    n,
    n_chunks,
    K: tl.constexpr,
    N: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    SKIP: tl.constexpr,
    GATED: tl.constexpr,
    REVERSE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1)
    state = tl.arange(0, N)
    has_state = state < n
    rates = tl.load(a_ptr + channel * n + state, mask=has_state, other=0.0).to(tl.float32)
    gh_next = tl.zeros((N,), tl.float32)  # of the first step of the chunk after this one
    grad_a = tl.zeros((N,), tl.float32)
    grad_d = tl.zeros((K,), tl.float32)
    for back in range(n_chunks):
        chunk = n_chunks - 1 - back
        at = ((row * d + channel) * n_chunks + chunk) * n + state
        h_start = tl.load(states_ptr + at, mask=has_state, other=0.0)
        step = chunk * K + tl.arange(0, K)
        inside = step < length
        t = length - 1 - step if REVERSE else step
        o = (row * length + t) * d + channel
        u = tl.load(u_ptr + o, mask=inside, other=0.0).to(tl.float32)
        raw = tl.load(delta_ptr + o, mask=inside, other=0.0).to(tl.float32)
        follows = step + 1 < length
        o_next = (row * length + (t - 1 if REVERSE else t + 1)) * d + channel
        dt_next = tl.load(delta_ptr + o_next, mask=follows, other=0.0).to(tl.float32)
        dt = raw
        if SOFTPLUS:
            dt = tl.where(inside, _softplus(raw), 0.0)
            dt_next = tl.where(follows, _softplus(dt_next), 0.0)
        m = ((row * length + t) * n)[:, None] + state[None, :]
        both = inside[:, None] & has_state[None, :]
        b = tl.load(b_ptr + m, mask=both, other=0.0).to(tl.float32)
        c = tl.load(c_ptr + m, mask=both, other=0.0).to(tl.float32)
        a = tl.exp(dt[:, None] * rates[None, :])
        x = (dt * u)[:, None] * b
        product, h = tl.associative_scan((a, x), 0, _combine)
        h += product * h_start[None, :]
        grad_y = tl.load(grad_ptr + o, mask=inside, other=0.0).to(tl.float32)
        skip = tl.load(d_ptr + channel).to(tl.float32) if SKIP else 0.0
        if GATED:
            z = tl.load(z_ptr + o, mask=inside, other=0.0).to(tl.float32)
            gate = _sigmoid(z)
            y = tl.sum(h * c, axis=1) + skip * u
            slope = gate * (1.0 + z * (1.0 - gate))
            tl.store(grad_z_ptr + o, grad_y * y * slope, mask=inside)
            grad_y *= z * gate
        a_next = tl.exp(dt_next[:, None] * rates[None, :])
        remains, gh = tl.associative_scan((a_next, grad_y[:, None] * c), 0, _combine, reverse=True)
        gh += remains * gh_next[None, :]
        first = tl.arange(0, K)[:, None] == 0
        gh_next = tl.sum(tl.where(first, gh, 0.0), axis=0)
        from_before = gh * (h - x)  # a times the state before the step
        by_b = tl.sum(gh * b, axis=1)
        grad_dt = by_b * u + tl.sum(from_before * rates[None, :], axis=1)
        if SOFTPLUS:
            grad_dt *= _sigmoid(raw)
        tl.store(grad_delta_ptr + o, grad_dt, mask=inside)
        tl.store(grad_u_ptr + o, by_b * dt + grad_y * skip, mask=inside)
        grad_a += tl.sum(from_before * dt[:, None], axis=0)
        grad_d += grad_y * u
        tl.atomic_add(grad_b_ptr + m, gh * (dt * u)[:, None], mask=both)
        tl.atomic_add(grad_c_ptr + m, grad_y[:, None] * h, mask=both)
    tl.store(grad_a_ptr + (row * d + channel) * n + state, grad_a, mask=has_state)
    tl.store(grad_d_ptr + row * d + channel, tl.sum(grad_d, axis=0))


def states_shape(batch: int, length: int, d: int, n: int) -> tuple[int, ...]:
    """Shape of the states that forward keeps for backward, one every ``K`` steps."""
    return (batch, d, -(-length // _CHUNK), n)


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
    out = torch.empty_like(u, memory_format=torch.contiguous_format)
    states = A.new_empty(states_shape(batch, length, d, n) if save else (1,), dtype=torch.float32)
    given = [t.contiguous() for t in (u, delta, A, B, C, _or_none(D, u), _or_none(z, u))]
    _forward_kernel[(batch, d)](
        *(*given, out, states),
        *(length, d, n, -(-length // _CHUNK)),
        **_flags(n, D, z, delta_softplus, reverse),
        SAVE=save,
    )
    return out, states if save else states[:0].clone()


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
    given = [t.contiguous() for t in (grad, u, delta, A, B, C, _or_none(D, u), _or_none(z, u))]
    grad_u, grad_delta = torch.empty_like(given[1]), torch.empty_like(given[2])
    grad_z = torch.empty_like(given[-1])
    grad_a = states.new_empty(batch, d, n)
    grad_b, grad_c = states.new_zeros(B.shape), states.new_zeros(C.shape)
    grad_d = states.new_empty(batch, d)
    _backward_kernel[(batch, d)](
        *(*given, states, grad_u, grad_delta, grad_a, grad_b, grad_c, grad_d, grad_z),
        *(length, d, n, -(-length // _CHUNK)),
        **_flags(n, D, z, delta_softplus, reverse),
    )
    return (
        grad_u,
        grad_delta,
        grad_a.sum(dim=0).to(A.dtype),
        grad_b.to(B.dtype),
        grad_c.to(C.dtype),
        None if D is None else grad_d.sum(dim=0).to(D.dtype),
        None if z is None else grad_z,
    )


def _or_none(tensor: Tensor | None, like: Tensor) -> Tensor:
    """Something to point at where there is no tensor: the kernels do not read it."""
    return like.new_empty(1) if tensor is None else tensor


def _flags(
    n: int, D: Tensor | None, z: Tensor | None, delta_softplus: bool, reverse: bool
) -> dict[str, Any]:
    return {
        "K": _CHUNK,
        "N": triton.next_power_of_2(n),
        "SOFTPLUS": delta_softplus,
        "SKIP": D is not None,
        "GATED": z is not None,
        "REVERSE": reverse,
    }
