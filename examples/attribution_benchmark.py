"""Masks beside attributions, on planted genomes with the truth.

For each seed and noise level: simulate a genome whose elements act by several rules (one motif in
open chromatin; a pair of motifs; a motif whose distance from the TSS counts; a motif without a
peak) among decoys, train RegMask and its unmasked twin, a BackboneRegressor with the same body, on
six of eight chromosomes, and score, on the others, the mask, each attribution of either model, the
smoothed accessibility track and the position-only mask, by average precision, promoter left out:

bases     bases of acting elements against those of no acting element
sites     bases of their motif sites against the same
elements  acting elements against decoys, each by the mean score of its bases

for all acting elements and for each kind alone. Attributions count by their absolute value, and
they and the track are smoothed by the best of four widths, which is chosen on the truth; the mask
is taken as it is. Scored are the first --scored of the test genes. In-silico mutagenesis is slow:
it, and all others a second time, is scored on the first --mutated genes alone.

    OMP_NUM_THREADS=1 python examples/attribution_benchmark.py --seeds 5 --n-jobs 2
    python examples/attribution_benchmark.py --seeds 5 --noise 0.1 0.3 1.0

A seed at a noise level is a file in --out; those that are there are not computed again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from scipy.ndimage import uniform_filter1d
from sklearn.metrics import average_precision_score
from sklearn.pipeline import Pipeline

from regmask_sk import (
    BackboneRegressor,
    RegMaskRegressor,
    SequenceChannels,
    SignalChannels,
    TSSWindows,
    WindowCache,
    Windows,
    attribute,
    position_only_mask,
    read_loci,
    region_labels,
    regression_metrics,
    simulate_genome,
)
from regmask_sk.datasets import SimulatedGenome

LENGTH = 1024  # bp
PROMOTER = 96  # bp always kept
ELEMENT = 48  # bp
SPARSITY = 0.25  # acting elements and promoter together are a little less
TEST_CHROMS = ("chr7", "chr8")
SMOOTHING = (1, 16, 32, 48)  # bp
RATES = {
    "acting_per_gene": 1.0,
    "decoy_open_per_gene": 1.0,
    "decoy_motif_per_gene": 1.0,
    "grammar_per_gene": 0.75,
    "decoy_grammar_per_gene": 0.75,
    "distal_per_gene": 1.0,
    "closed_per_gene": 0.5,
}
METHODS = ("saliency", "integrated_gradients", "deeplift", "occlusion")
KINDS = ("acting", "acting_grammar", "acting_distal", "acting_closed")
TARGETS = ("bases", "sites", "elements")


class Truth:
    """What is planted around the genes of some windows, and how scores are judged by it."""

    def __init__(self, genome: SimulatedGenome, windows: Windows) -> None:
        def marked(table: pd.DataFrame) -> np.ndarray:
            if not len(table):
                return np.zeros((len(windows), LENGTH), bool)
            return region_labels(windows, table, gene_column="gene")

        elements, sites = genome.elements, genome.sites
        own = set(windows.loci.index)
        elements = elements[elements["gene"].isin(own)]
        sites = sites[sites["gene"].isin(own)]
        self.bases = {kind: marked(elements[elements["kind"] == kind]) for kind in KINDS}
        self.sites = {kind: marked(sites[sites["kind"] == kind]) for kind in KINDS}
        self.negative = ~np.any(list(self.bases.values()), axis=0)
        first = (LENGTH - PROMOTER) // 2
        self.negative[:, first : first + PROMOTER] = False

        # Elements by the columns that they take, in the direction of the gene.
        row = windows.loci.index.get_indexer(elements["gene"])
        start = elements["start"].to_numpy() - windows.starts[row]
        turned = LENGTH - start - ELEMENT
        self.row, self.kind = row, elements["kind"].to_numpy()
        self.start = np.where(windows.reversed[row], turned, start)

    def judge(self, scores: np.ndarray, target: str, kind: str) -> tuple[float, float]:
        """Average precision of scores, and of scores that know nothing."""
        wanted = KINDS if kind == "all" else (kind,)
        if target == "elements":
            decoys = np.char.startswith(self.kind.astype(str), "decoy")
            positive = np.isin(self.kind, wanted)
            columns = self.start[:, None] + np.arange(ELEMENT)
            each = scores[self.row[:, None], columns].mean(axis=1)
        else:
            labels = np.any([getattr(self, target)[name] for name in wanted], axis=0)
            positive, decoys, each = labels.ravel(), self.negative.ravel(), scores.ravel()
        kept = positive | decoys
        if not positive.any():
            return float("nan"), float("nan")
        precision = average_precision_score(positive[kept], each[kept])
        return float(precision), float(positive[kept].mean())

    def table(self, scores: np.ndarray, *, smooth: bool) -> pd.DataFrame:
        """Average precision by target and kind, the best over the widths of smoothing."""
        widths = SMOOTHING if smooth else (1,)
        smoothed = [
            uniform_filter1d(scores.astype(float), width, axis=1, mode="nearest")
            for width in widths
        ]
        rows = []
        for target in TARGETS:
            for kind in ("all", *KINDS):
                found = [self.judge(one, target, kind) for one in smoothed]
                best = max(range(len(found)), key=lambda i: found[i][0])
                rows.append((target, kind, found[best][0], found[best][1], widths[best]))
        columns = ["target", "kind", "average_precision", "base_rate", "smoothing"]
        return pd.DataFrame(rows, columns=columns)


def run_cell(
    seed: int, noise: float, *, n_genes: int, epochs: int, scored: int, mutated: int
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Simulate, train, attribute and score; give the scores, and accuracies and seconds."""
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        genome = simulate_genome(
            Path(folder) / "genome",
            n_genes=n_genes,
            length=LENGTH,
            promoter_length=PROMOTER,
            element_width=ELEMENT,
            motif_effects=(1.0, -1.0),
            noise=noise,
            random_state=seed,
            **RATES,
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
        masked = RegMaskRegressor(
            sparsity=SPARSITY,
            promoter_length=PROMOTER,
            reverse_complement="augment",
            max_epochs=epochs,
            generator_epochs=max(epochs // 3, 1),
            finetune_epochs=max(epochs // 4, 1),
            random_state=seed,
        ).fit(train, y_train)
        twin = BackboneRegressor(
            reverse_complement="augment", max_epochs=epochs, random_state=seed
        ).fit(train, y_train)

        notes = {
            "r, mask": regression_metrics(y_test, masked.predict(windows))["pearson"],
            "r, twin": regression_metrics(y_test, twin.predict(windows))["pearson"],
            "kept": float(masked.transform(windows).mean()),
            "core seconds, training": time.process_time() - began,
        }
        windows = windows[: min(scored, len(windows))]
        few = windows[: min(mutated, len(windows))]
        truths = {len(of): Truth(genome, of) for of in (windows, few) if len(of)}
        parts = []

        def note(model: str, method: str, scores: np.ndarray, *, smooth: bool = True) -> None:
            for genes, truth in truths.items():
                if genes <= len(scores):
                    table = truth.table(scores[:genes], smooth=smooth)
                    parts.append(table.assign(model=model, method=method, genes=genes))

        note("RegMask", "mask", masked.transform(windows), smooth=False)
        channel = windows.channel_names.index("atac")
        track = np.stack([windows[row][channel] for row in range(len(windows))])
        note("control", "accessibility track", track)
        profile = position_only_mask(masked.transform(train))
        everywhere = np.broadcast_to(profile, track.shape)
        note("control", "position-only mask", everywhere, smooth=False)
        for name, model in (("RegMask", masked), ("twin", twin)):
            for method in METHODS:
                scores = np.abs(attribute(model, windows, method, n_steps=20))
                note(name, method, scores)
            if len(few):
                scores = np.abs(attribute(model, few, "mutagenesis"))
                note(name, "mutagenesis", scores)
    notes["core seconds"] = time.process_time() - began
    return pd.concat(parts, ignore_index=True), notes


def run_and_keep(seed: int, noise: float, out: Path, **options: int) -> None:
    """Compute a seed at a noise level, unless its file is there."""
    path = out / "cells" / f"seed{seed}_noise{noise:g}.tsv"
    if path.exists():
        return
    table, notes = run_cell(seed, noise, **options)
    table = table.assign(seed=seed, noise=noise, **notes)
    table.to_csv(path.with_suffix(".part"), sep="\t", index=False)
    path.with_suffix(".part").replace(path)
    print(f"{path.name}: {notes['core seconds'] / 60:.1f} core minutes", flush=True)


def report(every: pd.DataFrame) -> str:
    """Give the tables of the means over seeds, with standard deviations, as Markdown."""
    n_seeds = every["seed"].nunique()
    lines = [f"Mean of {n_seeds} genomes" + (" (standard deviation)" if n_seeds > 1 else "") + "."]
    cells = every.drop_duplicates(["seed", "noise"])
    for noise, some in cells.groupby("noise"):
        noted = "; ".join(
            f"{name} {some[name].mean():.3f}" for name in ("r, mask", "r, twin", "kept")
        )
        lines += ["", f"Noise {noise:g}: {noted}."]
    tables = every.assign(fewer=-every["genes"]).groupby(["noise", "fewer", "target"])
    for (noise, fewer, target), some in tables:
        groups = some.groupby(["model", "method", "kind"], sort=False)["average_precision"]
        mean, spread = (table.unstack() for table in (groups.mean(), groups.std()))
        rate = some.groupby("kind")["base_rate"].mean()
        kinds = ["all", *KINDS]
        lines += ["", f"### {target}, noise {noise:g}, {-fewer} genes a genome", ""]
        lines += ["| model | scores | " + " | ".join(kinds) + " |"]
        lines += ["|---|---|" + "---|" * len(kinds)]
        for model, method in mean.index:
            figures = [
                f"{mean.loc[(model, method), kind]:.3f}"
                + (f" ({spread.loc[(model, method), kind]:.3f})" if n_seeds > 1 else "")
                for kind in kinds
            ]
            lines += [f"| {model} | {method} | " + " | ".join(figures) + " |"]
        lines += ["| | base rate | " + " | ".join(f"{rate[kind]:.3f}" for kind in kinds) + " |"]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    """Run the cells that are missing, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1, help="genomes and fits (default 1)")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.3], help="levels (0.3)")
    parser.add_argument("--n-jobs", type=int, default=1, help="cells at a time (default 1)")
    parser.add_argument("--genes", type=int, default=2400, help="a genome's (default 2400)")
    parser.add_argument("--epochs", type=int, default=16, help="of the predictors (default 16)")
    parser.add_argument("--scored", type=int, default=150, help="test genes (default 150)")
    parser.add_argument(
        "--mutated", type=int, default=5, help="genes of mutagenesis, 0 for none (default 5)"
    )
    parser.add_argument("--out", type=Path, default=Path("attribution_benchmark"), help="folder")
    arguments = parser.parse_args(argv)
    out: Path = arguments.out
    (out / "cells").mkdir(parents=True, exist_ok=True)
    options = {
        "n_genes": arguments.genes,
        "epochs": arguments.epochs,
        "scored": arguments.scored,
        "mutated": arguments.mutated,
    }
    settings = out / "settings.json"
    if settings.exists() and json.loads(settings.read_text()) != options:
        parser.error(
            f"{out} holds cells of {json.loads(settings.read_text())}, but these are {options}. "
            "Name another folder with --out."
        )
    settings.write_text(json.dumps(options) + "\n")
    wanted = [(seed, noise) for seed in range(arguments.seeds) for noise in arguments.noise]
    Parallel(n_jobs=arguments.n_jobs)(
        delayed(run_and_keep)(seed, noise, out, **options) for seed, noise in wanted
    )
    files = [out / "cells" / f"seed{seed}_noise{noise:g}.tsv" for seed, noise in wanted]
    every = pd.concat([pd.read_csv(path, sep="\t") for path in files], ignore_index=True)
    every.to_csv(out / "results.tsv", sep="\t", index=False)
    (out / "results.md").write_text(report(every))
    print(report(every))


if __name__ == "__main__":
    main()
