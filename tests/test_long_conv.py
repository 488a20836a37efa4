"""Long convolution against direct sums."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from devices import DEVICES
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from regmask_sk.ops import long_conv as module
from regmask_sk.ops.long_conv import long_conv


def direct(x: np.ndarray, filters: np.ndarray, skip: np.ndarray, *, causal: bool) -> np.ndarray:
    """The definition, as loops: ``y[i]`` sums ``h(i - j) x[j]``."""
    batch, n_channels, length = x.shape
    middle = 0 if causal else filters.shape[1] // 2
    y = np.zeros_like(x)
    for b in range(batch):
        for c in range(n_channels):
            for i in range(length):
                y[b, c, i] = skip[c] * x[b, c, i]
                for j in range(length):
                    tap = i - j + middle
                    if 0 <= tap < filters.shape[1]:
                        y[b, c, i] += filters[c, tap] * x[b, c, j]
    return y


def operands(
    batch: int, n_channels: int, length: int, n_taps: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(length)
    x, filters, skip = (
        torch.randn(shape, dtype=dtype, generator=rng)
        for shape in ((batch, n_channels, length), (n_channels, n_taps), (n_channels,))
    )
    return x, filters, skip


def relative_error(found: Tensor, expected: Tensor) -> float:
    difference = torch.linalg.vector_norm(found.double() - expected)
    return float(difference / torch.linalg.vector_norm(expected))


# -- the definition --------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 24), st.integers(1, 30), st.booleans())
def test_it_is_the_direct_convolution(
    batch: int, n_channels: int, length: int, n_lags: int, causal: bool
) -> None:
    x, filters, skip = operands(batch, n_channels, length, n_lags if causal else 2 * n_lags - 1)
    expected = direct(x.numpy(), filters.numpy(), skip.numpy(), causal=causal)
    found = long_conv(x, filters, skip, causal=causal)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    assert found.shape == x.shape


def test_where_the_taps_of_a_two_sided_filter_act() -> None:
    x = torch.zeros(1, 1, 7)
    x[0, 0, 3] = 1.0
    y = long_conv(x, torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]]), causal=False)
    # Lag -2 is of what lies two places to the right, hence seen two places to the left of it.
    np.testing.assert_allclose(y[0, 0].numpy(), [0, 1, 2, 3, 4, 5, 0], atol=1e-6)


def test_a_two_sided_filter_is_a_causal_one_for_each_direction() -> None:
    x, filters, _ = operands(2, 3, 50, 2 * 50 - 1)
    leftward = filters[:, 49:]
    rightward = torch.cat([torch.zeros(3, 1), filters[:, :49].flip(1)], dim=1)
    apart = long_conv(x, leftward) + long_conv(x.flip(2), rightward).flip(2)
    torch.testing.assert_close(long_conv(x, filters, causal=False), apart)


@pytest.mark.parametrize("length", [1, 2, 97, 1000])
def test_nothing_wraps_around(length: int) -> None:
    x = torch.zeros(1, 1, length)
    x[..., -1] = 1.0
    ones = torch.ones(1, 2 * length - 1)
    y = long_conv(x, ones[:, :length])
    torch.testing.assert_close(y[..., :-1], x[..., :-1], rtol=0, atol=1e-5)
    assert y[0, 0, -1].item() == pytest.approx(1.0, abs=1e-5)
    both = ones.clone()
    both[:, :length] = 0.0  # no look to the right, nor at the place itself
    assert long_conv(x, both, causal=False).abs().max() < 1e-5
    assert long_conv(x.flip(2), both.flip(1), causal=False).abs().max() < 1e-5


def test_a_causal_convolution_knows_nothing_of_what_follows() -> None:
    x, filters, skip = operands(1, 2, 300, 300)
    changed = x.clone()
    changed[..., 150:] += 1.0
    first, second = long_conv(x, filters, skip), long_conv(changed, filters, skip)
    torch.testing.assert_close(first[..., :150], second[..., :150])
    assert (first[..., 150:] - second[..., 150:]).abs().min() > 1e-6
    two_sided = torch.cat([filters.flip(1), filters[:, 1:]], dim=1)
    both = [long_conv(each, two_sided, causal=False) for each in (x, changed)]
    assert (both[0][..., :150] - both[1][..., :150]).abs().min() > 1e-6


def test_taps_beyond_the_sequence_do_nothing() -> None:
    x, filters, _ = operands(1, 2, 10, 40)
    torch.testing.assert_close(long_conv(x, filters), long_conv(x, filters[:, :10]))
    x, filters, _ = operands(1, 2, 10, 41)
    torch.testing.assert_close(
        long_conv(x, filters, causal=False), long_conv(x, filters[:, 11:30], causal=False)
    )


@pytest.mark.parametrize("shape", [(0, 3, 5), (2, 0, 5), (2, 3, 0)])
def test_nothing_in_gives_nothing(shape: tuple[int, int, int]) -> None:
    assert long_conv(torch.zeros(shape), torch.ones(shape[1], 3)).shape == shape


# -- gradients -------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("length", "n_lags"), [(1, 1), (7, 7), (9, 4), (6, 11)])
def test_gradients(causal: bool, length: int, n_lags: int) -> None:
    inputs = operands(2, 3, length, n_lags if causal else 2 * n_lags - 1)
    for tensor in inputs:
        tensor.requires_grad_()

    def convolved(*given: Tensor) -> Tensor:
        return long_conv(*given, causal=causal)

    assert torch.autograd.gradcheck(convolved, inputs)


@pytest.mark.parametrize("needed", [0, 1])
def test_only_the_gradients_asked_for_are_made(needed: int) -> None:
    x, filters, _ = operands(2, 3, 8, 8)
    (x, filters)[needed].requires_grad_()
    long_conv(x, filters).sum().backward()
    assert (x.grad is None, filters.grad is None) == (needed == 1, needed == 0)


def test_blocks_of_channels_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for at_once in (1, 2**22):
        monkeypatch.setattr(module, "_POINTS_AT_ONCE", at_once)
        x, filters, skip = operands(2, 5, 40, 79)
        x.requires_grad_(), filters.requires_grad_()
        y = long_conv(x, filters, skip, causal=False)
        y.square().sum().backward()
        results.append((y, x.grad, filters.grad))
    for one, all_ in zip(*results, strict=True):
        torch.testing.assert_close(one, all_)


# -- precision -------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("length", [200_000, 400_000])
@pytest.mark.parametrize("causal", [True, False])
def test_float32_holds_at_long_windows(length: int, causal: bool, device: str) -> None:
    x, filters, _ = operands(1, 1, length, length if causal else 2 * length - 1, torch.float32)
    x = x + 1.0  # a mean, which adds up over the window
    found = long_conv(x.to(device), filters.to(device), causal=causal).cpu()
    # Direct sums in float64 at a few places
    middle = 0 if causal else length - 1
    wide, taps = x[0, 0].double(), filters[0].double()
    places = [0, 1, length // 3, length - 1]
    last = length - 1
    expected = torch.stack(
        [
            (taps[middle : middle + i + 1].flip(0) * wide[: i + 1]).sum()
            + (0 if causal else (taps[middle - (last - i) : middle].flip(0) * wide[i + 1 :]).sum())
            for i in places
        ]
    )
    exact = long_conv(x.double(), filters.double(), causal=causal)
    torch.testing.assert_close(exact[0, 0, places], expected, rtol=1e-10, atol=1e-7)
    assert relative_error(found, exact) < 1e-6
    assert found.dtype == torch.float32


def test_half_precision_is_transformed_in_float32() -> None:
    x, filters, skip = operands(1, 2, 500, 500, torch.bfloat16)
    found = long_conv(x, filters, skip)
    expected = long_conv(x.float(), filters.float(), skip.float())
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected.bfloat16())
    # A filter of float32 is not rounded to the dtype of the input
    fine = filters.float() * 1.001
    assert torch.equal(long_conv(x, fine), long_conv(x.float(), fine).bfloat16())


def test_autocast_leaves_it_alone() -> None:
    x, filters, skip = operands(1, 2, 64, 64, torch.float32)
    plain = long_conv(x, filters, skip)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(long_conv(x, filters, skip), plain)


# -- errors ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shapes", "causal", "message"),
    [
        (((3, 5), (3, 5), None), True, r"x has shape \(3, 5\); expected \(batch, channel, length"),
        (((1, 3, 5), (2, 5), None), True, r"filters has shape \(2, 5\).*3 channels of x"),
        (((1, 3, 5), (3, 0), None), True, r"filters has shape \(3, 0\).*one tap or more"),
        (((1, 3, 5), (3, 4), None), False, r"4 taps; causal=False expects an odd number"),
        (((1, 3, 5), (3, 5), (1,)), True, r"skip has shape \(1,\); expected \(3,\)"),
    ],
)
def test_shapes_that_do_not_fit(
    shapes: tuple[tuple[int, ...], ...], causal: bool, message: str
) -> None:
    x, filters, skip = (None if shape is None else torch.ones(shape) for shape in shapes)
    with pytest.raises(ValueError, match=message):
        long_conv(x, filters, skip, causal=causal)
