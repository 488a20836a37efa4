"""Peaks of a track within one window: counts against the largest of several local backgrounds.

Symbols
-------
``k``
    Counts within `bandwidth` base pairs around a base.
``lambda_``
    Counts expected there: the number of these base pairs times the largest background rate.
``p``
    ``P(N >= k)`` of a Poisson distribution with mean ``lambda_``; for a `k` between two whole
    numbers the regularised incomplete gamma function between the two values.

References
----------
Zhang et al., "Model-based analysis of ChIP-Seq (MACS)", Genome Biology 9:R137 (2008).
Benjamini and Hochberg, "Controlling the false discovery rate", J. R. Stat. Soc. B 57:289 (1995).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammainc, gammaln

_LOG10 = math.log(10.0)
_LEAST = 1e-290  # below it the incomplete gamma function runs out of exponents
_SAME = 1e-9  # relative difference of counts that is rounding


class Peaks(NamedTuple):
    """Peaks of one window, from left to right, apart from each other.

    Attributes
    ----------
    start, end : ndarray of shape (n,), int64
        Half-open columns.
    summit : ndarray of shape (n,), int64
        Column with the most counts around it; the middle one of several.
    score : ndarray of shape (n,), float64
        Largest ``-log10(p)`` of the peak's bases.
    """

    start: NDArray[np.int64]
    end: NDArray[np.int64]
    summit: NDArray[np.int64]
    score: NDArray[np.float64]

    @property
    def intervals(self) -> NDArray[np.int64]:
        """Starts and ends, of shape (n, 2)."""
        return np.stack([self.start, self.end], axis=1)


def call_peaks(
    track: ArrayLike,
    *,
    bandwidth: int = 150,
    background: Sequence[int] = (5_000, 10_000),
    q_value: float = 0.05,
    p_value: float | None = None,
    scale: float = 1.0,
    min_width: int = 150,
    merge_gap: int = 50,
    max_peaks: int | None = None,
) -> Peaks:
    """Call the peaks of a track within one window, in the manner of MACS without a control.

    Counts within `bandwidth` around each base are compared with those that the largest of the
    window's mean rate and the mean rates within `background` around the base lead to expect.
    Runs of significant bases are joined over short gaps; short ones are dropped.

    Parameters
    ----------
    track : array-like of shape (length,)
        Raw counts, finite and not negative: cuts, read starts or fragment centres at each base,
        or, with `scale`, the coverage by fragments. Bases without a value should be 0. On values
        that are scaled so that their variance is not their mean, as ``SignalChannels`` scales
        them, the test means nothing.
    bandwidth : int, default=150
        Base pairs around a base within which counts are added up, rounded up to an odd number,
        so that the peaks of a reversed track are the reversed peaks.
    background : sequence of int, default=(5000, 10000)
        Widths in base pairs of the local backgrounds. Both are those of the published method,
        whose third, 1,000 bp, is for control samples: within the sample itself most of it may be
        the peak. A width beyond the window's ends stops there.
    q_value : float, default=0.05
        False discovery rate over the bases of the window (Benjamini and Hochberg).
    p_value : float, optional
        Largest `p` of a significant base, in place of `q_value`.
    scale : float, default=1.0
        What one count adds up to over its bases, in the units of the track: 1 for cuts, the mean
        length of the fragments for their coverage, times 1e6 over the number of reads for a track
        in counts per million.
    min_width : int, default=150
        Least width of a peak in base pairs, gaps within it included.
    merge_gap : int, default=50
        Largest gap in base pairs over which runs are joined.
    max_peaks : int, optional
        The most peaks to keep, those with the largest score; of equal ones those on the left.

    Returns
    -------
    Peaks
        Starts, ends, summits and scores; ``peaks.intervals`` has the first two as an array. All
        are empty where nothing is significant.

    Raises
    ------
    ValueError
        If the track is empty, not one-dimensional, or holds negative, missing or infinite values,
        or a parameter is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> track = np.zeros(4_000)
    >>> track[25::50] = 1
    >>> track[1_000:1_100:2] = 1
    >>> peaks = call_peaks(track)
    >>> peaks.intervals
    array([[ 945, 1156]])
    >>> int(peaks.summit[0]), bool(peaks.score[0] > 10)
    (1050, True)
    """
    counts = _check_track(track)
    widths = _check_parameters(
        bandwidth, background, q_value, p_value, scale, min_width, merge_gap, max_peaks
    )
    k, lambda_ = _counts_and_expectation(counts / scale if scale != 1.0 else counts, *widths)
    least = -math.log10(q_value if p_value is None else p_value)
    score = _scores(k, lambda_, least)
    if p_value is None:
        least = _benjamini_hochberg(score, q_value)
    start, end = _runs(score >= least, merge_gap, min_width)
    best = np.array([score[a:b].max() for a, b in zip(start, end, strict=True)], dtype=np.float64)
    if max_peaks is not None and len(start) > max_peaks:
        kept = np.sort(np.argsort(-best, kind="stable")[:max_peaks])
        start, end, best = start[kept], end[kept], best[kept]
    summit = np.array([_summit(k, a, b) for a, b in zip(start, end, strict=True)], dtype=np.int64)
    return Peaks(start, end, summit, best)


def _check_track(track: ArrayLike) -> NDArray[np.float64]:
    counts = np.asarray(track, dtype=np.float64)
    if counts.ndim != 1 or counts.size == 0:
        raise ValueError(
            f"track has shape {counts.shape}; expected (length,), one window of one track, with "
            "at least one base."
        )
    least = counts.min()
    if not (np.isfinite(least) and np.isfinite(counts.max())):
        raise ValueError(
            f"track holds {np.count_nonzero(~np.isfinite(counts))} missing or infinite values; "
            "expected counts. Set bases without a value to 0."
        )
    if least < 0:
        raise ValueError(
            f"track holds values down to {least:g}; expected counts, which are not negative. Give "
            "raw values, not a log-ratio or a centred track."
        )
    return counts


def _check_parameters(
    bandwidth: int,
    background: Sequence[int],
    q_value: float,
    p_value: float | None,
    scale: float,
    min_width: int,
    merge_gap: int,
    max_peaks: int | None,
) -> list[int]:
    """Check them, and give the widths of all moving sums."""
    whole = [("bandwidth", bandwidth, 1), ("min_width", min_width, 1), ("merge_gap", merge_gap, 0)]
    whole += [("background", width, 1) for width in background]
    if max_peaks is not None:
        whole.append(("max_peaks", max_peaks, 1))
    for name, value, low in whole:
        if isinstance(value, bool) or int(value) != value or value < low:
            raise ValueError(f"{name} is {value!r}; expected a whole number of at least {low}.")
    for name, chance in (("q_value", q_value), ("p_value", p_value)):
        if chance is not None and not 0.0 < chance <= 0.5:
            raise ValueError(f"{name} is {chance!r}; expected more than 0 and at most 0.5.")
    if not 0.0 < scale < math.inf:
        raise ValueError(f"scale is {scale!r}; expected a positive number.")
    return [int(bandwidth), *map(int, background)]


def _counts_and_expectation(
    counts: NDArray[np.float64], bandwidth: int, *background: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Count within the bandwidth, and give the expectation under the largest background."""
    until = np.concatenate([[0.0], np.cumsum(counts)])
    k, n_bases = _moving_sum(until, bandwidth)
    rate = np.full(len(counts), until[-1] / len(counts))
    for width in background:
        total, n = _moving_sum(until, width)
        np.maximum(rate, total / n, out=rate)
    return k, rate * n_bases


def _moving_sum(
    until: NDArray[np.float64], width: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum within half the width on either side of each base, and the number of bases there."""
    length = len(until) - 1
    half = min(width // 2, length)
    total = np.empty(length)
    total[: length - half] = until[half + 1 :]
    total[length - half :] = until[-1]
    total[half:] -= until[: length - half]
    n_bases = np.full(length, 2.0 * half + 1.0)
    n_bases[:half] -= np.arange(half, 0, -1)
    n_bases[length - half :] -= np.arange(1, half + 1)
    return total, n_bases


def _scores(
    k: NDArray[np.float64], lambda_: NDArray[np.float64], least: float
) -> NDArray[np.float64]:
    """Give ``-log10(p)`` where it is at least `least`, else 0."""
    score = np.zeros(len(k))
    more = np.flatnonzero((k > lambda_ * (1.0 + _SAME)) & (lambda_ > 0))
    observed, expected = k[more], lambda_[more]
    # p is not less than the probability of k itself, which Stirling's formula gives cheaply.
    # With it most bases are told to fall short.
    bound = observed * np.log(observed / expected) - observed + expected
    bound += 0.5 * np.log(2.0 * np.pi * observed) + 1.0 / (12.0 * observed)
    near = bound >= least * _LOG10 * (1.0 - _SAME)
    found = tail_score(observed[near], expected[near])
    score[more[near]] = np.where(found >= least, found, 0.0)
    return score


def tail_score(k: NDArray[np.float64], lambda_: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give ``-log10(P(N >= k))`` of Poisson distributions.

    Parameters
    ----------
    k : ndarray of shape (n,)
        Counts, at least `lambda_`; not necessarily whole.
    lambda_ : ndarray of shape (n,)
        Their expectations, positive.

    Returns
    -------
    ndarray of shape (n,), float64
        Beyond 290 by the tail's leading terms, to within 0.001.

    Examples
    --------
    >>> import numpy as np
    >>> tail_score(np.array([1.0, 500.0]), np.array([0.1, 1.0])).round(3).tolist()
    [1.022, 1134.52]
    """
    p = gammainc(k, lambda_)
    score = -np.log10(np.maximum(p, _LEAST))
    deep = p < _LEAST
    if deep.any():
        a, b = k[deep], lambda_[deep]
        # The probability of a itself, times the geometric series of what follows.
        log_p = a * np.log(b) - b - gammaln(a + 1.0) - np.log1p(-b / (a + 1.0))
        score[deep] = -log_p / _LOG10
    return np.asarray(score)


def _benjamini_hochberg(score: NDArray[np.float64], q_value: float) -> float:
    """Least score of a significant base; infinity where there is none."""
    found = -np.sort(-score[score > 0])
    rank = np.arange(1, len(found) + 1)
    passed = np.flatnonzero(found >= -np.log10(q_value * rank / len(score)))
    return float(found[passed[-1]]) if len(passed) else math.inf


def _runs(
    significant: NDArray[np.bool_], merge_gap: int, min_width: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give the runs of True, joined over short gaps, without short ones, as starts and ends."""
    edges = np.flatnonzero(np.diff(significant, prepend=False, append=False))
    start, end = edges[::2], edges[1::2]
    apart = start[1:] - end[:-1] > merge_gap
    start = start[np.append(True, apart)[: len(start)]]
    end = end[np.append(apart, True)[: len(end)]]
    wide = end - start >= min_width
    return start[wide].astype(np.int64), end[wide].astype(np.int64)


def _summit(k: NDArray[np.float64], start: int, end: int) -> int:
    """Column of a peak with the most counts around it."""
    inside = k[start:end]
    most = np.flatnonzero(inside >= inside.max() * (1.0 - _SAME))
    return int(start + most[len(most) // 2])
