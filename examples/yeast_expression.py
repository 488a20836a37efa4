"""Yeast: expression and masks from the genome and three ATAC-seq tracks.

Reads the folder of real files (``sacCer3.dev14.fa.gz``, three ATAC bigWigs, ``genes.tsv``,
``regulatory_elements.tsv``), trains on whole chromosomes, tests on chrXIII and chrXIV, and
prints one table: RegMask with soft and hard masks, the position-only mask under the same
predictor, ridge and a random forest on the same tracks in bins, and how well masks find
nucleosome-free regions beside the position-only control.

chrXII is left out: its rDNA repeats hold 40 % of all fragments. Expression tracks are never
inputs. Choices (window length, resolution, epochs) were made on chrVII, chrIX, chrXI
and chrXV.

    python examples/yeast_expression.py DATA              # one seed
    python examples/yeast_expression.py DATA --seeds 5    # mean and spread of five
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from sklearn.ensemble import RandomForestRegressor
from sklearn.pipeline import Pipeline

from regmask_sk import (
    BinnedSignalRegressor,
    RegMaskRegressor,
    SequenceChannels,
    SignalChannels,
    TSSWindows,
    WindowCache,
    Windows,
    export_masks,
    gene_elements,
    mask_average_precision,
    mask_roc_auc,
    plot_locus,
    position_only_mask,
    read_loci,
    read_regions,
    region_labels,
    regression_metrics,
    save_model,
)

TRACKS = ("atac_cuts", "atac_short_cov", "atac_mono_cov")
TARGET = "rnaseq_log2rpkm"
LENGTH = 8192  # bp around the TSS
KMER_LENGTH = 4096  # bp in which the baseline counts 4-mers; it does worse with LENGTH
RESOLUTION = 32  # bp a gate stands for
PROMOTER = 200  # bp always kept
SPARSITY = 0.15  # share of the bases kept, promoter included
NFR_REACH = 500  # bp to either side of the TSS, in which nucleosome-free regions are sought
TEST_CHROMS = ["chrXIII", "chrXIV"]
VALIDATION_CHROMS = ["chrXI"]  # to pick the epoch
LEFT_OUT = ["chrXII"]


def make_pipeline(data: Path, seed: int, verbose: int = 0) -> Pipeline:
    """Windows, sequence, tracks and regressor: what ``regmask fit`` builds from its options."""
    return Pipeline(
        [
            ("windows", TSSWindows(LENGTH, jitter=64)),
            ("sequence", SequenceChannels(data / "sacCer3.dev14.fa.gz")),
            ("signal", SignalChannels({name: data / f"{name}.bw" for name in TRACKS})),
            ("cache", WindowCache()),
            (
                "model",
                RegMaskRegressor(
                    backbone="codon",
                    sparsity=SPARSITY,
                    promoter_length=PROMOTER,
                    resolution=RESOLUTION,
                    max_epochs=12,
                    generator_epochs=3,
                    finetune_epochs=4,
                    continuity_weight=0.5,
                    weight_decay=0.1,
                    validation_chroms=VALIDATION_CHROMS,
                    random_state=seed,
                    verbose=verbose,
                ),
            ),
        ]
    )


def run_seed(data: Path, seed: int, out: Path | None = None) -> pd.DataFrame:
    """Train one seed; one row a way of reading the mask, scored on the test chromosomes."""
    loci = read_loci(data / "genes.tsv", tss_base=0)
    loci = loci[~loci["chrom"].isin(LEFT_OUT)]
    test = loci["chrom"].isin(TEST_CHROMS)
    train_loci, test_loci = loci[~test], loci[test]
    y_test = test_loci[TARGET].to_numpy()
    started = time.perf_counter()
    pipeline = make_pipeline(data, seed, verbose=int(out is not None))
    pipeline.fit(train_loci, train_loci[TARGET])
    seconds = time.perf_counter() - started

    model: RegMaskRegressor = pipeline[-1]
    train, windows = (pipeline[:-1].transform(table) for table in (train_loci, test_loci))
    rows: dict[str, dict[str, float]] = {}
    predicted: dict[str, np.ndarray] = {}
    for kind in ("soft", "hard"):
        model.set_params(mask=kind)
        masks = model.transform(windows)
        # What `predict` gives, without computing the masks a second time.
        predicted[kind] = model.predict_masked(windows, masks)
        rows[f"RegMask, {kind} mask"] = {
            **regression_metrics(y_test, predicted[kind]),
            **nfr_scores(data, windows, masks),
            "kept": float(masks.mean()),
        }
    model.set_params(mask="soft")
    position = position_only_mask(model.transform(train))
    most_open = (position >= np.quantile(position, 1.0 - SPARSITY)).astype(np.float32)
    rows["position-only mask, same predictor"] = {
        **regression_metrics(y_test, model.predict_masked(windows, most_open)),
        **nfr_scores(data, windows, np.broadcast_to(position, (len(windows), LENGTH))),
        "kept": float(most_open.mean()),
    }
    rows["open window, same predictor"] = {
        **regression_metrics(y_test, model.predict_masked(windows, np.ones(LENGTH))),
        "kept": 1.0,
    }
    if out is not None:
        write_results(out, data, pipeline, windows, predicted["soft"], y_test)
    table = pd.DataFrame(rows).T
    table["minutes"] = [seconds / 60, *[np.nan] * (len(table) - 1)]
    return table


def nfr_scores(data: Path, windows: Windows, masks: np.ndarray) -> dict[str, float]:
    """Nucleosome-free regions against the mask's values within `NFR_REACH` of the TSS.

    The second figure compares genes at each position: a mask that knows the position alone
    has .5 there by construction.
    """
    regions = read_regions(data / "regulatory_elements.tsv")
    regions = regions[regions["type"] == "NFR"]
    near = slice(LENGTH // 2 - NFR_REACH, LENGTH // 2 + NFR_REACH)
    labels = region_labels(windows, regions, gene_column="gene")[:, near]
    return {
        "NFR AUROC": mask_roc_auc(masks[:, near], labels),
        "NFR AP": mask_average_precision(masks[:, near], labels),
        "NFR AUROC at equal position": mask_roc_auc(masks[:, near], labels, within="position"),
    }


def position_profile_control(data: Path) -> dict[str, float]:
    """Score the mean profile of the training genes' NFRs, the same for every gene."""
    loci = read_loci(data / "genes.tsv", tss_base=0)
    loci = loci[~loci["chrom"].isin(LEFT_OUT)]
    test = loci["chrom"].isin(TEST_CHROMS)
    windows = TSSWindows(LENGTH).fit_transform(loci)
    regions = read_regions(data / "regulatory_elements.tsv")
    nfr = regions[regions["type"] == "NFR"]
    profile = region_labels(windows[~test.to_numpy()], nfr, gene_column="gene").mean(axis=0)
    held_out = windows[test.to_numpy()]
    return nfr_scores(data, held_out, np.broadcast_to(profile, (len(held_out), LENGTH)))


def plain_baselines(data: Path, seed: int) -> pd.DataFrame:
    """Ridge and a random forest on log1p of the raw tracks in 50-bp bins within 1 kb."""
    loci = read_loci(data / "genes.tsv", tss_base=0)
    loci = loci[~loci["chrom"].isin(LEFT_OUT)]
    test = loci["chrom"].isin(TEST_CHROMS)
    forest = RandomForestRegressor(
        300, min_samples_leaf=3, max_features=0.3, n_jobs=-1, random_state=seed
    )
    rows = {}
    for name, baseline, length, sequence in (
        ("ridge, binned tracks", BinnedSignalRegressor(), 2000, False),
        ("random forest, binned tracks", BinnedSignalRegressor(forest), 2000, False),
        ("ridge, binned tracks and 4-mers", BinnedSignalRegressor(kmer_size=4), KMER_LENGTH, True),
    ):
        pipeline = make_pipeline(data, seed)
        pipeline.set_params(windows=TSSWindows(length), cache="passthrough", model=baseline)
        if not sequence:
            pipeline.set_params(sequence="passthrough")
        pipeline.fit(loci[~test], loci.loc[~test, TARGET])
        rows[name] = regression_metrics(loci.loc[test, TARGET], pipeline.predict(loci[test]))
    return pd.DataFrame(rows).T


def write_results(
    out: Path,
    data: Path,
    pipeline: Pipeline,
    windows: Windows,
    predicted: np.ndarray,
    y_test: np.ndarray,
) -> None:
    """Model, history, predictions, masks and a picture of one seed."""
    out.mkdir(parents=True, exist_ok=True)
    model = pipeline[-1]
    kept = [step for step in pipeline.steps if step[0] != "cache"]
    save_model(Pipeline(kept), out / "model", overwrite=True)
    model.history_.to_csv(out / "history.tsv", sep="\t", index=False)
    table = {"predicted": predicted, "measured": y_test}
    pd.DataFrame(table, index=windows.loci.index).to_csv(out / "predictions.tsv", sep="\t")
    export_masks(model, windows, bigwig=out / "masks.bw", bed=out / "elements.bed", overwrite=True)
    regions = read_regions(data / "regulatory_elements.tsv")
    row = int(np.argmax(y_test))
    mask = model.transform(windows[[row]])[0]
    own = regions[(regions["type"] == "NFR") & (regions["gene"] == windows.loci.index[row])]
    figure = plot_locus(windows, row, mask, elements=gene_elements(windows, row, mask), known=own)
    figure.savefig(out / "locus.png", dpi=150)


def main(argv: list[str] | None = None) -> None:
    """Run the seeds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of the yeast files")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds (default 1)")
    parser.add_argument("--n-jobs", type=int, default=1, help="seeds at a time (default 1)")
    parser.add_argument("--out", type=Path, default=Path("yeast"), help="folder for results")
    arguments = parser.parse_args(argv)
    if not (arguments.data / "genes.tsv").is_file():
        parser.error(f"{arguments.data} has no genes.tsv; name the folder of the yeast files")

    started = time.perf_counter()
    runs: list[Any] = Parallel(n_jobs=arguments.n_jobs)(
        delayed(run_seed)(arguments.data, seed, arguments.out if seed == 0 else None)
        for seed in range(arguments.seeds)
    )
    every = pd.concat(runs, keys=range(len(runs)), names=["seed", "model"])
    arguments.out.mkdir(parents=True, exist_ok=True)
    every.to_csv(arguments.out / "seeds.tsv", sep="\t")
    mean = every.groupby("model", sort=False).mean()
    baselines = plain_baselines(arguments.data, seed=0)
    control = pd.DataFrame(
        {"mean NFR profile of other genes": position_profile_control(arguments.data)}
    ).T
    columns = [
        "pearson", "spearman", "r2", "mae", "kept",
        "NFR AUROC", "NFR AP", "NFR AUROC at equal position", "minutes",
    ]  # fmt: skip
    table = pd.concat([mean, baselines, control]).reindex(columns=columns)
    print(f"test on {' and '.join(TEST_CHROMS)}, mean of {len(runs)} seeds")
    print(table.to_string(float_format="{:.3f}".format, na_rep="-"))
    if len(runs) > 1:
        spread = every.groupby("model", sort=False).std()[["pearson", "spearman", "r2", "kept"]]
        print("\nstandard deviation over seeds")
        print(spread.to_string(float_format="{:.3f}".format))
    print(
        f"\n{(time.perf_counter() - started) / 60:.1f} minutes in all; results in {arguments.out}"
    )


if __name__ == "__main__":
    main()
