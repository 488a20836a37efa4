"""How much memory an estimator takes: measured on a few short windows, and carried over.

One step of each stage of a training, a prediction and a transform run on one and on two windows
that are much shorter than those of X, while every tensor that is made is counted until it is
freed. The network is the same but for its length, so that what it needs grows with the number of
windows and, for networks that attend to all pairs of tokens, with the square of the length.

On CUDA the device's allocator tells the peak as well, but the peaks of short windows say nothing
of long ones: cuDNN takes a gigabyte to convolve some shapes and nothing for their double. So
tensors are counted there too, and the most that the allocator saw beside them is added once.
"""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from regmask_sk._cache import MemoryStore
from regmask_sk._memory import MemoryModel
from regmask_sk.windows import Windows

_SHORTEST = 2_048  # bp of a window that is measured, ...
_WHOLE = 8 * _SHORTEST  # ... unless those of X are no longer than this
_SHARES = (32, 16, 8)  # of longer ones, lengths to measure at, as shares of theirs
# What a process takes on the CPU for each byte of its tensors: the system's allocator keeps some
# of what is freed, and kernels have buffers of their own. Measured: 1.1 to 1.5.
HELD_ON_HOST = 1.3
# Operations that hold, while they run, about as much again as they read and write.
_COPYING = ("aten::convolution", "aten::convolution_backward")
# The place among their arguments of the input of state spaces, which holds input and gate, and
# how much of that they have in the middle, in float32: the output before it is projected, and
# in backward its gradient as well.
_STATE_SPACES = {"regmask_sk::state_space": (0, 0.5), "regmask_sk::state_space_backward": (1, 1.0)}


class Tally(TorchDispatchMode):
    """Counts the bytes of tensors that are alive, and the most of them at any time.

    Views count once. What a kernel takes for itself and gives back is not seen, but for
    convolutions, as those of oneDNN copy what they read and write into a layout of their own, and
    for state spaces and their scans, which have tensors as long as their input in the middle.

    Parameters
    ----------
    device : str, default="cpu"
        Whose tensors are counted.

    Examples
    --------
    >>> with Tally() as tally:
    ...     x = torch.zeros(1000)
    ...     y = (x + 1).sum()
    >>> tally.live, tally.peak
    (4004, 8004)
    """

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self.device = torch.device(device)
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count what it made."""
        out = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        for tensor in made:
            if tensor.device.type == self.device.type:
                self._count(tensor.untyped_storage())
        name, held = func._schema.name, 0.0
        if name in _COPYING:
            read = [leaf for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)]
            held = sum(tensor.numel() * tensor.element_size() for tensor in (*read, *made))
        elif name in _STATE_SPACES:
            place, share = _STATE_SPACES[name]
            xz = args[place]
            copied = xz.dtype != torch.float32  # to float32, with what backward makes of it
            held = 4 * xz.numel() * (share + 2 * share * copied)
        elif name == "regmask_sk::selective_scan_backward" and self.device.type == "cuda":
            from regmask_sk.ops import _scan_triton

            batch, length, d = args[1].shape
            held = _scan_triton.bytes_in_backward(batch, length, d, args[3].shape[1])
        self.peak = max(self.peak, self.live + int(held))
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        n_bytes = storage.nbytes()
        self._known.add(key)
        weakref.finalize(storage, self._forget, key, n_bytes).atexit = False
        self.live += n_bytes
        self.peak = max(self.peak, self.live)

    def _forget(self, key: int, n_bytes: int) -> None:
        self._known.discard(key)
        self.live -= n_bytes

    def restart(self) -> int:
        """Begin a new peak; give the bytes that are alive now."""
        self.peak = self.live
        return self.live

    def beside(self) -> int:
        """Give the bytes that were taken, at the peak, beside those that were counted."""
        return 0


class _CudaTally(Tally):
    """Counts tensors, and compares with CUDA's own allocator."""

    def __init__(self, device: str) -> None:
        super().__init__(device)
        self.restart()

    def restart(self) -> int:
        torch.cuda.reset_peak_memory_stats(self.device)
        self._allocated = torch.cuda.memory_allocated(self.device)
        self._from = super().restart()
        return self._from

    def beside(self) -> int:
        taken = torch.cuda.max_memory_allocated(self.device) - self._allocated
        return max(taken - (self.peak - self._from), 0)


def shortened(X: Any, length: int, n_windows: int) -> Any:
    """Take the first window some times over, cut to a length around its middle.

    Parameters
    ----------
    X : Windows or ndarray of shape (n, channels, length)
        Windows.
    length : int
        Base pairs.
    n_windows : int
        Number of windows.

    Returns
    -------
    Windows or ndarray
        `n_windows` windows.

    Examples
    --------
    >>> shortened(np.arange(8.0).reshape(2, 1, 4), 2, 1).tolist()
    [[[1.0, 2.0]]]
    """
    rows = [0] * n_windows
    if isinstance(X, Windows):
        return replace(X[rows], length=length, store=None)
    start = (X.shape[-1] - length) // 2
    return np.asarray(X[rows])[..., start : start + length]


def lengths_to_measure(length: int, grain: int) -> tuple[int, ...]:
    """Lengths at which memory is measured, ascending.

    Examples
    --------
    >>> lengths_to_measure(2_000, 32), lengths_to_measure(20_000, 32)
    ((2000,), (2048, 4096, 8192))
    >>> lengths_to_measure(200_000, 32)
    (6272, 12544, 25088)
    """
    shortest = max(_SHORTEST, 16 * grain)
    if length <= max(_WHOLE, 8 * shortest):
        return (length,)
    first = max(-(-length // _SHARES[0] // grain) * grain, -(-shortest // grain) * grain)
    return first, 2 * first, 4 * first


def carried_over(lengths: Sequence[int], values: Sequence[float], length: int) -> float:
    """Carry a measured quantity over to a longer window.

    Parameters
    ----------
    lengths, values : sequences
        Where it was measured, at one, two or three lengths, and what was found.
    length : int
        Where it is wanted.

    Returns
    -------
    float
        By the parabola through three points; by the line through two, or through the last two,
        where that bends downwards.

    Examples
    --------
    >>> carried_over((1, 2, 4), (3, 5, 9), 10), carried_over((1, 2, 4), (1, 4, 16), 10)
    (21.0, 100.0)
    """
    if len(lengths) < 3:
        run, rise = lengths[-1] - lengths[0], values[-1] - values[0]
        return float(values[0] + (rise * (length - lengths[0]) / run if run else 0.0))
    (a, b, c), (at_a, at_b, at_c) = lengths, values
    slope = (at_c - at_b) / (c - b)
    bend = (slope - (at_b - at_a) / (b - a)) / (c - a)
    return float(at_c + slope * (length - c) + max(bend, 0.0) * (length - c) * (length - b))


def memory_model(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    device: str,
    after_stages: Callable[[Any], float],
) -> MemoryModel:
    """Measure an estimator that is not fitted.

    Parameters
    ----------
    estimator : NetworkRegressor
        Left as it is; a clone is measured.
    X : Windows or ndarray of shape (n, channels, length)
        The windows.
    y : array of shape (n,) or (n, n_outputs), or None
        Says how many targets there are; None for one.
    device : str
        Where it is measured.
    after_stages : callable
        From a clone that is fitted on short windows to the bytes that the training will hold
        between its stages.

    Returns
    -------
    MemoryModel
        For any batch size.
    """
    length = int(X.shape[2])
    grain = math.lcm(2 * int(getattr(estimator, "resolution", 1)), 128)
    lengths = lengths_to_measure(length, grain)
    try:
        found = [_measure(estimator, X, y, at, 1, device, after_stages) for at in lengths]
    except ValueError:
        if len(lengths) == 1:
            raise
        lengths = (length,)  # it takes no others
        found = [_measure(estimator, X, y, length, 1, device, after_stages)]
    two = [_measure(estimator, X, y, at, 2, device, after_stages) for at in lengths[:2]]
    held = 1.0 if device.startswith("cuda") else HELD_ON_HOST
    fixed, per_window = {}, {}
    for name in ("fit", "predict", "transform"):
        # Filters as long as the window, say, are there once, for however many windows.
        once = [max(2 * a[name] - b[name], 0.0) for a, b in zip(found, two, strict=False)]
        each = [
            a[name] - carried_over(lengths[:2], once, at)
            for a, at in zip(found, lengths, strict=True)
        ]
        beside = max(one[f"{name}, beside"] for one in (*found, *two))
        fixed[name] = held * carried_over(lengths[:2], once, length) + beside
        per_window[name] = held * max(carried_over(lengths, each, length), 0.0)
    carried = {
        name: carried_over(lengths, [one[name] for one in found], length)
        for name in ("parameters", "trained")
    }
    window = int(X.shape[1]) * length * 4
    # The batch that is used and the one that is read, and two for each worker.
    batches = 2 + 2 * estimator.n_workers
    store = getattr(X, "store", None)
    return MemoryModel(
        device=device,
        fixed=fixed,
        per_window=per_window,
        **carried,
        after_stages=found[-1]["after_stages"],
        windows_fixed=2 * window,
        window=batches * window,
        cache=store.expected_bytes(X) if isinstance(store, MemoryStore) else 0,
        masks=int(X.shape[0]) * length * 4 if hasattr(estimator, "transform") else 0,
    )


# Whether a fit is one of those that measure: such a one is not measured when it fails.
measuring: ContextVar[bool] = ContextVar("measuring", default=False)


@contextmanager
def _measuring() -> Iterator[None]:
    before = measuring.set(True)
    try:
        yield
    finally:
        measuring.reset(before)


def _measure(
    estimator: Any,
    X: Any,
    y: Any,
    length: int,
    n_windows: int,
    device: str,
    after_stages: Callable[[Any], float],
) -> dict[str, float]:
    """Fit, predict and transform once, at a length; the most bytes that each held."""
    params = estimator.get_params(deep=False)
    wanted: dict[str, Any] = {
        "batch_size": n_windows, "max_epochs": 1, "validation_fraction": 0.0, "n_workers": 0,
        "accelerate": False,  # the others do not take part in it
        "validation_chroms": None, "warm_start": False, "verbose": 0, "random_state": 0,
        "device": device, "closed_regions": None, "open_regions": None, "generator_epochs": 1,
    }  # fmt: skip
    if params.get("finetune_epochs") != 0:
        wanted["finetune_epochs"] = 1
    if length < X.shape[2]:
        wanted |= {"promoter_length": "auto"}
        if "gate_correlation" in params:
            wanted["gate_correlation"] = min(params["gate_correlation"], length)
    model = clone(estimator).set_params(**{k: v for k, v in wanted.items() if k in params})
    windows = shortened(X, length, n_windows)
    targets = np.arange(n_windows) if y is None else np.asarray(y)[[0] * n_windows]
    found: dict[str, float] = {"transform": 0.0, "transform, beside": 0.0}
    on_cuda = device.startswith("cuda")
    devices = [torch.device(device)] if on_cuda else []
    with (
        _measuring(),
        warnings.catch_warnings(),
        torch.random.fork_rng(devices=devices),
        _CudaTally(device) if on_cuda else Tally() as tally,
    ):
        warnings.simplefilter("ignore")
        model.fit(windows, targets)
        found |= {"fit": tally.peak, "fit, beside": tally.beside()}
        for name in ("predict", "transform"):
            if hasattr(model, name):
                before = tally.restart()
                getattr(model, name)(windows)
                found |= {name: tally.peak - before, f"{name}, beside": tally.beside()}
    module = model.net_.ready_module
    tensors = [*module.parameters(), *module.buffers()]
    found["parameters"] = sum(t.numel() * t.element_size() for t in tensors)
    found["trained"] = sum(p.numel() * p.element_size() for p in module.parameters())
    found["after_stages"] = after_stages(model)
    return found
