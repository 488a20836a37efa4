"""Torch's random numbers, which belong to the whole process, for one thread at a time.

Searches may run several fits in threads of one process. Each epoch seeds torch anew; another
thread that draws in between would change its numbers. So threads take turns, epoch by epoch.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_lock = threading.RLock()


def _renew() -> None:
    """Give a forked process a lock of its own: the thread that held this one is not in it."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


@contextmanager
def turn() -> Iterator[None]:
    """Keep other threads from their turns until the end of the block, which may draw.

    Examples
    --------
    >>> with turn():
    ...     drawn = torch.rand(3)
    """
    with _lock:
        yield


@contextmanager
def own_random_numbers(seed: int | None = None) -> Iterator[None]:
    """Have torch's random numbers for this thread alone, and put them back as they were.

    Parameters
    ----------
    seed : int, optional
        With which they begin; without one they go on from where they are.

    Examples
    --------
    >>> with own_random_numbers(seed=0):
    ...     first = torch.rand(3)
    >>> with own_random_numbers(seed=0):
    ...     bool((torch.rand(3) == first).all())
    True
    """
    with turn(), torch.random.fork_rng(devices=_devices()):
        if seed is not None:
            torch.manual_seed(seed)
        yield


def _devices() -> list[int]:
    """Give the GPUs whose random numbers a fit changes, its own one of several processes."""
    if not torch.cuda.is_available():
        return []
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return [torch.cuda.current_device()]
    return list(range(torch.cuda.device_count()))
