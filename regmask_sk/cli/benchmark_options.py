"""The options of ``regmask benchmark``."""

from __future__ import annotations

import argparse
from pathlib import Path

from regmask_sk.cli.shared_options import genome_options, loci_options, window_options
from regmask_sk.cli.values import (
    count,
    count_or_auto,
    length_or_auto,
    name_list,
    natural,
    non_negative,
    positive,
    share,
    unit,
)


def benchmark_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``benchmark``.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Its parser.
    """
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    what = parser.add_argument_group("what is compared")
    what.add_argument(
        "--estimators",
        type=name_list,
        default="ridge,random-forest,conv,regmask-soft,regmask-hard",
        metavar="A,B",
        help="short names; the others are tested against the first",
    )
    splits = what.add_mutually_exclusive_group()
    splits.add_argument(
        "--test-chroms", type=name_list, metavar="A,B", help="one split, these held out"
    )
    splits.add_argument(
        "--folds",
        type=count,
        metavar="N",
        help="cross-validation over whole chromosomes, dealt out to N folds of about equal size",
    )
    what.add_argument(
        "--seeds", type=count, default=1, metavar="N", help="the seeds are 0 to N - 1"
    )
    what.add_argument(
        "--truncate",
        type=count,
        metavar="N",
        help="run every estimator on windows of N bp too",
    )
    what.add_argument(
        "--ablate-signals",
        action="store_true",
        help="run every estimator without the tracks too",
    )
    what.add_argument(
        "--n-jobs", type=count, default=1, metavar="N", help="fits at a time, in processes"
    )
    what.add_argument(
        "--isolate",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="each fit in a process of its own, whose memory is measured and which may be killed "
        "without harm to the rest; --no-isolate starts faster",
    )
    published = parser.add_argument_group("published data, in place of files of your own")
    published.add_argument(
        "--preset",
        choices=("seq2exp",),
        help="the genes, files, covariates and folds of a published benchmark",
    )
    published.add_argument("--data", type=Path, metavar="ROOT", help="its folder")
    published.add_argument("--cell-type", metavar="NAME", help="K562 (the default), GM12878 or H1")
    published.add_argument("--fold", metavar="N", help="1 to 12 or enformer (default 11)")
    published.add_argument(
        "--contacts",
        action="store_true",
        help="read the tables of Hi-C contacts too, as contact to the TSS; needs the package "
        "cooler, with which they are written to OUT/contacts_CELL.cool once",
    )
    loci_options(parser, "as the options say", required=False)
    window_options(genome_options(parser, required=False), required=False)
    model = parser.add_argument_group("estimators (each takes those that it has)")
    model.add_argument("--validation-chroms", type=name_list, metavar="C,D")
    model.add_argument("--validation-fraction", type=unit, metavar="F")
    model.add_argument("--sparsity", type=share, metavar="F", help="share of bases kept")
    model.add_argument("--promoter-length", type=length_or_auto, metavar="N")
    model.add_argument(
        "--accessibility", metavar="NAME", help="the track of which elements or peaks are made"
    )
    model.add_argument("--peaks", type=Path, metavar="FILE", help="BED or narrowPeak of them")
    model.add_argument("--resolution", type=count, metavar="N", help="bp of a token")
    model.add_argument("--d-model", type=count, metavar="N", help="channels of the networks")
    model.add_argument("--n-layers", type=count, metavar="N")
    model.add_argument("--reverse-complement", choices=("none", "augment", "ph", "ps"))
    model.add_argument("--max-epochs", type=count, metavar="N")
    model.add_argument(
        "--batch-size", type=count_or_auto, metavar="N", help='windows a step, or "auto"'
    )
    model.add_argument("--learning-rate", type=positive, metavar="F")
    model.add_argument("--weight-decay", type=non_negative, metavar="F")
    model.add_argument("--n-workers", type=natural, metavar="N", help="processes that read files")
    model.add_argument("--device", metavar="NAME", help='"auto", "cpu", "cuda", ...')
