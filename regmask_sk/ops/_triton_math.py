"""What the Triton kernels share: the sigmoid, where they run, and how a tensor lies in memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import torch
import triton
import triton.language as tl
from torch import Tensor

Launch = TypeVar("Launch", bound=Callable[..., Any])


@triton.jit
def sigmoid(raw):  # type: ignore[no-untyped-def]
    """Logistic function."""
    return 1.0 / (1.0 + tl.exp(-raw))


def on_device_of_first(launch: Launch) -> Launch:
    """Run a function on the GPU of its first argument.

    Triton launches kernels on the current device, which need not be that of the tensors.
    """

    @wraps(launch)
    def guarded(first: Tensor, *rest: Any, **options: Any) -> Any:
        with torch.cuda.device_of(first):
            return launch(first, *rest, **options)

    return cast(Launch, guarded)


def as_rows(x: Tensor) -> tuple[Tensor, int]:
    """Give a tensor in which all steps of all rows are equally far apart, and how far.

    A part of the channels of a wider tensor is such a one, and is not copied.
    """
    _, length, d = x.shape
    pitch = x.stride(1) if length > 1 else d
    even = x.shape[0] == 1 or x.stride(0) == length * pitch
    if not even or (d > 1 and x.stride(2) != 1):
        x, pitch = x.contiguous(), d
    return x, pitch


__all__ = ["as_rows", "on_device_of_first", "sigmoid"]
