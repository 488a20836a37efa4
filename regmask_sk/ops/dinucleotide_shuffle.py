"""Shuffle bases so that every dinucleotide occurs as often as before."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def dinucleotide_shuffle(
    codes: ArrayLike,
    chosen: ArrayLike | None = None,
    *,
    random_state: int | np.random.Generator | None = None,
) -> NDArray[np.uint8]:
    """Shuffle runs of chosen bases of a sequence, and keep its dinucleotides.

    Each run of chosen bases is shuffled by itself, its first and its last base stay, and every
    order of the run with the same counts of dinucleotides is equally likely. Hence the counts of
    dinucleotides of the whole sequence stay as well. Runs of three bases or fewer have but one
    order, and bases that are not known end a run.

    Parameters
    ----------
    codes : array-like of shape (length,), integer
        0 to 3 for A, C, G and T; 4 and more for what is not known.
    chosen : array-like of shape (length,), bool, optional
        The bases to shuffle; by default all.
    random_state : int, numpy.random.Generator or None, default=None
        Seed, or where random numbers come from.

    Returns
    -------
    ndarray of shape (length,), uint8
        The shuffled codes.

    Raises
    ------
    ValueError
        If `codes` is no vector of small integers, or `chosen` does not fit it.

    References
    ----------
    Altschul and Erickson, "Significance of nucleotide sequence alignments", Molecular Biology
    and Evolution 2 (1985). Wilson, "Generating random spanning trees more quickly than the cover
    time", STOC 1996: how the tree of last exits is drawn.

    Examples
    --------
    >>> import numpy as np
    >>> codes = np.array([0, 1, 0, 2, 0, 3, 0, 1])
    >>> dinucleotide_shuffle(codes, random_state=1).tolist()
    [0, 1, 0, 3, 0, 2, 0, 1]
    """
    given = np.asarray(codes)
    if given.ndim != 1 or given.dtype.kind not in "iu" or (given.size and given.min() < 0):
        raise ValueError(
            f"codes has shape {given.shape} and dtype {given.dtype}; expected one vector of "
            "integers, 0 to 3 for A, C, G and T, and 4 for what is not known."
        )
    shuffled = np.minimum(given, 4).astype(np.uint8)
    which = np.ones(len(given), bool) if chosen is None else np.asarray(chosen)
    if which.shape != given.shape or which.dtype != np.bool_:
        raise ValueError(
            f"chosen has shape {which.shape} and dtype {which.dtype}; expected booleans of shape "
            f"{given.shape}, one a base of codes."
        )
    from regmask_sk.ops._dinucleotide_numba import shuffle_runs  # Numba takes time to import

    shuffle_runs(shuffled, which, np.random.default_rng(random_state))
    return shuffled
