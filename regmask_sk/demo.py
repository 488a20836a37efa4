"""The built-in demonstration: a planted genome, from files to masks that can be scored."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestRegressor
from sklearn.pipeline import Pipeline

from regmask_sk._files import package_versions
from regmask_sk.baselines.binned_signal import BinnedSignalRegressor
from regmask_sk.datasets import SimulatedGenome, simulate_genome
from regmask_sk.export import export_masks, gene_elements
from regmask_sk.features import SequenceChannels, SignalChannels, TSSWindows
from regmask_sk.loci import read_loci
from regmask_sk.metrics import (
    mask_average_precision,
    position_only_mask,
    region_labels,
    regression_metrics,
    smoothed_track,
)
from regmask_sk.persistence import save_model
from regmask_sk.plotting import plot_locus
from regmask_sk.regressor import RegMaskRegressor
from regmask_sk.window_cache import WindowCache
from regmask_sk.windows import Windows

_LENGTH = 1024  # bp: the window that the simulator fills with elements
_PROMOTER = 96  # bp
_SPARSITY = 0.2  # planted elements and promoter together are a little less
_TEST_CHROMS = ("chr7", "chr8")
_MERGE_GAP = 16  # bp: planted elements are 64 bp wide and may lie close together
_SMOOTHING = (1, 32, 64, 96)  # bp; the track's control is the best of these widths


def run_demo(out: str | Path, seed: int = 0) -> dict[str, Any]:
    """Simulate a genome, read it back, train on six chromosomes and score two others.

    Parameters
    ----------
    out : str or path
        Folder for the results; made where it does not exist. Files of an earlier run there
        are replaced.
    seed : int, default=0
        Of the genome and of the training.

    Returns
    -------
    dict
        What ``metrics.json`` holds: accuracy, share of bases kept, average precision of the
        mask and of its controls, seconds.

    Notes
    -----
    Written to `out`: ``data/`` (the simulated files), ``model/``, ``history.tsv``,
    ``predictions.tsv``, ``masks.bw``, ``elements.bed``, ``locus.png``, ``metrics.json``.
    """
    folder = Path(out)
    started = time.perf_counter()
    _say("simulating a genome with planted elements")
    genome = simulate_genome(folder / "data", length=_LENGTH, overwrite=True, random_state=seed)
    loci = read_loci(genome.loci_path, tss_base=0)
    test = loci["chrom"].isin(_TEST_CHROMS).to_numpy()
    train_loci, test_loci = loci[~test], loci[test]
    y_train, y_test = (table["expression"].to_numpy() for table in (train_loci, test_loci))

    _say(f"training on {len(train_loci)} genes of 6 chromosomes; {len(test_loci)} of 2 held out")
    pipeline = _pipeline(genome, seed).fit(train_loci, y_train)
    model = pipeline[-1]
    train, windows = (pipeline[:-1].transform(table) for table in (train_loci, test_loci))

    accuracy = {}
    for kind in ("soft", "hard"):
        model.set_params(mask=kind)
        accuracy[f"RegMask, {kind} mask"] = {
            **regression_metrics(y_test, model.predict(windows)),
            "kept": float(model.transform(windows).mean()),
        }
    accuracy.update(_plain_baselines(train, y_train, windows, y_test, seed))
    precision = _precision(model, genome, train, windows)

    _say("writing")
    model.set_params(mask="soft")
    cached = [step for step in pipeline.steps if step[0] != "cache"]
    notes = {
        "target": "expression",
        "test_chroms": list(_TEST_CHROMS),
        "command": shlex.join(["regmask", "demo", "--out", str(out), "--seed", str(seed)]),
        "versions": package_versions(),
    }
    save_model(Pipeline(cached), folder / "model", overwrite=True, notes=notes)
    model.history_.to_csv(folder / "history.tsv", sep="\t", index=False)
    predictions = {"predicted": model.predict(windows), "measured": y_test}
    pd.DataFrame(predictions, index=test_loci.index).to_csv(folder / "predictions.tsv", sep="\t")
    export_masks(
        model,
        windows,
        bigwig=folder / "masks.bw",
        bed=folder / "elements.bed",
        merge_gap=_MERGE_GAP,
        overwrite=True,
    )
    _draw(model, genome, windows, y_test, folder / "locus.png")
    results = {
        "accuracy": accuracy,
        "average_precision": precision,
        "seconds": round(time.perf_counter() - started, 1),
    }
    (folder / "metrics.json").write_text(json.dumps(results, indent=1) + "\n")
    print(_report(results))
    print(f"wrote {folder}/: " + ", ".join(sorted(path.name for path in folder.iterdir())))
    return results


def _pipeline(genome: SimulatedGenome, seed: int) -> Pipeline:
    regressor = RegMaskRegressor(
        sparsity=_SPARSITY,
        promoter_length=_PROMOTER,
        reverse_complement="augment",
        max_epochs=12,
        generator_epochs=6,
        finetune_epochs=4,
        random_state=seed,
        verbose=int(sys.stderr.isatty()),
    )
    return Pipeline(
        [
            ("windows", TSSWindows(_LENGTH, jitter=16)),
            ("sequence", SequenceChannels(genome.fasta)),
            ("signal", SignalChannels(genome.tracks)),
            ("cache", WindowCache()),
            ("model", regressor),
        ]
    )


def _plain_baselines(
    train: Windows, y_train: np.ndarray, test: Windows, y_test: np.ndarray, seed: int
) -> dict[str, dict[str, float]]:
    """Ridge and a random forest on the same tracks in bins, the ridge with k-mers too."""
    forest = RandomForestRegressor(200, min_samples_leaf=3, n_jobs=-1, random_state=seed)
    baselines = {
        "ridge on binned tracks": BinnedSignalRegressor(bin_size=32),
        "ridge on binned tracks and 4-mers": BinnedSignalRegressor(bin_size=32, kmer_size=4),
        "random forest on binned tracks": BinnedSignalRegressor(forest, bin_size=32),
    }
    return {
        name: regression_metrics(y_test, baseline.fit(train, y_train).predict(test))
        for name, baseline in baselines.items()
    }


def _precision(
    model: RegMaskRegressor, genome: SimulatedGenome, train: Windows, test: Windows
) -> dict[str, float]:
    """Average precision against the acting elements, promoter left out, with its controls."""
    acting = genome.elements[genome.elements["kind"] == "acting"]
    labels = region_labels(test, acting, gene_column="gene")
    model.set_params(mask="soft")
    promoter = model.promoter_columns_

    def score(masks: np.ndarray) -> float:
        return float(mask_average_precision(masks, labels, exclude=promoter))

    tracks = {
        width: score(np.stack(list(smoothed_track(test, "atac", width=width))))
        for width in _SMOOTHING
    }
    outside = np.delete(np.arange(test.shape[2]), np.r_[promoter])
    return {
        "learned mask": score(model.transform(test)),
        "smoothed accessibility track": max(tracks.values()),
        "position-only mask": score(position_only_mask(model.transform(train))),
        "base rate": float(labels[:, outside].mean()),
    }


def _draw(
    model: RegMaskRegressor,
    genome: SimulatedGenome,
    windows: Windows,
    y_test: np.ndarray,
    path: Path,
) -> None:
    """Draw the highest expressed of the held-out genes."""
    row = int(np.argmax(y_test))
    mask = model.transform(windows[[row]])[0]
    elements = genome.elements[genome.elements["gene"] == windows.loci.index[row]]
    figure: Any = plot_locus(
        windows,
        row,
        mask,
        elements=gene_elements(windows, row, mask, merge_gap=_MERGE_GAP),
        known=elements[elements["kind"] == "acting"],
    )
    figure.savefig(path, dpi=150)


def _report(results: dict[str, Any]) -> str:
    columns = ["pearson", "spearman", "r2", "mae", "kept"]
    accuracy = pd.DataFrame(results["accuracy"]).T.reindex(columns=columns)
    precision = pd.Series(results["average_precision"], name="average precision").to_frame()

    def text(table: pd.DataFrame) -> str:
        return table.to_string(float_format="{:.3f}".format, na_rep="-")

    return (
        f"held-out chromosomes {' and '.join(_TEST_CHROMS)}, expression\n{text(accuracy)}\n\n"
        "bases of acting elements (planted truth), promoter left out\n"
        f"{text(precision)}\n\n{results['seconds']:.0f} seconds"
    )


def _say(text: str) -> None:
    print(f"regmask demo: {text}", file=sys.stderr)
