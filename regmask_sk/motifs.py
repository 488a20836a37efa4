"""Motifs in called elements: their sites, and whether elements have more of them than controls.

The test of enrichment compares each element with its own controls (its sequence shuffled, or other
regions like it), so that width, composition and place cannot pass for a motif.

References
----------
Grant et al., "FIMO: scanning for occurrences of a given motif", Bioinformatics 27:1017 (2011).
Altschul and Erickson, Mol. Biol. Evol. 2:526 (1985), for the shuffled background.
Breslow and Day, "Statistical Methods in Cancer Research I", chapter 5 (IARC, 1980), for the test.
Benjamini and Hochberg, "Controlling the false discovery rate", J. R. Stat. Soc. B 57:289 (1995).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from regmask_sk._motif_files import Motif, read_motif_file
from regmask_sk._motif_scanner import MotifScanner
from regmask_sk._motif_sets import count_sets, matched_sets, shuffled_sets
from regmask_sk._regions import Regions
from regmask_sk._text_files import open_text
from regmask_sk.genome import FastaReader, shorten
from regmask_sk.loci import check_loci, read_regions

Background = Literal["shuffled", "matched"]
BACKGROUNDS: tuple[Background, ...] = ("shuffled", "matched")


def read_motifs(
    path: str | os.PathLike[str], *, file_format: Literal["auto", "meme", "jaspar"] = "auto"
) -> list[Motif]:
    r"""Read motifs from a MEME or JASPAR file.

    Parameters
    ----------
    path : str or path-like
        The file, plain or gzipped. Of MEME's text format the lines ``MOTIF`` and
        ``letter-probability matrix`` are read, with the matrix; of JASPAR's the line
        ``>ID NAME`` and the four rows of counts, with or without letters and brackets.
    file_format : {"auto", "meme", "jaspar"}, default="auto"
        "auto" takes a file whose first line begins with ``>`` for JASPAR's.

    Returns
    -------
    list of Motif
        In the order of the file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not of the format, a motif is not whole, or two have one name.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "motifs.jaspar")
    ...     _ = path.write_text(">MA1 ABC\n8 0 0\n0 8 0\n0 0 6\n0 0 2\n")
    ...     motif = read_motifs(path)[0]
    >>> motif.name, motif.description, motif.consensus
    ('MA1', 'ABC', 'ACG')
    """
    path = Path(path)
    if file_format not in ("auto", "meme", "jaspar"):
        raise ValueError(f"file_format is {file_format!r}; expected 'auto', 'meme' or 'jaspar'.")
    if file_format == "auto":
        with open_text(path) as lines:
            first = next((line for line in lines if line.strip()), "")
        file_format = "jaspar" if first.lstrip().startswith(">") else "meme"
    motifs = read_motif_file(path, file_format)
    names = [motif.name for motif in motifs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"{path} has several motifs named {', '.join(map(repr, twice[:5]))}. Rename all but "
            "one: results are told apart by name."
        )
    return motifs


def iter_motif_sites(
    elements: str | os.PathLike[str] | pd.DataFrame,
    fasta: str | os.PathLike[str] | FastaReader,
    motifs: Sequence[Motif],
    *,
    p_value: float = 1e-4,
    batch_size: int = 2_000_000,
    chrom_alias: Mapping[str, str] | None = None,
) -> Iterator[pd.DataFrame]:
    """Find the sites of motifs in elements, a batch of elements at a time.

    Parameters
    ----------
    elements, fasta, motifs, p_value, batch_size, chrom_alias
        As in :func:`scan_motifs`.

    Yields
    ------
    pandas.DataFrame
        The sites in each batch of elements, as :func:`scan_motifs` gives them.

    See Also
    --------
    scan_motifs : All in one table; it has an example.
    """
    reader = _reader(fasta, chrom_alias)
    table = _on_chromosomes(_element_table(elements), reader)
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1 base pair.")
    scanner = _scanner(motifs, p_value)
    return _sites(table, reader, [motif.name for motif in motifs], scanner, batch_size)


def _sites(
    table: pd.DataFrame, reader: FastaReader, names: list[str], scanner: MotifScanner, most: int
) -> Iterator[pd.DataFrame]:
    chroms = table["chrom"].to_numpy(dtype=object)
    starts, ends = table["start"].to_numpy(np.int64), table["end"].to_numpy(np.int64)
    batch_of = (np.cumsum(ends - starts) - 1) // most
    labels = np.array(names, dtype=object)
    for batch in np.unique(batch_of):
        rows = np.flatnonzero(batch_of == batch)
        hits = scanner.scan([reader.codes(chroms[r], starts[r], ends[r]) for r in rows])
        row = rows[hits["sequence"]]
        yield pd.DataFrame(
            {
                "chrom": chroms[row],
                "start": starts[row] + hits["start"],
                "end": starts[row] + hits["end"],
                "motif": labels[hits["motif"]],
                "score": hits["score"],
                "strand": hits["strand"],
                "p_value": hits["p_value"],
                "element": row,
            }
        )


def scan_motifs(
    elements: str | os.PathLike[str] | pd.DataFrame,
    fasta: str | os.PathLike[str] | FastaReader,
    motifs: Sequence[Motif],
    *,
    p_value: float = 1e-4,
    batch_size: int = 2_000_000,
    chrom_alias: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    r"""Find the sites of motifs in elements, on both strands.

    A site lies within its element, edges included, and has no base that is not A, C, G or T.

    Parameters
    ----------
    elements : path-like or pandas.DataFrame
        BED file, as :func:`regmask_sk.export_masks` writes it, or table with columns ``chrom``,
        ``start`` and ``end`` (0-based, half-open), as :func:`regmask_sk.gene_elements` gives it.
        Elements may overlap; a site in two of them is two rows.
    fasta : path-like or FastaReader
        The genome.
    motifs : sequence of Motif
        What to look for: :func:`read_motifs`.
    p_value : float, default=1e-4
        Largest p-value of a site: the share of all sequences of the motif's width that score as
        high, each letter as likely as another. (FIMO's, for equal letters; in a genome that is
        rich in A and T, motifs of A and T have more sites by chance.)
    batch_size : int, default=2000000
        Base pairs scanned at once.
    chrom_alias : mapping of str to str, optional
        Name in the elements to name in the FASTA file.

    Returns
    -------
    pandas.DataFrame
        One row a site: ``chrom``, ``start``, ``end`` (0-based, half-open, plus strand),
        ``motif`` (its name), ``score`` (log2 odds against equal letters), ``strand`` of the
        genome on which the site reads as the motif, ``p_value``, and ``element``, the number of
        the element's row, from 0. Sorted by element, start, motif and strand.

    Raises
    ------
    ImportError
        If memelite is not installed: the extra ``motifs``.
    ValueError
        If elements, FASTA file or motifs are not as expected, or a parameter is out of range.

    Warns
    -----
    UserWarning
        If motifs are too short for any site of theirs to reach `p_value`.

    See Also
    --------
    iter_motif_sites : The same, a batch at a time, for more sites than memory holds.
    motif_enrichment : Are there more than in controls?

    Examples
    --------
    >>> import tempfile
    >>> matrix = np.eye(4)[[0, 1, 2, 2, 3, 0, 1]]  # ACGGTAC
    >>> table = pd.DataFrame({"chrom": ["chr1"], "start": [3], "end": [13]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "genome.fa")
    ...     _ = path.write_text(">chr1\nTTTTTACGGTACTTTT\n")
    ...     sites = scan_motifs(table, path, [Motif("m", "", matrix)])
    >>> sites[["chrom", "start", "end", "motif", "strand"]]
      chrom  start  end motif strand
    0  chr1      5   12     m      +
    """
    parts = list(
        iter_motif_sites(
            elements,
            fasta,
            motifs,
            p_value=p_value,
            batch_size=batch_size,
            chrom_alias=chrom_alias,
        )
    )
    return pd.concat(parts, ignore_index=True)


def motif_enrichment(
    elements: str | os.PathLike[str] | pd.DataFrame,
    fasta: str | os.PathLike[str] | FastaReader,
    motifs: Sequence[Motif],
    *,
    loci: pd.DataFrame | None = None,
    background: Sequence[Background] | None = None,
    p_value: float = 1e-4,
    n_shuffled: int = 5,
    n_matched: int = 1,
    position_tolerance: int = 50,
    gc_tolerance: float = 0.03,
    batch_size: int = 2_000_000,
    chrom_alias: Mapping[str, str] | None = None,
    random_state: int = 0,
) -> pd.DataFrame:
    r"""Test whether elements have sites of a motif more often than their controls.

    Elements that overlap or touch count as one: the same bases are no second piece of evidence.
    Each is compared with its own controls, and nothing else. Counted is whether a region has a
    site, not how many.

    Parameters
    ----------
    elements : path-like or pandas.DataFrame
        BED file, or table with columns ``chrom``, ``start`` and ``end`` (0-based, half-open).
    fasta : path-like or FastaReader
        The genome.
    motifs : sequence of Motif
        What to look for: :func:`read_motifs`.
    loci : pandas.DataFrame, optional
        The genes whose windows the elements were called in: columns ``chrom``, ``tss`` (0-based)
        and ``strand``, as :func:`regmask_sk.read_loci` gives them. For the matched background.
    background : sequence of {"shuffled", "matched"}, optional
        The controls; by default both where there are `loci`, else "shuffled" alone. "shuffled":
        the element's own sequence, shuffled with its dinucleotides kept. "matched": other regions
        of the chromosome, as wide, as far from their nearest TSS on the same side, with the same
        share of G and C, outside all elements and apart from each other.
    p_value : float, default=1e-4
        Largest p-value of a site, as in :func:`scan_motifs`.
    n_shuffled, n_matched : int, default=5, 1
        Controls of each element.
    position_tolerance : int, default=50
        Greatest difference of the distances to the TSS, in base pairs.
    gc_tolerance : float, default=0.03
        Greatest difference of the shares of G and C.
    batch_size : int, default=2000000
        Base pairs scanned at once, more or less.
    chrom_alias : mapping of str to str, optional
        Name in the elements and loci to name in the FASTA file.
    random_state : int, default=0
        Seed of the shuffles and of the choice of controls.

    Returns
    -------
    pandas.DataFrame
        A row for each motif and background, sorted by background, then by `p_value`:

        - ``motif``, ``description``, ``background``;
        - ``n_elements``, ``n_with_motif``: elements that have controls, and those of them with a
          site; ``n_controls``, ``n_controls_with_motif``: the same of the controls;
        - ``odds_ratio``, ``odds_ratio_low``, ``odds_ratio_high``: conditional estimate of matched
          sets, and its 95 % score interval. NaN where no set tells anything: the element and all
          of its controls have the motif, or none has;
        - ``p_value``: exact conditional test of matched sets, one-sided (more in elements). Given
          how many of an element and its controls have the motif, each is as likely to be one of
          those as another. With one control it is McNemar's exact test;
        - ``q_value``: `p_value` after Benjamini and Hochberg's correction over the motifs of one
          background.

    Raises
    ------
    ImportError
        If memelite is not installed: the extra ``motifs``.
    ValueError
        If elements, FASTA file, loci or motifs are not as expected, a parameter is out of range,
        or no element has a control.

    Warns
    -----
    UserWarning
        If some elements have no matched control; they are left out of that background. If motifs
        are too short to be found.

    Examples
    --------
    Thirty random elements with a site each; see ``docs/motifs.md`` for real ones.

    >>> import tempfile
    >>> rng = np.random.default_rng(0)
    >>> bases = rng.choice(list("ACGT"), 6_000)
    >>> for start in range(50, 6_000, 200):
    ...     bases[start : start + 8] = list("TGACGTCA")
    >>> starts = np.arange(0, 6_000, 200)
    >>> table = pd.DataFrame({"chrom": "chr1", "start": starts, "end": starts + 100})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "genome.fa")
    ...     _ = path.write_text(">chr1\n" + "".join(bases))
    ...     motif = Motif("CRE", "", np.eye(4)[[3, 2, 0, 1, 2, 3, 1, 0]])
    ...     found = motif_enrichment(table, path, [motif])
    >>> found[["motif", "background", "n_with_motif", "n_controls"]]
      motif background  n_with_motif  n_controls
    0   CRE   shuffled            30         150
    >>> bool(found["q_value"].iloc[0] < 1e-10)
    True
    """
    chosen = _check_background(background, loci)
    for name, value, least in (
        ("n_shuffled", n_shuffled, 1),
        ("n_matched", n_matched, 1),
        ("position_tolerance", position_tolerance, 0),
        ("batch_size", batch_size, 1),
    ):
        if value < least:
            raise ValueError(f"{name} is {value}; expected at least {least}.")
    if not 0.0 <= gc_tolerance <= 1.0:
        raise ValueError(f"gc_tolerance is {gc_tolerance}; expected a share from 0 to 1.")
    reader = _reader(fasta, chrom_alias)
    table = _on_chromosomes(_element_table(elements), reader)
    regions = Regions.from_table(table[table["end"] > table["start"]])
    if not regions.by_chrom:
        raise ValueError("elements holds no region of at least one base.")
    scanner = _scanner(motifs, p_value)
    rng = np.random.default_rng(random_state)
    headings = pd.DataFrame(
        {"motif": [m.name for m in motifs], "description": [m.description for m in motifs]}
    )
    tables = []
    for name in chosen:
        if name == "shuffled":
            sets = shuffled_sets(regions.by_chrom, reader, n_shuffled, rng)
        else:
            sets = matched_sets(
                regions.by_chrom,
                reader,
                loci,
                n_matched,
                position_tolerance=position_tolerance,
                gc_tolerance=gc_tolerance,
                rng=rng,
            )
        found = count_sets(sets, scanner, len(motifs), batch_size)
        found.insert(0, "background", name)
        tables.append(headings.join(found).sort_values("p_value", kind="stable"))
    return pd.concat(tables, ignore_index=True)


def _check_background(
    background: Sequence[Background] | None, loci: pd.DataFrame | None
) -> tuple[Background, ...]:
    if background is None:
        background = BACKGROUNDS if loci is not None else BACKGROUNDS[:1]
    names: Sequence[Any] = [background] if isinstance(background, str) else list(background)
    if not names or set(names) - set(BACKGROUNDS) or len(set(names)) < len(names):
        raise ValueError(f"background is {names}; expected one or both of {list(BACKGROUNDS)}.")
    if "matched" in names:
        if loci is None:
            raise ValueError(
                "background 'matched' needs loci, the genes that places are measured from. Give "
                "loci, as read_loci reads them, or background=['shuffled']."
            )
        check_loci(loci)
    return tuple(names)


def _element_table(elements: Any) -> pd.DataFrame:
    """Read elements, or check them; rows stay as they are."""
    if isinstance(elements, str | os.PathLike):
        return read_regions(elements)
    if isinstance(elements, pd.DataFrame) and len(elements) == 0:
        raise ValueError("elements has no rows; expected at least one element.")
    Regions.read(elements, "elements")  # has the errors of a wrong table
    return elements.reset_index(drop=True)


def _reader(
    fasta: str | os.PathLike[str] | FastaReader, chrom_alias: Mapping[str, str] | None
) -> FastaReader:
    if not isinstance(fasta, FastaReader):
        return FastaReader(fasta, chrom_alias)
    if chrom_alias is not None:
        raise ValueError(
            "chrom_alias is given beside a FastaReader, which has its own. Give it to the reader."
        )
    return fasta


def _on_chromosomes(table: pd.DataFrame, reader: FastaReader) -> pd.DataFrame:
    """Cut off what runs off the end of a chromosome; refuse elements that are on none."""
    sizes = reader.chrom_sizes
    absent = [chrom for chrom in dict.fromkeys(table["chrom"]) if chrom not in sizes]
    if absent:
        raise ValueError(
            f"{len(absent)} chromosomes of the elements are not in FASTA {reader.path}: "
            f"{shorten(absent)}. The file has {shorten(sizes)}. If it names them differently, give "
            "chrom_alias={name in the elements: name in the file}."
        )
    size = np.array([sizes[chrom] for chrom in table["chrom"]], dtype=np.int64)
    beyond = np.flatnonzero(table["start"].to_numpy(dtype=np.int64) > size)
    if len(beyond):
        row = table.iloc[beyond[0]]
        raise ValueError(
            f"{len(beyond)} elements begin beyond the end of their chromosome, the first at "
            f"{row['chrom']}:{row['start']}-{row['end']} of {size[beyond[0]]} bp in {reader.path}. "
            "Use files of one assembly."
        )
    return table.assign(end=np.minimum(table["end"].to_numpy(dtype=np.int64), size))


def _scanner(motifs: Sequence[Motif], p_value: float) -> MotifScanner:
    motifs = list(motifs)
    names = [motif.name for motif in motifs]
    if len(set(names)) < len(names):
        raise ValueError("motifs holds two of one name; results are told apart by name.")
    for motif in motifs:
        p = np.asarray(motif.probabilities, dtype=np.float64)
        if p.ndim != 2 or p.shape[1] != 4 or not len(p) or not _is_distribution(p):
            raise ValueError(
                f"motif {motif.name!r} has probabilities of shape {p.shape}; expected (width, 4), "
                "of A, C, G and T, with rows that add up to 1. read_motifs makes them."
            )
    return MotifScanner(names, [motif.probabilities for motif in motifs], p_value)


def _is_distribution(p: NDArray[np.float64]) -> bool:
    return bool((p >= 0).all() and np.allclose(p.sum(axis=1), 1.0, atol=1e-6))
