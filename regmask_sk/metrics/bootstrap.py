"""Intervals of a measure by resampling whole chromosomes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regmask_sk.metrics.selection import draw_seed


class Interval(NamedTuple):
    """A percentile interval.

    Attributes
    ----------
    low, high : float
        Its ends; NaN where there are fewer than two chromosomes, or no resample has a value.
    standard_error : float
        Standard deviation over the resamples.
    n_undefined : int
        Resamples in which the measure is not defined (NaN); they are left out.
    """

    low: float
    high: float
    standard_error: float
    n_undefined: int


def chromosome_bootstrap(
    measure: Callable[[NDArray[np.int64]], float],
    chroms: ArrayLike,
    *,
    n_resamples: int = 1000,
    level: float = 0.95,
    random_state: int | None = None,
) -> Interval:
    """Interval of a measure by resampling whole chromosomes with replacement.

    Genes of one chromosome are no independent samples: windows of neighbours overlap, and share
    their elements. Resampling genes would give intervals that are too narrow.

    Parameters
    ----------
    measure : callable
        From rows, an integer array in which a row may occur several times, to the measure.
    chroms : array-like of shape (n_rows,)
        Chromosome of each row.
    n_resamples : int, default=1000
        Resamples.
    level : float, default=0.95
        Coverage that is aimed at. With fewer than about ten chromosomes it is not reached.
    random_state : int or None, default=None
        Seed.

    Returns
    -------
    Interval
        Percentile interval.

    Raises
    ------
    ValueError
        If there are no rows, `level` is not between 0 and 1, or `n_resamples` is not positive.

    References
    ----------
    Efron and Tibshirani, "An introduction to the bootstrap" (1993), chapter 13: the percentile
    interval; Field and Welsh, "Bootstrapping clustered data", JRSS B 69 (2007).

    Examples
    --------
    >>> import numpy as np
    >>> values = np.array([1.0, 1.0, 1.0, 5.0])
    >>> chroms = ["chr1", "chr1", "chr1", "chr2"]
    >>> found = chromosome_bootstrap(lambda rows: values[rows].mean(), chroms, random_state=0)
    >>> found.low, found.high
    (1.0, 5.0)
    """
    rows = _rows_by_chromosome(chroms)
    draws = [
        measure(np.concatenate([rows[chrom] for chrom in drawn]))
        for drawn in _resamples(len(rows), n_resamples, random_state)
    ]
    return percentile_interval(draws, level)


def chromosome_weights(
    n_chroms: int, n_resamples: int, random_state: int | None
) -> Iterator[NDArray[np.int64]]:
    """Draw how often each chromosome occurs in each resample; none with fewer than two."""
    for drawn in _resamples(n_chroms, n_resamples, random_state):
        yield np.bincount(drawn, minlength=n_chroms)


def percentile_interval(draws: ArrayLike, level: float) -> Interval:
    """Interval of the values of resamples.

    Examples
    --------
    >>> percentile_interval([0.0, 1.0, float("nan"), 2.0], 0.5)
    Interval(low=0.5, high=1.5, standard_error=1.0, n_undefined=1)
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; expected a coverage between 0 and 1, such as 0.95.")
    values = np.asarray(draws, dtype=np.float64)
    known = values[~np.isnan(values)]
    n_undefined = len(values) - len(known)
    if len(known) < 2:
        return Interval(np.nan, np.nan, np.nan, n_undefined)
    ends, finite = [(1 - level) / 2, (1 + level) / 2], bool(np.isfinite(known).all())
    # There is nothing between a number and infinity, which a ratio over nothing is.
    low, high = np.quantile(known, ends, method="linear" if finite else "inverted_cdf")
    spread = float(known.std(ddof=1)) if finite else float("nan")
    return Interval(float(low), float(high), spread, n_undefined)


def _rows_by_chromosome(chroms: ArrayLike) -> list[NDArray[np.int64]]:
    labels = np.asarray(chroms)
    if labels.ndim != 1 or labels.size == 0:
        raise ValueError(
            f"chroms has shape {labels.shape}; expected one chromosome for each of the rows, of "
            "which there must be some."
        )
    codes = np.unique(labels.astype(str), return_inverse=True)[1]
    return [np.flatnonzero(codes == code) for code in range(codes.max() + 1)]


def _resamples(
    n_chroms: int, n_resamples: int, random_state: int | None
) -> Iterator[NDArray[np.int64]]:
    if n_resamples < 1:
        raise ValueError(f"n_resamples is {n_resamples}; expected at least 1.")
    rng = np.random.default_rng(draw_seed(random_state))
    if n_chroms > 1:  # one chromosome tells nothing of others
        for _ in range(n_resamples):
            yield rng.integers(0, n_chroms, n_chroms)
