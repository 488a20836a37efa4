"""Best match of each token on CPU: matrix products forward, Numba backward.

Symbols
-------
``x``
    Window, channels innermost and padded, ``(batch, P + k - 1, c)``.
``P``, ``r``, ``T``
    Padded length, a multiple of ``S``; bases a token stands for; number of tokens.
``w``
    Motifs, ``(d, k, c)``: the innermost axes run as those of `x` do.
``S``
    Bases that one row of the matrix product scans, ``_SCANNED``.

With the channels innermost, what a motif meets at a base is one stretch of memory. Forward
takes the stretch of ``S`` bases for a row and multiplies it with the motifs at their ``S``
places: more products than needed, but in one matrix multiplication, of which the tokens' best
are taken while they are in cache. Backward knows the one base of each token that counts, and
goes there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from regmask_sk.ops._numba_compiled import compiled
from regmask_sk.ops._numba_math import Job, run_jobs

_SCANNED = 4
_BLOCK = 2048  # bases, times _SCANNED, whose scores are in memory at once; of a task backward

_U: Any = np.uint64
_0, _1 = _U(0), _U(1)


def forward(x: Tensor, weight: Tensor, bias: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
    """Best score of each token, and which base of the token it is at, ``(batch, d, T)``."""
    (batch, _, length), (d, c, k) = x.shape, weight.shape
    n_tokens = -(-length // resolution)
    inside = _channels_last(x, k, n_tokens * resolution)
    rows = (inside.shape[1] - k + 1) // _SCANNED
    stretches = inside.as_strided(
        (batch, rows, (_SCANNED + k - 1) * c), (inside.stride(0), _SCANNED * c, 1)
    )
    motifs = weight.new_zeros(_SCANNED + k - 1, c, _SCANNED, d)
    for base in range(_SCANNED):
        motifs[base : base + k, :, base] = weight.permute(2, 1, 0)
    motifs = motifs.view((_SCANNED + k - 1) * c, _SCANNED * d)
    best = x.new_empty(batch, n_tokens, d)
    place = torch.empty(batch, n_tokens, d, dtype=torch.int64)
    block = _SCANNED * max(_BLOCK // resolution, 1)  # tokens
    for row in range(batch):
        for first in range(0, n_tokens, block):
            last = min(first + block, n_tokens)
            begin, end = first * resolution, last * resolution
            scores = stretches[row, begin // _SCANNED : -(-end // _SCANNED)] @ motifs
            scores = scores.view(-1, d)[: end - begin]
            scores[length - begin :] = -torch.inf  # a last token that is not full
            torch.max(
                scores.view(last - first, resolution, d),
                dim=1,
                out=(best[row, first:last], place[row, first:last]),
            )
    best += bias
    return best.transpose(1, 2).contiguous(), place.transpose(1, 2).contiguous()


def backward(
    grad: Tensor, x: Tensor, weight: Tensor, place: Tensor, resolution: int, *, to_input: bool
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Gradients of window (unless not `to_input`), motifs and bias."""
    (batch, c, length), (d, _, k) = x.shape, weight.shape
    n_tokens = grad.shape[2]
    inside = _channels_last(x, k, n_tokens * resolution)
    padded = inside.shape[1]
    tokens = max(_BLOCK // resolution, 1)  # of a task
    n_tasks = batch * -(-n_tokens // tokens)
    grad_weight = x.new_empty(n_tasks, d, k, c)
    grad_x = x.new_zeros(inside.shape if to_input else (0,))
    by_token = grad.transpose(1, 2)
    tensors = (by_token, place.transpose(1, 2), inside, weight.transpose(1, 2))
    shape = (n_tokens, d, k, c, padded, resolution, tokens)
    work = batch * n_tokens * d * k * c
    job = Job(_backward_task, n_tasks, (*tensors, grad_weight, grad_x), (shape, to_input))
    run_jobs([job], work)
    return (
        grad_x[:, k // 2 : k // 2 + length].transpose(1, 2).contiguous() if to_input else None,
        grad_weight.sum(dim=0).transpose(1, 2).contiguous(),
        grad.sum(dim=(0, 2)),
    )


def _channels_last(x: Tensor, k: int, length: int) -> Tensor:
    """Copy ``(batch, c, length)`` to ``(batch, P + k - 1, c)``, zeros around."""
    after = -(-length // _SCANNED) * _SCANNED - x.shape[2] + (k - 1) - k // 2
    return F.pad(x.transpose(1, 2), (0, 0, k // 2, after)).contiguous()


@compiled
def _backward_task(
    task: int,
    grad: Any,
    place: Any,
    x: Any,
    weight: Any,
    grad_weight: Any,
    grad_x: Any,
    shape: Any,
    to_input: bool,
) -> None:
    """Sum what some tokens of a row give to the motifs, and to the bases that they span."""
    n_tokens, d, k, c = _U(shape[0]), _U(shape[1]), _U(shape[2]), _U(shape[3])
    padded, resolution, tokens = _U(shape[4]), _U(shape[5]), _U(shape[6])
    n_parts = (n_tokens + tokens - _1) // tokens
    row, part = _U(task) // n_parts, _U(task) % n_parts
    first = part * tokens
    last = min(first + tokens, n_tokens)
    size = k * c
    window = row * padded * c
    for i in range(d * size):
        grad_weight[_U(task) * d * size + _U(i)] = np.float32(0.0)
    for t in range(first, last):
        for j in range(d):
            o = (row * n_tokens + _U(t)) * d + _U(j)
            g = grad[o]
            if g != np.float32(0.0):
                start = window + (_U(t) * resolution + _U(place[o])) * c
                to = (_U(task) * d + _U(j)) * size
                for i in range(size):
                    grad_weight[to + _U(i)] += g * x[start + _U(i)]
    if not to_input:
        return
    # This task's own bases; the motifs of tokens next to them reach into them.
    begin = first * resolution if part > _0 else _0
    end = last * resolution if last < n_tokens else padded
    reach = (k + resolution - _1) // resolution
    early = first - min(reach, first)
    for t in range(early, last):
        for j in range(d):
            o = (row * n_tokens + _U(t)) * d + _U(j)
            g = grad[o]
            if g != np.float32(0.0):
                at = _U(t) * resolution + _U(place[o])
                low, high = max(at, begin), min(at + k, end)
                if low < high:
                    to = window + low * c
                    start = _U(j) * size + (low - at) * c
                    for i in range((high - low) * c):
                        grad_x[to + _U(i)] += g * weight[start + _U(i)]
