"""What the Numba kernels share: an exponential that vectorises, threads.

The exponential is a polynomial, as Numba's own is scalar without SVML. It is inlined into the
kernels, whose compiled code is kept on disk: after a change here delete ``__pycache__``, as
Numba only looks at the time stamp of the file that a kernel itself is in.

Tasks run in threads of their own that release the GIL and end with the call, and not in one of
Numba's threading layers: those die, or hang, in a process that was forked after the parent
used them, or when two threads call a kernel at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from torch import Tensor

from regmask_sk.ops._numba_compiled import OPTIONS

_MIN_PARALLEL = 2**20  # floating-point exponentials below which threads cost more than they give

I32: Any = np.int32
F32: Any = np.float32
LOG2_E = F32(1.4426950408889634)

# 2**f for f in [-0.5, 0.5], fitted to a relative error of 2e-9 with the constant held at 1, so
# that a decay close to 1 is right to the last bit.
_E1 = F32(0.6931472028563574)
_E2 = F32(0.24022647913462344)
_E3 = F32(0.055503324687803376)
_E4 = F32(0.009618437368096488)
_E5 = F32(0.00133988752484002)
_E6 = F32(0.000153533609926957)
# atanh(s) / s = 1 + L1 s**2 + ..., s in [0, 1/3], fitted to a relative error of 1e-8.
_L1, _L2, _L3, _L4 = (F32(x) for x in (0.33332943, 0.20021876, 0.13854755, 0.14617363))


@intrinsic
def _float_of_bits(typingctx: Any, bits: Any) -> Any:
    """Read the bits of an int32 as a float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), generate


@intrinsic
def _bits_of_float(typingctx: Any, x: Any) -> Any:
    """Read the bits of a float32 as an int32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.int32(types.float32), generate


@intrinsic
def _nearest_whole(typingctx: Any, x: Any) -> Any:
    """Round a float32, in one instruction that vectorises."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rint = builder.module.declare_intrinsic("llvm.rint", [ir.FloatType()])
        return builder.call(rint, args)

    return types.float32(types.float32), generate


@njit(inline="always", **OPTIONS)
def exp2(x: Any) -> Any:
    """2**x with 2e-7 relative error; below -126 it stays at 1.2e-38, above 126 at 8.5e37."""
    x = min(max(x, F32(-126.0)), F32(126.0))
    whole: Any = _nearest_whole(x)  # type: ignore[call-arg]
    f = x - whole
    p = ((((_E6 * f + _E5) * f + _E4) * f + _E3) * f + _E2) * f + _E1
    # The power of two goes to the exponent of 2**f, in [0.7, 1.42], as an addition to its bits.
    bits: Any = _bits_of_float(p * f + F32(1.0))
    power = types.int32(types.int32(whole) << I32(23))
    return _float_of_bits(types.int32(bits + power))


@njit(inline="always", **OPTIONS)
def sigmoid(x: Any) -> Any:
    return F32(1.0) / (F32(1.0) + exp2(-x * LOG2_E))


@njit(inline="always", **OPTIONS)
def softplus_and_slope(x: Any) -> Any:
    """log(1 + e**x) and its slope, sigmoid(x), from one exponential.

    log(1 + e**x) = max(x, 0) + log1p(e**-|x|), with log1p(e) = 2 atanh(e / (2 + e)).
    """
    e = exp2(-abs(x) * LOG2_E)
    s = e / (F32(2.0) + e)
    q = s * s
    series = (((_L4 * q + _L3) * q + _L2) * q + _L1) * q
    of_size = F32(1.0) / (F32(1.0) + e)
    value = max(x, F32(0.0)) + F32(2.0) * s * (series + F32(1.0))
    return value, of_size if x >= F32(0.0) else e * of_size


@njit(inline="always", **OPTIONS)
def softplus(x: Any) -> Any:
    return softplus_and_slope(x)[0]


def worker_threads() -> ThreadPoolExecutor:
    """Threads beside the one that calls, for several calls of `run_jobs`; they start when used."""
    return ThreadPoolExecutor(max(torch.get_num_threads() - 1, 1))


@dataclass(frozen=True)
class Job:
    """A kernel, called as ``kernel(task, *tensors, *options)`` for each of its tasks.

    Tensors come to the kernel as flat arrays, float32 but for those of integers; what it
    writes to must be contiguous float32 already.
    """

    kernel: Callable[..., None]
    n_tasks: int
    tensors: tuple[Tensor, ...]
    options: tuple[Any, ...]


def run_jobs(jobs: Sequence[Job], work: int, pool: ThreadPoolExecutor | None = None) -> None:
    """Run all tasks of some jobs, in any order, in as many threads as torch uses.

    ``work`` says, in exponentials, whether threads are worth their start. Without ``pool`` they
    are started for this call.
    """
    calls = []
    for job in jobs:
        single = [x.detach().float() if x.is_floating_point() else x for x in job.tensors]
        flat = [x.contiguous().view(-1).numpy() for x in single]
        calls += [(job.kernel, task, flat, job.options) for task in range(job.n_tasks)]
    n_threads = min(torch.get_num_threads(), len(calls))
    left = iter(calls)  # shared: each comes out of it once

    def run() -> None:
        for kernel, task, flat, options in left:
            kernel(task, *flat, *options)

    if n_threads < 2 or work < _MIN_PARALLEL:
        run()
        return
    with worker_threads() if pool is None else nullcontext(pool) as workers:
        others = [workers.submit(run) for _ in range(n_threads - 1)]
        run()
        for other in others:
            other.result()
