"""What several fits agree on: consensus masks, and elements with their selection frequency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from regmask_sk.export import call_elements
from regmask_sk.metrics.selection import draw_seed
from regmask_sk.metrics.stability import kept_bases, named_masks

if TYPE_CHECKING:
    from regmask_sk.windows import Windows


def consensus_mask(
    masks: Mapping[Any, ArrayLike] | Sequence[ArrayLike], *, how: str = "mean"
) -> NDArray[np.float64]:
    """Combine the masks of several fits.

    Parameters
    ----------
    masks : mapping to, or sequence of, array-like of shape (n_genes, length)
        Masks of the same genes in [0, 1].
    how : {"mean", "median"}, default="mean"
        What is taken over the fits at each base.

    Returns
    -------
    ndarray of shape (n_genes, length)
        In [0, 1]; a mask for ``predict_masked``, for export and for every measure here.

    Raises
    ------
    ValueError
        If there is no fit, shapes differ, values are not finite, or `how` is unknown.

    See Also
    --------
    selection_frequency : How many of the fits keep each base.

    Examples
    --------
    >>> consensus_mask([[[0.0, 1.0]], [[0.5, 1.0]], [[1.0, 1.0]]])
    array([[0.5, 1. ]])
    """
    arrays = list(named_masks(masks, 1).values())
    if how not in ("mean", "median"):
        raise ValueError(f"how is {how!r}; expected 'mean' or 'median'.")
    if how == "median":
        return np.asarray(np.median(np.stack(arrays), axis=0), dtype=np.float64)
    total = np.zeros(arrays[0].shape)
    for array in arrays:
        total += array
    return total / len(arrays)


def selection_frequency(
    masks: Mapping[Any, ArrayLike] | Sequence[ArrayLike],
    *,
    share: float | None = None,
    block_size: int = 1,
    random_state: int | None = 0,
) -> NDArray[np.float64]:
    """Share of the fits that keep each base.

    Parameters
    ----------
    masks : mapping to, or sequence of, array-like of shape (n_genes, length)
        Masks or attributions of the same genes.
    share, block_size
        As in :func:`regmask_sk.metrics.mask_stability`.
    random_state : int or None, default=0
        Seed of the order of equal scores.

    Returns
    -------
    ndarray of shape (n_genes, length)
        In [0, 1].

    Raises
    ------
    ValueError
        If there is no fit, shapes differ, values are not finite, or a parameter is out of range.

    Examples
    --------
    >>> selection_frequency([[[0.9, 0.6, 0.1]], [[0.8, 0.2, 0.1]]])
    array([[1. , 0.5, 0. ]])
    """
    return np.asarray(_selected(masks, share, block_size, random_state).mean(axis=0))


def _selected(
    masks: Mapping[Any, ArrayLike] | Sequence[ArrayLike],
    share: float | None,
    block_size: int,
    random_state: int | None,
) -> NDArray[np.bool_]:
    """Bases that each fit keeps, ``(n_fits, n_genes, length)``."""
    arrays = list(named_masks(masks, 1).values())
    every = np.ones(arrays[0].shape[1], dtype=bool)
    seed = draw_seed(random_state)
    return np.stack(
        [kept_bases(array, every, share, block_size, seed + i) for i, array in enumerate(arrays)]
    )


def consensus_elements(
    windows: Windows,
    masks: Mapping[Any, ArrayLike] | Sequence[ArrayLike],
    *,
    frequency: float = 0.5,
    share: float | None = None,
    block_size: int = 1,
    min_width: int = 20,
    merge_gap: int = 50,
    random_state: int | None = 0,
) -> pd.DataFrame:
    """Call the elements that enough of the fits keep.

    Parameters
    ----------
    windows : Windows
        The genes, row by row as the masks; their channels are not read.
    masks : mapping to, or sequence of, array-like of shape (n_genes, length)
        Masks or attributions of the same genes by several fits, in gene orientation.
    frequency : float, default=0.5
        A base belongs to an element if at least this share of the fits keeps it.
    share, block_size, random_state
        As in :func:`selection_frequency`.
    min_width, merge_gap : int, default=20, 50
        As in :func:`regmask_sk.call_elements`.

    Returns
    -------
    pandas.DataFrame
        One row an element of a gene, in the order of the windows and along the genome: ``chrom``,
        ``start``, ``end`` (0-based, half-open; `start` is never below 0), ``name`` (the gene),
        ``strand``, ``distance`` (base pairs from the TSS to the nearest base of the element,
        negative upstream, 0 where it holds the TSS), ``frequency``, the mean selection frequency
        of its bases, and ``n_fits``, the number of fits that keep at least half of its bases.

    Raises
    ------
    ValueError
        If `frequency` is not in (0, 1], masks do not fit the windows, or a parameter is out of
        range.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> from regmask_sk.windows import Windows
    >>> loci = pd.DataFrame({"chrom": ["chr1"], "tss": [500], "strand": ["-"]}, index=["g"])
    >>> fits = np.zeros((3, 1, 200))
    >>> fits[:, 0, 20:60] = 1  # all three
    >>> fits[0, 0, 150:190] = 1  # one only
    >>> consensus_elements(Windows(loci, length=200), fits)
      chrom  start  end name strand  distance  frequency  n_fits
    0  chr1    541  581    g      -       -41        1.0       3
    """
    if not 0 < frequency <= 1:
        raise ValueError(f"frequency is {frequency}; expected a share of the fits in (0, 1].")
    selected = _selected(masks, share, block_size, random_state)
    if selected.shape[1:] != (len(windows), windows.length):
        raise ValueError(
            f"masks has shape {selected.shape[1:]} and windows {(len(windows), windows.length)}; "
            "expected the same genes, in the same order."
        )
    loci, length = windows.loci, windows.length
    middle = length // 2
    rows = []
    for row in range(len(windows)):
        own = selected[:, row]
        share_kept = own.mean(axis=0)
        # A mean of fits may miss the share that is asked for by a rounding error.
        enough = (share_kept >= frequency - 1e-9).astype(np.float64)
        calls = call_elements(enough, threshold=0.5, min_width=min_width, merge_gap=merge_gap)
        found: list[dict[str, Any]] = []
        for first, last in calls:
            start, reverse = int(windows.starts[row]), bool(windows.reversed[row])
            begin, end = (length - last, length - first) if reverse else (first, last)
            upstream = middle - (last - 1)
            distance = -upstream if upstream > 0 else max(first - middle, 0)
            if start + end <= 0:
                continue  # off the chromosome
            found.append(
                {
                    "chrom": str(loci["chrom"].iloc[row]),
                    "start": max(start + begin, 0),
                    "end": start + end,
                    "name": str(loci.index[row]),
                    "strand": str(loci["strand"].iloc[row]),
                    "distance": distance,
                    "frequency": float(share_kept[first:last].mean()),
                    "n_fits": int((own[:, first:last].mean(axis=1) >= 0.5).sum()),
                }
            )
        rows += sorted(found, key=lambda element: element["start"])
    columns = ["chrom", "start", "end", "name", "strand", "distance", "frequency", "n_fits"]
    return pd.DataFrame(rows, columns=columns)
