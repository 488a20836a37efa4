"""Random gates: blocks that know nothing of a gene, and the noise of sampled ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from regmask_sk.ops.gates import logistic_noise, random_block_masks, straight_through

# -- random masks ----------------------------------------------------------------------


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 8), st.integers(1, 70), st.integers(0, 1000), st.sampled_from([0.0, 0.25, 1.0])
)
def test_random_masks_of_any_shape_lie_in_the_unit_interval(
    n: int, n_tokens: int, seed: int, open_share: float
) -> None:
    masks = random_block_masks(n, n_tokens, open_share=open_share, generator=seeded(seed))
    assert masks.shape == (n, n_tokens)
    assert masks.dtype == torch.float32
    assert masks.min() >= 0
    assert masks.max() <= 1
    # Apart from the open ones a mask has two levels: open, and what a closed token lets through.
    assert all(len(row.unique()) <= 2 for row in masks)
    assert (masks.max(dim=1).values == 1).all() or n_tokens == 1
    if open_share == 1.0:
        assert (masks == 1).all()


def test_random_masks_keep_from_nothing_to_all_and_more_often_little() -> None:
    masks = random_block_masks(4_000, 64, open_share=0.0, generator=seeded(0))
    kept = (masks == 1).float().mean(dim=1)
    assert kept.mean().item() == pytest.approx(1 / 3, abs=0.03)  # of Beta(1, 2)
    assert (kept < 0.1).float().mean().item() == pytest.approx(0.19, abs=0.03)
    assert (kept > 0.9).any()
    closed = masks.min(dim=1).values
    assert 0.1 < (closed > 0).float().mean() < 0.5
    assert closed[kept < 1].max() < 0.5


@pytest.mark.parametrize("open_share", [0.0, 0.25, 0.8])
def test_the_share_of_open_windows_is_the_one_asked_for(open_share: float) -> None:
    masks = random_block_masks(4_000, 64, open_share=open_share, generator=seeded(0))
    found = (masks == 1).all(dim=1).float().mean().item()
    assert found == pytest.approx(open_share, abs=0.03)


def test_random_masks_are_blocks() -> None:
    masks = random_block_masks(2_000, 64, open_share=0.0, generator=seeded(0)) == 1
    half = masks[(masks.float().mean(dim=1) - 0.5).abs() < 0.1].float()
    edges = half.diff(dim=1).abs().mean()
    assert edges < 0.35  # white noise has 0.5


def test_every_token_is_kept_as_often_as_any_other() -> None:
    masks = random_block_masks(8_000, 32, open_share=0.0, generator=seeded(0)) == 1
    kept = masks.float().mean(dim=0)
    assert (kept.max() - kept.min()).item() < 0.12


def test_random_masks_repeat_with_their_generator_and_leave_the_global_one_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again = (random_block_masks(6, 20, generator=seeded(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, random_block_masks(6, 20, generator=seeded(4)))
    assert torch.equal(torch.get_rng_state(), before)
    by_global = random_block_masks(6, 20)
    torch.manual_seed(5)
    assert torch.equal(by_global, random_block_masks(6, 20))


@pytest.mark.parametrize("gates_per_token", [4, 16])
def test_blocks_of_finer_gates_keep_their_widths_in_bases(gates_per_token: int) -> None:
    n_tokens = 64
    coarse, fine = (
        random_block_masks(
            2_000, n_tokens * each, open_share=0.0, gates_per_token=each, generator=seeded(0)
        )
        for each in (1, gates_per_token)
    )
    assert fine.shape == (2_000, n_tokens * gates_per_token)
    inner = fine.diff(dim=1) != 0
    # Edges of a mask lie a whole number of tokens apart, ...
    first_edge = inner.float().argmax(dim=1, keepdim=True)
    row, place = inner.nonzero(as_tuple=True)
    assert ((place - first_edge[row, 0]) % gates_per_token == 0).all()
    # ... on any gate over the masks, and are as many as those of coarse masks.
    phases = (place % gates_per_token).bincount(minlength=gates_per_token) / len(place)
    assert (phases - 1 / gates_per_token).abs().max() < 0.5 / gates_per_token
    edges = (coarse.diff(dim=1) != 0).float().sum(dim=1).mean().item()
    assert inner.float().sum(dim=1).mean().item() == pytest.approx(edges, rel=0.1)
    kept = [(masks == 1).float().mean().item() for masks in (coarse, fine)]
    assert kept[1] == pytest.approx(kept[0], abs=0.03)


# -- samples ---------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_straight_through_is_the_hard_value_to_the_last_bit(seed: int) -> None:
    soft = torch.rand(50, generator=seeded(seed), requires_grad=True)
    hard = (soft > 0.5).float()
    value = straight_through(soft, hard)
    assert torch.equal(value, hard)
    (value * torch.arange(50)).sum().backward()
    assert soft.grad is not None
    assert torch.equal(soft.grad, torch.arange(50).float())


@pytest.mark.parametrize("correlation", [0.0, 0.7, 3.0, 50.0])
def test_noise_is_standard_logistic_whatever_its_correlation(correlation: float) -> None:
    torch.manual_seed(0)
    noise = logistic_noise(torch.zeros(4_000, 40), correlation).numpy()
    for column in (0, 17, 39):  # the entries of one column are independent
        assert stats.kstest(noise[:, column], stats.logistic.cdf).pvalue > 1e-3
    assert np.isfinite(noise).all()


@pytest.mark.parametrize("correlation", [2.0, 5.0])
def test_noise_has_the_correlation_asked_for(correlation: float) -> None:
    torch.manual_seed(0)
    noise = logistic_noise(torch.zeros(20_000, 30), correlation)
    normal = stats.norm.ppf(torch.sigmoid(noise.double()).numpy())
    found = np.corrcoef(normal, rowvar=False)
    distance = np.subtract.outer(np.arange(30), np.arange(30))
    expected = np.exp(-(distance**2) / (2 * correlation**2))
    np.testing.assert_allclose(found, expected, atol=0.03)


def test_independent_noise_is_independent() -> None:
    torch.manual_seed(0)
    found = np.corrcoef(logistic_noise(torch.zeros(20_000, 6)).numpy(), rowvar=False)
    np.testing.assert_allclose(found, np.eye(6), atol=0.03)


@pytest.mark.parametrize("correlation", [0.0, 4.0])
def test_noise_repeats_with_the_global_seed(correlation: float) -> None:
    like = torch.zeros(3, 9)
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(logistic_noise(like, correlation))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert drawn[0].dtype == torch.float32
