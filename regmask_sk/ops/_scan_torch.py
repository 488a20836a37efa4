"""Selective scan in plain torch: a loop over steps, and a version that is parallel over chunks.

Symbols
-------
``b``, ``d``, ``n``
    Batch, channels, states of a channel.
``M``, ``K``
    Chunks of a segment, and steps of a chunk.
``h``
    State, ``(b, d, n)`` or, for all chunks of a segment at once, ``(b, M, d, n)``.

Segments follow one another; forward keeps the state at the start of each, and backward runs
each of them again. Within a segment all
chunks start from 0 and go through their ``K`` steps together; then the ``M`` states are
chained, and what each chunk inherits is added: ``C_t exp(A * (delta_1 + ... + delta_t)) h``.
Only sums of delta within a chunk are exponentiated, and never with a changed sign, so nothing
overflows where A is negative.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_CHUNK = 32  # steps
_SEGMENT = 1024  # steps: 32 chunks of 32


def reference(
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
) -> Tensor:
    """One step after the other, under autograd; the state in float32 or the inputs' float64."""
    dtype = state_dtype(u, delta, A, B, C)
    dt = F.softplus(delta.to(dtype)) if delta_softplus else delta.to(dtype)
    x = dt * u.to(dtype)
    rows = [t.to(dtype).unbind(dim=1) for t in (dt, x, B, C)]
    h = torch.zeros(u.shape[0], *A.shape, dtype=dtype, device=u.device)
    outputs: list[Tensor] = [h] * u.shape[1]
    steps = range(u.shape[1])
    for t in reversed(steps) if reverse else steps:
        dt_t, x_t, b_t, c_t = (row[t] for row in rows)
        h = torch.exp(dt_t[..., None] * A) * h + x_t[..., None] * b_t[:, None]
        outputs[t] = (h * c_t[:, None]).sum(dim=-1)
    return skip_and_gate(torch.stack(outputs, dim=1), u, D, z).to(u.dtype)


def chunked(
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
) -> Tensor:
    """Segments one after the other, chunks of a segment side by side, under autograd."""
    h = torch.zeros(u.shape[0], *A.shape, dtype=state_dtype(u, delta, A, B, C), device=u.device)
    # split, not slices: its backward is one concatenation, not one full-length sum a segment.
    parts = list(zip(*(t.split(_SEGMENT, dim=1) for t in (u, delta, B, C)), strict=True))
    gates = [None] * len(parts) if z is None else list(z.split(_SEGMENT, dim=1))
    outputs: list[Tensor] = [h] * len(parts)
    steps = range(len(parts))
    for i in reversed(steps) if reverse else steps:
        outputs[i], h = checkpoint(
            _segment,
            *(h, *parts[i], A, D, gates[i], delta_softplus, reverse),
            use_reentrant=False,
            preserve_rng_state=False,
        )
    return torch.cat(outputs, dim=1)


def state_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 where any tensor is, else float32."""
    double = any(t.dtype == torch.float64 for t in tensors)
    return torch.float64 if double else torch.float32


def skip_and_gate(y: Tensor, u: Tensor, D: Tensor | None, z: Tensor | None) -> Tensor:
    """``(y + D * u) * SiLU(z)``."""
    if D is not None:
        y = y + D * u.to(y.dtype)
    return y if z is None else y * F.silu(z.to(y.dtype))


def _segment(
    h: Tensor,
    u: Tensor,
    delta: Tensor,
    B: Tensor,
    C: Tensor,
    A: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
) -> tuple[Tensor, Tensor]:
    """Output of a segment that starts from state `h`, and the state it ends with."""
    dtype, length = h.dtype, u.shape[1]
    dt = F.softplus(delta.to(dtype)) if delta_softplus else delta.to(dtype)
    x = dt * u.to(dtype)
    A = A.to(dtype)
    # Padding has delta = 0 and x = 0: it leaves the state as it is.
    chunk = min(_CHUNK, length)
    padding = (0, 0, 0, -length % chunk)
    rows = [t.flip(1) if reverse else t for t in (dt, x, B.to(dtype), C.to(dtype))]
    rows = [F.pad(t, padding).unflatten(1, (-1, chunk)) for t in rows]
    local = torch.zeros_like(h)[:, None].expand(-1, rows[0].shape[1], -1, -1)
    outputs = []
    for dt_t, x_t, b_t, c_t in zip(*(t.unbind(dim=2) for t in rows), strict=True):
        local = torch.exp(dt_t[..., None] * A) * local + x_t[..., None] * b_t[..., None, :]
        outputs.append((local @ c_t[..., None]).squeeze(-1))
    y = torch.stack(outputs, dim=2)
    passed = rows[0].cumsum(dim=2)  # delta since the chunk began
    decay = torch.exp(passed[:, :, -1, :, None] * A)
    inherited = []
    for decay_m, local_m in zip(decay.unbind(dim=1), local.unbind(dim=1), strict=True):
        inherited.append(h)
        h = decay_m * h + local_m
    start = torch.stack(inherited, dim=1)[:, :, None]
    remains = torch.exp(passed[..., None] * A) * start
    y = y + (remains @ rows[3][..., None]).squeeze(-1)
    y = y.flatten(1, 2)[:, :length]
    y = y.flip(1) if reverse else y
    return skip_and_gate(y, u, D, z).to(u.dtype), h
