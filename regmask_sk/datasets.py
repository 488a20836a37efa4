"""A planted genome: real files whose regulatory elements are known.

Expression in the simulated genome follows one rule: an element acts only where a motif *and* open
chromatin meet. Two kinds of decoys look like elements and do nothing: open chromatin without a
motif (as high and as wide as the real ones) and motifs in closed chromatin. No track alone and no
sequence feature alone therefore tells the acting elements apart, and a mask can be scored against
the truth. Harder rules can be added to this one: pairs of motifs that act only together, elements
whose distance from the TSS decides what they do, and elements that act without a peak.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path

import numpy as np
import pandas as pd

from regmask_sk._genome_files import BASES, write_bigwig, write_fasta
from regmask_sk._planted import (
    KINDS,
    Rules,
    choose_elements,
    element_table,
    make_motifs,
    plant_elements,
    site_table,
)
from regmask_sk._planting import erase_motifs, peaks, place_elements

TRACKS = ("atac", "h3k27ac", "noise")

__all__ = ["KINDS", "TRACKS", "SimulatedGenome", "simulate_genome"]


@dataclass(frozen=True, eq=False)
class SimulatedGenome:
    """The files and the planted truth of a simulated genome.

    All coordinates are 0-based; intervals are half-open.

    Attributes
    ----------
    fasta : pathlib.Path
        The genome sequence, ``genome.fa``.
    tracks : dict of str to pathlib.Path
        One bigWig per track, keyed by ``"atac"``, ``"h3k27ac"`` and ``"noise"``.
    loci_path : pathlib.Path
        ``loci.tsv``: tab-separated, columns gene, chrom, tss (0-based), strand, expression.
    elements_path : pathlib.Path
        ``elements.tsv``: tab-separated, the columns of `elements`.
    acting_path : pathlib.Path
        ``elements.bed``: the elements of the acting kinds alone; the name column is the gene.
    loci : pandas.DataFrame
        Index ``gene``; columns chrom, tss, strand, expression.
    elements : pandas.DataFrame
        One row an element: chrom, start, end, gene, kind (see Notes of :func:`simulate_genome`),
        motif (names joined by ``+``; empty for open chromatin without a motif), height
        (of the accessibility peak relative to the mean peak; 0 where closed) and effect (what the
        element adds to the gene's expression; 0 for decoys).
    motifs : pandas.DataFrame
        Index ``motif``; columns consensus (5' to 3') and effect (at a peak of height 1; of a
        pair, that of both together; of the distal motif, that at the TSS).
    sites : pandas.DataFrame
        One row a planted site of a motif: chrom, start, end, strand, gene, kind and effect (of
        the element that it belongs to, as a whole), motif, and element (its row in `elements`).
    """

    fasta: Path
    tracks: dict[str, Path]
    loci_path: Path
    elements_path: Path
    acting_path: Path
    loci: pd.DataFrame
    elements: pd.DataFrame
    motifs: pd.DataFrame
    sites: pd.DataFrame


def simulate_genome(
    out_dir: str | Path,
    *,
    n_chroms: int = 8,
    n_genes: int = 2400,
    length: int = 1024,
    acting_per_gene: float = 1.5,
    decoy_open_per_gene: float = 1.5,
    decoy_motif_per_gene: float = 1.5,
    grammar_per_gene: float = 0.0,
    decoy_grammar_per_gene: float = 0.0,
    distal_per_gene: float = 0.0,
    closed_per_gene: float = 0.0,
    element_width: int = 64,
    promoter_length: int = 96,
    motif_effects: tuple[float, ...] = (1.0, 0.8, -1.0),
    grammar_effect: float = 1.5,
    grammar_spacing: int | None = None,
    distal_effect: float = 1.5,
    distal_reach: int | None = None,
    closed_effect: float = 1.0,
    motif_width: int = 10,
    motif_fidelity: float = 0.95,
    sites_per_element: int = 2,
    noise: float = 0.3,
    depth: float = 8.0,
    bin_size: int = 8,
    overwrite: bool = False,
    random_state: int = 0,
) -> SimulatedGenome:
    """Write a genome with planted regulatory elements to real FASTA and bigWig files.

    Each gene has a window of `length` base pairs around its TSS, and the windows do not overlap.
    Elements are placed in each window at random, outside the promoter, never overlapping. A
    gene's expression is the sum of what its elements add, plus Gaussian noise. With the defaults
    there are three kinds, an acting one and two of decoys, an acting element adds the effect of
    its motif times the height of its accessibility peak, and neither the distance to the TSS nor
    the orientation of a motif matters. Notes has the kinds that can be added.

    Parameters
    ----------
    out_dir : str or path
        Folder for the files; made where it does not exist.
    n_chroms : int, default=8
        Number of chromosomes, named chr1, chr2, ...; the genes are dealt out evenly.
    n_genes : int, default=2400
        Number of genes over all chromosomes.
    length : int, default=1024
        Window around each TSS, in base pairs, that holds the gene's elements.
    acting_per_gene, decoy_open_per_gene, decoy_motif_per_gene : float, default=1.5
        Mean number of elements of each kind in a window.
    grammar_per_gene, decoy_grammar_per_gene, distal_per_gene, closed_per_gene : float, default=0
        The same for the kinds that can be added; `distal_per_gene` counts the distal elements
        that act and those that are too far to act.
    element_width : int, default=64
        Width of every element, in base pairs: the full width at half maximum of its peak.
    promoter_length : int, default=96
        Base pairs centred on the TSS that are open in every gene and hold no element.
    motif_effects : tuple of float, default=(1.0, 0.8, -1.0)
        Effect of each motif at a peak of mean height; its length is the number of motifs. A
        negative effect is a repressor's.
    grammar_effect : float, default=1.5
        Effect of a pair of motifs at a peak of mean height.
    grammar_spacing : int or None, default=None
        Base pairs between the two sites of a pair that acts, the first 5' of the second on one
        strand; None for any distance, order and strands within the element.
    distal_effect : float, default=1.5
        Effect of a distal element of mean height at the TSS, from where it falls with distance.
    distal_reach : int or None, default=None
        Base pairs from the TSS beyond which distal elements do nothing; None for a quarter of
        `length`.
    closed_effect : float, default=1.0
        Effect of an element without a peak.
    motif_width : int, default=10
        Width of a motif, in base pairs. The consensus sequences are drawn at random.
    motif_fidelity : float, default=0.95
        Probability that one base of a planted site is that of the consensus; otherwise it is one
        of the other three.
    sites_per_element : int, default=2
        Number of sites of its motif in each element that has one. A pair has one site of each.
    noise : float, default=0.3
        Standard deviation of the noise on the expression, as a multiple of the standard deviation
        of the noiseless expression.
    depth : float, default=8.0
        Mean read count in a bin at the top of a peak. Counts are Poisson.
    bin_size : int, default=8
        Base pairs per bigWig entry.
    overwrite : bool, default=False
        Whether files of an earlier run in `out_dir` may be replaced.
    random_state : int, default=0
        Seed. Equal seeds and arguments give equal files.

    Returns
    -------
    SimulatedGenome
        Paths and tables.

    Raises
    ------
    ValueError
        If an argument is out of range, or the elements do not fit into the windows.
    FileExistsError
        If a file of that name exists and `overwrite` is false.

    Notes
    -----
    ====================  ======  =====================================  ========================
    kind                  peak    sites                                  adds to the expression
    ====================  ======  =====================================  ========================
    ``acting``            yes     of one of ``motif_effects``            effect times height
    ``decoy_open``        yes     none                                   nothing
    ``decoy_motif``       no      of one of ``motif_effects``            nothing
    ``acting_grammar``    yes     of both motifs of a pair               effect times height
    ``decoy_grammar``     yes     of one motif of the pair, twice; with  nothing
                                  `grammar_spacing` half of them have
                                  both at another distance
    ``acting_distal``     yes     of the distal motif, at a distance     effect times height times
                                  ``d <= distal_reach`` from the TSS     ``exp(-d / distal_reach)``
    ``decoy_distal``      yes     the same, farther away                 nothing
    ``acting_closed``     no      of a motif of its own                  effect
    ====================  ======  =====================================  ========================

    The distance of an element is that of its middle. The two motifs of a pair, the distal motif
    and that of elements without a peak are motifs of their own: ``pair1``, ``pair2``,
    ``distal`` and ``pioneer``, after the factors that bind closed chromatin. Elements without a
    peak bound what a mask or a model can find from tracks.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     genome = simulate_genome(folder, n_chroms=2, n_genes=20, random_state=0)
    ...     sorted(path.name for path in genome.fasta.parent.iterdir())
    ['atac.bw', 'elements.bed', 'elements.tsv', 'genome.fa', 'h3k27ac.bw', 'loci.tsv', 'noise.bw']
    >>> genome.loci.shape
    (20, 4)

    Its harder kinds, and the truth as a table:

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     genome = simulate_genome(
    ...         folder, n_chroms=2, n_genes=40, length=2048, grammar_per_gene=1,
    ...         distal_per_gene=1, closed_per_gene=1, random_state=0,
    ...     )
    >>> sorted(genome.elements.loc[genome.elements["effect"] != 0, "kind"].unique())
    ['acting', 'acting_closed', 'acting_distal', 'acting_grammar']
    >>> genome.sites.columns.tolist()
    ['chrom', 'start', 'end', 'strand', 'gene', 'kind', 'effect', 'motif', 'element']
    """
    for name, value, least in (
        ("n_chroms", n_chroms, 1),
        ("n_genes", n_genes, 2),
        ("length", length, 1),
        ("element_width", element_width, 1),
        ("promoter_length", promoter_length, 0),
        ("motif_width", motif_width, 6),
        ("sites_per_element", sites_per_element, 1),
        ("bin_size", bin_size, 1),
        ("random_state", random_state, 0),
        ("grammar_spacing", grammar_spacing, 0),
        ("distal_reach", distal_reach, 1),
    ):
        if value is not None or name not in ("grammar_spacing", "distal_reach"):
            _check_int(name, value, least)
    for name, number, low, high in (
        ("motif_fidelity", motif_fidelity, 0.0, 1.0),
        ("noise", noise, 0.0, np.inf),
        ("depth", depth, np.finfo(float).tiny, np.inf),
        ("acting_per_gene", acting_per_gene, 0.0, np.inf),
        ("decoy_open_per_gene", decoy_open_per_gene, 0.0, np.inf),
        ("decoy_motif_per_gene", decoy_motif_per_gene, 0.0, np.inf),
        ("grammar_per_gene", grammar_per_gene, 0.0, np.inf),
        ("decoy_grammar_per_gene", decoy_grammar_per_gene, 0.0, np.inf),
        ("distal_per_gene", distal_per_gene, 0.0, np.inf),
        ("closed_per_gene", closed_per_gene, 0.0, np.inf),
        ("grammar_effect", grammar_effect, -np.inf, np.inf),
        ("distal_effect", distal_effect, -np.inf, np.inf),
        ("closed_effect", closed_effect, -np.inf, np.inf),
    ):
        _check_number(name, number, low, high)
    if n_genes < n_chroms:
        raise ValueError(
            f"n_genes is {n_genes}, fewer than n_chroms, {n_chroms}: every chromosome needs a "
            "gene. Raise n_genes or lower n_chroms."
        )
    if not motif_effects or not np.isfinite(motif_effects).all():
        raise ValueError(
            f"motif_effects is {motif_effects!r}; expected at least one finite number, one for "
            "each motif."
        )
    has_pairs = grammar_per_gene + decoy_grammar_per_gene > 0
    if max(sites_per_element, 2 if has_pairs else 1) * motif_width > element_width:
        raise ValueError(
            f"sites_per_element ({sites_per_element}; a pair has 2) times motif_width "
            f"({motif_width}) is more than element_width ({element_width}): the sites do not fit. "
            "Widen the elements or plant fewer sites."
        )
    if bin_size > element_width // 2:
        raise ValueError(
            f"bin_size is {bin_size}; expected at most half of element_width ({element_width}), "
            "or the peaks are lost in the bins."
        )

    folder = Path(out_dir)
    paths = {
        name: folder / name
        for name in (
            "genome.fa",
            "loci.tsv",
            "elements.tsv",
            "elements.bed",
            *(f"{track}.bw" for track in TRACKS),
        )
    }
    existing = sorted(name for name, path in paths.items() if path.exists())
    if existing and not overwrite:
        raise FileExistsError(
            f"{folder} already holds {', '.join(existing)}. Choose another out_dir, or pass "
            "overwrite=True."
        )
    rules = Rules(
        element_width=element_width,
        motif_effects=motif_effects,
        grammar_effect=grammar_effect,
        grammar_spacing=grammar_spacing,
        distal_effect=distal_effect,
        distal_reach=-(-length // 4) if distal_reach is None else distal_reach,
        closed_effect=closed_effect,
        motif_width=motif_width,
        motif_fidelity=motif_fidelity,
        sites_per_element=sites_per_element,
    )
    if has_pairs:
        rules.wrong_spacings()
    # Of the kinds in the order of KINDS; distance decides which distal elements act.
    added = [grammar_per_gene, decoy_grammar_per_gene, distal_per_gene, 0.0, closed_per_gene]
    rates = np.array([acting_per_gene, decoy_open_per_gene, decoy_motif_per_gene, *added])
    rng = np.random.default_rng(random_state)
    # What the added kinds draw, they draw from a stream of their own.
    more = rng.spawn(1)[0] if sum(added) > 0 else None

    # Genes: window g of a chromosome is centred in its own stretch of `spacing` bp, and the gap
    # between stretches leaves room for shifted windows.
    spacing = -(-(length + 128) // bin_size) * bin_size
    chrom_of_gene = np.sort(np.arange(n_genes) % n_chroms)
    rank = np.arange(n_genes) - np.searchsorted(chrom_of_gene, chrom_of_gene)
    sizes = np.bincount(chrom_of_gene, minlength=n_chroms) * spacing
    offsets = np.concatenate([[0], np.cumsum(sizes)])  # of each chromosome in one long genome
    tss = rank * spacing + spacing // 2  # 0-based, on the chromosome
    absolute_tss = offsets[chrom_of_gene] + tss
    strand = np.where(rng.random(n_genes) < 0.5, "+", "-")

    motifs = make_motifs(rng, more, rules)
    gene, start, kind = place_elements(rng, n_genes, length, element_width, promoter_length, rates)
    start = start + absolute_tss[gene] - length // 2
    centre = start + element_width / 2
    planted = choose_elements(rng, more, rules, kind, np.abs(centre - absolute_tss[gene]))

    codes = rng.integers(0, 4, size=offsets[-1], dtype=np.uint8)
    erase_motifs(codes, motifs.consensus)
    sites = plant_elements(rng, more, rules, codes, motifs.consensus, start, planted)

    signal = np.bincount(gene, weights=planted.effect, minlength=n_genes)
    expression = signal + noise * signal.std() * rng.standard_normal(n_genes)

    is_open = planted.is_open
    tops = np.concatenate([centre[is_open], absolute_tss])
    heights = np.concatenate([planted.height[is_open], rng.uniform(0.6, 1.4, size=n_genes)])
    widths = np.concatenate(
        [np.full(is_open.sum(), element_width), np.full(n_genes, max(promoter_length, bin_size))]
    )
    n_bins = offsets[-1] // bin_size
    stray = rng.uniform(0, offsets[-1], size=len(tops))
    rate = {
        "atac": peaks(n_bins, bin_size, tops, heights, widths),
        "h3k27ac": 0.5 * peaks(n_bins, bin_size, tops, heights, np.full(len(tops), 400.0)),
        "noise": peaks(n_bins, bin_size, stray, heights, widths),
    }

    names = np.array([f"chr{i + 1}" for i in range(n_chroms)])
    loci = pd.DataFrame(
        {
            "chrom": names[chrom_of_gene].tolist(),
            "tss": tss.astype(np.int64),
            "strand": strand.tolist(),
            "expression": expression,
        },
        index=pd.Index([f"gene{i:05d}" for i in range(n_genes)], name="gene"),
    )
    to_chrom = offsets[chrom_of_gene]  # the start of each gene's chromosome in the one genome
    elements = element_table(loci, to_chrom, gene, start, planted, motifs, rules)
    site_rows = site_table(elements, to_chrom[gene], sites, motifs, rules)
    motif_table = pd.DataFrame(
        {
            "consensus": [BASES[m].tobytes().decode() for m in motifs.consensus],
            "effect": np.asarray(motifs.effects),
        },
        index=pd.Index(list(motifs.names), name="motif"),
    )

    folder.mkdir(parents=True, exist_ok=True)
    write_fasta(paths["genome.fa"], names, [codes[a:b] for a, b in _pairs(offsets)])
    for track, mean in rate.items():
        counts = rng.poisson(depth * (0.05 + mean)).astype(np.float32)
        per_chrom = [counts[a // bin_size : b // bin_size] for a, b in _pairs(offsets)]
        write_bigwig(paths[f"{track}.bw"], names, sizes, per_chrom, bin_size)
    loci.to_csv(paths["loci.tsv"], sep="\t")
    elements.to_csv(paths["elements.tsv"], sep="\t", index=False)
    elements.loc[planted.is_acting, ["chrom", "start", "end", "gene"]].to_csv(
        paths["elements.bed"], sep="\t", index=False, header=False
    )
    return SimulatedGenome(
        fasta=paths["genome.fa"],
        tracks={track: paths[f"{track}.bw"] for track in TRACKS},
        loci_path=paths["loci.tsv"],
        elements_path=paths["elements.tsv"],
        acting_path=paths["elements.bed"],
        loci=loci,
        elements=elements,
        motifs=motif_table,
        sites=site_rows,
    )


def _check_int(name: str, value: int | None, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} is {value!r}; expected a whole number of at least {least}.")


def _check_number(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not low <= value <= high:
        wanted = f"between {low:g} and {high:g}" if np.isfinite(high) else "that is not negative"
        if low > 0:
            wanted = "above 0"
        raise ValueError(f"{name} is {value!r}; expected a number {wanted}.")
    if not np.isfinite(value):
        raise ValueError(f"{name} is {value!r}; expected a finite number.")


def _pairs(offsets: np.ndarray) -> Iterator[tuple[int, int]]:
    """Start and end of each chromosome in the one long genome."""
    return zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
