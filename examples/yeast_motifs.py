"""Motifs of yeast transcription factors in called elements, beside two kinds of controls.

DATA is a folder with ``sacCer3.dev14.fa.gz``, ``genes.tsv`` (columns gene, chrom, tss, strand),
``atac_cuts.bw``, ``macisaac_yeast.v1.meme`` (124 motifs of MacIsaac et al., BMC Bioinformatics
7:113, 2006) and, for the positive control, ``regulatory_elements.tsv`` (columns chrom, start, end,
type; the rows of type NFR are nucleosome-free regions, one a gene, of Rossi et al., Nature 592:309,
2021).

The elements are those of a BED file, as ``regmask mask --bed`` writes it, or, without one, the
peaks that ``call_peaks`` finds on the ATAC-seq cuts. Each is compared with its own sequence,
shuffled with its dinucleotides kept, and with another place of its chromosome that lies as far
from a TSS, has as much G and C, and is outside of all elements.

    python examples/yeast_motifs.py DATA
    python examples/yeast_motifs.py DATA --elements elements.bed --out table.tsv
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from regmask_sk import (
    BigWigReader,
    call_peaks,
    motif_enrichment,
    read_loci,
    read_motifs,
    read_regions,
)

# Ribosomal DNA repeats hold most fragments of this chromosome: peaks there are no regulation.
LEFT_OUT = ("chrXII",)
P_VALUE = 3e-4  # of a site: motifs of six positions cannot reach the usual 1e-4


def call_elements_of_track(path: Path) -> pd.DataFrame:
    """Call the peaks of a track of cuts, chromosome by chromosome."""
    reader = BigWigReader(path)
    tables = []
    for chrom, size in reader.chrom_sizes.items():
        if chrom in LEFT_OUT:
            continue
        peaks = call_peaks(np.nan_to_num(reader.values(chrom, 0, size)))
        tables.append(pd.DataFrame({"chrom": chrom, "start": peaks.start, "end": peaks.end}))
    return pd.concat(tables, ignore_index=True)


def beside_each_other(table: pd.DataFrame) -> pd.DataFrame:
    """Give one row a motif: share of elements and of controls with a site, odds ratio, q-value."""
    columns = []
    for name, part in table.groupby("background", sort=False):
        part = part.set_index("motif")
        low, high = part["odds_ratio_low"], part["odds_ratio_high"]
        shown = {
            "elements": part["n_with_motif"] / part["n_elements"],
            "controls": part["n_controls_with_motif"] / part["n_controls"],
            "odds ratio": [
                f"{odds:.2f} ({a:.2f}-{b:.2f})"
                for odds, a, b in zip(part["odds_ratio"], low, high, strict=True)
            ],
            "q": part["q_value"],
        }
        columns.append(pd.DataFrame(shown).add_prefix(f"{name} "))
    return pd.concat(columns, axis=1)


def markdown(table: pd.DataFrame) -> str:
    """Write a table of numbers and text as Markdown."""
    shown = table.copy()
    for name in shown.columns:
        if name.endswith(" q"):
            shown[name] = shown[name].map("{:.1e}".format)
        elif pd.api.types.is_float_dtype(shown[name]):
            shown[name] = shown[name].map("{:.3f}".format)
    rows = [["motif", *shown.columns], ["---"] * (len(shown.columns) + 1)]
    rows += [
        [str(name), *map(str, row)] for name, row in zip(shown.index, shown.values, strict=True)
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--elements", type=Path, help="BED; without it, peaks are called")
    parser.add_argument("--rows", type=int, default=10, help="motifs to print (default 10)")
    parser.add_argument("--out", type=Path, help="TSV of all motifs")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    fasta = args.data / "sacCer3.dev14.fa.gz"
    motifs = read_motifs(args.data / "macisaac_yeast.v1.meme")
    loci = read_loci(args.data / "genes.tsv", tss_base=0)
    if args.elements is None:
        # The track has chromosomes that the FASTA file, which is for development, has not.
        elements = call_elements_of_track(args.data / "atac_cuts.bw")
        elements = elements[elements["chrom"].isin(loci["chrom"])]
    else:
        elements = read_regions(args.elements)
    how = {"p_value": P_VALUE, "random_state": args.seed}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        table = motif_enrichment(elements, fasta, motifs, loci=loci, **how)
    width = (elements["end"] - elements["start"]).median()
    print(f"{len(elements)} elements, median {width:.0f} bp")
    for warning in caught:
        print(f"note: {warning.message}")
    if args.out is not None:
        table.to_csv(args.out, sep="\t", index=False)
    for name, part in table.groupby("background", sort=False):
        n = int((part["q_value"] <= 0.05).sum())
        print(f"{name}: {part['n_elements'].iloc[0]} elements, {part['n_controls'].iloc[0]} "
              f"controls, {n} of {len(part)} motifs at 5 % false discoveries")  # fmt: skip
    whole = beside_each_other(table)
    print(markdown(whole.sort_values("matched q", kind="stable").head(args.rows)))

    known = args.data / "regulatory_elements.tsv"
    if known.is_file():
        regions = pd.read_csv(known, sep="\t", usecols=["chrom", "start", "end", "type"])
        regions = regions[(regions["type"] == "NFR") & regions["chrom"].isin(loci["chrom"])]
        regions = regions[~regions["chrom"].isin(LEFT_OUT)].drop(columns="type")
        # There is one upstream of nearly every gene: no other place as far from a TSS is left.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            control = motif_enrichment(regions, fasta, motifs, background=["shuffled"], **how)
        print(f"\npositive control: {len(regions)} nucleosome-free regions")
        print(markdown(beside_each_other(control).head(args.rows)))


if __name__ == "__main__":
    main()
