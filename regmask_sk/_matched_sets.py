"""One case beside its controls, many times over: exact test and odds ratio of matched sets.

Symbols
-------
``n``, ``m``
    Members of a set, the case among them, and how many of them are positive.
``psi``
    Odds ratio: the odds of a positive case over those of its controls, the same in all sets.
``t``
    Sets whose case is positive, among those that tell something (``0 < m < n``).

Given ``m``, the case of a set is positive with the probability ``m psi / (m psi + n - m)``
whatever the set's own odds are: sets may differ in width, composition and place. With one control
a set, the test at ``psi = 1`` is McNemar's, in its exact form.

References
----------
Breslow and Day, "Statistical Methods in Cancer Research I", chapter 5 (IARC, 1980).
McNemar, "Note on the sampling error of the difference between correlated proportions",
Psychometrika 12:153 (1947).
Wilson, "Probable inference, the law of succession, and statistical inference", J. Am. Stat. Assoc.
22:209 (1927).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import binom

_Z = 1.959963984540054  # two-sided 95 %
_WIDE = 60.0  # |log(psi)| beyond which no data here can tell the difference
_REACH = 14.0  # standard deviations: what lies further has less than 1e-40 of the mass


class MatchedOdds(NamedTuple):
    """Comparison of cases with their controls.

    Attributes
    ----------
    odds_ratio : float
        Conditional maximum-likelihood estimate; 0 or infinity where all sets that tell something
        agree, NaN where none does.
    low, high : float
        95 % interval: the odds ratios that a score test at 5 % does not refuse.
    p_value : float
        Exact one-sided: the chance, at an odds ratio of 1, of as many positive cases or more.
    """

    odds_ratio: float
    low: float
    high: float
    p_value: float


def matched_odds(
    sizes: ArrayLike, positives: ArrayLike, n_sets: ArrayLike, n_positive_cases: int
) -> MatchedOdds:
    """Compare cases with their controls.

    Parameters
    ----------
    sizes, positives : array-like of shape (n_kinds,), int
        Members and positive members of each kind of set.
    n_sets : array-like of shape (n_kinds,), int
        Number of sets of each kind. Kinds with ``0 < positives < sizes`` count.
    n_positive_cases : int
        Sets with a positive case among those kinds.

    Returns
    -------
    MatchedOdds

    Examples
    --------
    Of 12 pairs in which one is positive, the case is in 10:

    >>> found = matched_odds([2], [1], [12], 10)
    >>> round(found.odds_ratio, 6), round(found.p_value, 4)
    (5.0, 0.0193)
    """
    n, m, given = (np.asarray(x, dtype=np.float64).ravel() for x in (sizes, positives, n_sets))
    tells = (m > 0) & (m < n) & (given > 0)
    n, m, t = n[tells], m[tells], int(n_positive_cases)
    count: NDArray[np.int64] = given[tells].astype(np.int64)
    total = int(count.sum())
    if not 0 <= t <= total:
        raise ValueError(f"n_positive_cases is {t}; expected 0 to {total}, the sets that count.")
    if total == 0:
        return MatchedOdds(math.nan, 0.0, math.inf, 1.0)
    log_odds = np.log(m / (n - m))

    def excess(log_psi: float) -> tuple[float, float]:
        """Positive cases beyond the expected ones, and their standard deviation."""
        share = expit(log_odds + log_psi)
        rest = expit(-log_odds - log_psi)  # 1 - share, to all its digits
        beyond = t - float(count @ share) if 2 * t < total else float(count @ rest) - (total - t)
        return beyond, math.sqrt(float(count @ (share * rest)))

    def solve(wanted: float) -> float:
        def gap(x: float) -> float:
            far, sd = excess(x)
            return far - wanted * sd

        return _root(gap)

    middle = -math.inf if t == 0 else math.inf if t == total else solve(0.0)
    low = -math.inf if t == 0 else solve(_Z)
    high = math.inf if t == total else solve(-_Z)
    p_value = _upper_tail(t, count, log_odds, max(middle, 0.0))
    return MatchedOdds(_exp(middle), _exp(low), _exp(high), p_value)


def _root(function: Callable[[float], float]) -> float:
    if function(-_WIDE) <= 0.0:
        return -math.inf
    if function(_WIDE) >= 0.0:
        return math.inf
    return float(brentq(function, -_WIDE, _WIDE, xtol=1e-12))


def _exp(x: float) -> float:
    return math.inf if x == math.inf else math.exp(x)


def _upper_tail(
    t: int, count: NDArray[np.int64], log_odds: NDArray[np.float64], log_psi: float
) -> float:
    """``P(T >= t)`` at an odds ratio of 1, by way of the distribution at another one.

    At the odds ratio under which `t` is expected, the terms of the sum are not small, and each
    is ``psi**-s`` times a constant what it is at 1: tails of 1e-200 keep all their digits.
    """
    if t == 0:
        return 1.0
    at_one = expit(log_odds)
    if log_psi == math.inf:  # every case is positive
        return math.exp(float(count @ np.log(at_one)))
    share = expit(log_odds + log_psi)
    mass, first = np.ones(1), 0
    for n, p in zip(count.tolist(), share.tolist(), strict=True):
        reach = _REACH * math.sqrt(n * p * (1.0 - p)) + _REACH
        low, high = max(0, math.floor(n * p - reach)), min(n, math.ceil(n * p + reach))
        mass = np.convolve(mass, binom.pmf(np.arange(low, high + 1), n, p))
        first += low
    above = first + np.arange(len(mass)) - t
    kept = above >= 0
    total = float(mass[kept] @ np.exp(-log_psi * above[kept]))
    if total <= 0.0:
        return 0.0
    scale = float(count @ np.log1p(at_one * np.expm1(log_psi))) - t * log_psi
    return min(1.0, math.exp(scale + math.log(total)))
