"""Short depthwise convolution and SiLU on CPU, compiled with Numba.

Symbols
-------
``x``, ``s``
    Input, and what goes into the SiLU, ``(batch, length, d)``.
``k``
    Taps. Tap 0 is that of the step itself, tap 1 that of the step before it.
``S``
    Steps of a task, `TILE`, counted in the direction of the convolution.

The kernels of ``_state_space_numba``, one for each way. A task is ``S`` steps of one row of the
batch with all their channels, so that it reads and writes one stretch of memory; flat arrays and
unsigned indices as in ``_scan_numba``.

The output, and its gradient, are of a block of the input only: ``shape`` is ``(length, d, k,
first, size, stride)``, where the block begins at step ``first`` in the direction of the
convolution, and has ``size`` steps; between two steps of ``x`` are ``stride`` numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from regmask_sk.ops._numba_compiled import compiled
from regmask_sk.ops._numba_math import F32, sigmoid

TILE = 256  # steps
_FLUSH = 64  # steps whose gradients of the taps are summed in float32, before float64

_U: Any = np.uint64
_S = _U(TILE)
_0, _1 = _U(0), _U(1)


@compiled
def convolve_task(
    task: int, x: Any, taps: Any, bias: Any, out: Any, shape: Any, reverse: bool
) -> None:
    """``S`` steps of one row; ``taps`` is ``(k, d)``, ``out`` is ``(batch, size, d)``."""
    length, d, k = _U(shape[0]), _U(shape[1]), _U(shape[2])
    first, size, stride = _U(shape[3]), _U(shape[4]), _U(shape[5])
    n_tiles = (size + _S - _1) // _S
    row, begin = _U(task) // n_tiles, _U(task) % n_tiles * _S
    s = np.zeros(d, np.float32)
    for i_step in range(begin, min(begin + _S, size)):
        own = _U(i_step)
        step = first + own
        o = (row * length + (length - _1 - step if reverse else step)) * stride
        at = (row * size + (size - _1 - own if reverse else own)) * d
        for i in range(d):
            s[i] = bias[i] + x[o + i] * taps[i]
        for i_back in range(1, min(k, step + _1)):
            back = _U(i_back)
            before = o + back * stride if reverse else o - back * stride
            for i in range(d):
                s[i] += x[before + i] * taps[back * d + i]
        for i in range(d):
            out[at + i] = s[i] * sigmoid(s[i])


@compiled
def differentiate_task(
    task: int,
    grad: Any,
    after: Any,
    x: Any,
    taps: Any,
    bias: Any,
    grad_x: Any,
    grad_taps: Any,
    grad_bias: Any,
    shape: Any,
    reverse: bool,
    add: bool,
) -> None:
    """Gradients of ``S`` steps.

    ``grad``, ``(batch, size, d)``, is the gradient of the output of the block, ``after``,
    ``(batch, k - 1, d)``, that of the steps after it. What a step gets comes from itself and the
    ``k - 1`` steps after it, those of the next task included: their gradients of ``s`` are
    computed there once more. ``grad_taps``, ``(task, k, d)``, and ``grad_bias``, ``(task, d)``,
    are added to, and with `add` ``grad_x``, which is laid out as ``x``.
    """
    length, d, k = _U(shape[0]), _U(shape[1]), _U(shape[2])
    first, size, stride = _U(shape[3]), _U(shape[4]), _U(shape[5])
    n_tiles = (size + _S - _1) // _S
    row, begin = _U(task) // n_tiles, _U(task) % n_tiles * _S
    end = min(begin + _S, size)
    asked = np.zeros(d, np.float32)
    got = np.zeros(d, np.float32)
    grad_s = np.zeros(k * d, np.float32)  # of the last k steps, step t at t modulo k
    part = np.zeros((k + _1) * d, np.float32)  # taps, then the bias, over some steps
    total = np.zeros((k + _1) * d, np.float64)
    for i_step in range(begin, end + k - _1):
        own = _U(i_step)
        step = first + own
        at = own % k * d
        if step < length:
            o = (row * length + (length - _1 - step if reverse else step)) * stride
            if own < size:
                from_ = (row * size + (size - _1 - own if reverse else own)) * d
                for i in range(d):
                    asked[i] = grad[from_ + i]
            else:
                from_ = (row * (k - _1) + own - size) * d
                for i in range(d):
                    asked[i] = after[from_ + i]
            n_taps = min(k, step + _1)
            for i in range(d):
                grad_s[at + i] = bias[i] + x[o + i] * taps[i]
            for i_back in range(1, n_taps):
                back = _U(i_back)
                before = o + back * stride if reverse else o - back * stride
                for i in range(d):
                    grad_s[at + i] += x[before + i] * taps[back * d + i]
            for i in range(d):
                s = grad_s[at + i]
                gate = sigmoid(s)
                grad_s[at + i] = asked[i] * gate * (F32(1.0) + s * (F32(1.0) - gate))
            if own < end:
                for i in range(d):
                    part[k * d + i] += grad_s[at + i]
                for i_back in range(n_taps):
                    back = _U(i_back)
                    before = o + back * stride if reverse else o - back * stride
                    for i in range(d):
                        part[back * d + i] += grad_s[at + i] * x[before + i]
        else:
            for i in range(d):
                grad_s[at + i] = F32(0.0)
        if own % _U(_FLUSH) == _0 or own + _1 == end:
            for i in range((k + _1) * d):
                total[i] += part[i]
                part[i] = F32(0.0)
        if own + _1 >= begin + k:
            done = own + _1 - k
            step = first + done
            o = (row * length + (length - _1 - step if reverse else step)) * stride
            at = done % k * d
            for i in range(d):
                got[i] = grad_s[at + i] * taps[i]
            for i_back in range(1, k):
                back = _U(i_back)
                at = (done + back) % k * d
                for i in range(d):
                    got[i] += grad_s[at + i] * taps[back * d + i]
            if add:
                for i in range(d):
                    grad_x[o + i] += got[i]
            else:
                for i in range(d):
                    grad_x[o + i] = got[i]
    for i in range(d):
        grad_bias[_U(task) * d + i] += total[k * d + i]
    for i in range(k * d):
        grad_taps[_U(task) * k * d + i] += total[i]
