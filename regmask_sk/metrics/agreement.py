"""Masks against known elements, always beside the position-only control and the raw tracks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from regmask_sk.metrics._altered import SEQUENCE
from regmask_sk.metrics._checks import check_scores, free_columns
from regmask_sk.metrics._weighted import WeightedRanking
from regmask_sk.metrics.bootstrap import Interval, chromosome_weights, percentile_interval
from regmask_sk.metrics.controls import position_only_mask, smoothed_track
from regmask_sk.metrics.enrichment import overlap_enrichment
from regmask_sk.metrics.ranking import mask_average_precision, mask_roc_auc
from regmask_sk.metrics.selection import draw_seed, top_share

if TYPE_CHECKING:
    from regmask_sk.windows import Windows

POSITION = "position-only mask"


def agreement_table(
    masks: ArrayLike | Mapping[str, ArrayLike],
    labels: ArrayLike,
    windows: Windows,
    *,
    profile: ArrayLike | None = None,
    tracks: Sequence[str] | None = None,
    widths: Sequence[int] = (1, 200),
    share: float | None = None,
    block_size: int = 16,
    exclude: slice | ArrayLike | None = None,
    gc_bin: float | None = 0.05,
    n_permutations: int = 1000,
    n_resamples: int = 200,
    level: float = 0.95,
    random_state: int | None = None,
) -> pd.DataFrame:
    """Score masks against known regions, with both controls, intervals and enrichment.

    Parameters
    ----------
    masks : array-like of shape (n_genes, length), or mapping of str to such
        Masks or attributions, by name; a single array is named "mask".
    labels : array-like of shape (n_genes, length), bool
        The known regions: :func:`regmask_sk.region_labels`. A gene whose regions are not known
        should be left out of everything.
    windows : Windows
        The genes with their tracks and their sequence, in the same order.
    profile : array-like of shape (length,), optional
        The position-only mask, such as :func:`regmask_sk.position_only_mask` of the training
        genes' masks, or of their labels, which is the harder one to beat. By default the mean of
        the first of `masks` over these genes.
    tracks : sequence of str, optional
        Channels that are scored as they are; by default all but the sequence.
    widths : sequence of int, default=(1, 200)
        Base pairs of the moving averages under which each track is scored.
    share : float, optional
        Share of all bases, those with the largest scores, whose overlap is compared; the same
        for all rows. By default the mean share that the first of `masks` keeps above 0.5.
    block_size : int, default=16
        Base pairs that are kept or left together for that, the same for all rows.
    exclude : slice or array-like of shape (length,), bool, optional
        Columns left out, such as the promoter.
    gc_bin, n_permutations
        As in :func:`overlap_enrichment`.
    n_resamples : int, default=200
        Resamples of whole chromosomes behind each interval.
    level : float, default=0.95
        Coverage of the intervals.
    random_state : int or None, default=None
        Seed.

    Returns
    -------
    pandas.DataFrame
        One row for each of the masks, for the "position-only mask", and for each track and width.
        ``average_precision`` and ``roc_auc`` over all bases, each with ``..._low`` and
        ``..._high``; ``roc_auc_at_position``, genes compared with each other at each column;
        ``base_rate`` of the labels; ``share`` that is kept for the overlap; ``ratio``,
        ``ratio_low``, ``ratio_high``, ``odds_ratio`` and ``p`` of the overlap against controls
        matched by distance, and with the suffix ``_gc`` by distance and GC. NaN where a measure
        is not defined; intervals are NaN where there is one chromosome.

    Raises
    ------
    ValueError
        If shapes do not agree, labels are not boolean, scores are not finite, a track is not
        among the channels, no profile can be made, or a parameter is out of range.

    Notes
    -----
    All scores are held in memory, one row of the table at a time.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> from regmask_sk.windows import Windows
    >>> loci = pd.DataFrame(
    ...     {"chrom": ["chr1"] * 15 + ["chr2"] * 15, "tss": range(100, 3100, 100), "strand": "+"}
    ... )
    >>> rng = np.random.default_rng(0)
    >>> labels = np.repeat(rng.random((30, 5)) < 0.3, 8, axis=1)
    >>> masks = 0.4 * labels + 0.6 * rng.random((30, 40))
    >>> table = agreement_table(
    ...     masks, labels, Windows(loci, length=40), block_size=8, gc_bin=None, random_state=0
    ... )
    >>> table[["roc_auc", "roc_auc_at_position", "ratio"]].round(2)
                        roc_auc  roc_auc_at_position  ratio
    mask                   0.95                 0.95   2.87
    position-only mask     0.60                 0.50   1.02
    """
    named = dict(masks) if isinstance(masks, Mapping) else {"mask": masks}
    if not named:
        raise ValueError("masks is empty; expected at least one array of masks.")
    first = np.asarray(next(iter(named.values())))
    own, truth = check_scores(first, labels, None)
    if truth.shape != (len(windows), windows.length):
        raise ValueError(
            f"labels has shape {truth.shape} and windows {(len(windows), windows.length)}; "
            "expected the same genes, in the same order."
        )
    chroms = windows.loci["chrom"].to_numpy(dtype=str)
    free = free_columns(exclude, windows.length)
    if share is None:
        share = float((own[:, free] >= 0.5).mean())
        if share == 0:
            raise ValueError(
                "share is None, and the first of masks keeps nothing at 0.5. Give the share of "
                "the bases whose overlap is to be compared."
            )
    seed = draw_seed(random_state)
    control = position_only_mask(own) if profile is None else np.asarray(profile)
    if tracks is None:
        tracks = [name for name in windows.channel_names if name not in SEQUENCE]

    rows = {}
    for name, scores in [*named.items(), (POSITION, control)]:
        rows[name] = _score(
            np.asarray(scores), truth, windows, chroms, free, share, block_size, gc_bin,
            n_permutations, n_resamples, level, seed,
        )  # fmt: skip
    for track in tracks:
        for width in widths:
            scores = np.stack(list(smoothed_track(windows, track, width=width)))
            rows[f"{track}, {width} bp"] = _score(
                scores, truth, windows, chroms, free, share, block_size, gc_bin, n_permutations,
                n_resamples, level, seed,
            )  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index")


def _score(
    given: NDArray[np.floating],
    truth: NDArray[np.bool_],
    windows: Windows,
    chroms: NDArray[np.str_],
    free: NDArray[np.bool_],
    share: float,
    block_size: int,
    gc_bin: float | None,
    n_permutations: int,
    n_resamples: int,
    level: float,
    seed: int,
) -> dict[str, float]:
    scores, _ = check_scores(given, truth, None)
    precision, area = _intervals(scores[:, free], truth[:, free], chroms, n_resamples, level, seed)
    kept = top_share(
        scores, share, block_size=block_size, within="all", exclude=~free, random_state=seed
    )
    enriched = overlap_enrichment(
        kept,
        truth,
        windows,
        gc_bin=gc_bin,
        n_permutations=n_permutations,
        level=level,
        random_state=seed,
    )
    row = {
        "average_precision": mask_average_precision(scores, truth, exclude=~free),
        "average_precision_low": precision.low,
        "average_precision_high": precision.high,
        "roc_auc": mask_roc_auc(scores, truth, exclude=~free),
        "roc_auc_low": area.low,
        "roc_auc_high": area.high,
        "roc_auc_at_position": mask_roc_auc(scores, truth, exclude=~free, within="position"),
        "base_rate": float(truth[:, free].mean()),
        "share": share,
    }
    names = {"ratio": "ratio", "low": "ratio_low", "high": "ratio_high"}
    for control, suffix in (("distance", ""), ("distance and GC", "_gc")):
        if control in enriched.index:
            for name in ("ratio", "low", "high", "odds_ratio", "p"):
                row[names.get(name, name) + suffix] = float(enriched.loc[control, name])
    return row


def _intervals(
    scores: NDArray[np.floating],
    truth: NDArray[np.bool_],
    chroms: NDArray[np.str_],
    n_resamples: int,
    level: float,
    seed: int,
) -> tuple[Interval, Interval]:
    """Intervals of average precision and of the area under the ROC curve."""
    names, codes = np.unique(chroms, return_inverse=True)
    ranking = WeightedRanking(scores.ravel(), truth.ravel(), np.repeat(codes, scores.shape[1]))
    weights = list(chromosome_weights(len(names), n_resamples, seed))
    return (
        percentile_interval([ranking.average_precision(w) for w in weights], level),
        percentile_interval([ranking.roc_auc(w) for w in weights], level),
    )
