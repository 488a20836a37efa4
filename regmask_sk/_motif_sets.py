"""Sets of an element and its controls, and how many of each have a site of a motif.

Sets are made one after the other and scanned in batches, so that memory holds one batch, one
chromosome, and for each motif how many sets of each kind there are.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from regmask_sk._control_regions import MatchedRegions
from regmask_sk._matched_sets import matched_odds
from regmask_sk._motif_scanner import MotifScanner
from regmask_sk.genome import FastaReader
from regmask_sk.ops.dinucleotide_shuffle import dinucleotide_shuffle

# Places that are looked at for the controls of one element.
_MAX_TRIES = 500

Sequences = list[NDArray[np.uint8]]  # an element's, then its controls'


def shuffled_sets(
    by_chrom: Mapping[str, NDArray[np.int64]],
    reader: FastaReader,
    n_controls: int,
    rng: np.random.Generator,
) -> Iterator[Sequences]:
    """Set each element beside its own sequence, shuffled.

    Parameters
    ----------
    by_chrom : mapping of str to ndarray of shape (n, 2), int64
        Elements, sorted and without overlaps, 0-based and half-open.
    reader : FastaReader
        The genome.
    n_controls : int
        Shuffles of each.
    rng : numpy.random.Generator
        Source of randomness.

    Yields
    ------
    list of ndarray of uint8
        Codes of the element and of each control.
    """
    for chrom, places in by_chrom.items():
        for start, end in places.tolist():
            codes = reader.codes(chrom, start, end)
            shuffles = (dinucleotide_shuffle(codes, random_state=rng) for _ in range(n_controls))
            yield [codes, *shuffles]


def matched_sets(
    by_chrom: Mapping[str, NDArray[np.int64]],
    reader: FastaReader,
    loci: pd.DataFrame,
    n_controls: int,
    *,
    position_tolerance: int,
    gc_tolerance: float,
    rng: np.random.Generator,
) -> Iterator[Sequences]:
    """Set each element beside regions like it; elements that have none are left out and told.

    Parameters
    ----------
    by_chrom, reader, n_controls, rng
        As in :func:`shuffled_sets`.
    loci : pandas.DataFrame
        Columns ``chrom``, ``tss`` and ``strand``.
    position_tolerance, gc_tolerance
        As in :class:`MatchedRegions`.

    Yields
    ------
    list of ndarray of uint8
        Codes of the element and of one to `n_controls` controls.

    Raises
    ------
    ValueError
        If no element has a control.

    Warns
    -----
    UserWarning
        If some have none.
    """
    alone = total = 0
    chrom_of = loci["chrom"].astype(str).to_numpy()
    for chrom, places in by_chrom.items():
        genes = loci[chrom_of == chrom]
        total += len(places)
        if not len(genes):
            alone += len(places)
            continue
        codes = reader.codes(chrom, 0, reader.chrom_sizes[chrom])
        regions = MatchedRegions(
            codes,
            genes,
            places,
            position_tolerance=position_tolerance,
            gc_tolerance=gc_tolerance,
            max_tries=_MAX_TRIES,
            rng=rng,
        )
        # In random order: where places run short, it is not always the same elements that go
        # without.
        for start, end in rng.permutation(places).tolist():
            controls = regions.draw(start, end, n_controls)
            if controls:
                yield [codes[a:b] for a, b in [(start, end), *controls]]
            else:
                alone += 1
    if alone == total:
        raise ValueError(
            f"none of the {total} elements has a control: no other place of its chromosome is as "
            "far from a TSS, of the same composition and outside of all elements. Check that loci "
            "and elements are of one genome, or raise position_tolerance or gc_tolerance."
        )
    if alone:
        warnings.warn(
            f"{alone} of {total} elements have no control as far from a TSS, of the same "
            "composition and outside of all elements; they are left out of the background "
            "'matched'. Raise position_tolerance or gc_tolerance to have more.",
            UserWarning,
            stacklevel=5,
        )


def count_sets(
    sets: Iterator[Sequences], scanner: MotifScanner, n_motifs: int, batch_size: int
) -> pd.DataFrame:
    """Scan sets, and compare elements with controls motif by motif.

    Parameters
    ----------
    sets : iterator of list of ndarray of uint8
        An element and at least one control each.
    scanner : MotifScanner
        Finds the sites.
    n_motifs : int
        Its number of motifs.
    batch_size : int
        Base pairs scanned at once, or one set, if that is longer.

    Returns
    -------
    pandas.DataFrame
        A row for each motif, with the columns of counts and of the test that
        :func:`regmask_sk.motif_enrichment` documents.
    """
    # Sets by members, by members that have the motif, by whether the element has it, by motif.
    kinds = np.zeros((2, 3, 2, n_motifs), dtype=np.int64)
    for batch in _in_batches(sets, batch_size):
        sizes = np.array([len(members) for members in batch])
        most = int(sizes.max())
        if most >= kinds.shape[0]:
            grown = np.zeros((most + 1, most + 2, 2, n_motifs), dtype=np.int64)
            grown[: kinds.shape[0], : kinds.shape[1]] = kinds
            kinds = grown
        present = scanner.present([codes for members in batch for codes in members])
        firsts = np.cumsum(sizes) - sizes
        together = np.add.reduceat(present, firsts, axis=0, dtype=np.int64)
        element = present[firsts].astype(np.int64)
        np.add.at(kinds, (sizes[:, np.newaxis], together, element, np.arange(n_motifs)), 1)
    members, positive = (grid[..., np.newaxis] for grid in np.indices(kinds.shape[:2]))
    by_kind = kinds.sum(axis=2)
    tells = ((positive > 0) & (positive < members))[..., 0]
    with_motif = kinds[:, :, 1].sum(axis=(0, 1))
    tests = [
        matched_odds(
            members[tells].ravel(),
            positive[tells].ravel(),
            by_kind[tells][:, k],
            int(kinds[:, :, 1, k][tells].sum()),
        )
        for k in range(n_motifs)
    ]
    return pd.DataFrame(
        {
            "n_elements": by_kind.sum(axis=(0, 1)),
            "n_with_motif": with_motif,
            "n_controls": (by_kind * (members - 1)).sum(axis=(0, 1)),
            "n_controls_with_motif": (by_kind * positive).sum(axis=(0, 1)) - with_motif,
            "odds_ratio": [test.odds_ratio for test in tests],
            "odds_ratio_low": [test.low for test in tests],
            "odds_ratio_high": [test.high for test in tests],
            "p_value": [test.p_value for test in tests],
            "q_value": false_discovery_control([test.p_value for test in tests]),
        }
    )


def _in_batches(sets: Iterator[Sequences], most: int) -> Iterator[list[Sequences]]:
    batch: list[Sequences] = []
    n_bases = 0
    for members in sets:
        batch.append(members)
        n_bases += sum(map(len, members))
        if n_bases >= most:
            yield batch
            batch, n_bases = [], 0
    if batch:
        yield batch
