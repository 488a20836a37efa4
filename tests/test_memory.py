"""Estimates: their sums, the batch that fits, and which errors mean that memory has run out."""

from __future__ import annotations

import pytest
import torch

from regmask_sk._memory import SHARE_OF_FREE, MemoryModel, in_words, is_out_of_memory


def model(device: str = "cpu", after_stages: float = 0.0) -> MemoryModel:
    return MemoryModel(
        device=device,
        fixed={"fit": 500.0, "predict": 7.0, "transform": 0.0},
        per_window={"fit": 100.0, "predict": 20.0, "transform": 30.0},
        parameters=50.0,
        trained=40.0,
        after_stages=after_stages,
        windows_fixed=6,
        window=10,
        cache=1000,
        masks=4000,
    )


def test_parts_add_up() -> None:
    found = model().at(4)
    assert (found.parameters, found.optimizer, found.windows) == (50, 160, 46)
    assert found.training_step == 500 + 400 - 50 - 160
    assert found.fit == 900 + 46 + 1000
    assert found.predict == 50 + 87 + 46 + 1000
    assert found.transform == 50 + 120 + 46 + 1000 + 4000
    assert found.total == found.transform
    assert found.largest_step == found.fit
    assert str(found) == (
        "fit 1.95 kB, predict 1.18 kB, transform 5.22 kB on cpu, with batch_size=4"
    )


def test_on_a_gpu_windows_cache_and_masks_are_elsewhere() -> None:
    found = model("cuda:1").at(4)
    assert (found.fit, found.predict, found.transform) == (900, 137, 170)
    assert found.largest_step == 900


def test_what_is_held_between_stages_counts_where_it_is_more() -> None:
    assert model(after_stages=10.0).at(4).fit == model().at(4).fit
    assert model(after_stages=5000.0).at(4).training_step == 5000 + 87


@pytest.mark.parametrize(("exactly", "expected"), [(8, 8), (7, 4), (1, 1), (64, 32)])
def test_the_largest_power_of_two_that_fits(exactly: int, expected: int) -> None:
    free = model().at(exactly).largest_step / SHARE_OF_FREE
    assert model().largest_batch(int(free) + 1, 32) == expected
    assert model().largest_batch(int(free) + 1, 33) == expected


def test_no_window_fits() -> None:
    with pytest.raises(MemoryError, match=r"one window takes 1\.62 kB .* 60% of the 1 kB that are"):
        model().largest_batch(1000, 32)


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), True),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate "
                "memory: you tried to allocate 8 bytes. Error code 12 (Cannot allocate memory)"
            ),
            True,
        ),
        (RuntimeError("[...] DefaultCPUAllocator: not enough memory: you tried"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("DefaultCPUAllocator: can't allocate memory"), False),
    ],
)
def test_errors_that_mean_out_of_memory(error: Exception, is_it: bool) -> None:
    assert is_out_of_memory(error) is is_it


def test_torch_says_so_itself() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_units() -> None:
    assert [in_words(n) for n in (0, 999, 1000, 1_500_000, 2e15)] == [
        "0 B", "999 B", "1 kB", "1.5 MB", "2e+03 TB",
    ]  # fmt: skip
