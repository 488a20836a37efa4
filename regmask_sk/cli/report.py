"""``regmask report``: one HTML file on a trained model."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

import pandas as pd

from regmask_sk.cli.files import check_free, check_writable
from regmask_sk.cli.genes import on_chromosomes, target_values
from regmask_sk.cli.messages import say
from regmask_sk.cli.models import model_and_loci, model_folder
from regmask_sk.cli.steps import given


def run_report(args: argparse.Namespace) -> None:
    """Do what ``regmask report`` promises.

    Parameters
    ----------
    args : argparse.Namespace
        The command's options.
    """
    from regmask_sk.gene_models import read_gene_models
    from regmask_sk.loci import read_regions
    from regmask_sk.persistence import describe_model
    from regmask_sk.plotting._axes import need_matplotlib
    from regmask_sk.report import read_motif_table, write_report

    check_free(args.out, args.force)
    check_writable(args.out.parent)
    need_matplotlib("regmask report")
    # Read before the model, so that a wrong file is told at once.
    tables: dict[str, Any] = {
        "known": None if args.known is None else read_regions(args.known),
        "gene_models": None if args.annotation is None else read_gene_models(args.annotation),
        "motifs": None if args.motifs is None else read_motif_table(args.motifs),
    }
    model, loci, notes = model_and_loci(args)
    target = args.target or notes.get("target")
    if target is None:
        raise ValueError(
            "--target: the model does not say what it was trained on; name the column of the "
            "measured values"
        )
    y = target_values(loci, target)
    test_chroms = args.test_chroms or notes.get("test_chroms") or []
    on_chromosomes(loci, test_chroms, "--test-chroms")
    options = given(args, ("unit", "threshold", "min_width", "merge_gap"))
    if args.elements is not None:
        options["n_elements"] = args.elements
    run = _run_folder(args.model)
    described = describe_model(model_folder(args.model))
    facts = [("regmask_sk of the fit", described.package_version)]
    versions = dict(notes.get("versions") or {})
    versions.pop("regmask_sk", None)
    facts += [(f"{name} of the fit", str(version)) for name, version in versions.items()]
    if run is not None:
        metrics = json.loads((run / "metrics.json").read_text())
        facts.append(("seconds of training", str(metrics.get("seconds"))))
    say(args, f"{len(loci)} genes; predicting, and reading masks of those of the test")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_report(
        args.out,
        model,
        loci,
        y.to_numpy(),
        test_chroms=test_chroms,
        target=target,
        baselines=args.baselines,
        show=args.genes or (),
        predictions=None if run is None else _predictions(run),
        commands=[
            *([notes["command"]] if "command" in notes else []),
            shlex.join(["regmask", *args.words]),
        ],
        facts=facts,
        random_state=args.seed,
        **tables,
        **options,
    )
    say(args, f"wrote {args.out}")


def _run_folder(model: str) -> Path | None:
    """Find what ``fit`` has written beside the model."""
    folder = model_folder(model)
    run = folder.parent
    return run if folder.name == "model" and (run / "metrics.json").is_file() else None


def _predictions(run: Path) -> pd.DataFrame | None:
    path = run / "predictions.tsv"
    if not path.is_file():
        return None
    return pd.read_csv(path, sep="\t", dtype={"gene": str}, keep_default_na=False).set_index("gene")
