"""Overlap of kept stretches with known regions, against stretches matched by position and GC.

A mask's stretches lie where regions usually lie, near the TSS, and where the sequence is rich in
G and C, as regions are. The fair comparison is with stretches that share both: the same columns
of other genes' windows, hence the same distance to the TSS and the same width, and of these the
ones with the same share of G and C.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from regmask_sk.metrics._altered import SEQUENCE
from regmask_sk.metrics._checks import check_scores, free_columns
from regmask_sk.metrics.bootstrap import chromosome_weights, percentile_interval
from regmask_sk.metrics.selection import draw_seed

if TYPE_CHECKING:
    from regmask_sk.windows import Windows


class _Stretches(NamedTuple):
    """Runs of kept bases: their gene, columns, and what is counted in them."""

    gene: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    overlap: NDArray[np.float64]


def gc_bases(windows: Windows) -> NDArray[np.bool_]:
    """Mark the bases that are G or C, reading a window at a time.

    Parameters
    ----------
    windows : Windows
        With the channels A, C, G and T.

    Returns
    -------
    ndarray of shape (n_genes, length), bool
        In gene orientation; False where the base is not known.

    Raises
    ------
    ValueError
        If there is no sequence.

    Examples
    --------
    >>> import pandas as pd
    >>> from regmask_sk.windows import Windows
    >>> loci = pd.DataFrame({"chrom": ["chr1"], "tss": [10], "strand": ["+"]})
    >>> gc_bases(Windows(loci, length=6))
    Traceback (most recent call last):
    ...
    ValueError: windows has no channels A, C, G and T, ...
    """
    names = tuple(windows.channel_names)
    if not set(SEQUENCE) <= set(names):
        raise ValueError(
            f"windows has no channels A, C, G and T, by which controls are matched in GC; it has "
            f"{list(names)}. Add SequenceChannels to the pipeline, or give gc_bin=None."
        )
    strong = [names.index("C"), names.index("G")]
    marked = np.empty((len(windows), windows.length), dtype=bool)
    for row in range(len(windows)):
        marked[row] = windows[row][strong].any(axis=0)
    return marked


def overlap_enrichment(
    kept: ArrayLike | Iterable[ArrayLike],
    labels: ArrayLike,
    windows: Windows,
    *,
    gc_bin: float | None = 0.05,
    exclude: slice | ArrayLike | None = None,
    min_controls: int = 10,
    n_permutations: int = 1000,
    level: float = 0.95,
    random_state: int | None = None,
) -> pd.DataFrame:
    """Compare the overlap of kept bases and known regions with that of matched controls.

    Every run of kept bases is a stretch. Its controls are the same columns of the windows of
    other genes: of all ("distance"), and of those whose share of G and C in these columns differs
    by at most half a bin ("distance and GC").

    Parameters
    ----------
    kept : array-like of shape (n_genes, length) or (length,), bool
        The kept bases: a hard mask, a soft one cut (``masks >= 0.5``), or
        :func:`regmask_sk.metrics.top_share`.
    labels : array-like of shape (n_genes, length), bool
        The known regions: :func:`regmask_sk.region_labels`.
    windows : Windows
        The genes, for their chromosomes and their sequence.
    gc_bin : float or None, default=0.05
        Width of the bin around a stretch's share of G and C in which its controls' lie. None
        leaves the second comparison out, and reads no sequence.
    exclude : slice or array-like of shape (length,), bool, optional
        Columns left out, such as the promoter, which every mask keeps; a stretch ends there.
    min_controls : int, default=10
        A stretch with fewer controls is left out of that comparison, on both sides, and counted.
    n_permutations : int, default=1000
        In each, every stretch is replaced by one of its controls.
    level : float, default=0.95
        Coverage of the interval, from 1,000 resamples of whole chromosomes.
    random_state : int or None, default=None
        Seed.

    Returns
    -------
    pandas.DataFrame
        Indexed by ``control``, "distance" and "distance and GC". ``n_stretches`` and ``n_bases``
        that are compared, ``n_unmatched`` stretches left out; ``observed`` and ``expected``
        number of kept bases in known regions, the latter the mean over all controls; ``ratio`` of
        the two, with ``low`` and ``high``; ``odds_ratio`` of the bases inside and outside;
        ``p``, the share of permutations with at least the observed overlap, itself counted, so
        that it is never below 1 / (n_permutations + 1). NaN where nothing is left to compare, or
        nothing is expected.

    Raises
    ------
    ValueError
        If shapes do not agree, arrays are not boolean, a parameter is out of range, or there is
        no sequence.

    Notes
    -----
    Memory: 4 bytes for each base of the labels, and as many for the sequence. Stretches of
    overlapping windows are counted for each gene, and permuted independently, so that *p* is too
    small where many windows overlap; the interval is not concerned.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> from regmask_sk.windows import Windows
    >>> loci = pd.DataFrame(
    ...     {"chrom": ["chr1"] * 20 + ["chr2"] * 20, "tss": range(100, 4100, 100), "strand": "+"}
    ... )
    >>> labels = np.zeros((40, 30), dtype=bool)
    >>> labels[::4, 5:10] = True  # a quarter of the genes have a region, all at one place
    >>> found = overlap_enrichment(
    ...     labels, labels, Windows(loci, length=30), gc_bin=None, random_state=0
    ... )
    >>> found[["observed", "expected", "ratio", "p"]].round(3)
              observed  expected  ratio      p
    control
    distance      50.0    11.538  4.333  0.001
    """
    if gc_bin is not None and not 0 < gc_bin <= 1:
        raise ValueError(f"gc_bin is {gc_bin}; expected a width above 0 and up to 1, or None.")
    for name, value in (("min_controls", min_controls), ("n_permutations", n_permutations)):
        if value < 1:
            raise ValueError(f"{name} is {value}; expected at least 1.")
    chosen, truth = check_scores(kept, labels, None)
    if chosen.dtype != np.bool_:
        raise ValueError(
            f"kept has dtype {chosen.dtype}; expected booleans. Cut a soft mask (masks >= 0.5), or "
            "take top_share."
        )
    if len(truth) != len(windows) or truth.shape[1] != windows.length:
        raise ValueError(
            f"labels has shape {truth.shape} and windows {(len(windows), windows.length)}; "
            "expected the same genes, in the same order."
        )
    free = free_columns(exclude, windows.length)
    chroms = np.unique(windows.loci["chrom"].to_numpy(dtype=str), return_inverse=True)[1]
    inside = _running(truth)
    stretches = _stretches(np.asarray(chosen, dtype=bool) & free, inside)
    gc = None if gc_bin is None else _running(gc_bases(windows))
    rows = {}
    for number, control in enumerate(("distance", "distance and GC")):
        if control != "distance" and gc is None:
            continue
        rng = np.random.default_rng([draw_seed(random_state), number])
        width = gc_bin if gc is not None and control != "distance" else None
        matched = _compare(stretches, inside, gc, width, min_controls, n_permutations, rng)
        rows[control] = _summary(matched, stretches, chroms, level, int(rng.integers(2**31)))
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.rename_axis(index="control")


class _Compared(NamedTuple):
    """Stretches that have controls, what is expected of each, and the permuted sums."""

    which: NDArray[np.int64]
    expected: NDArray[np.float64]
    permuted: NDArray[np.float64]


def _running(flags: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Count along windows, ``(length + 1, n_genes)``: a column's genes lie together in memory."""
    counts = np.zeros((flags.shape[1] + 1, flags.shape[0]), dtype=np.int32)
    np.cumsum(flags.T, axis=0, dtype=np.int32, out=counts[1:])
    return counts


def _stretches(kept: NDArray[np.bool_], inside: NDArray[np.int32]) -> _Stretches:
    edges = np.diff(kept.astype(np.int8), axis=1, prepend=0, append=0)
    gene, start = np.nonzero(edges == 1)
    end = np.nonzero(edges == -1)[1]
    overlap = (inside[end, gene] - inside[start, gene]).astype(np.float64)
    return _Stretches(gene, start, end, overlap)


def _compare(
    stretches: _Stretches,
    inside: NDArray[np.int32],
    gc: NDArray[np.int32] | None,
    gc_bin: float | None,
    min_controls: int,
    n_permutations: int,
    rng: np.random.Generator,
) -> _Compared:
    which, expected = [], []
    permuted = np.zeros(n_permutations)
    n_genes = inside.shape[1]
    for number, (gene, start, end) in enumerate(zip(*stretches[:3], strict=True)):
        controls = np.ones(n_genes, dtype=bool)
        if gc is not None and gc_bin is not None:
            share = (gc[end] - gc[start]) / (end - start)
            # A rounding error must not decide about the edge of the bin.
            controls = np.abs(share - share[gene]) <= 0.5 * gc_bin + 1e-9
        controls[gene] = False
        if controls.sum() < min_controls:
            continue
        overlaps = (inside[end] - inside[start])[controls]
        which.append(number)
        expected.append(overlaps.mean())
        permuted += overlaps[rng.integers(0, len(overlaps), n_permutations)]
    return _Compared(np.array(which, dtype=np.int64), np.array(expected), permuted)


def _summary(
    compared: _Compared,
    stretches: _Stretches,
    chroms: NDArray[np.int64],
    level: float,
    seed: int,
) -> dict[str, float]:
    which = compared.which
    overlap, widths = stretches.overlap[which], (stretches.end - stretches.start)[which]
    observed, expected, bases = overlap.sum(), compared.expected.sum(), float(widths.sum())
    n_chroms = int(chroms.max()) + 1 if len(chroms) else 0
    of_chrom = chroms[stretches.gene[which]]
    seen = np.bincount(of_chrom, overlap, minlength=n_chroms)
    awaited = np.bincount(of_chrom, compared.expected, minlength=n_chroms)
    draws = [
        _ratio(float(weights @ seen), float(weights @ awaited))
        for weights in chromosome_weights(n_chroms, 1000, seed)
    ]
    interval = percentile_interval(draws, level)
    exceeding = int((compared.permuted >= observed - 1e-9).sum())
    return {
        "n_stretches": len(which),
        "n_unmatched": len(stretches.gene) - len(which),
        "n_bases": bases,
        "observed": float(observed),
        "expected": float(expected),
        "ratio": _ratio(observed, expected),
        "low": interval.low,
        "high": interval.high,
        "odds_ratio": _ratio(observed * (bases - expected), expected * (bases - observed)),
        "p": (1 + exceeding) / (1 + len(compared.permuted)) if len(which) else float("nan"),
    }


def _ratio(observed: float, expected: float) -> float:
    """Ratio; infinite where only the second is 0, NaN where both are."""
    if expected == 0:
        return float("nan") if observed == 0 else float("inf")
    return float(observed / expected)
