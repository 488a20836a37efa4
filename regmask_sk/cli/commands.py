"""What each command does. A command loads what it needs itself: torch is slow to load."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from regmask_sk._files import write_whole
from regmask_sk.cli.files import check_free, check_writable
from regmask_sk.cli.genes import check_split, on_chromosomes, read_genes, target_values
from regmask_sk.cli.messages import say
from regmask_sk.cli.options import REGRESSOR_OPTIONS
from regmask_sk.cli.shared_options import LOCI_OPTIONS
from regmask_sk.cli.steps import check_genome_files, given, reading_steps
from regmask_sk.cli.values import tracks_of


def _demo(args: argparse.Namespace) -> None:
    if not args.force and args.out.is_dir() and any(args.out.iterdir()):
        raise FileExistsError(f"--out: {args.out} is not empty; pass --force, or another folder")
    check_writable(args.out)
    import_module("regmask_sk.demo").run_demo(args.out, args.seed)


def _fit(args: argparse.Namespace) -> None:
    out: Path = args.out
    tables = [out / name for name in ("history.tsv", "predictions.tsv", "metrics.json")]
    for table in tables:
        check_free(table, args.force)
    check_writable(out)
    reading = {name: getattr(args, name) for name in LOCI_OPTIONS}
    loci = read_genes(args, reading, args.target)
    y = target_values(loci, args.target)
    test = on_chromosomes(loci, args.test_chroms, "--test-chroms")
    validation = on_chromosomes(loci, args.validation_chroms, "--validation-chroms")
    check_split(args, loci, test, validation)

    from regmask_sk._model_folder import check_target
    from regmask_sk.metrics import regression_metrics
    from regmask_sk.persistence import save_model

    check_target(out / "model", args.force)
    check_genome_files(args, loci)
    pipeline = _pipeline(args, len(loci))
    n_train, n_test = int((~test).sum()), int(test.sum())
    say(args, f"training on {n_train} genes, {n_test} kept for the test")
    started = time.perf_counter()
    pipeline.fit(loci[~test], y[~test])
    seconds = time.perf_counter() - started

    out.mkdir(parents=True, exist_ok=True)
    tables[-1].unlink(missing_ok=True)  # with --force: metrics.json comes back when all is new
    # What was cached serves training alone, and its folder may not be there at predict.
    kept = type(pipeline)([step for step in pipeline.steps if step[0] != "cache"])
    notes = {"target": args.target, "test_chroms": args.test_chroms, "reading": reading}
    save_model(kept, out / "model", overwrite=args.force, notes=notes)
    write_whole(tables[0], pipeline[-1].history_.to_csv(sep="\t", index=False))

    held_out, measured = loci[test], y[test].to_numpy()
    predicted = pipeline.predict(held_out) if n_test else np.empty(0)
    write_whole(tables[1], _prediction_table(held_out, predicted, measured))
    names = ("mse", "mae", "pearson", "spearman", "r2")
    scores = regression_metrics(measured, predicted) if n_test else {}
    metrics: dict[str, Any] = {
        **{name: scores.get(name) for name in names},
        "mask_fraction": _mask_fraction(pipeline, held_out if n_test else loci[~test]),
        "n_train": n_train,
        "n_test": n_test,
        "seconds": round(seconds, 3),
    }
    metrics = _finite(metrics)
    write_whole(tables[2], json.dumps(metrics, indent=1, allow_nan=False) + "\n")
    shown = ", ".join(f"{k} {v:.3g}" for k, v in metrics.items() if v is not None)
    say(args, f"wrote {out}: {shown}")


def _predict(args: argparse.Namespace) -> None:
    check_free(args.out, args.force)
    check_writable(args.out.parent)
    model, loci, notes = _model_and_loci(args)
    target = args.target or str(notes.get("target"))
    measured = None
    if args.target or target in loci.columns:
        measured = target_values(loci, target, complete=False).to_numpy()
    predicted = model.predict(loci)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(args.out, _prediction_table(loci, predicted, measured))
    say(args, f"wrote {len(loci)} genes to {args.out}")


def _mask(args: argparse.Namespace) -> None:
    files = {name: getattr(args, name) for name in ("bigwig", "bed", "npz")}
    files = {name: path for name, path in files.items() if path is not None}
    if not files:
        raise ValueError("nothing to write; give --bigwig FILE, --bed FILE or --npz FILE")
    for path in files.values():
        check_free(path, args.force)
        check_writable(path.parent)
    model, loci, _ = _model_and_loci(args)

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


def _info(args: argparse.Namespace) -> None:
    from regmask_sk.persistence import describe_model

    model = describe_model(_model_folder(args.model))
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


COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "demo": _demo,
    "fit": _fit,
    "predict": _predict,
    "mask": _mask,
    "benchmark": _benchmark,
    "info": _info,
}

# --- models ----------------------------------------------------------------------------------


def _pipeline(args: argparse.Namespace, n_genes: int) -> Any:
    from sklearn.pipeline import Pipeline

    from regmask_sk.regressor import RegMaskRegressor

    regressor = RegMaskRegressor(
        **given(args, REGRESSOR_OPTIONS),
        covariates=tuple(args.covariate or ()),
        random_state=args.seed,
        verbose=int(args.verbose or sys.stderr.isatty()),
    )
    return Pipeline([*reading_steps(args, n_genes, seed=args.seed), ("model", regressor)])


def _model_folder(path: str) -> Path:
    """Return the model's folder, given it or the --out folder of fit."""
    folder = Path(path)
    inner = folder / "model"
    return inner if not (folder / "model.json").exists() and inner.is_dir() else folder


def _model_and_loci(args: argparse.Namespace) -> tuple[Any, pd.DataFrame, dict[str, Any]]:
    from sklearn.pipeline import Pipeline

    from regmask_sk.persistence import describe_model, load_model

    folder = _model_folder(args.model)
    notes = describe_model(folder).notes
    remembered = notes.get("reading", {})
    reading = {
        name: remembered.get(name) if getattr(args, name) is None else getattr(args, name)
        for name in LOCI_OPTIONS
    }
    reading["loci_format"] = args.loci_format  # the new file may be of another kind
    loci = read_genes(args, reading, getattr(args, "target", None) or notes.get("target"))
    model = load_model(
        folder, fasta=args.fasta, tracks=tracks_of(args.track or []), device=args.device
    )
    if not isinstance(model, Pipeline):
        raise ValueError(
            f"--model: {folder} is a regressor without the steps that read files; use it from "
            "Python with load_model, or save the whole pipeline"
        )
    for _, step in model.steps[:-1]:
        params = {} if isinstance(step, str) else step.get_params(deep=False)
        _check_file("--fasta FILE", params.get("fasta"))
        for name, files in (params.get("tracks") or {}).items():
            for cell, path in (files if isinstance(files, Mapping) else {"": files}).items():
                _check_file(f"--track {name}{cell and f'@{cell}'}=FILE", path)
    if args.batch_size is not None:
        model[-1].set_params(batch_size=args.batch_size)
    return model, loci, notes


def _check_file(option: str, path: Any) -> None:
    if path is not None and not os.path.exists(path):
        raise FileNotFoundError(
            f"the model reads {path}, which is not there any more; give it as {option}"
        )


def _mask_fraction(pipeline: Any, loci: pd.DataFrame) -> float:
    """Share of the bases that the masks keep, a batch of genes at a time."""
    windows, total = pipeline[:-1].transform(loci), 0.0
    for start in range(0, len(loci), 64):
        masks = np.asarray(pipeline[-1].transform(windows[start : start + 64]))
        total += float(masks.mean(axis=1, dtype=np.float64).sum())
    return total / len(loci)


# --- files and messages ----------------------------------------------------------------------


def _prediction_table(
    loci: pd.DataFrame, predicted: np.ndarray, measured: np.ndarray | None
) -> str:
    table = pd.DataFrame({"gene": loci.index.astype(str)})
    if "cell_type" in loci.columns:  # without it the rows of a gene could not be told apart
        table["cell_type"] = loci["cell_type"].to_numpy()
    table["predicted"] = predicted
    if measured is not None:
        table["measured"] = measured
    return table.to_csv(sep="\t", index=False)


def _finite(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: a score that is not defined is null."""
    return {
        key: None if isinstance(value, float) and not np.isfinite(value) else value
        for key, value in metrics.items()
    }
