"""The largest scores of each window, against sorting by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regmask_sk.metrics import top_share
from regmask_sk.metrics.selection import draw_seed


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(0, 40), st.integers(0, 2**31))
def test_single_bases_are_those_of_argsort(length: int, wanted: int, seed: int) -> None:
    wanted = min(wanted, length)
    scores = np.random.default_rng(seed).permutation(length)[np.newaxis] / 7 - 2
    kept = top_share(scores, wanted / length)
    expected = np.zeros(length, dtype=bool)
    expected[np.argsort(-scores[0])[:wanted]] = True
    np.testing.assert_array_equal(kept[0], expected)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.55, 1.0])
def test_blocks_go_as_a_whole_by_their_mean(share: float) -> None:
    scores = np.random.default_rng(0).random((30, 50))
    exclude = slice(20, 25)  # five columns of two blocks of 8
    kept = top_share(scores, share, block_size=8, exclude=exclude)
    assert not kept[:, exclude].any()
    free = np.ones(50, dtype=bool)
    free[exclude] = False
    for row in range(30):
        blocks = [np.flatnonzero(free[i : i + 8]) + i for i in range(0, 50, 8)]
        order = sorted(blocks, key=lambda columns: -scores[row, columns].mean())
        expected, taken = np.zeros(50, dtype=bool), 0
        for columns in order:
            if taken + len(columns) / 2 <= share * 45 + 1e-9:
                expected[columns] = True
            else:
                break
            taken += len(columns)
        np.testing.assert_array_equal(kept[row], expected)


def test_a_hard_mask_at_its_own_share_of_all_is_itself() -> None:
    hard = np.random.default_rng(0).random((20, 30)) < np.linspace(0, 0.9, 20)[:, np.newaxis]
    kept = top_share(hard.astype(float), hard.mean(), within="all")
    np.testing.assert_array_equal(kept, hard)
    scores = np.random.default_rng(1).random((20, 30))
    promoter = slice(10, 14)
    found = top_share(scores, 0.2, within="all", exclude=promoter)
    blocks = top_share(scores, 0.2, within="all", block_size=5)
    means = scores.reshape(20, 6, 5).mean(axis=2)
    expected = means >= np.sort(means.ravel())[-24]
    np.testing.assert_array_equal(blocks, np.repeat(expected, 5, axis=1))
    scores[:, promoter] = -1
    largest = np.argsort(-scores.ravel())[: round(0.2 * 26 * 20)]
    assert set(np.flatnonzero(found)) == set(largest)


def test_equal_scores_are_ordered_at_random_and_by_gene() -> None:
    flat = np.zeros((200, 40))
    kept = top_share(flat, 0.25, random_state=0)
    assert (kept.sum(axis=1) == 10).all()
    assert kept.mean(axis=0).min() > 0.1  # no column is favoured
    assert kept.mean(axis=0).max() < 0.4
    np.testing.assert_array_equal(kept, top_share(flat, 0.25, random_state=0))
    assert (kept != top_share(flat, 0.25, random_state=1)).any()
    np.testing.assert_array_equal(kept, top_share(list(flat), 0.25, random_state=0))
    np.testing.assert_array_equal(kept, top_share(iter(flat), 0.25, random_state=0))


def test_seeds_are_integers() -> None:
    assert draw_seed(5) == 5
    assert draw_seed(np.int64(5)) == 5
    assert draw_seed(None) != draw_seed(None)
    for bad in (True, 1.5, "1", -1):
        with pytest.raises(ValueError, match="random_state is"):
            draw_seed(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"share": -0.1}, "share is -0.1; expected a share of the bases"),
        ({"scores": np.zeros(4)}, r"scores has shape \(4,\)"),
        ({"scores": np.array([[0.0, np.inf]])}, "NaN or infinite values, first in row 0"),
        ({"exclude": slice(None)}, "covers all 2 columns"),
        ({"block_size": 0}, "block_size is 0"),
        ({"within": "position"}, "within is 'position'; expected 'gene' or 'all'"),
    ],
)
def test_bad_arguments_are_named(change: dict, message: str) -> None:
    arguments = {"scores": np.zeros((1, 2)), "share": 0.5} | change
    with pytest.raises(ValueError, match=message):
        top_share(**arguments)
