"""Free memory: the machine's, and the smallest limit of the control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from regmask_sk._free_memory import free_memory

KIB = 1024


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    write(
        tmp_path / "proc/meminfo", "MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable:    4000 kB\n"
    )
    return tmp_path


def group(folder: Path, limit: str, usage: int, inactive: int, version: int = 2) -> None:
    names = ("memory.max", "memory.current", "inactive_file")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    write(folder / names[0], f"{limit}\n")
    write(folder / names[1], f"{usage}\n")
    write(folder / "memory.stat", f"anon 5\n{names[2]} {inactive}\ninactive_file_x 7\n")


def test_what_the_machine_has_available(machine: Path) -> None:
    assert free_memory("cpu", machine) == 4000 * KIB


def test_a_limit_of_a_group_above_counts(machine: Path) -> None:
    write(machine / "proc/self/cgroup", "0::/user/job\n")
    top = machine / "sys/fs/cgroup"
    group(top / "user/job", "max", 900, 0)
    assert free_memory("cpu", machine) == 4000 * KIB
    group(top / "user", "3000", 2500, 400)
    assert free_memory("cpu", machine) == 3000 - 2500 + 400
    group(top / "user/job", "1000", 900, 0)
    assert free_memory("cpu", machine) == 100
    group(top / "user/job", "1000", 1900, 0)
    assert free_memory("cpu", machine) == 0


def test_the_path_of_a_group_that_a_container_does_not_see(machine: Path) -> None:
    write(machine / "proc/self/cgroup", "0::/docker/abc\n")
    group(machine / "sys/fs/cgroup", "5000", 1000, 0)
    assert free_memory("cpu", machine) == 4000


def test_groups_of_version_1(machine: Path) -> None:
    write(machine / "proc/self/cgroup", "7:cpu,cpuacct:/x\n4:memory:/job\n")
    folder = machine / "sys/fs/cgroup/memory"
    group(folder / "job", "8000", 3000, 500, version=1)
    group(folder, "9223372036854771712", 10, 0, version=1)
    assert free_memory("cpu", machine) == 5500


def test_elsewhere_the_memory_of_the_machine(tmp_path: Path) -> None:
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert free_memory("cpu", tmp_path) == whole
    assert free_memory("cpu") <= whole
