"""Matched sets against scipy's tests of pairs and against every way the cases can fall."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from regmask_sk._matched_sets import matched_odds


@pytest.mark.parametrize(("n", "t"), [(12, 10), (12, 12), (12, 0), (100, 63), (101, 40), (1, 1)])
def test_pairs_are_mcnemars_test_and_wilsons_interval(n: int, t: int) -> None:
    found = matched_odds([2], [1], [n], t)
    assert found.p_value == pytest.approx(binomtest(t, n, alternative="greater").pvalue)
    interval = binomtest(t, n).proportion_ci(method="wilson")
    odds = [math.inf if share == 1 else share / (1 - share) for share in (interval.low, t / n)]
    assert [found.low, found.odds_ratio] == pytest.approx(odds)
    high = math.inf if t == n else interval.high / (1 - interval.high)
    assert found.high == pytest.approx(high)


def exact_tail(sets: list[tuple[int, int]], t: int) -> float:
    """Add up the chances of every way in which the cases of the sets can fall."""
    total = 0.0
    for cases in itertools.product((0, 1), repeat=len(sets)):
        if sum(cases) >= t:
            shares = [
                m / n if case else 1 - m / n for (n, m), case in zip(sets, cases, strict=True)
            ]
            total += math.prod(shares)
    return total


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(2, 5).flatmap(
    lambda n: st.tuples(st.just(n), st.integers(1, n - 1))), min_size=1, max_size=9), st.data()
)  # fmt: skip
def test_sets_of_any_size_agree_with_enumeration(
    sets: list[tuple[int, int]], data: st.DataObject
) -> None:
    t = data.draw(st.integers(0, len(sets)))
    kinds = sorted(set(sets))
    sizes, positives = zip(*kinds, strict=True)
    found = matched_odds(sizes, positives, [sets.count(kind) for kind in kinds], t)
    assert found.p_value == pytest.approx(exact_tail(sets, t), rel=1e-9)
    if 0 < t < len(sets):  # the likelihood's slope is 0 at its top
        psi = found.odds_ratio
        expected = sum(m * psi / (m * psi + n - m) for n, m in sets)
        assert expected == pytest.approx(t, rel=1e-8)
        # The score statistic at the ends of the interval is 1.96.
        for psi, sign in ((found.low, 1), (found.high, -1)):
            share = np.array([m * psi / (m * psi + n - m) for n, m in sets])
            z = (t - share.sum()) / np.sqrt((share * (1 - share)).sum())
            assert z == pytest.approx(sign * 1.959964, rel=1e-5)
        assert found.low < found.odds_ratio < found.high


def test_a_tail_beyond_the_digits_of_a_sum_keeps_its_digits() -> None:
    # All of 400 pairs, and all but one of them: 2**-400 times 1 and 401.
    assert matched_odds([2], [1], [400], 400).p_value == pytest.approx(2.0**-400)
    assert matched_odds([2], [1], [400], 399).p_value == pytest.approx(401 * 2.0**-400)


def test_many_sets_of_many_kinds_agree_with_the_normal_tail() -> None:
    positives = np.arange(1, 11)
    n_sets = np.full(10, 2_000)
    share = positives / 11
    mean, sd = n_sets @ share, math.sqrt(n_sets @ (share * (1 - share)))
    t = round(mean + 2 * sd)
    expected = 0.5 * math.erfc((t - 0.5 - mean) / sd / math.sqrt(2))
    found = matched_odds(np.full(10, 11), positives, n_sets, t)
    assert found.p_value == pytest.approx(expected, rel=0.02)


def test_sets_that_tell_nothing() -> None:
    found = matched_odds([3, 3], [0, 3], [40, 7], 0)
    assert math.isnan(found.odds_ratio)
    assert (found.low, found.high, found.p_value) == (0.0, math.inf, 1.0)
    assert matched_odds([2, 3], [1, 3], [12, 5], 10) == matched_odds([2], [1], [12], 10)


def test_more_positive_cases_than_sets_are_refused() -> None:
    with pytest.raises(ValueError, match="n_positive_cases is 13; expected 0 to 12"):
        matched_odds([2], [1], [12], 13)
