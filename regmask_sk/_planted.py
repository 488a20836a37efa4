"""The rules of a simulated genome: what kinds of elements there are, and what each of them does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from regmask_sk._planting import (
    Codes,
    Floats,
    Integers,
    Sites,
    draw_motifs,
    plant_pairs,
    plant_sites,
)

KINDS = (
    "acting",
    "decoy_open",
    "decoy_motif",
    "acting_grammar",
    "decoy_grammar",
    "acting_distal",
    "decoy_distal",
    "acting_closed",
)
_ACTING, _OPEN, _MOTIF, _PAIR, _DECOY_PAIR, _DISTAL, _DECOY_DISTAL, _CLOSED = range(len(KINDS))
#: Motifs that the added kinds have to themselves.
_ADDED_MOTIFS = ("pair1", "pair2", "distal", "pioneer")


@dataclass(frozen=True)
class Rules:
    """What elements are made of and what they do; parameters of ``simulate_genome``."""

    element_width: int
    motif_effects: tuple[float, ...]
    grammar_effect: float
    grammar_spacing: int | None
    distal_effect: float
    distal_reach: int
    closed_effect: float
    motif_width: int
    motif_fidelity: float
    sites_per_element: int

    def wrong_spacings(self) -> Integers:
        """Give the distances at which both motifs of a pair do nothing.

        Returns
        -------
        ndarray of shape (n,), int64
            Base pairs between the sites, half a motif at least from the one that acts.

        Raises
        ------
        ValueError
            If the pair does not fit into an element at the distance at which it acts, or at
            no other.
        """
        spacing = self.grammar_spacing
        if spacing is None:
            return np.arange(0)
        room = self.element_width - 2 * self.motif_width
        gaps = np.arange(room + 1)
        wrong = gaps[np.abs(gaps - spacing) >= self.motif_width // 2]
        if spacing > room or len(wrong) == 0:
            raise ValueError(
                f"grammar_spacing is {spacing}: in an element of {self.element_width} bp two "
                f"sites of {self.motif_width} bp can be 0 to {room} bp apart, and decoys need "
                f"another distance, {self.motif_width // 2} bp off or more. Widen the elements "
                "or change grammar_spacing."
            )
        return wrong


class Motifs(NamedTuple):
    """Motifs of a genome: names, consensus ``(n, width)``, and effects."""

    names: tuple[str, ...]
    consensus: Codes
    effects: tuple[float, ...]


class Planted(NamedTuple):
    """Elements of a genome.

    Attributes
    ----------
    kind : ndarray of shape (n_elements,), int64
        Number of its kind in ``KINDS``.
    motif : ndarray of shape (n_elements, 2), int64
        Motifs; -1 where it has none, and where it has no second.
    height, effect : ndarray of shape (n_elements,)
        Of its peak, and on the expression.
    """

    kind: Integers
    motif: Integers
    height: Floats
    effect: Floats

    @property
    def is_open(self) -> NDArray[np.bool_]:
        """Whether each has a peak."""
        return np.asarray((self.kind != _MOTIF) & (self.kind != _CLOSED))

    @property
    def is_acting(self) -> NDArray[np.bool_]:
        """Whether each is of a kind that acts."""
        return np.char.startswith(np.array(KINDS), "acting")[self.kind]


def make_motifs(rng: np.random.Generator, more: np.random.Generator | None, rules: Rules) -> Motifs:
    """Draw the motifs, those of the added kinds from `more` where there are such.

    Parameters
    ----------
    rng, more : numpy.random.Generator
        Sources of random numbers; `more` is None where no kind is added.
    rules : Rules
        How many, how wide, and their effects.

    Returns
    -------
    Motifs
        The added ones last.
    """
    n_plain = len(rules.motif_effects)
    names = tuple(f"motif{i + 1}" for i in range(n_plain))
    effects = tuple(float(effect) for effect in rules.motif_effects)
    consensus = draw_motifs(rng, n_plain, rules.motif_width)
    if more is None:
        return Motifs(names, consensus, effects)
    added = draw_motifs(more, len(_ADDED_MOTIFS), rules.motif_width, avoid=consensus)
    pair, distal, closed = rules.grammar_effect, rules.distal_effect, rules.closed_effect
    return Motifs(
        names + _ADDED_MOTIFS,
        np.concatenate([consensus, added]),
        (*effects, pair, pair, distal, closed),
    )


def choose_elements(
    rng: np.random.Generator,
    more: np.random.Generator | None,
    rules: Rules,
    kind: Integers,
    distance: Floats,
) -> Planted:
    """Give elements their motifs, heights and effects.

    Parameters
    ----------
    rng, more, rules
        As in :func:`make_motifs`.
    kind : ndarray of shape (n_elements,), int64
        Kinds as they were placed: distal elements are all called acting.
    distance : ndarray of shape (n_elements,)
        Base pairs from each element's middle to its TSS.

    Returns
    -------
    Planted
        The elements.
    """
    n_plain, n = len(rules.motif_effects), len(kind)
    plain = np.isin(kind, (_ACTING, _MOTIF))
    first = np.where(plain, rng.integers(n_plain, size=n), -1)
    # Decoys draw their heights from the same distribution as the acting elements.
    height = rng.uniform(0.6, 1.4, size=n)
    second = np.full(n, -1)
    kind = np.where((kind == _DISTAL) & (distance > rules.distal_reach), _DECOY_DISTAL, kind)
    if more is not None:
        pair1, pair2, distal, pioneer = range(n_plain, n_plain + 4)
        lone = more.integers(pair1, pair2 + 1, size=n)
        whole = more.random(n) < 0.5 if rules.grammar_spacing is not None else np.zeros(n, bool)
        both = (kind == _PAIR) | ((kind == _DECOY_PAIR) & whole)
        single = (kind == _DECOY_PAIR) & ~both
        first = np.select(
            [both, single, np.isin(kind, (_DISTAL, _DECOY_DISTAL)), kind == _CLOSED],
            [np.full(n, pair1), lone, np.full(n, distal), np.full(n, pioneer)],
            first,
        )
        second = np.select([both, single], [np.full(n, pair2), lone], second)
    made = Planted(kind, np.stack([first, second], axis=1), height, np.zeros(n))
    height = np.where(made.is_open, height, 0.0)
    effect = np.where(kind == _ACTING, np.asarray(rules.motif_effects, float)[first % n_plain], 0.0)
    effect = np.where(kind == _PAIR, rules.grammar_effect, effect)
    near = rules.distal_effect * np.exp(-distance / rules.distal_reach)
    effect = np.where(kind == _DISTAL, near, effect) * height
    effect = np.where(kind == _CLOSED, rules.closed_effect, effect)
    return made._replace(height=height, effect=effect)


def plant_elements(
    rng: np.random.Generator,
    more: np.random.Generator | None,
    rules: Rules,
    codes: Codes,
    motifs: Codes,
    start: Integers,
    elements: Planted,
) -> Sites:
    """Write the sites of all elements into the sequence, in place.

    Parameters
    ----------
    rng, more, rules
        As in :func:`make_motifs`.
    codes : ndarray of shape (size,), uint8
        The sequence.
    motifs : ndarray of shape (n_motifs, motif_width), uint8
        Consensus sequences.
    start : ndarray of shape (n_elements,), int64
        First base of each element.
    elements : Planted
        The elements.

    Returns
    -------
    Sites
        What was planted, in the order of the sequence.
    """
    width, fidelity, spacing = rules.element_width, rules.motif_fidelity, rules.grammar_spacing
    kind, motif = elements.kind, elements.motif
    has_one = (motif[:, 0] >= 0) & (motif[:, 1] < 0)
    plain = np.isin(kind, (_ACTING, _MOTIF))
    parts: list[tuple[NDArray[np.intp], Sites]] = []
    for source, chosen in ((rng, plain), (more, has_one & ~plain)):
        if source is not None:
            rows = np.flatnonzero(chosen)
            wanted = np.repeat(motif[rows, :1], rules.sites_per_element, axis=1)
            sites = plant_sites(source, codes, motifs, start[rows], wanted, width, fidelity)
            parts.append((rows, sites))
    if more is not None:
        rows = np.flatnonzero(motif[:, 1] >= 0)
        wanted = motif[rows]
        if spacing is None:
            # Either motif may come first: that says nothing of the order.
            turned = more.random(len(rows)) < 0.5
            wanted = np.where(turned[:, None], wanted[:, ::-1], wanted)
            sites = plant_sites(more, codes, motifs, start[rows], wanted, width, fidelity)
        else:
            apart = more.choice(rules.wrong_spacings(), size=len(rows))
            wrong = (kind[rows] == _DECOY_PAIR) & (wanted[:, 0] != wanted[:, 1])
            gap = np.where(wrong, apart, spacing)
            sites = plant_pairs(more, codes, motifs, start[rows], wanted, gap, width, fidelity)
        parts.append((rows, sites))
    start_of = np.concatenate([sites.start for _, sites in parts])
    order = np.argsort(start_of, kind="stable")
    return Sites(
        element=np.concatenate([rows[sites.element] for rows, sites in parts])[order],
        motif=np.concatenate([sites.motif for _, sites in parts])[order],
        start=start_of[order],
        flipped=np.concatenate([sites.flipped for _, sites in parts])[order],
    )


def element_table(
    loci: pd.DataFrame,
    origin: Integers,
    gene: Integers,
    start: Integers,
    elements: Planted,
    motifs: Motifs,
    rules: Rules,
) -> pd.DataFrame:
    """Make the table of elements.

    Parameters
    ----------
    loci : pandas.DataFrame of n_genes rows
        Genes, with their chromosomes.
    origin : ndarray of shape (n_genes,), int64
        Where each gene's chromosome starts in the sequence.
    gene, start : ndarray of shape (n_elements,), int64
        Gene and first base of each element.
    elements, motifs, rules
        As in :func:`plant_elements`.

    Returns
    -------
    pandas.DataFrame of n_elements rows
        As ``SimulatedGenome.elements``.
    """
    local = start - origin[gene]
    names = np.array([*motifs.names, ""])
    first, second = names[elements.motif.T]
    alone = (second == "") | (second == first)
    pairs = np.char.add(np.char.add(first, "+"), second)
    return pd.DataFrame(
        {
            "chrom": loci["chrom"].to_numpy()[gene].tolist(),
            "start": local.astype(np.int64),
            "end": (local + rules.element_width).astype(np.int64),
            "gene": loci.index.to_numpy()[gene].tolist(),
            "kind": np.array(KINDS)[elements.kind].tolist(),
            "motif": np.where(alone, first, pairs).tolist(),
            "height": elements.height,
            "effect": elements.effect,
        }
    )


def site_table(
    table: pd.DataFrame, origin: Integers, sites: Sites, motifs: Motifs, rules: Rules
) -> pd.DataFrame:
    """Make the table of sites.

    Parameters
    ----------
    table : pandas.DataFrame of n_elements rows
        The table of elements.
    origin : ndarray of shape (n_elements,), int64
        Where the chromosome of each element starts in the sequence.
    sites : Sites
        What was planted.
    motifs, rules
        As in :func:`plant_elements`.

    Returns
    -------
    pandas.DataFrame of n_sites rows
        As ``SimulatedGenome.sites``.
    """
    own = table.iloc[sites.element]
    local = sites.start - origin[sites.element]
    return pd.DataFrame(
        {
            "chrom": own["chrom"].tolist(),
            "start": local.astype(np.int64),
            "end": (local + rules.motif_width).astype(np.int64),
            "strand": np.where(sites.flipped, "-", "+").tolist(),
            "gene": own["gene"].tolist(),
            "kind": own["kind"].tolist(),
            "effect": own["effect"].to_numpy(),
            "motif": np.array(motifs.names)[sites.motif].tolist(),
            "element": sites.element.astype(np.int64),
        }
    )
