"""Where bins lie in a window, and the convolutions that lead to them."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from regmask_sk.baselines._bin_tower import BinLayout, BinTower, PooledConv, prime_factors


@given(st.integers(1, 500), st.integers(1, 120), st.integers(-1000, 1000))
def test_bins_are_laid_from_the_middle(length: int, bin_size: int, start: int) -> None:
    layout = BinLayout(length, bin_size)
    left, right = layout.padding
    assert layout.n_bins % 2 == 1
    assert left + length + right == layout.n_bins * bin_size
    assert 0 <= right - left <= 1
    assert layout.n_bins == 1 or left < bin_size  # no bin is empty
    tss = length // 2
    assert (tss + left) // bin_size == layout.middle
    assert layout.lowest(start, reverse=False) == start - left
    # The last base of the last bin, in a window whose column 0 is its last position.
    last_column = length + right - 1
    assert layout.lowest(start, reverse=True) == start + length - 1 - last_column


@given(st.integers(1, 5000))
def test_prime_factors(number: int) -> None:
    factors = prime_factors(number)
    assert math.prod(factors) == number
    assert factors == sorted(factors)
    assert number == 1 or all(f > 1 and all(f % k for k in range(2, f)) for f in factors)


def test_the_published_pooling() -> None:
    tower = BinTower(4, 3, BinLayout(20_000, 5_000), cell_size=100, d_model=128, dropout=0.5)
    stages = [part for part in tower.modules() if isinstance(part, PooledConv)]
    assert [stage.pool for stage in stages] == [2, 2, 5, 5, 2, 5, 5]
    assert [stage.scan.kernel_size[0] for stage in stages] == [21, 3, 3, 3, 25, 3, 3]
    assert [stage.scan.out_channels for stage in stages] == [32] * 4 + [128] * 3
    assert stages[4].scan.in_channels == 32 + 3


def test_a_step_is_convolution_relu_and_largest() -> None:
    torch.manual_seed(0)
    step = PooledConv(3, 4, 5, 2).eval()
    h = torch.randn(2, 3, 11)
    with torch.no_grad():
        expected = F.max_pool1d(F.relu(F.conv1d(h, step.scan.weight, step.scan.bias, padding=2)),
                                2, ceil_mode=True)  # fmt: skip
        torch.testing.assert_close(step(h), step.norm(expected))


@pytest.mark.parametrize(("n_sequence", "n_tracks"), [(4, 0), (0, 2), (4, 2)])
@pytest.mark.parametrize("cell_size", [1, 2, 6])
def test_shapes(n_sequence: int, n_tracks: int, cell_size: int) -> None:
    layout = BinLayout(50, 6)
    tower = BinTower(n_sequence, n_tracks, layout, cell_size=cell_size, d_model=8, dropout=0.0)
    h = tower(torch.randn(3, n_sequence + n_tracks, 50))
    assert h.shape == (3, 8, layout.n_bins) == (3, tower.out_channels, 9)
    assert tower.resolution == 6


def test_a_bin_reads_its_bases() -> None:
    torch.manual_seed(0)
    layout = BinLayout(30, 10)
    tower = BinTower(0, 1, layout, cell_size=10, d_model=8, dropout=0.0).eval()
    with torch.no_grad():
        tower.to_bins[0].scan.weight[..., :12] = 0.0  # the own cell alone
        tower.to_bins[0].scan.weight[..., 13:] = 0.0
    x = torch.randn(1, 1, 30, requires_grad=True)
    (gradient,) = torch.autograd.grad(tower(x)[..., 1].sum(), x)
    assert (gradient[0, 0] != 0).nonzero().flatten().tolist() == list(range(10, 20))
