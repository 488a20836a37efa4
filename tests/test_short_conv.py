"""The short convolution against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from devices import DEVICES
from torch import Tensor
from triton_interpreter import check_in_interpreter

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


@pytest.mark.parametrize("device", DEVICES)
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
    device: str,
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
    single = [t.detach().to(device, torch.float32).requires_grad_() for t in given]
    found = short_conv_silu(*single, reverse=reverse)
    assert found.dtype == torch.float32
    found_gradients = torch.autograd.grad((found * slope.to(found)).sum(), single)
    for a, b in zip((found, *found_gradients), (expected, *gradients), strict=True):
        # Gradients of a bias are sums in which slopes cancel.
        assert (a.cpu().double() - b).norm() <= 2e-6 * max(b.norm(), slope.norm())


@pytest.mark.parametrize("reverse", [False, True])
def test_gradcheck(reverse: bool) -> None:
    def conv(*tensors: Tensor) -> Tensor:
        return short_conv_silu(*tensors, reverse=reverse)

    assert torch.autograd.gradcheck(conv, inputs(2, 7, 3, 4))


@pytest.mark.parametrize("device", DEVICES)
def test_bfloat16_stays_bfloat16(device: str) -> None:
    drawn = inputs(2, 40, 5, 4, torch.bfloat16)
    x, weight, bias = (t.detach().to(device).requires_grad_() for t in drawn)
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


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("length", [1, 40])
def test_a_part_of_the_channels_of_a_wider_tensor(length: int, device: str) -> None:
    x, weight, bias = (t.detach().to(device) for t in inputs(2, length, 12, 4, torch.float32))
    part, taps, added = x[..., 5:10], weight[5:10], bias[5:10]
    found = short_conv_silu(part, taps, added)
    torch.testing.assert_close(found, short_conv_silu(x, weight, bias)[..., 5:10])
    turned = part.transpose(1, 2).contiguous().transpose(1, 2)
    torch.testing.assert_close(short_conv_silu(turned, taps, added), found)


TRITON = """
import torch
from test_short_conv import inputs, plain
from regmask_sk.ops.short_conv import short_conv_silu

# More than a tile, steps and channels; less steps than taps.
for batch, length, d, taps, reverse, biased in (
    (2, 70, 66, 4, False, True), (2, 3, 5, 4, True, True), (1, 130, 3, 1, False, False),
    (1, 70, 3, 3, True, False),
):
    x, *rest = inputs(batch, length, d, taps)
    given = (x, *rest) if biased else (x, rest[0])
    expected = plain(x.flip(1) if reverse else x, rest[0], rest[1] if biased else None)
    expected = expected.flip(1) if reverse else expected
    slope = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).double()
    gradients = torch.autograd.grad((expected * slope).sum(), given)
    single = [t.detach().float().requires_grad_() for t in given]
    found = short_conv_silu(*single, reverse=reverse)
    found_gradients = torch.autograd.grad((found * slope.float()).sum(), single)
    for a, b in zip((found, *found_gradients), (expected, *gradients), strict=True):
        assert (a.double() - b).norm() <= 2e-6 * max(b.norm(), slope.norm()), (a, b)
print("agrees")
"""


def test_triton_in_its_interpreter() -> None:
    check_in_interpreter(TRITON, REGMASK_SCAN_BACKEND="triton")


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
