"""Which bases of each window have the largest scores: masks of one share from any attribution."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regmask_sk.metrics._checks import free_columns, score_batches

_BATCH = 256


def top_share(
    scores: ArrayLike | Iterable[ArrayLike],
    share: float,
    *,
    block_size: int = 1,
    within: Literal["gene", "all"] = "gene",
    exclude: slice | ArrayLike | None = None,
    random_state: int | None = None,
) -> NDArray[np.bool_]:
    """Keep a share of the bases: those with the largest scores.

    Masks, attributions and tracks have different scales and shares. At one share and one grain
    they can be compared.

    Parameters
    ----------
    scores : array-like of shape (n_genes, length), or an iterable of rows
        Masks or attributions, any range. For attributions with a sign, decide first what counts:
        the absolute value, or one direction.
    share : float
        Share of the bases to keep, 0 to 1; of those that are not excluded.
    block_size : int, default=1
        Base pairs that are kept or left together: blocks from the first column on are ranked by
        their mean score. Equal ones are ranked at random.
    within : {"gene", "all"}, default="gene"
        Whether the share is kept of each window, or of all windows together, so that genes may
        keep more or less; a hard mask at its own share is then itself.
    exclude : slice or array-like of shape (length,), bool, optional
        Columns that are neither ranked nor kept, such as the promoter.
    random_state : int or None, default=None
        Seed of the order of equal scores. None takes another order each time.

    Returns
    -------
    ndarray of shape (n_genes, length), bool
        The kept bases. A block is kept while at least half of its bases fit into the share.

    Raises
    ------
    ValueError
        If the share is not in [0, 1], `block_size` is not positive, scores are not finite or of
        unlike length, all columns are excluded, or `within` is unknown.

    Examples
    --------
    >>> import numpy as np
    >>> scores = np.array([[0.1, 0.6, 0.2, 0.8, 0.0, 0.3]])
    >>> top_share(scores, 0.5).astype(int)
    array([[0, 1, 0, 1, 0, 1]])
    >>> top_share(scores, 1 / 3, block_size=2).astype(int)
    array([[0, 0, 1, 1, 0, 0]])
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}; expected a share of the bases, from 0 to 1.")
    table = np.asarray(scores if hasattr(scores, "__array__") else list(scores))  # type: ignore[arg-type]
    if table.ndim != 2:
        raise ValueError(
            f"scores has shape {table.shape}; expected (n_genes, length), one row a gene."
        )
    if within not in ("gene", "all"):
        raise ValueError(f"within is {within!r}; expected 'gene' or 'all'.")
    free = free_columns(exclude, table.shape[1])
    kept = np.empty(table.shape, dtype=bool)
    first = 0
    seed = draw_seed(random_state)
    if within == "all":
        (every,) = score_batches(table, len(table), table.shape[1], len(table))
        means, cost = _block_means(every, free, block_size)
        rng = np.random.default_rng(seed)
        reach = _reach(means.ravel(), np.tile(cost, len(table)), rng).reshape(means.shape)
        return (np.repeat(reach, block_size, axis=1)[:, : len(free)] <= share) & free
    for batch in score_batches(table, len(table), table.shape[1], _BATCH):
        rows = slice(first, first + len(batch))
        reach = removal_shares(batch, free, block_size, seed, first_row=first)
        kept[rows] = reach <= share
        first = rows.stop
    return kept


def draw_seed(random_state: int | None) -> int:
    """Seed from which every gene's own random numbers derive, whatever its batch.

    Parameters
    ----------
    random_state : int or None
        A seed of 0 or more; None draws one.

    Returns
    -------
    int
        The seed.

    Raises
    ------
    ValueError
        If it is no such integer.
    """
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    if isinstance(random_state, bool) or not isinstance(random_state, int | np.integer):
        raise ValueError(
            f"random_state is {random_state!r}; expected an integer of 0 or more, or None."
        )
    if random_state < 0:
        raise ValueError(f"random_state is {random_state}; expected 0 or more, or None.")
    return int(random_state)


def removal_shares(
    scores: NDArray[np.floating],
    free: NDArray[np.bool_],
    block_size: int,
    seed: int,
    *,
    first_row: int,
) -> NDArray[np.float64]:
    """Share of a window at which each base is among those with the largest scores.

    Parameters
    ----------
    scores : ndarray of shape (batch, length)
        Scores.
    free : ndarray of shape (length,), bool
        Columns that are ranked.
    block_size : int
        Base pairs ranked together.
    seed, first_row : int
        Equal blocks are ordered by the seed and the row's place among all.

    Returns
    -------
    ndarray of shape (batch, length), float64
        Bases that belong to the top share *s* are those with a value of at most *s*; infinite for
        columns that are not ranked.

    Raises
    ------
    ValueError
        If `block_size` is not positive.
    """
    means, cost = _block_means(scores, free, block_size)
    shares = np.empty(scores.shape)
    for row, mean in enumerate(means):
        reach = _reach(mean, cost, np.random.default_rng([seed, first_row + row]))
        shares[row] = np.repeat(reach, block_size)[: len(free)]
    shares[:, ~free] = np.inf
    return shares


def _block_means(
    scores: NDArray[np.floating], free: NDArray[np.bool_], block_size: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean score of each block of each row, and the number of ranked bases of a block."""
    if block_size < 1:
        raise ValueError(f"block_size is {block_size}; expected at least 1 base pair.")
    edges = np.arange(0, len(free), block_size)
    cost = np.add.reduceat(free.astype(np.float64), edges)
    total = np.add.reduceat(np.where(free, scores, 0.0), edges, axis=1)
    return np.divide(total, cost, out=np.full_like(total, -np.inf), where=cost > 0), cost


def _reach(
    mean: NDArray[np.float64], cost: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Share at which each block is among those with the largest means; equal ones at random."""
    drawn = rng.permutation(len(mean))
    order = drawn[np.argsort(-mean[drawn], kind="stable")]
    taken = cost[order]
    reach = np.empty(len(mean))
    # A block belongs to a share while at least half of its bases fit into it.
    reach[order] = (taken.cumsum() - 0.5 * taken) / cost.sum()
    return reach
