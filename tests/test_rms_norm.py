"""The root-mean-square norm against torch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from devices import DEVICES
from torch import Tensor

from regmask_sk.ops import rms_norm as module
from regmask_sk.ops.rms_norm import rms_norm


def inputs(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = (torch.randn(s, generator=generator) for s in (shape, shape[-1:], shape))
    x, weight, grad = (t.to(dtype) for t in drawn)
    return x.requires_grad_(), weight.requires_grad_(), grad


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(1, 2), (3, 7), (2, 300, 16), (1, 1025, 130)])
def test_output_and_gradients_are_those_of_torch(shape: tuple[int, ...], device: str) -> None:
    x, weight, grad = (t.detach().to(device) for t in inputs(*shape))
    x, weight = x.requires_grad_(), weight.requires_grad_()
    y = rms_norm(x, weight, 1e-5)
    found = [y, *torch.autograd.grad((y * grad).sum(), (x, weight))]
    x, weight, grad = inputs(*shape, dtype=torch.float64)
    y = F.rms_norm(x, weight.shape, weight, 1e-5)
    expected = [y, *torch.autograd.grad((y * grad).sum(), (x, weight))]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        error = (ours.cpu().double() - theirs).norm() / theirs.norm().clamp_min(1e-30)
        assert error < 1e-6


def test_gradients_in_double_precision() -> None:
    x, weight, _ = inputs(2, 5, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: rms_norm(a, b, 1e-5), (x, weight))


@pytest.mark.parametrize("n_threads", [1, 3])
def test_threads_change_no_number(n_threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    monkeypatch.setattr("regmask_sk.ops._numba_math._MIN_PARALLEL", 0)
    x, weight, _ = inputs(1000, 8)
    try:
        found = rms_norm(x, weight, 1e-5)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found, F.rms_norm(x, weight.shape, weight, 1e-5))


def test_input_need_not_be_contiguous_and_may_be_in_half_precision() -> None:
    x, weight, _ = inputs(2, 6, 4)
    turned = x.detach().transpose(0, 1)
    expected = rms_norm(x, weight, 1e-5).transpose(0, 1)
    torch.testing.assert_close(rms_norm(turned, weight, 1e-5), expected)
    half = rms_norm(x.bfloat16(), weight, 1e-5)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), rms_norm(x, weight, 1e-5), rtol=2e-2, atol=1e-2)


def test_no_rows() -> None:
    assert rms_norm(torch.zeros(0, 4), torch.ones(4), 1e-5).shape == (0, 4)


def test_it_is_a_whole_operator_of_torch() -> None:
    x, weight, _ = inputs(2, 6, 4)
    torch.library.opcheck(module._norm, (x, weight, 1e-5))


def test_another_weight_is_named() -> None:
    with pytest.raises(ValueError, match=r"weight must have shape \(d,\) .* \(2, 4\), got \(3,\)"):
        rms_norm(torch.zeros(2, 4), torch.ones(3), 1e-5)
