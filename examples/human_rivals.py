"""Human: every long-window model trains on windows of 131 kb and predicts; seconds and memory.

Reads the folder of ``human_long_windows.py``, its sibling: sequence and DNase of ten samples in,
CAGE at the promoter out, 27 genes to train on, 7 to predict. Every network trains for the same few
epochs, one window a batch, at the width and the grain of that example where it has them; other
parameters keep their defaults. Prism is the control that reads 2 kb. Each fit is a process of its
own, so that its peak memory is known.

34 genes allow no statement about accuracy: the scores that the progress shows mean nothing.

    OMP_NUM_THREADS=1 python examples/human_rivals.py DATA
    python examples/human_rivals.py DATA --estimators Caduceus GraphReg --epochs 2

Finished fits are kept under ``--out``, from which an interrupted run goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from human_long_windows import LENGTH, RESOLUTION, SPARSITY, read_tracks
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline

from regmask_sk import (
    BackboneRegressor,
    BinnedSignalRegressor,
    EnformerRegressor,
    EPInformerRegressor,
    GraphRegRegressor,
    PeakMaskRegressor,
    PrismRegressor,
    RegMaskRegressor,
    SequenceChannels,
    SignalChannels,
    TSSWindows,
    compare,
    read_loci,
)

SHORT = 2048  # bp, of the control


def make_estimators(track: str, epochs: int) -> dict[str, BaseEstimator]:
    """Name and make every estimator; `track` is the accessibility that elements are found on."""
    training: dict[str, Any] = {
        "max_epochs": epochs,
        "batch_size": 1,
        "validation_fraction": 0.0,  # too few genes to judge epochs by some of them
    }
    body: dict[str, Any] = {"resolution": RESOLUTION, "d_model": 32, **training}
    stages = {"generator_epochs": epochs, "finetune_epochs": epochs}
    published = {"readout": "center", **body}
    return {
        "RegMask, caduceus": RegMaskRegressor(
            backbone="caduceus", sparsity=SPARSITY, **stages, **body
        ),
        "RegMask, conv": RegMaskRegressor(backbone="conv", sparsity=SPARSITY, **stages, **body),
        "Caduceus": BackboneRegressor(backbone="caduceus", **published),
        "Mamba": BackboneRegressor(backbone="mamba", **published),
        "HyenaDNA": BackboneRegressor(backbone="hyena-causal", **published),
        "Enformer, reduced": EnformerRegressor(**training),
        "EPInformer": EPInformerRegressor(track=track, **training),
        "GraphReg": GraphRegRegressor(**training),
        "peak mask": PeakMaskRegressor(track=track, **body),
        "Prism, 2 kb": PrismRegressor(**body),
        "ridge": BinnedSignalRegressor(bin_size=1024),
    }


def main(argv: list[str] | None = None) -> None:
    """Run the fits that are missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of the human files")
    parser.add_argument("--estimators", nargs="+", metavar="NAME", help="some of them, by name")
    parser.add_argument("--epochs", type=int, default=1, help="of each stage (default 1)")
    parser.add_argument("--length", type=int, default=LENGTH, help=f"bp (default {LENGTH})")
    parser.add_argument("--out", type=Path, default=Path("human-rivals"), help="results")
    arguments = parser.parse_args(argv)
    if not (arguments.data / "tracks.tsv").is_file():
        parser.error(f"{arguments.data} has no tracks.tsv; name the folder of the human files")
    tracks = read_tracks(arguments.data)
    every = make_estimators(next(iter(tracks)), arguments.epochs)
    names = arguments.estimators or list(every)
    if unknown := [name for name in names if name not in every]:
        parser.error(f"no estimator {', '.join(unknown)}; known are {', '.join(every)}")

    loci = read_loci(arguments.data / "genes.tsv", tss_base=0, chrom_column="contig")
    train = (loci["split"] == "train").to_numpy()
    y = np.log1p(loci["cage_mean12"])

    def on_windows(name: str) -> Pipeline:
        length = min(SHORT, arguments.length) if name.startswith("Prism") else arguments.length
        return Pipeline(
            [
                ("windows", TSSWindows(length)),
                ("sequence", SequenceChannels(arguments.data / "hg38_regions.fa.gz")),
                ("signals", SignalChannels(tracks)),
                ("model", every[name]),
            ]
        )

    result = compare(
        {name: on_windows(name) for name in names},
        loci[["chrom", "tss", "strand"]],  # without what was measured
        y,
        cv={"held out": (np.flatnonzero(train), np.flatnonzero(~train))},
        out=arguments.out,
        isolate=True,
        verbose=1,
    )
    cells = result.cells.set_index("estimator")
    for name, error in cells.loc[cells["error"] != "", "error"].items():
        print(f"{name} failed: {error}")
    table = cells[["n_parameters", "fit_seconds", "predict_seconds", "peak_memory_mb"]].copy()
    table["predict_seconds"] /= int((~train).sum())
    table.columns = ["parameters", "fit s", "predict s a gene", "peak MB"]
    print(f"windows of {arguments.length:,} bp, {arguments.epochs} epoch(s) of {train.sum()} genes")
    formats = ["{:,.0f}", "{:,.1f}", "{:.4f}", "{:,.0f}"]
    print(table.to_string(formatters=[each.format for each in formats]))


if __name__ == "__main__":
    main()
