"""Counts of codons in tokens on CPU, compiled with Numba.

One pass over the bases of a row. The counts are whole numbers, so that they are those of the
plain computation to the bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from regmask_sk.ops._numba_compiled import compiled
from regmask_sk.ops._numba_math import Job, run_jobs

_U: Any = np.uint64
_1, _2, _3, _4, _16, _64 = _U(1), _U(2), _U(3), _U(4), _U(16), _U(64)
_UNKNOWN = _U(255)


def counts(sequence: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
    """Count trinucleotides inside tokens and across their ends, ``(batch, 3, 64, T)``.

    In memory the 64 are innermost: those of a token lie together.
    """
    batch, _, length = sequence.shape
    n_tokens = -(-length // resolution)
    inside, across = (torch.zeros(batch, 3, n_tokens, 64) for _ in range(2))
    tensors = (sequence, inside, across)
    job = Job(_count_task, batch, tensors, ((length, n_tokens, resolution),))
    run_jobs([job], sequence.numel())
    return inside.transpose(2, 3), across.transpose(2, 3)


@compiled
def _count_task(row: int, sequence: Any, inside: Any, across: Any, shape: Any) -> None:
    """One row of the batch."""
    length, n_tokens, resolution = _U(shape[0]), _U(shape[1]), _U(shape[2])
    start, counted = _U(row) * _4 * length, _U(row) * _3 * _64 * n_tokens
    first, second = _UNKNOWN, _UNKNOWN
    for i in range(length):
        at = start + _U(i)
        third, largest = _UNKNOWN, np.float32(0.0)
        for base in range(4):
            value = sequence[at + _U(base) * length]
            if value > largest:
                third, largest = _U(base), value
        if first != _UNKNOWN and second != _UNKNOWN and third != _UNKNOWN:
            begin = _U(i) - _2
            token, phase = begin // resolution, begin % _3
            codon = _16 * first + _4 * second + third
            cell = counted + (phase * n_tokens + token) * _64 + codon
            if _U(i) // resolution > token:
                across[cell] += np.float32(1.0)
            else:
                inside[cell] += np.float32(1.0)
        first, second = second, third
