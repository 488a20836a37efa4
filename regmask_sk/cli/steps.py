"""The steps that read the genes' files, from the options that name these."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from regmask_sk.cli.options import REGRESSOR_OPTIONS
from regmask_sk.cli.values import pairs_of, tracks_of


def check_genome_files(args: argparse.Namespace, loci: pd.DataFrame) -> None:
    """Compare the files with all genes, those of the test too, before any training."""
    from regmask_sk.genome import BigWigReader, FastaReader, check_chromosomes

    alias = pairs_of(args.chrom_alias, "--chrom-alias")
    tracks = tracks_of(args.track or [])
    readers = [
        FastaReader(args.fasta, alias),
        *(BigWigReader(p, alias) for _, p in args.track or ()),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the transformers say it again
        check_chromosomes(loci, readers, allow_absent=args.missing != "error")
    for name, files in tracks.items():
        if isinstance(files, Mapping):
            wanted = (
                set(loci["cell_type"].astype(str))
                if "cell_type" in loci.columns
                else {"a cell_type column"}
            )
            if wanted - set(files):
                raise ValueError(
                    f"--track: {name} has files for {sorted(files)}, the loci need "
                    f"{sorted(map(str, wanted - set(files)))}; give {name}@CELL=FILE for each"
                )


def reading_steps(
    args: argparse.Namespace, n_genes: int, *, seed: int | None
) -> list[tuple[str, Any]]:
    """Make the steps of a pipeline that turn genes into windows.

    Parameters
    ----------
    args : argparse.Namespace
        Of a command that has the options of data and windows.
    n_genes : int
        Their number decides whether windows are kept in memory.
    seed : int or None
        Of the genes from which tracks are scaled.

    Returns
    -------
    list of (str, transformer)
        ``windows, sequence``, and where there are such ``signal, cache``.
    """
    from regmask_sk.features import SequenceChannels, SignalChannels, TSSWindows

    alias = pairs_of(args.chrom_alias, "--chrom-alias") or None
    windows = TSSWindows(args.length, stranded=not args.unstranded, **given(args, ("jitter",)))
    steps: list[tuple[str, Any]] = [
        ("windows", windows),
        ("sequence", SequenceChannels(args.fasta, chrom_alias=alias)),
    ]
    if args.track:
        options = given(args, ("scaling", "missing", "blacklist"))
        signal_step = SignalChannels(
            tracks_of(args.track), chrom_alias=alias, random_state=seed, **options
        )
        steps.append(("signal", signal_step))
    n_bytes = n_genes * (args.length + 2 * (args.jitter or 0)) * (1 + 4 * len(args.track or ()))
    return [*steps, *cache_steps(args, n_bytes)]


def model_pipeline(args: argparse.Namespace, n_genes: int) -> Any:
    """Make the pipeline that the options of ``fit`` ask for.

    Parameters
    ----------
    args : argparse.Namespace
        Of a command with the options of ``fit``.
    n_genes : int
        As in :func:`reading_steps`.

    Returns
    -------
    Pipeline
        The steps that read windows, and a ``RegMaskRegressor``. Not fitted.
    """
    from sklearn.pipeline import Pipeline

    from regmask_sk.regressor import RegMaskRegressor

    regressor = RegMaskRegressor(
        **given(args, REGRESSOR_OPTIONS),
        covariates=tuple(args.covariate or ()),
        random_state=args.seed,
        verbose=int(args.verbose or sys.stderr.isatty()),
    )
    return Pipeline([*reading_steps(args, n_genes, seed=args.seed), ("model", regressor)])


def cache_steps(args: argparse.Namespace, n_bytes: int) -> list[tuple[str, Any]]:
    """Keep windows that were read, where ``--cache`` says so."""
    from regmask_sk.window_cache import WindowCache

    limits = {"max_bytes": args.cache_max_bytes, "dtype": args.cache_dtype}
    limits = {name: value for name, value in limits.items() if value is not None}
    if args.cache not in ("auto", "memory", "none"):
        return [("cache", WindowCache(args.cache, **limits))]
    vain = list(limits) if args.cache == "none" else [name for name in limits if name == "dtype"]
    if vain:
        option = "--cache-" + vain[0].replace("_", "-")
        raise ValueError(
            f"{option}: is {limits[vain[0]]}, but --cache is {args.cache}; give the folder in "
            f"which windows are to be kept, --cache DIR, or leave {option} out"
        )
    if args.cache == "memory" or (args.cache == "auto" and n_bytes < 2**31):
        return [("cache", WindowCache(**limits))]
    return []


def given(args: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Take the options that were given, as keyword arguments."""
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}
