"""Pooling and codon counts against naive loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regmask_sk.ops.tokens import N_CODONS, N_PHASES, codon_counts, distance_bins, pool_to_tokens

BASES = "ACGT"


def one_hot(*sequences: str) -> torch.Tensor:
    """``(batch, 4, length)``; N is 0 in all channels."""
    rows = [[[float(base == letter) for base in row] for letter in BASES] for row in sequences]
    return torch.tensor(rows)


def naive_pool(x: np.ndarray, resolution: int) -> np.ndarray:
    length = x.shape[2]
    starts = range(0, length, resolution)
    return np.stack([x[:, :, start : start + resolution].mean(axis=2) for start in starts], axis=2)


def naive_counts(sequence: str, resolution: int) -> np.ndarray:
    """``(2, 3, 64, T)``: what lies inside a token, and what reaches out of it."""
    n_tokens = -(-len(sequence) // resolution)
    counts = np.zeros((2, N_PHASES, N_CODONS, n_tokens))
    for start in range(len(sequence) - 2):
        codon = sequence[start : start + 3]
        if "N" in codon:
            continue
        number = 16 * BASES.index(codon[0]) + 4 * BASES.index(codon[1]) + BASES.index(codon[2])
        across = (start + 2) // resolution != start // resolution
        counts[int(across), start % 3, number, start // resolution] += 1
    return counts / (resolution / 3)


# -- means -----------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 70), st.integers(1, 20))
def test_tokens_are_means_of_their_bases(
    batch: int, channels: int, length: int, resolution: int
) -> None:
    x = np.random.default_rng(length).normal(size=(batch, channels, length))
    pooled = pool_to_tokens(torch.tensor(x), resolution).numpy()
    np.testing.assert_allclose(pooled, naive_pool(x, resolution), atol=1e-12)


def test_a_partial_last_token_is_averaged_over_the_bases_it_has() -> None:
    x = torch.tensor([[[1.0, 1.0, 1.0, 1.0, 5.0]]])
    assert pool_to_tokens(x, 4).tolist() == [[[1.0, 5.0]]]


@pytest.mark.parametrize("resolution", [1, 3, 16])
def test_no_channels_stay_no_channels(resolution: int) -> None:
    assert pool_to_tokens(torch.zeros(2, 0, 33), resolution).shape == (2, 0, -(-33 // resolution))


def test_one_base_a_token_is_the_input() -> None:
    x = torch.randn(2, 3, 10)
    assert torch.equal(pool_to_tokens(x, 1), x)


# -- codons ----------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.lists(st.text("ACGTN", min_size=1, max_size=60), min_size=1, max_size=3), st.integers(1, 20)
)
def test_codon_counts_against_a_loop(sequences: list[str], resolution: int) -> None:
    length = min(map(len, sequences))
    sequences = [sequence[:length] for sequence in sequences]
    expected = np.stack([naive_counts(sequence, resolution) for sequence in sequences], axis=1)
    for ours, naive in zip(codon_counts(one_hot(*sequences), resolution), expected, strict=True):
        assert ours.shape == (len(sequences), N_PHASES, N_CODONS, -(-length // resolution))
        np.testing.assert_allclose(ours.numpy(), naive, rtol=1e-6)


@pytest.mark.parametrize("resolution", [1, 2, 3, 16, 50])
def test_compiled_and_plain_counts_are_the_same_to_the_bit(
    monkeypatch: pytest.MonkeyPatch, resolution: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, 101, generator=generator)
    x[:, :, 40:44] = 0.0
    x[1] = -x[1].abs()
    x[2, :, ::7] = 0.5  # the first of equal values is the base
    compiled = codon_counts(x, resolution)
    assert compiled[1].sum() > 0
    monkeypatch.setenv("REGMASK_SCAN_BACKEND", "torch")
    for found, plain in zip(compiled, codon_counts(x, resolution), strict=True):
        assert torch.equal(found, plain)


def all_counts(sequence: torch.Tensor, resolution: int) -> torch.Tensor:
    inside, across = codon_counts(sequence, resolution)
    return inside + across


def test_an_unknown_base_takes_three_codons_away() -> None:
    whole, broken = all_counts(one_hot("ACGTACGTACGT", "ACGTANGTACGT"), 12)
    assert (whole.sum() - broken.sum()).item() == pytest.approx(3 / 4)


def test_codons_at_the_end_and_of_short_windows_are_not_made_up() -> None:
    assert all_counts(one_hot("AC"), 16).sum() == 0
    assert all_counts(one_hot("NNNNNN"), 3).sum() == 0
    # Four bases hold two codons; padding with A must not add CAA or AAA.
    assert all_counts(one_hot("AAAA"), 3).sum().item() == pytest.approx(2.0)


def test_a_codon_that_spans_two_tokens_reaches_across_from_the_first() -> None:
    inside, across = codon_counts(one_hot("NNATGN"), 3)
    atg = 0 * 16 + 3 * 4 + 2
    assert inside.sum() == 0
    assert across[0, 2, atg].tolist() == [1.0, 0.0]


def test_masked_input_counts_open_bases_whatever_the_masks_value() -> None:
    sequence = one_hot("ACGTACGTA")
    mask = torch.tensor([1.0, 1.0, 1.0, 0.3, 0.3, 0.3, 0.0, 0.0, 0.0])
    masked = all_counts(sequence * mask, 3)
    torch.testing.assert_close(masked, all_counts(one_hot("ACGTACNNN"), 3))


def test_shifting_by_three_bases_keeps_the_phase_and_by_one_turns_it() -> None:
    rng = np.random.default_rng(0)
    sequence = "".join(rng.choice(list(BASES), 60))
    padded = one_hot("N" * 9 + sequence + "N" * 9)
    total = all_counts(padded, 3).sum(dim=3)
    torch.testing.assert_close(all_counts(padded.roll(3, 2), 3).sum(dim=3), total)
    turned = all_counts(padded.roll(1, 2), 3).sum(dim=3)
    torch.testing.assert_close(turned, total.roll(1, 1))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 200), st.integers(1, 64))
def test_distance_bins_average_tokens_that_lie_together(n_tokens: int, resolution: int) -> None:
    bins = distance_bins(n_tokens, resolution)
    assert bins.shape[0] == n_tokens
    torch.testing.assert_close(bins.sum(dim=0), torch.ones(bins.shape[1]))
    assert ((bins > 0).sum(dim=1) == 1).all()  # each token in one bin
    column = bins.argmax(dim=1)
    assert (column.diff() >= 0).all()  # from left to right
