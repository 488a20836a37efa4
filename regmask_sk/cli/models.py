"""The trained model of a command, and the genes that it is asked about."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from regmask_sk.cli.genes import read_genes
from regmask_sk.cli.shared_options import LOCI_OPTIONS
from regmask_sk.cli.values import tracks_of


def model_folder(path: str) -> Path:
    """Return the model's folder, given it or the --out folder of fit."""
    folder = Path(path)
    inner = folder / "model"
    return inner if not (folder / "model.json").exists() and inner.is_dir() else folder


def model_and_loci(args: argparse.Namespace) -> tuple[Any, pd.DataFrame, dict[str, Any]]:
    """Load ``--model`` and read ``--loci`` as its fit has read its own.

    Parameters
    ----------
    args : argparse.Namespace
        Of a command with both, and with other files to read.

    Returns
    -------
    (Pipeline, DataFrame, dict)
        The model, the genes, and what the fit has left in notes.
    """
    from sklearn.pipeline import Pipeline

    from regmask_sk.persistence import describe_model, load_model

    folder = model_folder(args.model)
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
        if hasattr(model[-1], "net_"):  # which has read the parameter already
            model[-1].batch_size_ = model[-1].net_.batch_size = args.batch_size
    return model, loci, notes


def _check_file(option: str, path: Any) -> None:
    if path is not None and not os.path.exists(path):
        raise FileNotFoundError(
            f"the model reads {path}, which is not there any more; give it as {option}"
        )
