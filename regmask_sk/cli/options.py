"""The words of the command line: its options, their types and their help."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from regmask_sk.cli.benchmark_options import benchmark_options
from regmask_sk.cli.browser_files import browser_options
from regmask_sk.cli.motif_options import motif_options
from regmask_sk.cli.report_options import report_options
from regmask_sk.cli.shared_options import (
    OneLineParser,
    common_options,
    genome_options,
    loci_options,
    window_options,
)
from regmask_sk.cli.values import (
    count,
    count_or_auto,
    existing_file,
    length_or_auto,
    name_list,
    named_file,
    natural,
    non_negative,
    positive,
    searched,
    share,
    two_shares,
    unit,
)

# Options of `fit` that are parameters of RegMaskRegressor, under the same name but for --seed,
# --target and --covariate. Those not given are left to the estimator's defaults.
REGRESSOR_OPTIONS = (
    "backbone", "mask", "training", "gate_distribution", "gate_correlation", "evidence", "sparsity",
    "promoter_length", "closed_regions", "open_regions", "resolution", "mask_resolution", "d_model",
    "n_layers", "dropout", "checkpointing", "reverse_complement", "continuity", "continuity_weight",
    "kl_weight", "prior_mean", "prior_concentration", "loss", "max_epochs", "generator_epochs",
    "finetune_epochs", "patience", "batch_size", "learning_rate", "weight_decay",
    "validation_chroms", "validation_fraction", "n_workers", "device",
)  # fmt: skip


def _trained_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        required=True,
        metavar="DIR",
        help="what fit wrote: its --out folder, or the model folder in it",
    )


def _other_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--fasta",
        type=existing_file,
        metavar="FILE",
        help="instead of the FASTA that the model names",
    )
    parser.add_argument(
        "--track",
        type=named_file,
        nargs="+",
        action="extend",
        metavar="NAME=FILE",
        help="instead of the track files that the model names; NAME@CELL=FILE for one cell type",
    )
    parser.add_argument("--batch-size", type=count, metavar="N", help="genes at a time")
    parser.add_argument("--device", metavar="NAME", help='"auto", "cpu", "cuda", ...')


def _fit_options(
    parser: argparse.ArgumentParser,
    *,
    test_chroms: bool = True,
    validation_chroms: bool = True,
    sparsity: bool = True,
) -> None:
    """Add the options of data and model, but for those that a command decides itself."""
    parser.set_defaults(test_chroms=None, validation_chroms=None, sparsity=None)
    loci_options(parser, "kept in the model")
    data = genome_options(parser)
    if test_chroms:
        data.add_argument(
            "--test-chroms",
            type=name_list,
            metavar="A,B",
            help="held out: predictions.tsv and the scores of metrics.json are of these; without "
            "them every gene is trained on and the scores are null",
        )
    if validation_chroms:
        data.add_argument(
            "--validation-chroms", type=name_list, metavar="C,D", help="for early stopping"
        )
    data.add_argument(
        "--validation-fraction",
        type=unit,
        metavar="F",
        help=("without --validation-chroms: " if validation_chroms else "for early stopping: ")
        + "share of the genes, in whole chromosomes",
    )

    model = parser.add_argument_group("model (defaults: those of RegMaskRegressor)")
    window_options(model)
    model.add_argument("--backbone", metavar="NAME", help='such as "conv"')
    model.add_argument("--mask", choices=("soft", "hard", "topk"))
    model.add_argument("--training", choices=("decoupled", "joint"))
    model.add_argument(
        "--gate-distribution",
        choices=("auto", "beta", "kumaraswamy", "hard_concrete", "relaxed_bernoulli"),
        help="family of the gates",
    )
    model.add_argument(
        "--gate-correlation",
        type=non_negative,
        metavar="F",
        help="bp over which gates are sampled together in training",
    )
    model.add_argument(
        "--evidence",
        choices=("learned", "seq2exp-soft", "seq2exp-hard"),
        help="of the tracks, in joint training: learned weights, or published formulas for the "
        "tracks H3K27ac, DNase and Hi-C with --scaling none",
    )
    if sparsity:
        model.add_argument(
            "--sparsity", type=share, metavar="F", help="share of bases kept, promoter included"
        )
    model.add_argument(
        "--promoter-length", type=length_or_auto, metavar="N", help='bp kept open, or "auto"'
    )
    model.add_argument(
        "--closed-regions",
        type=existing_file,
        metavar="BED",
        help="regions, named as the loci are, that every mask closes",
    )
    model.add_argument(
        "--open-regions",
        type=existing_file,
        metavar="BED",
        help="regions that every mask keeps, closed ones included",
    )
    model.add_argument(
        "--resolution", type=count, metavar="N", help="bp of a token of the networks"
    )
    model.add_argument(
        "--mask-resolution",
        type=count,
        metavar="N",
        help="grain of the mask, in bp, a divisor of that (default: the same)",
    )
    model.add_argument("--d-model", type=count, metavar="N", help="channels of the networks")
    model.add_argument("--n-layers", type=count, metavar="N")
    model.add_argument("--dropout", type=unit, metavar="F")
    model.add_argument(
        "--checkpointing",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="compute layers twice, for less memory",
    )
    model.add_argument(
        "--reverse-complement",
        choices=("none", "augment", "ph", "ps"),
        help="what the model makes of the opposite strand",
    )
    model.add_argument("--max-epochs", type=count, metavar="N")
    for stage in ("generator", "finetune"):
        model.add_argument(
            f"--{stage}-epochs", type=natural, metavar="N", help="of decoupled training"
        )
    model.add_argument("--patience", type=count, metavar="N", help="epochs, of early stopping")
    model.add_argument(
        "--batch-size",
        type=count_or_auto,
        metavar="N",
        help='windows a step; "auto": as many, up to the default, as fit in 60 %% of free memory',
    )
    model.add_argument("--learning-rate", type=positive, metavar="F")
    model.add_argument("--weight-decay", type=non_negative, metavar="F")
    model.add_argument("--loss", choices=("squared_error", "huber"))
    model.add_argument(
        "--continuity-weight",
        type=non_negative,
        metavar="F",
        help="keeps elements in one piece (default 0.1 in decoupled training, 0 in joint)",
    )
    model.add_argument(
        "--continuity",
        choices=("difference", "transitions"),
        help="what that weighs: differences of neighbouring gates, or how often they differ",
    )
    model.add_argument("--kl-weight", type=non_negative, metavar="F", help="of joint training")
    model.add_argument("--prior-mean", type=share, metavar="F", help="of joint training")
    model.add_argument(
        "--prior-concentration", type=positive, metavar="F", help="of joint training"
    )
    model.add_argument("--n-workers", type=natural, metavar="N", help="processes that read files")
    model.add_argument(
        "--seed", type=natural, default=0, metavar="N", help="default 0; the same seed, the same "
        "model to the bit on CPU",
    )  # fmt: skip
    model.add_argument("--device", metavar="NAME", help='"auto", "cpu", "cuda", ...')


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of ``regmask``.

    Returns
    -------
    argparse.ArgumentParser
        Its result has ``command``, the subcommand's name.

    Examples
    --------
    >>> build_parser().parse_args(["info", "--model", "run"]).command
    'info'
    """
    parser = OneLineParser(
        prog="regmask",
        description="Predict gene expression from DNA and signal tracks, and learn which bases "
        "drive it. Results go to files, progress and errors to stderr.",
    )
    parser.add_argument("--version", action="version", version=metadata.version("regmask_sk"))
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, help_text: str, epilog: str | None = None) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help_text, description=help_text, epilog=epilog)
        common_options(sub)
        return sub

    demo = command("demo", "Simulate a small genome, train on it and score the masks.")
    demo.add_argument("--out", type=Path, default=Path("regmask-demo"), metavar="DIR")
    demo.add_argument("--seed", type=natural, default=0, metavar="N")

    fit = command(
        "fit",
        "Train a model; write it, its history, its test predictions and scores.",
        "Under --out: model/, history.tsv, predictions.tsv (gene, predicted, measured), "
        "metrics.json (mse, mae, pearson, spearman, r2 and mask_fraction of the test genes, "
        "n_train, n_test, seconds of training), in this order: where metrics.json is, all is.",
    )
    fit.add_argument("--out", type=Path, required=True, metavar="DIR")
    fit.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="keep the state of the training there after each epoch",
    )
    fit.add_argument(
        "--resume", action="store_true", help="go on from --checkpoint, where there is such a file"
    )
    _fit_options(fit)

    predict = command("predict", "Predict the expression of genes.")
    _trained_model(predict)
    predict.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="TSV",
        help="gene, predicted, and measured where the loci have the target's column",
    )
    predict.add_argument(
        "--target", metavar="COLUMN", help="the measured values (default: the target of the fit)"
    )
    loci_options(predict, "default as in the fit")
    _other_files(predict)

    mask = command("mask", "Write the masks of genes and the elements they call.")
    _trained_model(mask)
    mask.add_argument("--bigwig", type=Path, metavar="FILE", help="mask values over the genome")
    mask.add_argument("--bed", type=Path, metavar="FILE", help="called elements")
    mask.add_argument("--npz", type=Path, metavar="FILE", help="mask of each gene, as arrays")
    mask.add_argument("--threshold", type=unit, metavar="F", help="mask value of an element")
    mask.add_argument("--min-width", type=count, metavar="N", help="bp of an element")
    mask.add_argument("--merge-gap", type=natural, metavar="N", help="bp bridged in an element")
    mask.add_argument("--combine", choices=("max", "mean"), help="of overlapping windows")
    browser_options(mask)
    loci_options(mask, "default as in the fit")
    _other_files(mask)

    cv = command(
        "cv",
        "Cross-validate over whole chromosomes: every gene is predicted by a model that has not "
        "seen it.",
        "Under --out: cells/ (each finished fold; a run with the same --out goes on from there, "
        "and --force runs all anew), folds.tsv, predictions.tsv, metrics.json (scores of all genes "
        "together, mean share of bases kept).",
    )
    cv.add_argument("--out", type=Path, required=True, metavar="DIR")
    cv.add_argument("--folds", type=count, default=5, metavar="N", help="default 5")
    cv.add_argument(
        "--n-jobs", type=count, default=1, metavar="N", help="folds at a time, in processes"
    )
    _fit_options(cv, test_chroms=False, validation_chroms=False)

    tune = command(
        "tune",
        "Search for the share of bases to keep, and for other parameters, by cross-validation.",
        "Under --out: study.log (the study; a run with the same --out goes on from there), "
        "trials.tsv, importances.tsv (how much each parameter matters), tuning.png, best.json (the "
        "sparsest trial within one standard error of the lowest error), and what fit writes, of a "
        "model trained with it. --test-chroms take no part in the search.",
    )
    tune.add_argument("--out", type=Path, required=True, metavar="DIR")
    tune.add_argument("--trials", type=count, default=20, metavar="N", help="default 20")
    tune.add_argument("--folds", type=count, default=3, metavar="N", help="default 3")
    tune.add_argument(
        "--sparsity-range",
        type=two_shares,
        default=(0.02, 0.5),
        metavar="LOW:HIGH",
        help="default 0.02:0.5",
    )
    tune.add_argument(
        "--search",
        type=searched,
        nargs="+",
        action="extend",
        metavar="NAME=LOW:HIGH",
        help="other options of the model to search, such as n-layers=2:6, or NAME=A,B,C",
    )
    tune.add_argument(
        "--objective",
        choices=("error-and-share", "error"),
        default="error-and-share",
        help="what is minimised (default both)",
    )
    tune.add_argument(
        "--prune",
        choices=("fold", "epoch", "none"),
        default="fold",
        help="when a hopeless trial is given up: after a fold (the default), after an epoch of "
        "the first stage too, or never",
    )
    tune.add_argument(
        "--storage",
        metavar="URL",
        help="a database, or a journal file, in place of study.log, that several machines share",
    )
    tune.add_argument("--study", default="regmask", metavar="NAME", help="in the storage")
    tune.add_argument(
        "--n-jobs", type=count, default=1, metavar="N", help="trials at a time, in processes"
    )
    tune.add_argument(
        "--worker",
        action="store_true",
        help="run trials of the study until it has enough, and write nothing else",
    )
    _fit_options(tune, validation_chroms=False, sparsity=False)

    report = command(
        "report",
        "Write one HTML file on a trained model: data, training, accuracy, masks, elements.",
        "The file holds its pictures and opens without a network. Predictions and masks are "
        "computed anew, of the genes on the chromosomes that the fit held out.",
    )
    report_options(report)
    _trained_model(report)
    loci_options(report, "default as in the fit")
    _other_files(report)

    benchmark = command(
        "benchmark",
        "Compare estimators on the same genes, splits and seeds.",
        "Under --out: cells/ (each finished fit; a run with the same --out goes on from there, and "
        "--force runs all anew), cells.tsv, summary.tsv, summary.md, tests.tsv, predictions.tsv, "
        "comparison.png, made anew by each run.",
    )
    benchmark_options(benchmark)

    motifs = command(
        "motifs",
        "Find motifs in called elements, and test whether there are more than in controls.",
    )
    motif_options(motifs)

    info = command("info", "Say what a saved model is.")
    _trained_model(info)
    return parser


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the words after ``regmask``.

    Parameters
    ----------
    argv : sequence of str or None
        The words; None for those of the process.

    Returns
    -------
    argparse.Namespace
        ``command``, its options, and ``words``, all that was given.

    Raises
    ------
    SystemExit
        For ``--help``, ``--version`` and wrong options.

    Examples
    --------
    >>> parse(["info", "--model", "run"]).model
    'run'
    """
    parser = build_parser()
    words = sys.argv[1:] if argv is None else list(argv)
    args, unknown = parser.parse_known_args(words)
    args.words = words
    if unknown:  # argparse would not say of which command
        parser.prog = f"regmask {args.command}"
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return args
