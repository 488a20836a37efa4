"""What a trained model leaves behind: its folder, its history, its predictions and scores."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from regmask_sk._files import package_versions, write_whole
from regmask_sk.cli.files import check_free, check_writable
from regmask_sk.cli.messages import say
from regmask_sk.cli.shared_options import LOCI_OPTIONS

SCORES = ("mse", "mae", "pearson", "spearman", "r2")
_TABLES = ("history.tsv", "predictions.tsv", "metrics.json")


def check_fit_files(args: argparse.Namespace) -> None:
    """Refuse, before any training, an ``--out`` that holds a model or cannot be written to."""
    from regmask_sk._model_folder import check_target

    for name in _TABLES:
        check_free(args.out / name, args.force)
    check_writable(args.out)
    check_target(args.out / "model", args.force)


def write_fit(
    args: argparse.Namespace,
    pipeline: Any,
    loci: pd.DataFrame,
    y: pd.Series,
    test: pd.Series,
    *,
    seconds: float,
) -> None:
    """Write a fitted pipeline, its history, and predictions and scores of the test genes.

    Parameters
    ----------
    args : argparse.Namespace
        Of a command with the options of ``fit``.
    pipeline : Pipeline
        Fitted on the genes that are not of the test.
    loci, y, test : DataFrame, Series, Series of bool
        All genes, their measured values, and which are of the test.
    seconds : float
        Of training.
    """
    from regmask_sk._benchmark_cells import mask_fraction
    from regmask_sk.metrics import regression_metrics
    from regmask_sk.persistence import save_model

    out: Path = args.out
    history, predictions, scored = (out / name for name in _TABLES)
    out.mkdir(parents=True, exist_ok=True)
    scored.unlink(missing_ok=True)  # with --force: metrics.json comes back when all is new
    # What was cached serves training alone, and its folder may not be there at predict.
    kept = type(pipeline)([step for step in pipeline.steps if step[0] != "cache"])
    reading = {name: getattr(args, name) for name in LOCI_OPTIONS}
    notes = {
        "target": args.target,
        "test_chroms": args.test_chroms,
        "reading": reading,
        "command": shlex.join(["regmask", *args.words]),
        "versions": package_versions(),
    }
    save_model(kept, out / "model", overwrite=args.force, notes=notes)
    write_whole(history, pipeline[-1].history_.to_csv(sep="\t", index=False))

    held_out, measured = loci[test], y[test].to_numpy()
    n_test = len(held_out)
    predicted = pipeline.predict(held_out) if n_test else np.empty(0)
    write_whole(predictions, prediction_table(held_out, predicted, measured))
    scores = regression_metrics(measured, predicted) if n_test else {}
    metrics: dict[str, Any] = {
        **{name: scores.get(name) for name in SCORES},
        "mask_fraction": mask_fraction(pipeline, held_out if n_test else loci[~test]),
        "n_train": len(loci) - n_test,
        "n_test": n_test,
        "seconds": round(seconds, 3),
    }
    say(args, f"wrote {out}: {write_metrics(scored, metrics)}")


def write_metrics(path: Path, metrics: Mapping[str, Any]) -> str:
    """Write scores as JSON, in which one that is not defined is null; give them in one line."""
    finite = {
        key: None if isinstance(value, float) and not np.isfinite(value) else value
        for key, value in metrics.items()
    }
    write_whole(path, json.dumps(finite, indent=1, allow_nan=False) + "\n")
    return ", ".join(f"{k} {v:.3g}" for k, v in finite.items() if v is not None)


def prediction_table(loci: pd.DataFrame, predicted: np.ndarray, measured: np.ndarray | None) -> str:
    """Write predictions as text, one row a gene."""
    table = pd.DataFrame({"gene": loci.index.astype(str)})
    if "cell_type" in loci.columns:  # without it the rows of a gene could not be told apart
        table["cell_type"] = loci["cell_type"].to_numpy()
    table["predicted"] = predicted
    if measured is not None:
        table["measured"] = measured
    return table.to_csv(sep="\t", index=False)
