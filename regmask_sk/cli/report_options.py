"""The options of ``regmask report``."""

from __future__ import annotations

import argparse
from pathlib import Path

from regmask_sk.cli.values import count, existing_file, name_list, natural, unit


def report_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``report`` that other commands do not have.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Its parser.
    """
    parser.add_argument("--out", type=Path, required=True, metavar="HTML")
    group = parser.add_argument_group("what is shown")
    group.add_argument(
        "--target", metavar="COLUMN", help="the measured values (default: the target of the fit)"
    )
    group.add_argument(
        "--test-chroms",
        type=name_list,
        metavar="A,B",
        help="chromosomes that the fit has not seen (default: those that the model names)",
    )
    group.add_argument("--unit", metavar="TEXT", help='of the target, such as "log2 TPM"')
    group.add_argument(
        "--genes",
        type=name_list,
        metavar="A,B",
        help="loci to draw (default: the test genes of highest, middle and lowest value)",
    )
    group.add_argument(
        "--known", type=existing_file, metavar="BED", help="known elements, drawn beside the called"
    )
    group.add_argument(
        "--annotation", type=existing_file, metavar="FILE", help="GTF or GFF3 of genes to draw"
    )
    group.add_argument(
        "--motifs",
        type=existing_file,
        metavar="TSV",
        help="motif occurrences to name in elements: chrom, start, end (0-based, half-open), "
        "motif and, to sort them by, q_value, p_value or score",
    )
    group.add_argument(
        "--baselines",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="score a ridge on binned tracks too, which reads the windows of all genes; "
        "--no-baselines is faster",
    )
    group.add_argument("--elements", type=count, metavar="N", help="rows of the table of elements")
    group.add_argument("--threshold", type=unit, metavar="F", help="mask value of an element")
    group.add_argument("--min-width", type=count, metavar="N", help="bp of an element")
    group.add_argument("--merge-gap", type=natural, metavar="N", help="bp bridged in an element")
    group.add_argument(
        "--seed", type=natural, default=0, metavar="N", help="of the genes that are drawn"
    )
