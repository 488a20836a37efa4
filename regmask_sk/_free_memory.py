"""How much memory a device has left: of the machine, or of the container that limits it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch


def free_memory(device: str, root: str | os.PathLike[str] = "/") -> int:
    """Bytes that can be taken on a device now.

    Parameters
    ----------
    device : str
        Device of torch.
    root : path-like, default="/"
        Where ``proc`` and ``sys`` are.

    Returns
    -------
    int
        Of a GPU what its driver says is free. Of main memory, on Linux, what the system can give
        without swapping (``MemAvailable``), and no more than the control groups of this process
        leave (versions 1 and 2); on other systems what the machine has in all.

    Examples
    --------
    >>> free_memory("cpu") > 0
    True
    """
    if device.startswith("cuda"):
        # What torch keeps for itself it can give out again.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    found = _available(Path(root))
    if found is None:
        found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(min([found, *_left_in_groups(Path(root))]), 0)


def _available(root: Path) -> int | None:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _left_in_groups(root: Path) -> Iterator[int]:
    """Bytes that each control group of this process, and each above it, leaves."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = top / path.lstrip("/")
        # In a container the path may be that of the host, which is not to be seen from in there.
        for folder in (group, *group.parents):
            if folder == top or top in folder.parents:
                left = _left(folder, *names)
                if left is not None:
                    yield left


def _left(folder: Path, limit: str, usage: str, reclaimable: str) -> int | None:
    try:
        most = (folder / limit).read_text().strip()
        used = int((folder / usage).read_text())
        stat = (folder / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):
        return None
    if not most.isdigit():  # "max"
        return None
    # Files that were read count as used, but give way.
    giving = [int(line.split()[1]) for line in stat if line.startswith(f"{reclaimable} ")]
    return int(most) - used + sum(giving)
