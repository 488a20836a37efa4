"""Peak calling against a loop over bases, and what it promises."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammainc
from scipy.stats import poisson

from regmask_sk.peaks import call_peaks, tail_score


def called_by_a_loop(
    track: list[float],
    bandwidth: int,
    background: list[int],
    q_value: float,
    p_value: float | None,
    min_width: int,
    merge_gap: int,
) -> tuple[list[tuple[int, int]], list[float]]:
    """The same, base by base."""
    length = len(track)

    def around(base: int, width: int) -> list[float]:
        return track[max(base - width // 2, 0) : base + width // 2 + 1]

    chances = []
    for base in range(length):
        rates = [sum(track) / length]
        rates += [sum(around(base, width)) / len(around(base, width)) for width in background]
        k, expected = sum(around(base, bandwidth)), max(rates) * len(around(base, bandwidth))
        chances.append(1.0 if k == 0 else float(gammainc(k, expected)))
    largest = 0.0 if p_value is None else p_value
    if p_value is None:
        for rank, chance in enumerate(sorted(chances), start=1):
            if chance <= q_value * rank / length:
                largest = chance
    significant = [chance <= largest for chance in chances]
    intervals: list[tuple[int, int]] = []
    for base in range(length):
        if significant[base]:
            if intervals and base - intervals[-1][1] <= merge_gap:
                intervals[-1] = (intervals[-1][0], base + 1)
            else:
                intervals.append((base, base + 1))
    intervals = [(a, b) for a, b in intervals if b - a >= min_width]
    return intervals, [max(-math.log10(p) for p in chances[a:b]) for a, b in intervals]


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.sampled_from([0, 0, 0, 0, 0, 1, 1, 2, 9]), min_size=1, max_size=80),
    st.integers(1, 12),
    st.lists(st.integers(1, 100), max_size=2),
    st.sampled_from([0.01, 0.05, 0.2, 0.5]),
    st.one_of(st.none(), st.sampled_from([0.001, 0.03, 0.5])),
    st.integers(1, 8),
    st.integers(0, 8),
)
def test_peaks_are_those_of_the_loop(
    track: list[float],
    bandwidth: int,
    background: list[int],
    q_value: float,
    p_value: float | None,
    min_width: int,
    merge_gap: int,
) -> None:
    settings_: dict[str, Any] = {
        "bandwidth": bandwidth, "background": background, "q_value": q_value, "p_value": p_value,
        "min_width": min_width, "merge_gap": merge_gap,
    }  # fmt: skip
    intervals, scores = called_by_a_loop(track, **settings_)
    peaks = call_peaks(track, **settings_)
    assert [tuple(pair) for pair in peaks.intervals.tolist()] == intervals
    np.testing.assert_allclose(peaks.score, scores, rtol=1e-9)
    assert ((peaks.start <= peaks.summit) & (peaks.summit < peaks.end)).all()

    turned = call_peaks(track[::-1], **settings_)
    assert turned.intervals[::-1, ::-1].tolist() == (len(track) - peaks.intervals).tolist()

    halves = call_peaks(np.array(track) / 2, scale=0.5, **settings_)
    assert halves.intervals.tolist() == peaks.intervals.tolist()


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 3_000), st.floats(1e-3, 1.0))
def test_the_score_is_the_tail_of_poisson(k: int, share: float) -> None:
    expected = k * share
    exact = -poisson.logsf(k - 1, expected) / math.log(10)
    found = tail_score(np.array([float(k)]), np.array([expected]))[0]
    if np.isfinite(exact) and exact < 285:
        assert found == pytest.approx(exact, rel=1e-8, abs=1e-12)
    else:
        # Terms of the tail, summed on the log scale.
        n = np.arange(k, k + 20_000)
        log_p = np.logaddexp.reduce(poisson.logpmf(n, expected))
        assert found == pytest.approx(-log_p / math.log(10), abs=1e-3)


def test_the_score_grows_between_whole_counts_and_where_it_changes_formula() -> None:
    k = np.arange(1.0, 400.0, 0.25)
    score = tail_score(k, np.full(len(k), 0.9))
    assert score[-1] > 290
    assert (np.diff(score) > 0).all()
    assert np.abs(np.diff(score, 2)[8:]).max() < 0.01


@pytest.fixture
def two_elements() -> np.ndarray:
    rng = np.random.default_rng(0)
    track = rng.poisson(0.02, 40_000).astype(float)
    track[10_000:10_300] += rng.poisson(0.6, 300)
    track[25_000:26_500] += rng.poisson(0.3, 1_500)
    return track


def test_a_narrow_and_a_broad_element_are_found(two_elements: np.ndarray) -> None:
    peaks = call_peaks(two_elements)
    assert len(peaks.start) == 2
    np.testing.assert_allclose(peaks.intervals, [[10_000, 10_300], [25_000, 26_500]], atol=80)
    assert 10_000 <= peaks.summit[0] < 10_300
    assert peaks.start.dtype == peaks.end.dtype == peaks.summit.dtype == np.int64
    # Within itself a broad element is no more than its own background.
    assert len(call_peaks(two_elements, background=(1_000, 10_000)).start) != 2


def test_noise_alone_has_hardly_a_peak() -> None:
    rng = np.random.default_rng(1)
    found = [len(call_peaks(rng.poisson(0.05, 20_000)).start) for _ in range(40)]
    assert np.mean(np.array(found) > 0) < 0.2


def test_local_background_raises_the_bar() -> None:
    rng = np.random.default_rng(2)
    track = rng.poisson(0.01, 60_000).astype(float)
    track[40_000:] = rng.poisson(0.2, 20_000)  # a copied region, say
    assert len(call_peaks(track, background=()).start) > 0
    assert len(call_peaks(track, p_value=1e-5).start) == 0


def test_coverage_is_brought_to_counts_by_scale(two_elements: np.ndarray) -> None:
    fragment = 100
    coverage = np.convolve(two_elements, np.ones(fragment), mode="same") * 0.37
    peaks = call_peaks(coverage, scale=fragment * 0.37)
    np.testing.assert_allclose(peaks.intervals, [[10_000, 10_300], [25_000, 26_500]], atol=120)
    # As it is, it counts each fragment 37 times.
    assert (call_peaks(coverage).score > 20 * peaks.score).all()


def test_the_best_peaks_are_kept_in_order(two_elements: np.ndarray) -> None:
    track = two_elements.copy()
    track[35_000:35_100] += 3
    every = call_peaks(track)
    assert len(every.start) == 3
    best = call_peaks(track, max_peaks=2)
    kept = np.sort(np.argsort(-every.score)[:2])
    assert best.intervals.tolist() == every.intervals[kept].tolist()
    assert best.score.tolist() == every.score[kept].tolist()
    assert call_peaks(track, max_peaks=9).intervals.tolist() == every.intervals.tolist()


@pytest.mark.parametrize("track", [np.zeros(500), np.ones(500), [3.0]])
def test_a_flat_track_has_no_peaks(track: Any) -> None:
    peaks = call_peaks(track)
    assert peaks.intervals.shape == (0, 2)
    assert peaks.score.shape == peaks.summit.shape == (0,)


@pytest.mark.parametrize(
    ("track", "message"),
    [
        ([], r"track has shape \(0,\)"),
        (np.zeros((2, 5)), r"track has shape \(2, 5\); expected \(length,\)"),
        ([1.0, np.nan, np.inf], r"track holds 2 missing or infinite values"),
        ([1.0, -0.5], r"track holds values down to -0.5; expected counts"),
    ],
)
def test_what_is_no_track_of_counts_is_refused(track: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call_peaks(track)


@pytest.mark.parametrize(
    "parameter",
    [
        {"bandwidth": 0}, {"bandwidth": 1.5}, {"background": (0,)}, {"q_value": 0.0},
        {"q_value": 0.6}, {"p_value": -1e-5}, {"scale": 0.0}, {"scale": np.inf},
        {"min_width": 0}, {"merge_gap": -1}, {"max_peaks": 0},
    ],
)  # fmt: skip
def test_a_parameter_out_of_range_is_named(parameter: dict[str, Any]) -> None:
    (name,) = parameter
    with pytest.raises(ValueError, match=f"^{name} is "):
        call_peaks(np.ones(50), **parameter)


def test_a_long_window_takes_little_time() -> None:
    rng = np.random.default_rng(0)
    track = rng.poisson(0.05, 200_000).astype(float)
    for start in range(2_000, 200_000, 4_000):
        track[start : start + 400] += rng.poisson(1.0, 400)
    call_peaks(track)
    seconds = []
    for _ in range(5):
        begun = time.perf_counter()
        peaks = call_peaks(track)
        seconds.append(time.perf_counter() - begun)
    assert len(peaks.start) == 50
    assert min(seconds) < 0.25  # some 15 ms; a loop over bases takes seconds
