"""Motifs, elements, sites and peaks of a simulated genome, as arrays.

Sequences are codes 0 to 3 for A, C, G and T; positions are 0-based. Functions that draw take the
generator that they draw from, and draw in an order that is kept: a seed stands for a genome.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.uint8]
Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


class Sites(NamedTuple):
    """Planted sites of motifs.

    Attributes
    ----------
    element, motif : ndarray of shape (n_sites,), int64
        Element, and motif, of each site, by number.
    start : ndarray of shape (n_sites,), int64
        First base, in the coordinates of the sequence.
    flipped : ndarray of shape (n_sites,), bool
        Whether the motif reads 5' to 3' on the minus strand.
    """

    element: Integers
    motif: Integers
    start: Integers
    flipped: NDArray[np.bool_]


def reverse_complement(codes: Codes) -> Codes:
    """Turn sequences, along the last axis, to the other strand."""
    return (3 - codes[..., ::-1]).astype(np.uint8)


def draw_motifs(
    rng: np.random.Generator, n_motifs: int, width: int, avoid: Codes | None = None
) -> Codes:
    """Draw consensus sequences that do not look alike, on either strand.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of random numbers.
    n_motifs, width : int
        Number of motifs, and base pairs of each.
    avoid : ndarray of shape (n, width), uint8, optional
        Other motifs that they must not look like.

    Returns
    -------
    ndarray of shape (n_motifs, width), uint8
        Codes.

    Raises
    ------
    ValueError
        If so many distinct motifs of this width are not found.
    """
    avoided = np.empty((0, width), np.uint8) if avoid is None else avoid
    others = np.concatenate([avoided, reverse_complement(avoided)])
    chosen: list[Codes] = []
    for _ in range(10_000):
        motif = rng.integers(0, 4, size=width, dtype=np.uint8)
        # A motif that repeats one base or equals its own reverse complement is no fair example.
        if np.bincount(motif, minlength=4).max() > width // 2:
            continue
        turned = reverse_complement(motif)
        differ = (motif != np.concatenate([others, turned[None]])).sum(axis=1)
        if (differ >= width // 2).all():
            chosen.append(motif)
            others = np.concatenate([others, motif[None], turned[None]])
        if len(chosen) == n_motifs:
            return np.stack(chosen)
    raise ValueError(
        f"the genome needs {n_motifs} motifs of {width} bp (one for each of motif_effects), but "
        f"only {len(chosen)} distinct ones were found. Use fewer motifs or a larger motif_width."
    )


def place_elements(
    rng: np.random.Generator,
    n_genes: int,
    length: int,
    width: int,
    promoter: int,
    rates: Floats,
) -> tuple[Integers, Integers, Integers]:
    """Place elements of several kinds at random, outside the promoter, never overlapping.

    Each side of the promoter is cut into slots half an element wider than an element; a slot
    holds one element or none, and what is left over shifts the slots at random.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of random numbers.
    n_genes, length, width, promoter : int
        Number of windows; base pairs of a window, of an element and of the promoter.
    rates : ndarray of shape (n_kinds,)
        Mean number of elements of each kind in a window.

    Returns
    -------
    tuple of three ndarray of shape (n_elements,), int64
        Gene, start (column of the window) and kind of every element, gene by gene.

    Raises
    ------
    ValueError
        If the elements do not fit into the windows.
    """
    slot = width + width // 2
    # The flank of a promoter keeps its peak and the first element's apart.
    side = length // 2 - promoter // 2 - width // 2
    per_side = max(side // slot, 0)
    n_slots = 2 * per_side
    if rates.sum() > n_slots:
        raise ValueError(
            f"the elements asked for, all that end in _per_gene, add up to {rates.sum():g} a gene, "
            f"but a window of {length} bp has room for {n_slots} elements of {width} bp. Raise "
            "length, or lower the numbers or element_width."
        )
    left = np.arange(per_side) * slot
    right = length - side + left
    shift = rng.integers(0, side - per_side * slot + 1, size=(n_genes, 2))
    starts = np.concatenate([left + shift[:, :1], right + shift[:, 1:]], axis=1)
    starts = starts + rng.integers(0, slot - width + 1, size=starts.shape)
    edges = np.cumsum(rates) / max(n_slots, 1)
    kind = np.searchsorted(edges, rng.random(starts.shape), side="right")
    gene, column = np.nonzero(kind < len(rates))
    order = np.lexsort((starts[gene, column], gene))
    gene, column = gene[order], column[order]
    return gene, starts[gene, column], kind[gene, column]


def erase_motifs(codes: Codes, motifs: Codes) -> None:
    """Change a base of every chance match, in place, so that only planted sites are sites."""
    both = [m for motif in motifs for m in (motif, reverse_complement(motif))]
    changed = True
    while changed:
        changed = False
        for motif in both:
            hits = _find(codes, motif)
            middle = hits + len(motif) // 2
            codes[middle] = (codes[middle] + 1) % 4
            changed |= len(hits) > 0


def _find(codes: Codes, motif: Codes) -> Integers:
    """Start of every exact match of a motif, on the forward strand."""
    n = len(codes) - len(motif) + 1
    hits = np.flatnonzero(codes[:n] == motif[0])
    for i in range(1, len(motif)):
        hits = hits[codes[hits + i] == motif[i]]
    return hits


def plant_sites(
    rng: np.random.Generator,
    codes: Codes,
    motifs: Codes,
    start: Integers,
    motif: Integers,
    width: int,
    fidelity: float,
) -> Sites:
    """Write sites into elements, in place, each somewhere in its share and on either strand.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of random numbers.
    codes : ndarray of shape (size,), uint8
        The sequence.
    motifs : ndarray of shape (n_motifs, motif_width), uint8
        Consensus sequences.
    start : ndarray of shape (n_elements,), int64
        First base of each element.
    motif : ndarray of shape (n_elements, n_sites), int64
        Motif of each of an element's sites.
    width : int
        Base pairs of an element; a site has ``width // n_sites`` of them to lie in.
    fidelity : float
        Probability that a base is that of the consensus.

    Returns
    -------
    Sites
        What was planted.
    """
    n_sites = motif.shape[1]
    share = width // n_sites
    offset = np.arange(n_sites) * share
    offset = offset + rng.integers(0, share - motifs.shape[1] + 1, size=motif.shape)
    flipped = rng.random(motif.shape) < 0.5
    return _write_sites(rng, codes, motifs, start[:, None] + offset, motif, flipped, fidelity)


def plant_pairs(
    rng: np.random.Generator,
    codes: Codes,
    motifs: Codes,
    start: Integers,
    motif: Integers,
    gap: Integers,
    width: int,
    fidelity: float,
) -> Sites:
    """Write two sites a fixed distance apart into each element; the pair has one strand.

    Parameters
    ----------
    rng, codes, motifs, start, motif, width, fidelity
        As in :func:`plant_sites`, with two sites an element: the first is 5' of the second on
        the strand of the pair.
    gap : ndarray of shape (n_elements,), int64
        Base pairs between the two sites.

    Returns
    -------
    Sites
        What was planted.
    """
    motif_width = motifs.shape[1]
    offset = rng.integers(0, width - 2 * motif_width - gap + 1)
    flipped = rng.random(len(start)) < 0.5
    first, second = start + offset, start + offset + motif_width + gap
    where = np.stack([np.where(flipped, second, first), np.where(flipped, first, second)], axis=1)
    both = np.repeat(flipped[:, None], 2, axis=1)
    return _write_sites(rng, codes, motifs, where, motif, both, fidelity)


def _write_sites(
    rng: np.random.Generator,
    codes: Codes,
    motifs: Codes,
    where: Integers,
    motif: Integers,
    flipped: NDArray[np.bool_],
    fidelity: float,
) -> Sites:
    sites = np.where(flipped[..., None], reverse_complement(motifs[motif]), motifs[motif])
    wrong = rng.random(sites.shape) >= fidelity
    sites = np.where(wrong, (sites + rng.integers(1, 4, size=sites.shape)) % 4, sites)
    codes[where[..., None] + np.arange(motifs.shape[1])] = sites
    element = np.broadcast_to(np.arange(len(where))[:, None], where.shape)
    return Sites(element.ravel(), motif.ravel(), where.ravel(), flipped.ravel())


def peaks(n_bins: int, bin_size: int, centre: Floats, height: Floats, width: Floats) -> Floats:
    """Sum of flat-topped peaks.

    Parameters
    ----------
    n_bins, bin_size : int
        Number of bins, and base pairs of each.
    centre, height, width : ndarray of shape (n_peaks,)
        Centre, height and full width at half maximum of each peak; base pairs but the height.

    Returns
    -------
    ndarray of shape (n_bins,)
        The sum at the middle of each bin.
    """
    reach = int(np.ceil(width.max() / bin_size)) + 1
    bins = (centre // bin_size).astype(np.int64)[:, None] + np.arange(-reach, reach + 1)
    distance = (bins + 0.5) * bin_size - centre[:, None]
    value = height[:, None] * np.exp(-np.log(2) * (2 * distance / width[:, None]) ** 4)
    inside = (bins >= 0) & (bins < n_bins)
    return np.asarray(np.bincount(bins[inside], weights=value[inside], minlength=n_bins))
