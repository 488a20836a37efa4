"""Options of ``regmask motifs``."""

from __future__ import annotations

import argparse
from pathlib import Path

from regmask_sk.cli.shared_options import loci_options
from regmask_sk.cli.values import count, existing_file, natural, share, unit


def motif_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``regmask motifs``.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Of the command.
    """
    parser.add_argument(
        "--elements",
        type=existing_file,
        required=True,
        metavar="BED",
        help="the regions to look in, such as those of regmask mask --bed",
    )
    parser.add_argument(
        "--fasta", type=existing_file, required=True, metavar="FILE", help="plain or bgzip"
    )
    parser.add_argument(
        "--motifs", type=existing_file, required=True, metavar="FILE", help="MEME or JASPAR"
    )
    parser.add_argument(
        "--motif-format",
        choices=("auto", "meme", "jaspar"),
        default="auto",
        help="auto: JASPAR's where the first line begins with >",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="TSV", help="a row for each motif and background"
    )
    parser.add_argument(
        "--sites", type=Path, metavar="TSV", help="a row for each site of each motif"
    )
    parser.add_argument("--p-value", type=share, metavar="F", help="largest one of a site")
    parser.add_argument(
        "--background",
        choices=("shuffled", "matched"),
        nargs="+",
        help="controls: shuffled sequences of the elements; other places as far from a TSS, with "
        "as much G and C, which needs --loci (default: both with --loci, else shuffled)",
    )
    parser.add_argument(
        "--n-shuffled", type=count, metavar="N", help="shuffled controls of an element"
    )
    parser.add_argument(
        "--n-matched", type=count, metavar="N", help="matched controls of an element"
    )
    parser.add_argument(
        "--position-tolerance",
        type=natural,
        metavar="N",
        help="bp by which the distances of matched controls to their TSS may differ",
    )
    parser.add_argument(
        "--gc-tolerance",
        type=unit,
        metavar="F",
        help="by which their shares of G and C may differ",
    )
    parser.add_argument(
        "--chrom-alias",
        nargs="+",
        action="extend",
        metavar="A=B",
        help="chromosome A of the elements is B in the FASTA; or a file of two columns, A and B, "
        "parted by a tab",
    )
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help="of the controls")
    loci_options(parser, "as in fit", required=False)
