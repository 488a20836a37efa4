"""Linear interpolation: the way that can be repeated has the numbers of torch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from devices import needs_cuda

from regmask_sk.ops.interpolate import _by_index, interpolate_linear


@pytest.mark.parametrize(("n", "size"), [(1, 1), (1, 7), (5, 20), (20, 7), (33, 1000), (6, 6)])
def test_both_ways_agree(n: int, size: int) -> None:
    x = torch.randn(2, 3, n, dtype=torch.float64, requires_grad=True)
    slope = torch.randn(2, 3, size, dtype=torch.float64)
    results = []
    for way in (interpolate_linear, _by_index):
        y = way(x, size)
        results.append((y, *torch.autograd.grad((y * slope).sum(), x)))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    expected = F.interpolate(x, size, mode="linear")
    torch.testing.assert_close(interpolate_linear(x, size), expected)


def test_half_precision_stays() -> None:
    assert _by_index(torch.ones(1, 1, 3, dtype=torch.bfloat16), 5).dtype == torch.bfloat16


@needs_cuda
def test_a_gradient_on_cuda_that_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    x = torch.randn(2, 3, 100, device="cuda", requires_grad=True)
    slope = torch.randn(2, 3, 10_000, device="cuda")
    torch.use_deterministic_algorithms(True)
    try:
        gradients = [
            torch.autograd.grad((interpolate_linear(x, 10_000) * slope).sum(), x)[0]
            for _ in range(2)
        ]
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(*gradients)
    usual = torch.autograd.grad((interpolate_linear(x, 10_000) * slope).sum(), x)[0]
    torch.testing.assert_close(gradients[0], usual, rtol=1e-4, atol=1e-4)
