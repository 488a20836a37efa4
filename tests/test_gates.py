"""Random gates: blocks that know nothing of a gene, and samples that pass a gradient."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regmask_sk.ops.gates import random_block_masks, sample_relaxed_bernoulli, straight_through

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


@pytest.mark.parametrize("log_odds", [-2.0, 0.0, 1.0])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_relaxed_gates_are_open_as_often_as_their_log_odds_say(
    log_odds: float, temperature: float
) -> None:
    torch.manual_seed(0)
    gates = sample_relaxed_bernoulli(torch.full((20_000,), log_odds), temperature)
    assert gates.min() >= 0
    assert gates.max() <= 1
    expected = float(torch.sigmoid(torch.tensor(log_odds)))
    assert (gates > 0.5).float().mean().item() == pytest.approx(expected, abs=0.02)


def test_relaxed_gates_come_close_to_0_and_1_as_it_gets_cold() -> None:
    def undecided(temperature: float) -> float:
        torch.manual_seed(0)
        gates = sample_relaxed_bernoulli(torch.zeros(5_000), temperature)
        return float(((gates > 0.05) & (gates < 0.95)).float().mean())

    assert undecided(0.05) < undecided(0.5) < undecided(2.0)


def test_relaxed_gates_stay_finite_and_pass_a_gradient() -> None:
    openness = torch.tensor([-50.0, -1.0, 0.0, 1.0, 50.0], requires_grad=True)
    gates = sample_relaxed_bernoulli(openness, 0.5)
    gates.sum().backward()
    assert openness.grad is not None
    assert torch.isfinite(gates).all()
    assert torch.isfinite(openness.grad).all()
    assert (openness.grad[1:4] > 0).all()
