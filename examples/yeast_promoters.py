"""Yeast promoters in a reporter assay: 110 bp of sequence, no tracks, no genome.

Reads a table of sequences with their measured expression and the predictions of a published
model (columns ``sequence, measured_expression, published_model_prediction``), writes the
sequences to a FASTA file, one contig each, and compares RegMask and the bodies with ridge and
boosting on k-mer counts by five-fold cross-validation. Sequences that share a stretch of 20 bp
of their variable part fall into the same fold. The published model was trained on tens of
millions of other promoters: it is an upper reference, no competitor.

    python examples/yeast_promoters.py native_complex_media.tsv.gz
    python examples/yeast_promoters.py native_complex_media.tsv.gz --seeds 3 --n-jobs 2
    python examples/yeast_promoters.py native_complex_media.tsv.gz --only-fold 1
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline

from regmask_sk import (
    BackboneRegressor,
    BinnedSignalRegressor,
    RegMaskRegressor,
    SequenceChannels,
    TSSWindows,
    WindowCache,
    compare,
    regression_metrics,
)

SHARED = 20  # bp: sequences with a stretch of this length in common are kept together
RESOLUTION = 2  # bp a gate stands for
SPARSITY = 0.4  # share of the bases kept


def related(sequences: list[str]) -> np.ndarray:
    """Group sequences of one length that share `SHARED` bp, directly or by way of others.

    Flanks that all have are cut off before; stretches that more than a tenth of them have are
    what is left of them.
    """
    letters = np.array([list(sequence) for sequence in sequences])
    differ = np.flatnonzero((letters != letters[0]).any(axis=0))
    sequences = [sequence[differ[0] : differ[-1] + 1] for sequence in sequences]
    rows, columns = [], []
    known: dict[str, int] = {}
    for row, sequence in enumerate(sequences):
        for start in range(len(sequence) - SHARED + 1):
            rows.append(row)
            word = sequence[start : start + SHARED]
            columns.append(known.setdefault(word, len(known)))
    once = np.unique(np.stack([rows, columns], axis=1), axis=0)
    common = np.bincount(once[:, 1]) > 0.1 * len(sequences)
    once = once[~common[once[:, 1]]]
    n, m = len(sequences), len(known)
    edges = coo_matrix((np.ones(len(once)), (once[:, 0], once[:, 1] + n)), shape=(n + m, n + m))
    return np.asarray(connected_components(edges, directed=False)[1][:n])


def write_contigs(path: Path, sequences: list[str]) -> pd.DataFrame:
    """Write a FASTA with a contig a sequence, and make the table of windows in their middles."""
    names = [f"promoter{i}" for i in range(len(sequences))]
    text = "".join(f">{name}\n{bases}\n" for name, bases in zip(names, sequences, strict=True))
    if not path.exists() or path.read_text() != text:  # a new file would make new cells
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    middle = len(sequences[0]) // 2
    loci = pd.DataFrame({"chrom": names, "tss": middle, "strand": "+"})
    return loci.set_index(pd.Index(names, name="gene"))


def make_estimators() -> dict[str, BaseEstimator]:
    """Name and make the estimators of the table."""
    body: dict[str, Any] = {"resolution": RESOLUTION, "d_model": 64, "weight_decay": 0.1}

    def masked(mask: str) -> RegMaskRegressor:
        return RegMaskRegressor(
            mask=mask, sparsity=SPARSITY, promoter_length=0, max_epochs=60,
            generator_epochs=10, finetune_epochs=30, **body,
        )  # fmt: skip

    bodies = {
        name: BackboneRegressor(backbone=backbone, max_epochs=24, **body)
        for name, backbone in {
            "conv, no mask": "conv",
            "Mamba, no mask": "mamba",
            "Caduceus, no mask": "caduceus",
            "Hyena, no mask": "hyena",
        }.items()
    }
    boosting = HistGradientBoostingRegressor()
    return {
        "RegMask, soft": masked("soft"),
        "RegMask, hard": masked("hard"),
        **bodies,
        "ridge, 5-mers": BinnedSignalRegressor(kmer_size=5),
        "boosting, 4-mers": BinnedSignalRegressor(boosting, kmer_size=4),
        "mean": DummyRegressor(),
    }


def main(argv: list[str] | None = None) -> None:
    """Run the cells and print the table, with the published model's r on the same rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, help="TSV of sequences and measurements")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds (default 1)")
    parser.add_argument("--folds", type=int, default=5, help="number of folds (default 5)")
    parser.add_argument("--only-fold", type=int, metavar="N", help="run one of them, from 1")
    parser.add_argument("--n-jobs", type=int, default=1, help="fits at a time (default 1)")
    parser.add_argument("--estimators", nargs="+", metavar="NAME", help="some of them, by name")
    parser.add_argument("--out", type=Path, default=Path("yeast-promoters"), help="results")
    arguments = parser.parse_args(argv)
    table = pd.read_csv(arguments.table, sep="\t")
    missing = {"sequence", "measured_expression"} - set(table.columns)
    if missing:
        parser.error(f"{arguments.table} lacks the columns {sorted(missing)}")
    lengths = table["sequence"].str.len()
    table = table[lengths == lengths.mode()[0]].reset_index(drop=True)
    every = make_estimators()
    names = arguments.estimators or list(every)
    if unknown := [name for name in names if name not in every]:
        parser.error(f"no estimator {', '.join(unknown)}; known are {', '.join(every)}")

    sequences = table["sequence"].tolist()
    groups = related(sequences)
    sizes = np.bincount(groups)
    print(
        f"{len(table)} of {len(lengths)} sequences, those of {lengths.mode()[0]} bp, in "
        f"{len(sizes)} groups, the largest of {sizes.max()}"
    )
    fasta = arguments.out / "promoters.fa"
    loci = write_contigs(fasta, sequences)
    steps = [
        ("windows", TSSWindows(len(sequences[0]))),
        ("sequence", SequenceChannels(fasta)),
        ("cache", WindowCache()),
    ]
    folds = {
        f"fold{number}": split
        for number, split in enumerate(
            GroupKFold(arguments.folds).split(sequences, groups=groups), start=1
        )
        if arguments.only_fold in (None, number)
    }
    if not folds:
        parser.error(f"--only-fold is {arguments.only_fold}; expected 1 to {arguments.folds}")
    result = compare(
        {name: Pipeline([*steps, ("model", every[name])]) for name in names},
        loci,
        table["measured_expression"],
        cv=folds,
        seeds=range(arguments.seeds),
        out=arguments.out,
        n_jobs=arguments.n_jobs,
        verbose=1,
    )
    result.save(arguments.out)
    print(result.to_markdown())
    if "published_model_prediction" in table:
        measured = table["measured_expression"]
        published = regression_metrics(measured, table["published_model_prediction"])
        print(f"the published model on all rows: pearson {published['pearson']:.3f}")


if __name__ == "__main__":
    main()
