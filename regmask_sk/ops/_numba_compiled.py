"""How Numba compiles the kernels of this folder. It needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

# Python's error model would check every divisor, which the vectoriser does not get past.
OPTIONS: dict[str, Any] = {"nogil": True, "fastmath": True, "error_model": "numpy"}


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile for speed, and keep the result on disk where there is a place for it."""
    try:
        return njit(cache=True, **OPTIONS)(function)
    except RuntimeError:  # neither the package's folder nor a cache folder can be written to
        return njit(**OPTIONS)(function)
