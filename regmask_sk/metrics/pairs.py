"""Scores of element-gene pairs against a screen, by distance to the TSS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from regmask_sk.metrics._weighted import WeightedRanking
from regmask_sk.metrics.bootstrap import chromosome_weights, percentile_interval
from regmask_sk.metrics.crispri import activity_contact, check_pairs

BINS = (0, 10_000, 100_000, 2_500_000)


def pair_table(
    pairs: pd.DataFrame,
    scores: Mapping[str, ArrayLike],
    *,
    distance_bins: Sequence[float] = BINS,
    activity: Sequence[str] | None = ("DHS.RPM", "H3K27ac.RPM"),
    n_resamples: int = 1000,
    level: float = 0.95,
    random_state: int | None = None,
) -> pd.DataFrame:
    """Score predictors of element-gene pairs, beside distance and activity x contact.

    Parameters
    ----------
    pairs : pandas.DataFrame
        Pairs: :func:`read_crispri_pairs`.
    scores : mapping of str to array-like of shape (n_pairs,)
        Scores of each predictor, larger for regulated; NaN where it has none
        (:func:`mask_pair_scores`). May be empty.
    distance_bins : sequence of float, default=(0, 10000, 100000, 2500000)
        Edges in base pairs; a pair belongs to the bin whose lower edge its distance has reached.
        Pairs beyond the last edge count in the row "all" only.
    activity : sequence of str or None, default=("DHS.RPM", "H3K27ac.RPM")
        Columns of the element's signal, for "activity x contact"
        (:func:`regmask_sk.metrics.activity_contact`); None leaves that row out.
    n_resamples : int, default=1000
        Resamples of whole chromosomes.
    level : float, default=0.95
        Coverage of the intervals.
    random_state : int or None, default=None
        Seed.

    Returns
    -------
    pandas.DataFrame
        Indexed by ``predictor`` and ``distance``, "all" first. ``n_pairs`` and ``n_regulated``
        that all predictors score, and ``n_unscored`` pairs left out of every row because one of
        them has no score; ``average_precision`` (AUPRC) with ``low`` and ``high``, ``roc_auc``,
        and ``base_rate``, the average precision of knowing nothing. NaN where no pair, or none
        but regulated ones for ``roc_auc``, are left.

    Raises
    ------
    ValueError
        If columns are missing, scores do not fit the pairs or are infinite, a name is that of a
        baseline, edges do not rise, or no pair is scored by all.

    Examples
    --------
    >>> import pandas as pd
    >>> pairs = pd.DataFrame({
    ...     "chrom": ["chr1", "chr1", "chr2", "chr2"], "start": 0, "end": 500, "gene": list("abcd"),
    ...     "tss": 9_000, "distance": [5_000, 20_000, 8_000, 90_000],
    ...     "regulated": [True, False, False, True],
    ... })
    >>> table = pair_table(
    ...     pairs, {"mask": [3.0, 1.0, 0.5, 2.0]}, distance_bins=[0, 10_000, 100_000],
    ...     activity=None, random_state=0,
    ... )
    >>> table["average_precision"].unstack(0).round(2)
    predictor     distance  mask
    distance
    0-10 kb           1.00   1.0
    10-100 kb         0.50   1.0
    all               0.75   1.0
    """
    check_pairs(pairs, "pairs")
    edges = np.asarray(distance_bins, dtype=np.float64)
    if edges.ndim != 1 or len(edges) < 2 or not (np.diff(edges) > 0).all():
        raise ValueError(
            f"distance_bins is {list(distance_bins)}; expected two or more rising edges in base "
            "pairs."
        )
    distance = pairs["distance"].abs().to_numpy(dtype=np.float64)
    every: dict[str, NDArray[np.float64]] = {}
    for name, given in scores.items():
        values = np.asarray(given, dtype=np.float64)
        if values.shape != (len(pairs),) or np.isinf(values).any():
            raise ValueError(
                f"scores[{name!r}] has shape {values.shape} and {int(np.isinf(values).sum())} "
                f"infinite values; expected ({len(pairs)},), one finite score or NaN a pair."
            )
        every[name] = values
    baselines = {"distance": -distance}
    if activity is not None:
        baselines["activity x contact"] = activity_contact(pairs, activity)
    taken = sorted(set(baselines) & set(every))
    if taken:
        raise ValueError(f"scores has {taken}, which is a baseline's name. Rename it.")
    every |= baselines
    scored = ~np.isnan(np.stack(list(every.values()))).any(axis=0)
    if not scored.any():
        raise ValueError(
            f"none of the {len(pairs)} pairs is scored by all of {list(every)}. Are the elements "
            "inside the windows? See mask_pair_scores."
        )
    regulated = pairs["regulated"].to_numpy(dtype=bool)
    names, codes = np.unique(pairs["chrom"].to_numpy(dtype=str), return_inverse=True)
    strata = {"all": np.ones(len(pairs), dtype=bool)}
    for low, high in pairwise(edges):
        strata[f"{low / 1000:g}-{high / 1000:g} kb"] = (distance >= low) & (distance < high)
    weights = list(chromosome_weights(len(names), n_resamples, random_state))
    rows = {}
    for name, values in every.items():
        for stratum, inside in strata.items():
            used = scored & inside
            row = _score(values[used], regulated[used], codes[used], len(names), weights, level)
            row["n_unscored"] = int((inside & ~scored).sum())
            rows[name, stratum] = row
    columns = ["n_pairs", "n_regulated", "n_unscored", "average_precision", "low", "high"]
    table = pd.DataFrame.from_dict(rows, orient="index")[[*columns, "roc_auc", "base_rate"]]
    table.index = pd.MultiIndex.from_tuples(list(rows), names=["predictor", "distance"])
    return table


def _score(
    scores: NDArray[np.float64],
    regulated: NDArray[np.bool_],
    codes: NDArray[np.int64],
    n_chroms: int,
    weights: list[NDArray[np.int64]],
    level: float,
) -> dict[str, float]:
    row: dict[str, float] = {"n_pairs": len(scores), "n_regulated": int(regulated.sum())}
    if not len(scores):
        return row | dict.fromkeys(
            ("average_precision", "low", "high", "roc_auc", "base_rate"), float("nan")
        )
    ranking = WeightedRanking(scores, regulated, codes)
    once = np.ones(n_chroms, dtype=np.int64)
    interval = percentile_interval([ranking.average_precision(w) for w in weights], level)
    return row | {
        "average_precision": ranking.average_precision(once),
        "low": interval.low,
        "high": interval.high,
        "roc_auc": ranking.roc_auc(once),
        "base_rate": float(regulated.mean()),
    }
