"""``regmask benchmark``: several estimators on the same genes, splits and seeds."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from regmask_sk.cli.files import check_writable
from regmask_sk.cli.genes import check_split, on_chromosomes, read_genes, target_values
from regmask_sk.cli.messages import say
from regmask_sk.cli.rivals import RIVAL_OPTIONS, RIVALS, make_rivals
from regmask_sk.cli.shared_options import LOCI_OPTIONS
from regmask_sk.cli.steps import cache_steps, check_genome_files, given, reading_steps

#: What is written beside the cells.
TABLES = (
    "cells.tsv", "summary.tsv", "summary.md", "tests.tsv", "predictions.tsv", "comparison.png",
)  # fmt: skip
# What a preset decides.
_OWN_FILES = (
    "loci", "values", "target", "fasta", "track", "chrom_alias", "scaling", "missing", "covariate",
    "jitter", "unstranded", "blacklist", "exclude_chroms", "drop_missing", "test_chroms", "folds",
    "validation_chroms",
)  # fmt: skip

Folds = dict[str, tuple[np.ndarray, np.ndarray]]


class _Data(NamedTuple):
    """Genes, values and splits, the steps that read windows, parameters for all that have them."""

    loci: pd.DataFrame
    y: pd.Series
    folds: Folds
    steps: list[tuple[str, Any]]
    defaults: dict[str, Any]


def run_benchmark(args: argparse.Namespace) -> None:
    """Do what ``regmask benchmark`` promises.

    Parameters
    ----------
    args : argparse.Namespace
        The command's options.
    """
    _check_words(args)
    _check_out(args.out, args.force)
    options = given(args, [name for name in RIVAL_OPTIONS if name not in ("covariates", "track")])
    if args.covariate:
        options["covariates"] = tuple(args.covariate)
    if args.accessibility:
        options["track"] = args.accessibility
    elif (only := _track_of_elements(args)) is not None:
        options["track"] = only
    make_rivals(args.estimators, options)  # before any file is read
    data = _own_data(args) if args.preset is None else _published_data(args)
    pipelines = _pipelines(
        data.steps, make_rivals(args.estimators, options, defaults=data.defaults)
    )
    plot = find_spec("matplotlib") is not None
    if not plot:
        say(args, 'without matplotlib (the extra "plot") comparison.png is left out')

    from joblib import parallel_config

    from regmask_sk.benchmark import compare

    if args.force:
        for path in (args.out / "cells").glob("*.json"):
            path.unlink()
    n_fits = len(pipelines) * len(data.folds) * args.seeds
    n_fits *= 1 + (args.truncate is not None) + args.ablate_signals
    say(args, f"{n_fits} fits of {len(pipelines)} estimators on {len(data.loci)} genes")
    threads = (
        nullcontext()
        if args.n_threads is None or args.n_jobs == 1
        else parallel_config(backend="loky", inner_max_num_threads=args.n_threads)
    )
    with threads:
        result = compare(
            pipelines,
            data.loci,
            data.y,
            cv=data.folds,
            seeds=range(args.seeds),
            out=args.out,
            n_jobs=args.n_jobs,
            truncate=args.truncate,
            ablate_signals=args.ablate_signals,
            isolate=args.isolate,
            verbose=1,
        )
    result.save(args.out, plot=plot)
    failed = int((result.cells["error"] != "").sum())
    say(args, f"wrote {args.out}: {len(result.cells)} cells, {failed} of them failed")
    if failed == len(result.cells):
        raise RuntimeError(
            f"every fit failed, the first with {result.cells['error'].iloc[0]}; {args.out} has all"
        )


def _check_words(args: argparse.Namespace) -> None:
    """Refuse options that do not go together, which the parser cannot tell."""
    if args.preset is None:
        words = ("data", "cell_type", "fold", "contacts")
        only = [name for name in words if getattr(args, name) not in (None, False)]
        if only:
            raise ValueError(f"{_word(only[0])} goes with --preset; give that too, or leave it out")
        needed = ("loci", "target", "fasta", "length")
        missing = [_word(name) for name in needed if getattr(args, name) is None]
        if missing:
            raise ValueError(f"{', '.join(missing)} must be given, or --preset NAME --data ROOT")
        if args.test_chroms is None and args.folds is None:
            raise ValueError("no split; give --test-chroms A,B or --folds N")
        if args.ablate_signals and not args.track:
            raise ValueError(
                "--ablate-signals: there is no --track to leave out; give one, or drop it"
            )
        return
    clash = [_word(name) for name in _OWN_FILES if getattr(args, name) not in (None, False)]
    if clash:
        raise ValueError(f"{', '.join(clash)}: --preset decides this; leave it out")
    if args.data is None:
        raise ValueError("--preset needs --data ROOT, the folder of the published files")


def _track_of_elements(args: argparse.Namespace) -> str | None:
    """Name the only track, where an estimator makes elements of one; ask where there are more."""
    known = [name for name in args.estimators if name in RIVALS]
    wanting = [name for name in known if RIVALS[name].options(["track"])]
    tracks = list(dict.fromkeys(name.partition("@")[0] for name, _ in args.track or ()))
    if args.preset is not None or args.peaks is not None or not wanting or not tracks:
        return None
    if len(tracks) > 1:
        raise ValueError(
            f"{', '.join(wanting)}: which of the tracks {', '.join(tracks)} are elements made of? "
            "give --accessibility NAME, or --peaks FILE"
        )
    return tracks[0]


def _word(name: str) -> str:
    return "--" + name.replace("_", "-")


def _check_out(out: Path, force: bool) -> None:
    check_writable(out)
    there = [name for name in TABLES if (out / name).exists()]
    # Beside cells, tables are those of an earlier run, and are made anew.
    if there and not (out / "cells").is_dir() and not force:
        raise FileExistsError(
            f"--out: {out} holds {', '.join(there)} of something else; pass --force to replace "
            "them, or another folder"
        )


def _own_data(args: argparse.Namespace) -> _Data:
    loci = read_genes(args, {name: getattr(args, name) for name in LOCI_OPTIONS}, args.target)
    y = target_values(loci, args.target)
    folds = _folds(args, loci)
    check_genome_files(args, loci)
    return _Data(loci, y, folds, reading_steps(args, len(loci), seed=None), {})


def _published_data(args: argparse.Namespace) -> _Data:
    from regmask_sk.seq2exp import load_seq2exp

    choices = given(args, ("cell_type", "fold", "length"))
    if args.contacts:
        contacts = args.out / f"contacts_{args.cell_type or 'K562'}.cool"
        if not contacts.exists():
            args.out.mkdir(parents=True, exist_ok=True)
            say(args, f"writing {contacts}")
            load_seq2exp(args.data, **choices).write_contacts(contacts)
        choices["contacts"] = contacts
    data = load_seq2exp(args.data, **choices)
    *steps, (_, model) = data.pipeline.steps
    n_tracks = len(data.pipeline["signal"].tracks) + args.contacts
    n_bytes = len(data.loci) * data.pipeline["windows"].length * (1 + 4 * n_tracks)
    defaults = {"covariates": data.covariates}
    if args.validation_fraction is None:
        defaults["validation_chroms"] = model.validation_chroms
    steps += cache_steps(args, n_bytes)
    return _Data(data.loci, data.y, data.split(), steps, defaults)


def _folds(args: argparse.Namespace, loci: pd.DataFrame) -> Folds:
    """Split by whole chromosomes; a split is named by those of its test."""
    validation = on_chromosomes(loci, args.validation_chroms, "--validation-chroms")
    chroms = loci["chrom"].to_numpy(dtype=object)
    if args.test_chroms:
        test = on_chromosomes(loci, args.test_chroms, "--test-chroms")
        check_split(args, loci, test, validation)
        held_out = test.to_numpy()
        return {"+".join(args.test_chroms): (np.flatnonzero(~held_out), np.flatnonzero(held_out))}
    check_split(args, loci, pd.Series(False, index=loci.index), validation)
    n_chroms = len(set(chroms))
    if not 2 <= args.folds <= n_chroms:
        raise ValueError(
            f"--folds: is {args.folds}, expected 2 to {n_chroms}, the number of chromosomes"
        )
    from sklearn.model_selection import GroupKFold

    splits = GroupKFold(args.folds).split(loci, groups=chroms)
    return {"+".join(sorted(set(chroms[test]))): (train, test) for train, test in splits}


def _pipelines(steps: list[tuple[str, Any]], rivals: dict[str, Any]) -> dict[str, Any]:
    from sklearn.pipeline import Pipeline

    return {name: Pipeline([*steps, ("model", rival)]) for name, rival in rivals.items()}
