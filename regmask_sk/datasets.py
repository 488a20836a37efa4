"""A planted genome: real files whose regulatory elements are known.

Expression in the simulated genome follows one rule: an element acts only where a motif *and* open
chromatin meet. Two kinds of decoys look like elements and do nothing: open chromatin without a
motif (as high and as wide as the real ones) and motifs in closed chromatin. No track alone and no
sequence feature alone therefore tells the acting elements apart, and a mask can be scored against
the truth.
"""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path

import numpy as np
import pandas as pd
import pyBigWig

KINDS = ("acting", "decoy_open", "decoy_motif")
TRACKS = ("atac", "h3k27ac", "noise")
_BASES = np.frombuffer(b"ACGT", dtype=np.uint8)
_FASTA_LINE = 80


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
        ``elements.bed``: the acting elements alone; the name column is the gene.
    loci : pandas.DataFrame
        Index ``gene``; columns chrom, tss, strand, expression.
    elements : pandas.DataFrame
        One row an element: chrom, start, end, gene, kind (``"acting"``, ``"decoy_open"`` or
        ``"decoy_motif"``), motif (its name; empty for open chromatin without a motif), height
        (of the accessibility peak relative to the mean peak; 0 where closed) and effect (what the
        element adds to the gene's expression; 0 for decoys).
    motifs : pandas.DataFrame
        Index ``motif``; columns consensus (5' to 3') and effect (at a peak of height 1).
    """

    fasta: Path
    tracks: dict[str, Path]
    loci_path: Path
    elements_path: Path
    acting_path: Path
    loci: pd.DataFrame
    elements: pd.DataFrame
    motifs: pd.DataFrame


def simulate_genome(
    out_dir: str | Path,
    *,
    n_chroms: int = 8,
    n_genes: int = 2400,
    length: int = 1024,
    acting_per_gene: float = 1.5,
    decoy_open_per_gene: float = 1.5,
    decoy_motif_per_gene: float = 1.5,
    element_width: int = 64,
    promoter_length: int = 96,
    motif_effects: tuple[float, ...] = (1.0, 0.8, -1.0),
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
    Elements of the three kinds are placed in each window at random, outside the promoter, never
    overlapping. A gene's expression is the sum, over its acting elements, of the effect of the
    element's motif times the height of its accessibility peak, plus Gaussian noise. Neither the
    distance to the TSS nor the orientation of a motif matters.

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
    element_width : int, default=64
        Width of every element, in base pairs: the full width at half maximum of its peak.
    promoter_length : int, default=96
        Base pairs centred on the TSS that are open in every gene and hold no element.
    motif_effects : tuple of float, default=(1.0, 0.8, -1.0)
        Effect of each motif at a peak of mean height; its length is the number of motifs. A
        negative effect is a repressor's.
    motif_width : int, default=10
        Width of a motif, in base pairs. The consensus sequences are drawn at random.
    motif_fidelity : float, default=0.95
        Probability that one base of a planted site is that of the consensus; otherwise it is one
        of the other three.
    sites_per_element : int, default=2
        Number of sites of its motif in each element that has one.
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

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     genome = simulate_genome(folder, n_chroms=2, n_genes=20, random_state=0)
    ...     sorted(path.name for path in genome.fasta.parent.iterdir())
    ['atac.bw', 'elements.bed', 'elements.tsv', 'genome.fa', 'h3k27ac.bw', 'loci.tsv', 'noise.bw']
    >>> genome.loci.shape
    (20, 4)
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
    ):
        _check_int(name, value, least)
    for name, number, low, high in (
        ("motif_fidelity", motif_fidelity, 0.0, 1.0),
        ("noise", noise, 0.0, np.inf),
        ("depth", depth, np.finfo(float).tiny, np.inf),
        ("acting_per_gene", acting_per_gene, 0.0, np.inf),
        ("decoy_open_per_gene", decoy_open_per_gene, 0.0, np.inf),
        ("decoy_motif_per_gene", decoy_motif_per_gene, 0.0, np.inf),
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
    if sites_per_element * motif_width > element_width:
        raise ValueError(
            f"sites_per_element ({sites_per_element}) times motif_width ({motif_width}) is more "
            f"than element_width ({element_width}): the sites do not fit. Widen the elements or "
            "plant fewer sites."
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
    rates = np.array([acting_per_gene, decoy_open_per_gene, decoy_motif_per_gene])
    rng = np.random.default_rng(random_state)

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

    motifs = _draw_motifs(rng, len(motif_effects), motif_width)
    gene, start, kind = _place_elements(rng, n_genes, length, element_width, promoter_length, rates)
    start = start + absolute_tss[gene] - length // 2
    has_motif = kind != KINDS.index("decoy_open")
    is_open = kind != KINDS.index("decoy_motif")
    motif = np.where(has_motif, rng.integers(len(motif_effects), size=len(kind)), -1)
    # Decoys draw their heights from the same distribution as the acting elements.
    height = np.where(is_open, rng.uniform(0.6, 1.4, size=len(kind)), 0.0)
    effect = np.where(
        kind == KINDS.index("acting"), np.asarray(motif_effects, float)[motif] * height, 0.0
    )

    codes = rng.integers(0, 4, size=offsets[-1], dtype=np.uint8)
    _erase_motifs(codes, motifs)
    _plant_sites(
        rng, codes, motifs, start[has_motif], motif[has_motif], element_width, sites_per_element,
        motif_fidelity,
    )  # fmt: skip

    signal = np.bincount(gene, weights=effect, minlength=n_genes)
    expression = signal + noise * signal.std() * rng.standard_normal(n_genes)

    centre = start + element_width / 2
    peaks = np.concatenate([centre[is_open], absolute_tss])
    heights = np.concatenate([height[is_open], rng.uniform(0.6, 1.4, size=n_genes)])
    widths = np.concatenate(
        [np.full(is_open.sum(), element_width), np.full(n_genes, max(promoter_length, bin_size))]
    )
    n_bins = offsets[-1] // bin_size
    stray = rng.uniform(0, offsets[-1], size=len(peaks))
    rate = {
        "atac": _peaks(n_bins, bin_size, peaks, heights, widths),
        "h3k27ac": 0.5 * _peaks(n_bins, bin_size, peaks, heights, np.full(len(peaks), 400.0)),
        "noise": _peaks(n_bins, bin_size, stray, heights, widths),
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
    local = start - offsets[chrom_of_gene[gene]]
    motif_names = np.array([*(f"motif{i + 1}" for i in range(len(motifs))), ""])
    elements = pd.DataFrame(
        {
            "chrom": names[chrom_of_gene[gene]].tolist(),
            "start": local.astype(np.int64),
            "end": (local + element_width).astype(np.int64),
            "gene": loci.index.to_numpy()[gene].tolist(),
            "kind": np.array(KINDS)[kind].tolist(),
            "motif": motif_names[motif].tolist(),
            "height": height,
            "effect": effect,
        }
    )
    motif_table = pd.DataFrame(
        {
            "consensus": [_BASES[m].tobytes().decode() for m in motifs],
            "effect": np.asarray(motif_effects, dtype=float),
        },
        index=pd.Index(motif_names[:-1].tolist(), name="motif"),
    )

    folder.mkdir(parents=True, exist_ok=True)
    _write_fasta(paths["genome.fa"], names, [codes[a:b] for a, b in _pairs(offsets)])
    for track, mean in rate.items():
        counts = rng.poisson(depth * (0.05 + mean)).astype(np.float32)
        per_chrom = [counts[a // bin_size : b // bin_size] for a, b in _pairs(offsets)]
        _write_bigwig(paths[f"{track}.bw"], names, sizes, per_chrom, bin_size)
    loci.to_csv(paths["loci.tsv"], sep="\t")
    elements.to_csv(paths["elements.tsv"], sep="\t", index=False)
    elements.loc[elements["kind"] == "acting", ["chrom", "start", "end", "gene"]].to_csv(
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
    )


def _check_int(name: str, value: int, least: int) -> None:
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


def _pairs(offsets: np.ndarray) -> zip[tuple[int, int]]:
    """Start and end of each chromosome in the one long genome."""
    return zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)


def _reverse_complement(codes: np.ndarray) -> np.ndarray:
    return 3 - codes[..., ::-1]


def _draw_motifs(rng: np.random.Generator, n_motifs: int, width: int) -> np.ndarray:
    """Draw consensus sequences, (n_motifs, width) codes, that no shift makes look alike."""
    chosen: list[np.ndarray] = []
    for _ in range(10_000):
        motif = rng.integers(0, 4, size=width, dtype=np.uint8)
        # A motif that repeats one base or equals its own reverse complement is no fair example.
        if np.bincount(motif, minlength=4).max() > width // 2:
            continue
        others = [*chosen, *(_reverse_complement(m) for m in chosen), _reverse_complement(motif)]
        if all((motif != other).sum() >= width // 2 for other in others):
            chosen.append(motif)
        if len(chosen) == n_motifs:
            return np.stack(chosen)
    raise ValueError(
        f"motif_effects asks for {n_motifs} motifs of {width} bp, but only {len(chosen)} distinct "
        "ones were found. Use fewer motifs or a larger motif_width."
    )


def _place_elements(
    rng: np.random.Generator,
    n_genes: int,
    length: int,
    width: int,
    promoter: int,
    rates: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gene, start (column of the window) and kind of every element.

    Each side of the promoter is cut into slots half an element wider than an element; a slot
    holds one element or none, and what is left over shifts the slots at random.
    """
    slot = width + width // 2
    # The flank of a promoter keeps its peak and the first element's apart.
    side = length // 2 - promoter // 2 - width // 2
    per_side = max(side // slot, 0)
    n_slots = 2 * per_side
    if rates.sum() > n_slots:
        raise ValueError(
            f"acting_per_gene + decoy_open_per_gene + decoy_motif_per_gene is {rates.sum():g}, "
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
    gene, column = np.nonzero(kind < len(KINDS))
    order = np.lexsort((starts[gene, column], gene))
    gene, column = gene[order], column[order]
    return gene, starts[gene, column], kind[gene, column]


def _find(codes: np.ndarray, motif: np.ndarray) -> np.ndarray:
    """Start of every exact match of a motif, on the forward strand."""
    n = len(codes) - len(motif) + 1
    hits = np.flatnonzero(codes[:n] == motif[0])
    for i in range(1, len(motif)):
        hits = hits[codes[hits + i] == motif[i]]
    return hits


def _erase_motifs(codes: np.ndarray, motifs: np.ndarray) -> None:
    """Change a base of every chance match, in place, so that only planted sites are sites."""
    both = [m for motif in motifs for m in (motif, _reverse_complement(motif))]
    changed = True
    while changed:
        changed = False
        for motif in both:
            hits = _find(codes, motif)
            middle = hits + len(motif) // 2
            codes[middle] = (codes[middle] + 1) % 4
            changed |= len(hits) > 0


def _plant_sites(
    rng: np.random.Generator,
    codes: np.ndarray,
    motifs: np.ndarray,
    start: np.ndarray,
    motif: np.ndarray,
    width: int,
    n_sites: int,
    fidelity: float,
) -> None:
    """Write `n_sites` sites of its motif into each element, in place, on random strands."""
    share = width // n_sites
    motif_width = motifs.shape[1]
    shape = (len(start), n_sites)
    offset = np.arange(n_sites) * share + rng.integers(0, share - motif_width + 1, size=shape)
    sites = np.broadcast_to(motifs[motif][:, None], (*shape, motif_width))
    flipped = rng.random(shape) < 0.5
    sites = np.where(flipped[..., None], _reverse_complement(sites), sites)
    wrong = rng.random(sites.shape) >= fidelity
    sites = np.where(wrong, (sites + rng.integers(1, 4, size=sites.shape)) % 4, sites)
    where = start[:, None, None] + offset[..., None] + np.arange(motif_width)
    codes[where] = sites


def _peaks(
    n_bins: int, bin_size: int, centre: np.ndarray, height: np.ndarray, width: np.ndarray
) -> np.ndarray:
    """Sum of flat-topped peaks, (n_bins,), with the given full widths at half maximum in bp."""
    reach = int(np.ceil(width.max() / bin_size)) + 1
    bins = (centre // bin_size).astype(np.int64)[:, None] + np.arange(-reach, reach + 1)
    distance = (bins + 0.5) * bin_size - centre[:, None]
    value = height[:, None] * np.exp(-np.log(2) * (2 * distance / width[:, None]) ** 4)
    inside = (bins >= 0) & (bins < n_bins)
    return np.bincount(bins[inside], weights=value[inside], minlength=n_bins)


def _write_fasta(path: Path, names: np.ndarray, chroms: list[np.ndarray]) -> None:
    with path.open("wb") as handle:
        for name, codes in zip(names, chroms, strict=True):
            handle.write(f">{name}\n".encode())
            letters = _BASES[codes]
            whole = len(letters) // _FASTA_LINE * _FASTA_LINE
            lines = letters[:whole].reshape(-1, _FASTA_LINE)
            newline = np.full((len(lines), 1), ord("\n"), dtype=np.uint8)
            handle.write(np.concatenate([lines, newline], axis=1).tobytes())
            if whole < len(letters):
                handle.write(letters[whole:].tobytes() + b"\n")


def _write_bigwig(
    path: Path, names: np.ndarray, sizes: np.ndarray, values: list[np.ndarray], bin_size: int
) -> None:
    with pyBigWig.open(str(path), "w") as handle:
        handle.addHeader([(str(n), int(s)) for n, s in zip(names, sizes, strict=True)])
        for name, value in zip(names, values, strict=True):
            handle.addEntries(str(name), 0, values=value, span=bin_size, step=bin_size)
