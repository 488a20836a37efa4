"""Are the masks true? Ways of training, scored on planted genomes whose elements are known.

For each seed a genome is simulated (``simulate_genome``: an element acts only where a motif and
open chromatin meet; open chromatin without a motif and motifs in closed chromatin are decoys),
and RegMask is trained on six chromosomes in three ways:

- ``decoupled``, the default: predictor under random masks, generator against it, both together;
- ``decoupled, no last stage``: ``finetune_epochs=0``;
- ``joint``: the published objective.

Scored on the two other chromosomes: Pearson's r under soft and hard masks, the share kept by
the hard ones, the average precision (AP) of the mask against the acting elements, promoter left
out, and EVAL-X (Jethani et al., 2021): r of a second predictor, which was trained under random
masks alone with another seed, when it reads the hard masks. A mask that carries a code for its
own predictor has a high r and a low EVAL-X. Beside them the controls: the smoothed accessibility
track (best of four widths), the position-only mask, and a random forest on the binned tracks.

    python examples/planted_masks.py --seeds 5 --n-jobs 2
    python examples/planted_masks.py --sites 2      # two sites of its motif in each element
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

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
    mask_average_precision,
    position_only_mask,
    read_loci,
    region_labels,
    regression_metrics,
    simulate_genome,
    smoothed_track,
)

LENGTH = 1024  # bp
PROMOTER = 96  # bp always kept
SPARSITY = 0.2
TEST_CHROMS = ("chr7", "chr8")
SMOOTHING = (1, 32, 64, 96)  # bp
WAYS = ("decoupled", "decoupled, no last stage", "joint")


def make_model(way: str, epochs: int, seed: int) -> RegMaskRegressor:
    """RegMask, to be trained in one of the ways."""
    model = RegMaskRegressor(
        sparsity=SPARSITY,
        promoter_length=PROMOTER,
        reverse_complement="augment",
        max_epochs=epochs,
        generator_epochs=6,
        finetune_epochs=6,
        random_state=seed,
    )
    if way == "joint":
        # As many epochs in all; the prior's mean is the budget of the other ways.
        model.set_params(training="joint", prior_mean=SPARSITY, max_epochs=epochs + 12)
    elif way != "decoupled":
        # Another seed: its predictor, which has seen random masks alone, judges the others.
        model.set_params(finetune_epochs=0, random_state=seed + 1000)
    return model


def run_seed(seed: int, *, sites: int, epochs: int, n_genes: int) -> pd.DataFrame:
    """Simulate a genome, train in each way, score masks and controls."""
    with tempfile.TemporaryDirectory() as folder:
        genome = simulate_genome(
            Path(folder) / "genome",
            n_genes=n_genes,
            length=LENGTH,
            sites_per_element=sites,
            random_state=seed,
        )
        loci = read_loci(genome.loci_path, tss_base=0)
        test = loci["chrom"].isin(TEST_CHROMS).to_numpy()
        features = Pipeline(
            [
                ("windows", TSSWindows(LENGTH, jitter=16)),
                ("sequence", SequenceChannels(genome.fasta)),
                ("signal", SignalChannels(genome.tracks)),
                ("cache", WindowCache()),
            ]
        )
        train = features.fit_transform(loci[~test])
        windows = features.transform(loci[test])
        y_train, y_test = (loci.loc[rows, "expression"].to_numpy() for rows in (~test, test))
        acting = genome.elements[genome.elements["kind"] == "acting"]
        labels = region_labels(windows, acting, gene_column="gene")
        models = {way: make_model(way, epochs, seed).fit(train, y_train) for way in WAYS}
        promoter = models["decoupled"].promoter_columns_

        def precision(scores: np.ndarray) -> float:
            return float(mask_average_precision(scores, labels, exclude=promoter))

        def correlation(predicted: np.ndarray) -> float:
            return regression_metrics(y_test, predicted)["pearson"]

        judge = models["decoupled, no last stage"]
        rows: dict[str, dict[str, float]] = {}
        for way, model in models.items():
            soft = model.set_params(mask="soft")
            row = {"r soft": correlation(soft.predict(windows))}
            row["AP"] = precision(soft.transform(windows))
            if way == "joint":  # trained for soft masks; its own are judged as they are
                own = soft.transform(windows)
            else:
                hard = model.set_params(mask="hard")
                own = hard.transform(windows)
                row["r hard"] = correlation(hard.predict(windows))
            row["kept"] = float(own.mean())
            row["EVAL-X"] = correlation(judge.predict_masked(windows, own))
            rows[way] = row
        profile = position_only_mask(models["decoupled"].set_params(mask="soft").transform(train))
        rows["position-only mask"] = {"AP": precision(profile)}
        tracks = [
            np.stack(list(smoothed_track(windows, "atac", width=width))) for width in SMOOTHING
        ]
        rows["smoothed accessibility track"] = {"AP": max(map(precision, tracks))}
        forest = RandomForestRegressor(200, min_samples_leaf=3, random_state=seed)
        plain = BinnedSignalRegressor(forest, bin_size=32).fit(train, y_train)
        rows["random forest, binned tracks"] = {"r soft": correlation(plain.predict(windows))}
        rows["base rate"] = {"AP": float(np.delete(labels, np.r_[promoter], axis=1).mean())}
    return pd.DataFrame(rows).T


def main(argv: list[str] | None = None) -> None:
    """Run the seeds and print means and standard deviations."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1, help="genomes and fits (default 1)")
    parser.add_argument("--n-jobs", type=int, default=1, help="seeds at a time (default 1)")
    parser.add_argument("--sites", type=int, default=1, help="motif sites an element (default 1)")
    parser.add_argument("--epochs", type=int, default=20, help="of the predictor (default 20)")
    parser.add_argument("--genes", type=int, default=2400, help="a genome's (default 2400)")
    parser.add_argument("--out", type=Path, help="file for the seeds' figures, TSV")
    arguments = parser.parse_args(argv)
    tables = Parallel(n_jobs=arguments.n_jobs)(
        delayed(run_seed)(
            seed, sites=arguments.sites, epochs=arguments.epochs, n_genes=arguments.genes
        )
        for seed in range(arguments.seeds)
    )
    every = pd.concat(tables, keys=range(len(tables)), names=["seed", "row"])
    if arguments.out is not None:
        every.to_csv(arguments.out, sep="\t")
    groups = every.groupby("row", sort=False)
    columns = ["r soft", "r hard", "kept", "AP", "EVAL-X"]
    print(f"mean of {len(tables)} genomes, {arguments.sites} sites an element")
    print(groups.mean()[columns].to_string(float_format="{:.3f}".format, na_rep="-"))
    if len(tables) > 1:
        print("\nstandard deviation")
        print(groups.std()[columns].to_string(float_format="{:.3f}".format, na_rep="-"))


if __name__ == "__main__":
    main()
