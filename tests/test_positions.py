"""Masks that know the position and no more."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regmask_sk import metrics
from regmask_sk.ops.positions import open_positions, position_only_mask


def test_position_only_mask_takes_arrays_and_streams() -> None:
    masks = np.random.default_rng(0).random((5, 7)).astype(np.float32)
    np.testing.assert_allclose(position_only_mask(masks), masks.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(position_only_mask(iter(masks)), masks.mean(axis=0), rtol=1e-6)
    with pytest.raises(ValueError, match="no rows"):
        position_only_mask([])
    with pytest.raises(ValueError, match=r"row 1 of masks has shape \(2,\); expected \(3,\)"):
        position_only_mask([[1, 2, 3], [1, 2]])
    with pytest.raises(ValueError, match="NaN"):
        position_only_mask([[1, np.nan]])


def test_it_is_a_control_of_the_metrics() -> None:
    assert metrics.position_only_mask is position_only_mask


@settings(deadline=None)
@given(st.data())
def test_open_positions_are_the_promoter_and_the_largest_of_the_others(data: st.DataObject) -> None:
    length = data.draw(st.integers(1, 20))
    profile = np.array(data.draw(st.lists(st.sampled_from([0.0, 0.2, 0.7]), min_size=length,
                                          max_size=length)))  # fmt: skip
    first = data.draw(st.integers(0, length))
    end = data.draw(st.integers(first, length))
    n_open = data.draw(st.integers(end - first, length))
    opened = open_positions(profile, n_open, (first, end))
    assert opened.dtype == bool
    assert opened.sum() == n_open
    assert opened[first:end].all()
    others = [i for i in range(length) if not first <= i < end]
    best = sorted(others, key=lambda i: (-profile[i], abs(i - length // 2), i))
    assert set(np.flatnonzero(opened)) == {*range(first, end), *best[: n_open - (end - first)]}


@pytest.mark.parametrize("n_open", [3, 11])
def test_what_cannot_be_opened_is_refused(n_open: int) -> None:
    with pytest.raises(ValueError, match=rf"n_open is {n_open}; expected from 4, .* to 10"):
        open_positions(np.zeros(10), n_open, (3, 7))
