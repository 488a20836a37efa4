"""The shuffle against counts, and against the list of all orders that keep them."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from regmask_sk.ops.dinucleotide_shuffle import dinucleotide_shuffle


def pairs(codes: object) -> Counter:
    return Counter(pairwise(list(codes)))


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=60),
    st.integers(0, 2**31),
)
def test_dinucleotides_and_all_that_is_not_chosen_stay(
    bases: list[tuple[int, bool]], seed: int
) -> None:
    codes = np.array([code for code, _ in bases], dtype=np.int64)
    chosen = np.array([free for _, free in bases], dtype=bool)
    shuffled = dinucleotide_shuffle(codes, chosen, random_state=seed)
    assert pairs(shuffled) == pairs(codes)
    fixed = ~chosen | (codes == 4)
    np.testing.assert_array_equal(shuffled[fixed], codes[fixed])
    again = dinucleotide_shuffle(codes, chosen, random_state=seed)
    np.testing.assert_array_equal(shuffled, again)


@pytest.mark.parametrize("sequence", ["ACATAGATC", "AAACAAGAAC", "AACACCGAAC", "ACGACGTTACT"])
def test_every_order_is_equally_likely(sequence: str) -> None:
    codes = np.array(["ACGT".index(base) for base in sequence])
    inner = set(permutations(codes[1:-1].tolist()))
    first, last = int(codes[0]), int(codes[-1])
    possible = {(first, *middle, last) for middle in inner}
    possible = {order for order in possible if pairs(order) == pairs(codes)}
    assert len(possible) > 2, possible
    rng = np.random.default_rng(0)
    drawn = Counter(
        tuple(dinucleotide_shuffle(codes, random_state=rng).tolist()) for _ in range(3000)
    )
    assert set(drawn) == possible
    assert chisquare(list(drawn.values())).pvalue > 1e-3


def test_long_sequences_of_one_letter_take_no_time() -> None:
    codes = np.r_[np.zeros(200_000, int), 1, np.full(100_000, 2), 3]
    shuffled = dinucleotide_shuffle(codes, random_state=0)
    np.testing.assert_array_equal(shuffled, codes)  # there is no other order


def test_a_shuffle_changes_the_sequence() -> None:
    codes = np.random.default_rng(0).integers(0, 4, 500)
    shuffled = dinucleotide_shuffle(codes, random_state=1)
    assert (shuffled != codes).mean() > 0.5
    assert (dinucleotide_shuffle(codes, random_state=2) != shuffled).any()


@pytest.mark.parametrize(
    ("codes", "chosen", "message"),
    [
        (np.zeros((2, 2), int), None, r"codes has shape \(2, 2\)"),
        (np.zeros(3), None, "dtype float64; expected one vector of integers"),
        (np.array([0, -1]), None, "expected one vector of integers"),
        (np.zeros(3, int), np.ones(2, bool), r"chosen has shape \(2,\).*\(3,\)"),
        (np.zeros(3, int), np.ones(3), "dtype float64; expected booleans"),
    ],
)
def test_bad_arguments_are_named(codes: np.ndarray, chosen: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dinucleotide_shuffle(codes, chosen)
