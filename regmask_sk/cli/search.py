"""``regmask cv`` and ``regmask tune``: cross-validation, and the search for the sparsity."""

from __future__ import annotations

import argparse
import io
import json
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from regmask_sk._files import write_whole
from regmask_sk.cli.files import check_free, check_writable
from regmask_sk.cli.genes import check_split, on_chromosomes, read_genes, target_values
from regmask_sk.cli.messages import say
from regmask_sk.cli.options import REGRESSOR_OPTIONS
from regmask_sk.cli.results import SCORES, check_fit_files, write_fit, write_metrics
from regmask_sk.cli.shared_options import LOCI_OPTIONS
from regmask_sk.cli.steps import check_genome_files, model_pipeline

STUDY = "study.log"  # the journal of `tune`


def run_cv(args: argparse.Namespace) -> None:
    """Do what ``regmask cv`` promises.

    Parameters
    ----------
    args : argparse.Namespace
        The command's options.
    """
    from regmask_sk.benchmark import compare
    from regmask_sk.metrics import regression_metrics
    from regmask_sk.model_selection import ChromosomeKFold

    names = ("folds.tsv", "predictions.tsv", "metrics.json")
    if not (args.out / "cells").is_dir():  # beside them, tables are of an earlier run of this
        for name in names:
            check_free(args.out / name, args.force)
    check_writable(args.out)
    if args.force:
        for path in (args.out / "cells").glob("*.json"):
            path.unlink()
    loci, y = _genes(args)
    _check_folds(args, loci)
    pipeline = model_pipeline(args, len(loci))
    say(args, f"{args.folds} folds of {len(loci)} genes")
    result = compare(
        {"regmask": pipeline},
        loci,
        y,
        cv=ChromosomeKFold(args.folds),
        seeds=(args.seed,),
        out=args.out,
        n_jobs=args.n_jobs,
        verbose=1,
    )
    failed = result.cells.loc[result.cells["error"] != "", "error"]
    write_whole(args.out / names[0], result.cells.to_csv(sep="\t", index=False))
    if len(failed):
        raise RuntimeError(f"{len(failed)} of {args.folds} folds failed: {failed.iloc[0]}")
    table = result.predictions.sort_values("row").drop(columns=["estimator", "seed", "row"])
    write_whole(args.out / names[1], table.to_csv(sep="\t", index=False))
    scores = regression_metrics(table["measured"].to_numpy(), table["predicted"].to_numpy())
    metrics = {
        **{name: scores[name] for name in SCORES},
        "mask_fraction": float(
            np.average(result.cells["mask_fraction"], weights=result.cells["n_test"])
        ),
        "n_genes": len(table),
        "seconds": round(float(result.cells["fit_seconds"].sum()), 3),
    }
    say(args, f"wrote {args.out}: {write_metrics(args.out / names[2], metrics)}")


def run_tune(args: argparse.Namespace) -> None:
    """Do what ``regmask tune`` promises.

    Parameters
    ----------
    args : argparse.Namespace
        The command's options.
    """
    if args.worker and args.storage is None:
        raise ValueError("--worker needs --storage, the study to work on")
    # Beside a study, what is there is of an earlier run of this, and is made anew.
    goes_on = (args.out / STUDY).exists()
    if not args.worker and not goes_on:
        check_fit_files(args)
        for name in ("best.json", "trials.tsv", "importances.tsv", "tuning.png"):
            check_free(args.out / name, args.force)
    check_writable(args.out)
    loci, y = _genes(args)
    test = on_chromosomes(loci, args.test_chroms, "--test-chroms")
    check_split(args, loci, test, on_chromosomes(loci, None, "--validation-chroms"))
    train = loci[~test]
    _check_folds(args, train)
    space = _search_space(args)

    import optuna

    from regmask_sk.model_selection import ChromosomeKFold
    from regmask_sk.tuning import tune_sparsity

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    args.out.mkdir(parents=True, exist_ok=True)
    pipeline = model_pipeline(args, len(loci))
    pipeline[-1].set_params(verbose=0)
    say(args, f"{args.trials} trials, {args.folds} folds of {len(train)} genes")
    started = time.monotonic()
    before = 0

    def tell(trials: pd.DataFrame) -> None:
        nonlocal before
        before += 1
        done = int(trials["state"].isin(["COMPLETE", "PRUNED"]).sum())
        last = trials[trials["state"].isin(["COMPLETE", "PRUNED"])].iloc[-1]
        each = (time.monotonic() - started) / (before * args.n_jobs)  # `before` of this process
        left = each * max(args.trials - done, 0) / 60
        told = f"sparsity {last['model__sparsity']:.3g}"
        if last["n_folds"]:
            told += f", error {last['error']:.4g}, kept {last['kept']:.3g}"
        if last["state"] == "PRUNED":
            told += ", given up" if last["n_folds"] else ", given up in its first fold"
        say(args, f"[{done}/{args.trials}] {told}; about {left:.0f} min left")

    found = tune_sparsity(
        pipeline,
        train,
        y[~test],
        cv=ChromosomeKFold(args.folds),
        n_trials=args.trials,
        sparsity=args.sparsity_range,
        search_space=space,
        objectives="error" if args.objective == "error" else "error and share",
        prune={"fold": True, "none": False}.get(args.prune, args.prune),
        storage=_storage(args),
        study_name=args.study,
        refit=False,
        n_jobs=args.n_jobs,
        random_state=args.seed,
        callback=tell,
    )
    if args.worker:
        return
    write_whole(args.out / "trials.tsv", found.trials.to_csv(sep="\t"))
    if (found.trials["state"] == "COMPLETE").sum() > 1:
        matter = pd.DataFrame({name: found.importances(name) for name in ("error", "kept")})
        matter.index = matter.index.str.removeprefix("model__").rename("parameter")
        matter = matter.sort_values("error", ascending=False)
        write_whole(args.out / "importances.tsv", matter.to_csv(sep="\t"))
    else:
        say(args, "importances.tsv is left out: it needs two finished trials")
    best = found.trials.loc[found.best_number_]
    chosen = {name.removeprefix("model__"): value for name, value in found.best_params_.items()}
    told = {"trial": found.best_number_, **chosen, **best[["error", "error_se", "kept"]].to_dict()}
    write_whole(args.out / "best.json", json.dumps(told, indent=1) + "\n")
    if find_spec("matplotlib") is not None:
        picture = io.BytesIO()
        found.plot().savefig(picture, format="png", dpi=150)
        write_whole(args.out / "tuning.png", picture.getvalue())
    else:
        say(args, 'without matplotlib (the extra "plot") tuning.png is left out')
    shown = (f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in chosen.items())
    say(args, f"training with {', '.join(shown)}")
    pipeline.set_params(**found.best_params_)
    fitting = time.perf_counter()
    pipeline.fit(train, y[~test])
    args.force = args.force or goes_on
    write_fit(args, pipeline, loci, y, test, seconds=time.perf_counter() - fitting)


def _genes(args: argparse.Namespace) -> tuple[pd.DataFrame, pd.Series]:
    loci = read_genes(args, {name: getattr(args, name) for name in LOCI_OPTIONS}, args.target)
    y = target_values(loci, args.target)
    check_genome_files(args, loci)
    return loci, y


def _check_folds(args: argparse.Namespace, loci: pd.DataFrame) -> None:
    n_chroms = loci["chrom"].nunique()
    if not 2 <= args.folds <= n_chroms:
        raise ValueError(
            f"--folds: is {args.folds}, expected 2 to {n_chroms}, the number of chromosomes"
        )


def _search_space(args: argparse.Namespace) -> dict[str, Any]:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    space: dict[str, Any] = {}
    for name, values, between in args.search or ():
        if name not in REGRESSOR_OPTIONS or name == "sparsity":
            known = sorted(o.replace("_", "-") for o in REGRESSOR_OPTIONS if o != "sparsity")
            raise ValueError(
                f"--search: no option {name.replace('_', '-')} of the model; known are "
                f"{', '.join(known)}"
            )
        if not between:
            space[f"model__{name}"] = CategoricalDistribution(values)
        elif isinstance(values[0], int):
            space[f"model__{name}"] = IntDistribution(values[0], values[1])
        else:  # over more than a factor of ten, by its logarithm
            wide = values[0] > 0 and values[1] >= 10 * values[0]
            space[f"model__{name}"] = FloatDistribution(values[0], values[1], log=wide)
    return space


def _storage(args: argparse.Namespace) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    if args.storage is not None and "://" in args.storage:
        return args.storage
    path = args.out / STUDY if args.storage is None else Path(args.storage)
    if args.force and args.storage is None:
        path.unlink(missing_ok=True)
    return JournalStorage(JournalFileBackend(str(path)))
