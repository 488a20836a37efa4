"""Selective scan on CUDA, written in Triton.

Symbols
-------
``d``, ``n``
    Channels, and states of a channel (padded to a power of two, ``N``).
``W``, ``K``
    Channels of a tile, and steps of a chunk: what is computed at once is ``(K, N, W)``.
``segments``, ``chunks``
    Parts of the length, which are computed side by side, and chunks of such a part.
``a``, ``x``, ``h``
    Decay, input ``delta u B`` and state of each step.
``gh``, ``g``
    Gradient of the loss with respect to the state after a step, and to that before it.

The recurrence ``h -> a h + x`` joins stretches of it into one of the same form, ``h -> P h + e``
with ``P = exp(A sum(delta))`` and ``e`` what the stretch makes of a state of 0 (Blelloch, "Prefix
sums and their applications", 1990). So each segment is run from 0 for its ``e`` (`_segment_ends`),
the ends are joined along the length (`_join_segments`), and each segment is run again from the
state that it starts with. One program takes a segment of a tile of channels. Backward does the
same with the gradient of the states, from the last segment to the first; it keeps the states at
the starts of segments alone, and computes those at the starts of chunks again.

Nothing is added up atomically: each tile of channels writes its part of the gradients of B and C,
and the parts are added in their order, so that a result can be repeated to the bit.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from regmask_sk.ops._triton_math import as_rows, on_device_of_first, sigmoid

# Measured on an H200. A thread has 32 numbers of a tile; with more, registers run out.
_CHUNK = 4  # steps
_TILE = 16  # channels
_PROGRAMS = 16_384  # some fifteen waves of an H200, which holds eight programs a multiprocessor
_SHORTEST = 64  # steps of a segment
# Triton compiles anew for numbers that are multiples of 16: not for each length of a window.
_SIZES = ("length", "chunks", "segments")


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
def _step_sizes(delta_ptr, offsets, mask, SOFTPLUS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Step sizes as the recurrence takes them, and 0 outside: a step of 0 changes no state."""
    dt = tl.load(delta_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    if SOFTPLUS:
        dt = tl.where(mask, _softplus(dt), 0.0)
    return dt


@triton.jit
def _tile(a_ptr, d, n, N: tl.constexpr, W: tl.constexpr):  # type: ignore[no-untyped-def]
    """Channels and states of this program, which exist, where a state lies, and decay rates."""
    channel = tl.program_id(1) * W + tl.arange(0, W)
    state = tl.arange(0, N)
    real = channel < d
    of_tile = (state < n)[:, None] & real[None, :]
    at = state[:, None] * d + channel[None, :]  # of one state of a row, (n, d)
    rates = tl.load(a_ptr + channel[None, :] * n + state[:, None], mask=of_tile, other=0.0)
    return channel, state, real, of_tile, at, rates.to(tl.float32)


@triton.jit
def _places(  # type: ignore[no-untyped-def]
    row, step, length, channel, real, state, n, d, REVERSE: tl.constexpr
):
    """Where the steps lie among those of all rows, their numbers, and which of them exist.

    The last two are the same for numbers of the states.
    """
    inside = step < length
    t = row * length + (length - 1 - step if REVERSE else step)
    o = t[:, None] * d + channel[None, :]
    return t, o, inside[:, None] & real[None, :], inside[:, None] & (state < n)[None, :]


@triton.jit
def _load(ptr, t, pitch, inner, mask):  # type: ignore[no-untyped-def]
    """Numbers of the steps ``t`` from a tensor in which they are ``pitch`` apart."""
    found = tl.load(ptr + t[:, None] * pitch + inner[None, :], mask=mask, other=0.0)
    return found.to(tl.float32)


@triton.jit
def _row_of_tile(tile, row: tl.constexpr, K: tl.constexpr):  # type: ignore[no-untyped-def]
    """Take one step out of a tile of shape (K, N, W)."""
    here = tl.arange(0, K)[:, None, None] == row
    return tl.sum(tl.where(here, tile, 0.0), axis=0)


@triton.jit(do_not_specialize=_SIZES)
def _segment_ends(  # type: ignore[no-untyped-def]
    u_ptr,
    delta_ptr,
    a_ptr,
    b_ptr,
    starts_ptr,
    ends_ptr,
    sums_ptr,
    length,
    d,
    n,
    chunks,
    b_pitch,
    K: tl.constexpr,
    N: tl.constexpr,
    W: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    REVERSE: tl.constexpr,
    INSIDE: tl.constexpr,
):
    """State at the end of each segment from a state of 0, and the sum of its step sizes.

    With ``INSIDE`` the segments start from their true states instead, and what is written is the
    state at the start of each of their chunks.
    """
    row = tl.program_id(0).to(tl.int64)
    segment = tl.program_id(2)
    channel, state, real, of_tile, at, rates = _tile(a_ptr, d, n, N, W)
    first = row * tl.num_programs(2) + segment
    h_start = tl.zeros((N, W), tl.float32)
    if INSIDE:
        h_start = tl.load(starts_ptr + first * n * d + at, mask=of_tile, other=0.0)
    total = tl.zeros((W,), tl.float32)
    for chunk in range(chunks):
        if INSIDE:
            tl.store(ends_ptr + (first * chunks + chunk) * n * d + at, h_start, mask=of_tile)
        step = (segment * chunks + chunk) * K + tl.arange(0, K)
        t, o, steps, both = _places(row, step, length, channel, real, state, n, d, REVERSE)
        u = _load(u_ptr, t, d, channel, steps)
        dt = _step_sizes(delta_ptr, o, steps, SOFTPLUS)
        b = _load(b_ptr, t, b_pitch, state, both)
        a = tl.exp(dt[:, None, :] * rates[None, :, :])
        x = (dt * u)[:, None, :] * b[:, :, None]
        product, h = tl.associative_scan((a, x), 0, _combine)
        h += product * h_start[None, :, :]
        h_start = _row_of_tile(h, K - 1, K)
        total += tl.sum(dt, axis=0)
    if not INSIDE:
        tl.store(ends_ptr + first * n * d + at, h_start, mask=of_tile)
        tl.store(sums_ptr + first * d + channel, total, mask=real)


@triton.jit(do_not_specialize=_SIZES)
def _join_segments(  # type: ignore[no-untyped-def]
    a_ptr,
    ends_ptr,
    sums_ptr,
    starts_ptr,
    segments,
    d,
    n,
    J: tl.constexpr,
    W: tl.constexpr,
    BACK: tl.constexpr,
):
    """Find what each segment starts with from the ends, from the last to the first if ``BACK``."""
    row = tl.program_id(0).to(tl.int64)
    state = tl.program_id(1)
    channel = tl.program_id(2) * W + tl.arange(0, W)
    real = channel < d
    rates = tl.load(a_ptr + channel * n + state, mask=real, other=0.0).to(tl.float32)
    carried = tl.zeros((W,), tl.float32)
    last = tl.arange(0, J)[:, None] == J - 1
    first = segments - 1 if BACK else 0
    tl.store(starts_ptr + ((row * segments + first) * n + state) * d + channel, carried, mask=real)
    for block in range(0, segments, J):
        at = block + tl.arange(0, J)
        inside = (at < segments)[:, None] & real[None, :]
        s = segments - 1 - at if BACK else at
        o = ((row * segments + s) * n + state)[:, None] * d + channel[None, :]
        sums = (row * segments + s)[:, None] * d + channel[None, :]
        e = tl.load(ends_ptr + o, mask=inside, other=0.0)
        p = tl.exp(tl.load(sums_ptr + sums, mask=inside, other=0.0) * rates[None, :])
        product, h = tl.associative_scan((p, e), 0, _combine)
        h += product * carried[None, :]
        carried = tl.sum(tl.where(last, h, 0.0), axis=0)
        behind = o - n * d if BACK else o + n * d
        follows = (at + 1 < segments)[:, None] & real[None, :]
        tl.store(starts_ptr + behind, h, mask=follows)


@triton.jit(do_not_specialize=_SIZES)
def _forward_kernel(  # type: ignore[no-untyped-def]
    u_ptr,
    delta_ptr,
    a_ptr,
    b_ptr,
    c_ptr,
    d_ptr,
    z_ptr,
    starts_ptr,
    out_ptr,
    length,
    d,
    n,
    chunks,
    b_pitch,
    c_pitch,
    z_pitch,
    K: tl.constexpr,
    N: tl.constexpr,
    W: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    REVERSE: tl.constexpr,
    SKIP: tl.constexpr,
    GATED: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    segment = tl.program_id(2)
    channel, state, real, of_tile, at, rates = _tile(a_ptr, d, n, N, W)
    first = row * tl.num_programs(2) + segment
    h_start = tl.load(starts_ptr + first * n * d + at, mask=of_tile, other=0.0)
    if SKIP:
        skip = tl.load(d_ptr + channel, mask=real, other=0.0).to(tl.float32)
    for chunk in range(chunks):
        step = (segment * chunks + chunk) * K + tl.arange(0, K)
        t, o, steps, both = _places(row, step, length, channel, real, state, n, d, REVERSE)
        u = _load(u_ptr, t, d, channel, steps)
        dt = _step_sizes(delta_ptr, o, steps, SOFTPLUS)
        b = _load(b_ptr, t, b_pitch, state, both)
        c = _load(c_ptr, t, c_pitch, state, both)
        a = tl.exp(dt[:, None, :] * rates[None, :, :])
        x = (dt * u)[:, None, :] * b[:, :, None]
        product, h = tl.associative_scan((a, x), 0, _combine)
        h += product * h_start[None, :, :]
        h_start = _row_of_tile(h, K - 1, K)
        y = tl.sum(h * c[:, :, None], axis=1)
        if SKIP:
            y += skip[None, :] * u
        if GATED:
            z = _load(z_ptr, t, z_pitch, channel, steps)
            y *= z * sigmoid(z)
        tl.store(out_ptr + o, y, mask=steps)


@triton.jit(do_not_specialize=_SIZES)
def _gradient_ends(  # type: ignore[no-untyped-def]
    grad_ptr,
    delta_ptr,
    a_ptr,
    c_ptr,
    z_ptr,
    ends_ptr,
    sums_ptr,
    length,
    d,
    n,
    chunks,
    c_pitch,
    z_pitch,
    K: tl.constexpr,
    N: tl.constexpr,
    W: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    REVERSE: tl.constexpr,
    GATED: tl.constexpr,
):
    """Gradient before each segment where none comes from behind it, and the sum of step sizes."""
    row = tl.program_id(0).to(tl.int64)
    segment = tl.program_id(2)
    channel, state, real, of_tile, at, rates = _tile(a_ptr, d, n, N, W)
    first = row * tl.num_programs(2) + segment
    g_next = tl.zeros((N, W), tl.float32)
    total = tl.zeros((W,), tl.float32)
    for back in range(chunks):
        # From the last step to the first, so that the scan goes the easy way.
        step = (segment * chunks + chunks - back) * K - 1 - tl.arange(0, K)
        t, o, steps, both = _places(row, step, length, channel, real, state, n, d, REVERSE)
        dt = _step_sizes(delta_ptr, o, steps, SOFTPLUS)
        grad_y = _load(grad_ptr, t, d, channel, steps)
        if GATED:
            z = _load(z_ptr, t, z_pitch, channel, steps)
            grad_y *= z * sigmoid(z)
        c = _load(c_ptr, t, c_pitch, state, both)
        a = tl.exp(dt[:, None, :] * rates[None, :, :])
        x = a * (grad_y[:, None, :] * c[:, :, None])
        product, g = tl.associative_scan((a, x), 0, _combine)
        g += product * g_next[None, :, :]
        g_next = _row_of_tile(g, K - 1, K)
        total += tl.sum(dt, axis=0)
    tl.store(ends_ptr + first * n * d + at, g_next, mask=of_tile)
    tl.store(sums_ptr + first * d + channel, total, mask=real)


@triton.jit(do_not_specialize=_SIZES)
def _backward_kernel(  # type: ignore[no-untyped-def]
    grad_ptr,
    u_ptr,
    delta_ptr,
    a_ptr,
    b_ptr,
    c_ptr,
    d_ptr,
    z_ptr,
    inner_ptr,
    after_ptr,
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
    chunks,
    b_pitch,
    c_pitch,
    z_pitch,
    K: tl.constexpr,
    N: tl.constexpr,
    W: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    REVERSE: tl.constexpr,
    SKIP: tl.constexpr,
    GATED: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    segment = tl.program_id(2)
    channel, state, real, of_tile, at, rates = _tile(a_ptr, d, n, N, W)
    first = row * tl.num_programs(2) + segment
    # What the first step of the next chunk hands back, before its decay; but of the next segment
    # what comes after it, which is why the last step of a segment has a decay of 1 behind it.
    gh_next = tl.load(after_ptr + first * n * d + at, mask=of_tile, other=0.0)
    last = (segment + 1) * chunks * K - 1
    grad_a = tl.zeros((N, W), tl.float32)
    grad_d = tl.zeros((W,), tl.float32)
    # Steps of the parts of B and C, one for each tile of each row, that lie before those of `t`.
    before = (row * (tl.num_programs(1) - 1) + tl.program_id(1)) * length
    if SKIP:
        skip = tl.load(d_ptr + channel, mask=real, other=0.0).to(tl.float32)
    for back in range(chunks):
        chunk = chunks - 1 - back
        step = (segment * chunks + chunk) * K + tl.arange(0, K)
        t, o, steps, both = _places(row, step, length, channel, real, state, n, d, REVERSE)
        u = _load(u_ptr, t, d, channel, steps)
        raw = _load(delta_ptr, t, d, channel, steps)
        follows = (step < last) & (step + 1 < length)
        o_next = o - d if REVERSE else o + d
        dt_next = _step_sizes(delta_ptr, o_next, follows[:, None] & real[None, :], SOFTPLUS)
        dt = raw
        if SOFTPLUS:
            dt = tl.where(steps, _softplus(raw), 0.0)
        b = _load(b_ptr, t, b_pitch, state, both)
        c = _load(c_ptr, t, c_pitch, state, both)
        inner = (first * chunks + chunk) * n * d + at
        h_start = tl.load(inner_ptr + inner, mask=of_tile, other=0.0)
        a = tl.exp(dt[:, None, :] * rates[None, :, :])
        x = (dt * u)[:, None, :] * b[:, :, None]
        product, h = tl.associative_scan((a, x), 0, _combine)
        h += product * h_start[None, :, :]
        grad_y = _load(grad_ptr, t, d, channel, steps)
        if GATED:
            z = _load(z_ptr, t, z_pitch, channel, steps)
            gate = sigmoid(z)
            y = tl.sum(h * c[:, :, None], axis=1)
            if SKIP:
                y += skip[None, :] * u
            slope = gate * (1.0 + z * (1.0 - gate))
            tl.store(grad_z_ptr + o, grad_y * y * slope, mask=steps)
            grad_y *= z * gate
        a_next = tl.exp(dt_next[:, None, :] * rates[None, :, :])
        from_y = grad_y[:, None, :] * c[:, :, None]
        remains, gh = tl.associative_scan((a_next, from_y), 0, _combine, reverse=True)
        gh += remains * gh_next[None, :, :]
        gh_next = _row_of_tile(gh, 0, K)
        from_before = gh * (h - x)  # a times the state before the step
        by_b = tl.sum(gh * b[:, :, None], axis=1)
        grad_dt = by_b * u + tl.sum(from_before * rates[None, :, :], axis=1)
        if SOFTPLUS:
            grad_dt *= sigmoid(raw)
        tl.store(grad_delta_ptr + o, grad_dt, mask=steps)
        grad_u = by_b * dt
        if SKIP:
            grad_u += grad_y * skip[None, :]
            grad_d += tl.sum(grad_y * u, axis=0)
        tl.store(grad_u_ptr + o, grad_u, mask=steps)
        grad_a += tl.sum(from_before * dt[:, None, :], axis=0)
        part = (t + before)[:, None] * n + state[None, :]
        tl.store(grad_b_ptr + part, tl.sum(gh * (dt * u)[:, None, :], axis=2), mask=both)
        tl.store(grad_c_ptr + part, tl.sum(grad_y[:, None, :] * h, axis=2), mask=both)
    tl.store(grad_a_ptr + first * n * d + at, grad_a, mask=of_tile)
    if SKIP:
        tl.store(grad_d_ptr + first * d + channel, grad_d, mask=real)


def _plan(batch: int, length: int, d: int) -> tuple[int, int, int]:
    """Tiles of channels, segments, and chunks of a segment."""
    tiles = -(-d // _TILE)
    segments = max(1, min(_PROGRAMS // (batch * tiles), length // _SHORTEST))
    chunks = -(-length // (segments * _CHUNK))
    return tiles, -(-length // (chunks * _CHUNK)), chunks


def states_shape(batch: int, length: int, d: int, n: int) -> tuple[int, ...]:
    """Shape of the states that forward keeps for backward, one for each segment."""
    return (batch, _plan(batch, length, d)[1], n, d)


def bytes_in_backward(batch: int, length: int, d: int, n: int) -> int:
    """Bytes that :func:`backward` takes besides the gradients of the inputs."""
    tiles, segments, chunks = _plan(batch, length, d)
    inner = segments * chunks * n * d
    parts = 2 * tiles * length * n
    ends = 4 * segments * (n + 1) * d
    return 4 * batch * (inner + parts + ends)


def _sizes(n: int) -> dict[str, int]:
    """Of the tiles of a kernel, with the warps that share one."""
    N = triton.next_power_of_2(n)
    warps = min(8, max(1, _CHUNK * N * _TILE // 1024))
    return {"K": _CHUNK, "N": N, "W": _TILE, "num_warps": warps}


def _joined(A: Tensor, ends: Tensor, sums: Tensor, *, back: bool) -> Tensor:
    """States at the starts of segments, or gradients of those at their ends."""
    batch, segments, n, d = ends.shape
    starts = torch.empty_like(ends)
    _join_segments[(batch, n, -(-d // 32))](
        *(A, ends, sums, starts, segments, d, n), J=64, W=32, BACK=back
    )
    return starts


@on_device_of_first
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
    """Output in the dtype of `u`, and the states at the start of each segment in float32."""
    batch, length, d = u.shape
    n = A.shape[1]
    u, delta, A, skip = (t.contiguous() for t in (u, delta, A, u if D is None else D))
    (B, b_pitch), (C, c_pitch), (gate, z_pitch) = (
        as_rows(t) for t in (B, C, u if z is None else z)
    )
    tiles, segments, chunks = _plan(batch, length, d)
    grid = (batch, tiles, segments)
    scanned = {**_sizes(n), "SOFTPLUS": delta_softplus, "REVERSE": reverse}
    if segments == 1:
        starts = A.new_zeros((batch, 1, n, d), dtype=torch.float32)
    else:
        ends = A.new_empty((batch, segments, n, d), dtype=torch.float32)
        sums = A.new_empty((batch, segments, d), dtype=torch.float32)
        _segment_ends[grid](
            *(u, delta, A, B, ends, ends, sums, length, d, n, chunks, b_pitch),
            **scanned,
            INSIDE=False,
        )
        starts = _joined(A, ends, sums, back=False)
    out = torch.empty_like(u)
    _forward_kernel[grid](
        *(u, delta, A, B, C, skip, gate, starts, out),
        *(length, d, n, chunks, b_pitch, c_pitch, z_pitch),
        **scanned,
        **{"SKIP": D is not None, "GATED": z is not None},
    )
    return out, starts if save else starts.new_empty(0)


@on_device_of_first
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
    grad, u, delta, A, skip = (t.contiguous() for t in (grad, u, delta, A, u if D is None else D))
    (B, b_pitch), (C, c_pitch), (gate, z_pitch) = (
        as_rows(t) for t in (B, C, u if z is None else z)
    )
    tiles, segments, chunks = _plan(batch, length, d)
    grid = (batch, tiles, segments)
    scanned = {**_sizes(n), "SOFTPLUS": delta_softplus, "REVERSE": reverse}
    inner = states.new_empty(batch, segments, chunks, n, d)
    _segment_ends[grid](
        *(u, delta, A, B, states, inner, inner, length, d, n, chunks, b_pitch),
        **scanned,
        INSIDE=True,
    )
    if segments == 1:
        after = torch.zeros_like(states)
    else:
        ends, sums = torch.empty_like(states), states.new_empty(batch, segments, d)
        _gradient_ends[grid](
            *(grad, delta, A, C, gate, ends, sums, length, d, n, chunks, c_pitch, z_pitch),
            **scanned,
            GATED=z is not None,
        )
        after = _joined(A, ends, sums, back=True)
    grad_u, grad_delta = torch.empty_like(u), torch.empty_like(delta)
    grad_z = u.new_empty(u.shape if z is not None else 1, dtype=gate.dtype)
    grad_a = torch.empty_like(states)
    grad_d = states.new_empty(batch, segments, d)
    grad_b, grad_c = (states.new_empty(batch, tiles, length, n) for _ in "BC")
    _backward_kernel[grid](
        *(grad, u, delta, A, B, C, skip, gate, inner, after),
        *(grad_u, grad_delta, grad_a, grad_b, grad_c, grad_d, grad_z),
        *(length, d, n, chunks, b_pitch, c_pitch, z_pitch),
        **scanned,
        **{"SKIP": D is not None, "GATED": z is not None},
    )
    return (
        grad_u,
        grad_delta,
        grad_a.sum(dim=(0, 1)).T.contiguous().to(A.dtype),
        grad_b.sum(dim=1).to(B.dtype),
        grad_c.sum(dim=1).to(C.dtype),
        None if D is None else grad_d.sum(dim=(0, 1)).to(D.dtype),
        None if z is None else grad_z,
    )
