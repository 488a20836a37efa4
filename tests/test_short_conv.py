"""The short convolution against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from regmask_sk.ops.short_conv import short_conv_silu


def inputs(
    batch: int, length: int, d: int, taps: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((batch, length, d), (d, taps), (d,))
    drawn = [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes]
    x, weight, bias = (t.requires_grad_() for t in drawn)
    return x, weight, bias


def plain(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    padded = F.pad(x.transpose(1, 2), (weight.shape[1] - 1, 0))
    return F.silu(F.conv1d(padded, weight[:, None], bias, groups=len(weight))).transpose(1, 2)


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("taps", [1, 4])
@pytest.mark.parametrize(
    ("batch", "length", "d"),
    [(1, 1, 3), (2, 3, 5), (2, 70, 66), (1, 4, 1)],
)
def test_it_is_torchs_convolution(
    batch: int,
    length: int,
    d: int,
    taps: int,
    reverse: bool,
    with_bias: bool,
) -> None:
    x, weight, bias = inputs(batch, length, d, taps)
    given = (x, weight, bias) if with_bias else (x, weight)
    turned = x.flip(1) if reverse else x
    expected = plain(turned, weight, bias if with_bias else None)
    expected = expected.flip(1) if reverse else expected
    generator = torch.Generator().manual_seed(1)
    slope = torch.randn(expected.shape, generator=generator, dtype=expected.dtype)
    gradients = torch.autograd.grad((expected * slope).sum(), given)
    found = short_conv_silu(*given, reverse=reverse)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad((found * slope).sum(), given), gradients)
    single = [t.detach().float().requires_grad_() for t in given]
    found = short_conv_silu(*single, reverse=reverse)
    assert found.dtype == torch.float32
    found_gradients = torch.autograd.grad((found * slope.float()).sum(), single)
    for a, b in zip((found, *found_gradients), (expected, *gradients), strict=True):
        # Gradients of a bias are sums in which slopes cancel.
        assert (a.double() - b).norm() <= 2e-6 * max(b.norm(), slope.norm())


@pytest.mark.parametrize("reverse", [False, True])
def test_gradcheck(reverse: bool) -> None:
    def conv(*tensors: Tensor) -> Tensor:
        return short_conv_silu(*tensors, reverse=reverse)

    assert torch.autograd.gradcheck(conv, inputs(2, 7, 3, 4))


def test_bfloat16_stays_bfloat16() -> None:
    x, weight, bias = inputs(2, 40, 5, 4, torch.bfloat16)
    found = short_conv_silu(x, weight, bias)
    assert found.dtype == torch.bfloat16
    expected = plain(x.double(), weight.double(), bias.double())
    torch.testing.assert_close(found.double(), expected, rtol=0.05, atol=0.05)
    found.float().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16


def test_gradients_of_some_inputs_only() -> None:
    x, weight, bias = inputs(2, 9, 5, 4, torch.float32)
    short_conv_silu(x.detach(), weight, bias.detach()).sum().backward()
    assert weight.grad is not None
    assert x.grad is None


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((4, 5), (5, 4), (5,)), r"x must have shape \(batch, length, d\), got \(4, 5\)"),
        (((1, 4, 5), (4, 4), (5,)), r"weight must have shape \(d, k\) = \(5, k\).*got \(4, 4\)"),
        (((1, 4, 5), (5, 4), (4,)), r"bias must have shape \(5,\), got \(4,\)"),
    ],
)
def test_shapes_that_do_not_fit(shapes: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        short_conv_silu(*(torch.zeros(shape) for shape in shapes))
