"""What each command does. A command loads what it needs itself: torch is slow to load."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from importlib import import_module

import numpy as np
import pandas as pd

from regmask_sk._files import write_whole
from regmask_sk.cli.browser_files import check_browser_files, write_browser_files
from regmask_sk.cli.files import check_free, check_writable
from regmask_sk.cli.genes import check_split, on_chromosomes, read_genes, target_values
from regmask_sk.cli.messages import say
from regmask_sk.cli.models import model_and_loci, model_folder
from regmask_sk.cli.results import check_fit_files, prediction_table, write_fit
from regmask_sk.cli.shared_options import LOCI_OPTIONS
from regmask_sk.cli.steps import check_genome_files, given, model_pipeline


def _demo(args: argparse.Namespace) -> None:
    if not args.force and args.out.is_dir() and any(args.out.iterdir()):
        raise FileExistsError(f"--out: {args.out} is not empty; pass --force, or another folder")
    check_writable(args.out)
    import_module("regmask_sk.demo").run_demo(args.out, args.seed)


def _fit(args: argparse.Namespace) -> None:
    if args.resume and args.checkpoint is None:
        raise ValueError("--resume needs --checkpoint FILE, the training to go on with")
    check_fit_files(args)
    loci = read_genes(args, {name: getattr(args, name) for name in LOCI_OPTIONS}, args.target)
    y = target_values(loci, args.target)
    test = on_chromosomes(loci, args.test_chroms, "--test-chroms")
    validation = on_chromosomes(loci, args.validation_chroms, "--validation-chroms")
    check_split(args, loci, test, validation)

    check_genome_files(args, loci)
    pipeline = model_pipeline(args, len(loci))
    n_train, n_test = int((~test).sum()), int(test.sum())
    say(args, f"training on {n_train} genes, {n_test} kept for the test")
    started = time.perf_counter()
    kept = {"model__checkpoint": args.checkpoint, "model__resume": args.resume}
    pipeline.fit(loci[~test], y[~test], **(kept if args.checkpoint else {}))
    seconds = time.perf_counter() - started

    write_fit(args, pipeline, loci, y, test, seconds=seconds)


def _predict(args: argparse.Namespace) -> None:
    check_free(args.out, args.force)
    check_writable(args.out.parent)
    model, loci, notes = model_and_loci(args)
    target = args.target or str(notes.get("target"))
    measured = None
    if args.target or target in loci.columns:
        measured = target_values(loci, target, complete=False).to_numpy()
    predicted = model.predict(loci)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(args.out, prediction_table(loci, predicted, measured))
    say(args, f"wrote {len(loci)} genes to {args.out}")


def _mask(args: argparse.Namespace) -> None:
    files = {name: getattr(args, name) for name in ("bigwig", "bed", "npz")}
    files = {name: path for name, path in files.items() if path is not None}
    if not files:
        raise ValueError("nothing to write; give --bigwig FILE, --bed FILE or --npz FILE")
    for path in files.values():
        check_free(path, args.force)
        check_writable(path.parent)
    check_browser_files(args)
    model, loci, _ = model_and_loci(args)

    from regmask_sk.export import export_masks

    for path in files.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    options = ("threshold", "min_width", "merge_gap", "combine", "batch_size")
    export_masks(
        model[-1],
        model[:-1].transform(loci),
        **files,
        **given(args, options),
        overwrite=args.force,
    )
    say(args, f"wrote {', '.join(map(str, files.values()))}")
    write_browser_files(args, model, loci)


def _info(args: argparse.Namespace) -> None:
    from regmask_sk.persistence import describe_model

    model = describe_model(model_folder(args.model))
    print(f"model: {model.path}")
    print(f"written by: regmask_sk {model.package_version}")
    for step in model.steps:
        print(f"{step['class']}:")
        for key, value in step["params"].items():
            print(f"  {key}: {value}")
        for key, value in step["fitted"].items():
            if key == "history":  # history.tsv has it
                print(f"  epochs: {len(value)}")
                continue
            if isinstance(value, dict) and key.endswith("_regions_"):
                value = f"{sum(map(len, value.values()))}"  # how many, not which
            if not isinstance(value, np.ndarray | pd.DataFrame):
                print(f"  {key}: {value}")
    for key, value in model.notes.items():
        print(f"{key}: {value}")
    scores = model.path.parent / "metrics.json"
    if model.path.name == "model" and scores.is_file():
        for key, value in json.loads(scores.read_text()).items():
            print(f"{key}: {value}")


def _benchmark(args: argparse.Namespace) -> None:
    import_module("regmask_sk.cli.benchmark").run_benchmark(args)


def _cv(args: argparse.Namespace) -> None:
    import_module("regmask_sk.cli.search").run_cv(args)


def _tune(args: argparse.Namespace) -> None:
    import_module("regmask_sk.cli.search").run_tune(args)


def _report(args: argparse.Namespace) -> None:
    import_module("regmask_sk.cli.report").run_report(args)


def _motifs(args: argparse.Namespace) -> None:
    import_module("regmask_sk.cli.motifs").run_motifs(args)


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "demo": _demo,
    "fit": _fit,
    "predict": _predict,
    "mask": _mask,
    "cv": _cv,
    "tune": _tune,
    "report": _report,
    "benchmark": _benchmark,
    "motifs": _motifs,
    "info": _info,
}
