"""Yeast: how many of the bases to keep, by a search with cross-validation over chromosomes.

Reads the folder of real files of ``examples/yeast_expression.py``: sequence and three ATAC-seq
tracks in windows of 2,048 bp in, RNA-seq expression out. ``tune_sparsity`` searches for the
sparsity, the learning rate and the dropout of a small model, by three folds of whole chromosomes,
and chooses the sparsest trial within one standard error of the lowest error. chrXIII and chrXIV
take no part in it: a model with the chosen parameters, fitted on all other chromosomes, is scored
on them once. chrXII is left out.

    python examples/yeast_tuning.py DATA --n-jobs 2           # the search, two trials at a time
    python examples/yeast_tuning.py DATA --n-jobs 2 --grid    # and a grid on the same folds

Networks are small and are trained briefly: 4 epochs under random masks, 2 in each of the later
stages. The grid runs as many sparsities to their end, at the default learning rate and dropout.
Trials that run at the same time end in any order, so that two searches differ; two grids do not.
Under ``--out``: trials.tsv, pareto.png, importances.tsv and importances.png, with ``--grid``
grid.tsv too, and the windows that were read (cache/).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from sklearn.base import clone
from sklearn.pipeline import Pipeline

from regmask_sk import (
    ChromosomeKFold,
    RegMaskRegressor,
    SequenceChannels,
    SignalChannels,
    SparsityTuning,
    TSSWindows,
    WindowCache,
    read_loci,
    regression_metrics,
    tune_sparsity,
)

TRACKS = ("atac_cuts", "atac_short_cov", "atac_mono_cov")
TARGET = "rnaseq_log2rpkm"
LENGTH = 2048  # bp around the TSS
PROMOTER = 200  # bp always kept, .098 of the window
SPARSITY = (0.11, 0.6)  # shares of the bases, promoter included, between which to search
SEARCHED = {
    "model__learning_rate": FloatDistribution(1e-3, 1e-2, log=True),
    "model__dropout": FloatDistribution(0.0, 0.3),
}
TEST_CHROMS = ["chrXIII", "chrXIV"]
LEFT_OUT = ["chrXII"]


def make_pipeline(data: Path, cache: Path, epochs: int) -> Pipeline:
    """Windows, sequence, tracks and a small regressor with `epochs` in its first stage."""
    return Pipeline(
        [
            ("windows", TSSWindows(LENGTH)),
            ("sequence", SequenceChannels(data / "sacCer3.dev14.fa.gz")),
            (
                "signal",
                SignalChannels({name: data / f"{name}.bw" for name in TRACKS}, random_state=0),
            ),
            ("cache", WindowCache(cache)),
            (
                "model",
                RegMaskRegressor(
                    backbone="codon",
                    promoter_length=PROMOTER,
                    resolution=32,
                    d_model=32,
                    n_layers=2,
                    max_epochs=epochs,
                    weight_decay=0.1,
                    random_state=0,
                ),
            ),
        ]
    )


def grid_search(
    pipeline: Pipeline, loci: pd.DataFrame, y: pd.Series, n_sparsities: int, **settings: Any
) -> SparsityTuning:
    """Run each of a grid of sparsities to its end, and choose as the search does."""
    with tempfile.TemporaryDirectory() as folder:  # of a file that all processes see
        storage = JournalStorage(JournalFileBackend(str(Path(folder) / "grid.log")))
        study = optuna.create_study(storage=storage, study_name="grid", directions=["minimize"] * 2)
        for sparsity in np.geomspace(*SPARSITY, n_sparsities):
            study.enqueue_trial({"model__sparsity": float(sparsity)})
        return tune_sparsity(
            pipeline, loci, y, n_trials=n_sparsities, sparsity=SPARSITY, prune=False, refit=False,
            storage=storage, study_name="grid", **settings,
        )  # fmt: skip


def tell(trials: pd.DataFrame) -> None:
    """Print the last trial that is over."""
    trials = trials[trials["state"].isin(["COMPLETE", "PRUNED"])]
    last = trials.iloc[-1]
    print(
        f"trial {len(trials)}: sparsity {last['model__sparsity']:.3f}, error {last['error']:.3f}, "
        f"kept {last['kept']:.3f}, {last['n_folds']} folds, {last['seconds']:.0f} s",
        flush=True,
    )


def show(rows: dict[str, dict[str, float]]) -> None:
    """Print what was chosen."""
    table = pd.DataFrame(rows).T.astype(float)
    print(table.to_string(float_format="{:.3f}".format), flush=True)


def main(argv: list[str] | None = None) -> None:
    """Search, write the tables and pictures, and score what was chosen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of the yeast files")
    parser.add_argument("--trials", type=int, default=10, help="of the search (default 10)")
    parser.add_argument("--folds", type=int, default=3, help="of chromosomes (default 3)")
    parser.add_argument("--epochs", type=int, default=4, help="of the first stage (default 4)")
    parser.add_argument("--grid", action="store_true", help="run a grid for comparison, too")
    parser.add_argument("--n-jobs", type=int, default=1, help="trials at a time (default 1)")
    parser.add_argument("--out", type=Path, default=Path("yeast-tuning"), help="results")
    arguments = parser.parse_args(argv)
    if not (arguments.data / "genes.tsv").is_file():
        parser.error(f"{arguments.data} has no genes.tsv; name the folder of the yeast files")
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    loci = read_loci(arguments.data / "genes.tsv", tss_base=0)
    loci = loci[~loci["chrom"].isin(LEFT_OUT)]
    y = loci.pop(TARGET)
    test = loci["chrom"].isin(TEST_CHROMS)
    pipeline = make_pipeline(arguments.data, out / "cache", arguments.epochs)
    settings = {
        "cv": ChromosomeKFold(arguments.folds), "n_jobs": arguments.n_jobs, "callback": tell
    }  # fmt: skip
    print(f"{arguments.trials} trials, {arguments.folds} folds of {int((~test).sum())} genes")

    def on_test(result: SparsityTuning, started: float) -> dict[str, float]:
        """Score what was chosen on the chromosomes that took no part in the choice."""
        minutes = (time.perf_counter() - started) / 60
        model = clone(pipeline).set_params(**result.best_params_).fit(loci[~test], y[~test])
        scores = regression_metrics(y[test], model.predict(loci[test]))
        best = result.trials.loc[result.best_number_]
        return {
            "sparsity": best["model__sparsity"],
            **best[["error", "error_se", "kept"]],
            "minutes": minutes,
            "test mse": scores["mse"],
            "test pearson": scores["pearson"],
            "test kept": model.transform(loci[test]).mean(),
        }

    started = time.perf_counter()
    found = tune_sparsity(
        pipeline, loci[~test], y[~test], n_trials=arguments.trials, sparsity=SPARSITY,
        search_space=SEARCHED, refit=False, random_state=0, **settings,
    )  # fmt: skip
    found.trials.to_csv(out / "trials.tsv", sep="\t")
    found.plot().savefig(out / "pareto.png", dpi=150)
    if (found.trials["state"] == "COMPLETE").sum() > 1:
        matter = pd.DataFrame({name: found.importances(name) for name in ("error", "kept")})
        matter.to_csv(out / "importances.tsv", sep="\t", index_label="parameter")
        found.plot_importances().savefig(out / "importances.png", dpi=150)
        print(matter.to_string(float_format="{:.2f}".format))
    rows = {"search": on_test(found, started)}
    show(rows)

    if arguments.grid:
        started = time.perf_counter()
        grid = grid_search(pipeline, loci[~test], y[~test], arguments.trials, **settings)
        grid.trials.to_csv(out / "grid.tsv", sep="\t")
        rows["grid"] = on_test(grid, started)
        show(rows)


if __name__ == "__main__":
    main()
