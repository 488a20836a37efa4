"""Yeast: RegMask and its rivals on the same windows, splits and seeds, in one table.

Reads the folder of real files of ``examples/yeast_expression.py`` and runs ``compare`` on windows
of 2,048 bp: sequence and three ATAC-seq tracks in, RNA-seq expression out. Networks are trained
for 16 epochs, RegMask for 16 over its three stages. Every network has the same width, depth,
grain and weight decay where it has them; other parameters keep their defaults, but for those that
a window of 2 kb does not allow. chrXII is left out.

    python examples/yeast_benchmark.py DATA                     # chrXIII and chrXIV, one seed
    python examples/yeast_benchmark.py DATA --seeds 3
    python examples/yeast_benchmark.py DATA --leave-chromosome-out --estimators mean ridge boosting
    python examples/yeast_benchmark.py DATA --bodies            # RegMask with each of its bodies
    python examples/yeast_benchmark.py DATA --training          # its ways of training

Finished cells are kept under ``--out``, from which an interrupted run goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.model_selection import LeaveOneGroupOut
from sklearn.pipeline import Pipeline

from regmask_sk import (
    BackboneRegressor,
    BinnedSignalRegressor,
    EnformerRegressor,
    EPInformerRegressor,
    GraphRegRegressor,
    PeakMaskRegressor,
    PositionMaskRegressor,
    PrismRegressor,
    RegMaskRegressor,
    SequenceChannels,
    SignalChannels,
    TSSWindows,
    WindowCache,
    compare,
    read_loci,
)

TRACKS = ("atac_cuts", "atac_short_cov", "atac_mono_cov")
COVERAGE = "atac_short_cov"  # of the fragments of open chromatin: what elements are made of
TARGET = "rnaseq_log2rpkm"
LENGTH = 2048  # bp around the TSS
SPARSITY = 0.15  # share of the bases kept, promoter included
PROMOTER = 200  # bp always kept
EPOCHS = 16
TEST_CHROMS = ["chrXIII", "chrXIV"]
VALIDATION_CHROMS = ["chrXI"]  # to pick the epoch
LEFT_OUT = ["chrXII"]
BODIES = ("conv", "codon", "transformer", "mamba", "caduceus", "hyena")


def make_estimators(leave_out: bool) -> dict[str, BaseEstimator]:
    """Name and make every estimator of the tables."""
    # With all chromosomes tested in turn, a tenth of those that train picks the epoch.
    valid: dict[str, Any] = {} if leave_out else {"validation_chroms": VALIDATION_CHROMS}
    training = {"weight_decay": 0.1, **valid}
    body: dict[str, Any] = {"resolution": 32, "d_model": 64, "n_layers": 4, **training}
    unmasked = {"max_epochs": EPOCHS, **body}

    def masked(backbone: str, mask: str = "soft", **changed: Any) -> RegMaskRegressor:
        stages = {"max_epochs": EPOCHS - 6, "generator_epochs": 3, "finetune_epochs": 3}
        return RegMaskRegressor(
            backbone=backbone,
            mask=mask,
            sparsity=SPARSITY,
            promoter_length=PROMOTER,
            **{**stages, **body, **changed},
        )

    forest = RandomForestRegressor(300, min_samples_leaf=3, max_features=1 / 3)
    published = {"readout": "center", **unmasked}
    return {
        "RegMask, soft": masked("codon"),
        "RegMask, hard": masked("codon", "hard"),
        "position-only mask": PositionMaskRegressor(masked("codon")),
        "peak mask": PeakMaskRegressor(
            track=COVERAGE, promoter_length=PROMOTER, backbone="codon", **unmasked
        ),
        "codon, no mask": BackboneRegressor(backbone="codon", **unmasked),
        "conv, no mask": BackboneRegressor(backbone="conv", **unmasked),
        "Mamba": BackboneRegressor(backbone="mamba", **published),
        "Caduceus": BackboneRegressor(backbone="caduceus", **published),
        "HyenaDNA": BackboneRegressor(backbone="hyena-causal", **published),
        "Prism": PrismRegressor(**unmasked),
        "Enformer, reduced": EnformerRegressor(max_epochs=EPOCHS, **training),
        "EPInformer, 64 filters": EPInformerRegressor(
            track=COVERAGE, n_filters=64, promoter_length=1000, frame_length=1000,
            max_epochs=EPOCHS, **valid,
        ),
        "GraphReg, bins of 128 bp": GraphRegRegressor(
            bin_size=128, resolution=16, d_model=64, max_epochs=EPOCHS, **training
        ),
        "ridge": BinnedSignalRegressor(kmer_size=4),
        "random forest": BinnedSignalRegressor(forest, kmer_size=4),
        "boosting": BinnedSignalRegressor(HistGradientBoostingRegressor(), kmer_size=4),
        "mean": DummyRegressor(),
        **{f"RegMask, body {name}": masked(name) for name in BODIES},
        "RegMask, without the last stage": masked(
            "codon", max_epochs=EPOCHS - 3, finetune_epochs=0
        ),
        "RegMask, joint": masked("codon", training="joint", max_epochs=EPOCHS),
    }  # fmt: skip


def on_windows(data: Path, model: BaseEstimator) -> Pipeline:
    """Put the steps that read windows before a model."""
    return Pipeline(
        [
            ("windows", TSSWindows(LENGTH)),
            ("sequence", SequenceChannels(data / "sacCer3.dev14.fa.gz")),
            ("signal", SignalChannels({name: data / f"{name}.bw" for name in TRACKS})),
            ("cache", WindowCache()),
            ("model", model),
        ]
    )


def make_splits(loci: pd.DataFrame, leave_out: bool) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Training and test rows: two chromosomes held out, or each in its turn."""
    chroms = loci["chrom"].to_numpy(dtype=str)
    if leave_out:
        splits = LeaveOneGroupOut().split(loci, groups=chroms)
        return {str(chroms[test][0]): (train, test) for train, test in splits}
    test = np.isin(chroms, TEST_CHROMS)
    return {"+".join(TEST_CHROMS): (np.flatnonzero(~test), np.flatnonzero(test))}


def main(argv: list[str] | None = None) -> None:
    """Run the cells that are missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of the yeast files")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds (default 1)")
    parser.add_argument("--n-jobs", type=int, default=1, help="fits at a time (default 1)")
    parser.add_argument("--estimators", nargs="+", metavar="NAME", help="some of them, by name")
    parser.add_argument("--bodies", action="store_true", help="RegMask with each of its bodies")
    parser.add_argument("--training", action="store_true", help="RegMask trained in three ways")
    parser.add_argument("--leave-chromosome-out", action="store_true", help="test each in turn")
    parser.add_argument("--out", type=Path, default=Path("yeast-benchmark"), help="results")
    arguments = parser.parse_args(argv)
    if not (arguments.data / "genes.tsv").is_file():
        parser.error(f"{arguments.data} has no genes.tsv; name the folder of the yeast files")
    every = make_estimators(arguments.leave_chromosome_out)
    bodies = [name for name in every if name.startswith("RegMask, body ")]
    trainings = ["RegMask, without the last stage", "RegMask, joint"]
    if arguments.estimators:
        names = arguments.estimators
    elif arguments.bodies or arguments.training:
        names = bodies * arguments.bodies + ["RegMask, soft", *trainings] * arguments.training
    else:
        names = [name for name in every if name not in (*bodies, *trainings)]
    if unknown := [name for name in names if name not in every]:
        parser.error(f"no estimator {', '.join(unknown)}; known are {', '.join(every)}")

    loci = read_loci(arguments.data / "genes.tsv", tss_base=0)
    loci = loci[~loci["chrom"].isin(LEFT_OUT)]
    result = compare(
        {name: on_windows(arguments.data, every[name]) for name in names},
        loci.drop(columns=TARGET),
        loci[TARGET],
        cv=make_splits(loci, arguments.leave_chromosome_out),
        seeds=range(arguments.seeds),
        out=arguments.out,
        n_jobs=arguments.n_jobs,
        isolate=True,
        verbose=1,
    )
    result.save(arguments.out)
    print(result.to_markdown())


if __name__ == "__main__":
    main()
