"""Human: windows of 131 kb, DNase of ten samples in, CAGE at the promoter out.

Reads a folder with 55 regions of hg38 as contigs of 131,072 bp (``hg38_regions.fa.gz``), ten
DNase tracks (``tracks.tsv`` says which they are) and 34 genes (``genes.tsv``). Trains on the
genes of the contigs that the table calls ``train``, predicts the others, and writes the
predictions, the masks along the contigs, the elements called from them and a picture of one
locus. Prints seconds and peak memory for each body asked for.

34 genes allow no statement about accuracy: the example shows that real windows of this length
run from files to masks on a small machine, and how long that takes. The CAGE and RNA tracks of
the folder measure expression and are never inputs. All coordinates are those of the contigs,
whose names hold their place in hg38.

    python examples/human_long_windows.py DATA
    python examples/human_long_windows.py DATA --backbone conv caduceus transformer --epochs 1
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from regmask_sk import (
    RegMaskRegressor,
    SequenceChannels,
    SignalChannels,
    TSSWindows,
    export_masks,
    gene_elements,
    plot_locus,
    read_loci,
    regression_metrics,
)
from regmask_sk._benchmark_cells import peak_memory_mb
from regmask_sk.backbones import BACKBONES

LENGTH = 131_072  # bp around the TSS, as long as a contig
RESOLUTION = 32  # bp a gate stands for: the bins of the tracks
SPARSITY = 0.05  # share of the bases kept, promoter included
DRAWN = 4  # tracks in the picture


def read_tracks(data: Path) -> dict[str, Path]:
    """DNase tracks by sample; those of CAGE and RNA are what is to be predicted."""
    table = pd.read_csv(data / "tracks.tsv", sep="\t")
    dnase = table[table["description"].str.startswith("DNASE:")]
    samples = (
        dnase["description"].str.removeprefix("DNASE:").str.replace(r" \(.*\)", "", regex=True)
    )
    return {name: data / file for name, file in zip(samples, dnase["file"], strict=True)}


def make_pipeline(data: Path, backbone: str, length: int, epochs: int) -> Pipeline:
    """Windows, sequence, tracks and regressor.

    Windows of genes beside the middle of their contig run off its end, and a contig's outer
    quarters have no signal: both read as 0, which is also what closed chromatin reads as. A
    validity channel tells the two apart; all tracks cover the same bases, so that one is
    enough for all of them.
    """
    (first, file), *others = read_tracks(data).items()
    return Pipeline(
        [
            ("windows", TSSWindows(length, jitter=RESOLUTION)),
            ("sequence", SequenceChannels(data / "hg38_regions.fa.gz")),
            ("signal", SignalChannels({first: file}, missing="mask")),
            ("signals", SignalChannels(dict(others)) if others else "passthrough"),
            (
                "model",
                RegMaskRegressor(
                    backbone=backbone,
                    sparsity=SPARSITY,
                    resolution=RESOLUTION,
                    d_model=32,
                    max_epochs=epochs,
                    generator_epochs=epochs,
                    batch_size=1,  # gates need a few hundred steps to open and close
                    weight_decay=0.1,
                    validation_fraction=0.0,  # too few genes to judge epochs by some of them
                    random_state=0,
                ),
            ),
        ]
    )


def run_backbone(data: Path, backbone: str, length: int, epochs: int, out: Path) -> dict:
    """Train one body, predict the held-out contigs, write the results; one row of the table."""
    loci = read_loci(data / "genes.tsv", tss_base=0, chrom_column="contig")
    y = np.log1p(loci["cage_mean12"])
    train = (loci["split"] == "train").to_numpy()
    started = time.perf_counter()
    pipeline = make_pipeline(data, backbone, length, epochs)
    pipeline.fit(loci[train], y[train])
    trained = time.perf_counter()
    model, windows = pipeline[-1], pipeline[:-1].transform(loci[~train])
    predicted = model.predict(windows)
    masks = model.transform(windows)
    read = time.perf_counter()

    out.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame({"predicted": predicted, "measured": y[~train]}, windows.loci.index)
    table.to_csv(out / "predictions.tsv", sep="\t")
    model.history_.to_csv(out / "history.tsv", sep="\t", index=False)
    export_masks(model, windows, bigwig=out / "masks.bw", bed=out / "elements.bed", overwrite=True)
    row = int(np.argmax(y[~train]))
    figure = plot_locus(
        windows,
        row,
        masks[row],
        elements=gene_elements(windows, row, masks[row]),
        channels=list(read_tracks(data))[:DRAWN],
    )
    figure.savefig(out / "locus.png", dpi=150)
    return {
        "backbone": backbone,
        "train s": trained - started,
        "predict s a gene": (read - trained) / len(windows) / 2,  # once for the masks
        "peak GiB": peak_memory_mb() * 1e6 / 2**30,
        "kept": float(masks.mean()),
        "MAE": regression_metrics(y[~train], predicted)["mae"],
        "MAE of the mean": float(np.abs(y[~train] - y[train].mean()).mean()),
    }


def main(argv: list[str] | None = None) -> None:
    """Run the bodies and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of the human files")
    parser.add_argument(
        "--backbone", nargs="+", default=["caduceus"], choices=sorted(BACKBONES), metavar="NAME",
        help=f"bodies, among {', '.join(sorted(BACKBONES))} (default caduceus)",
    )  # fmt: skip
    parser.add_argument(
        "--epochs",
        type=int,
        default=8,
        help="of each stage but the last, which takes a third (default 8)",
    )
    parser.add_argument("--length", type=int, default=LENGTH, help=f"bp (default {LENGTH})")
    parser.add_argument("--out", type=Path, default=Path("human"), help="folder for results")
    arguments = parser.parse_args(argv)
    if not (arguments.data / "tracks.tsv").is_file():
        parser.error(f"{arguments.data} has no tracks.tsv; name the folder of the human files")

    several = len(arguments.backbone) > 1
    runs = [
        (arguments.data, name, arguments.length, arguments.epochs,
         arguments.out / name if several else arguments.out)
        for name in arguments.backbone
    ]  # fmt: skip
    if several:
        # A process each: peak memory is that of a process, and the largest body would hide others.
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            rows = pool.starmap(run_backbone, runs, chunksize=1)
    else:
        rows = [run_backbone(*runs[0])]
    table = pd.DataFrame(rows).set_index("backbone")
    print(f"windows of {arguments.length:,} bp, {arguments.epochs} epochs")
    print(table.to_string(float_format="{:.3f}".format))
    print(
        "The held-out genes are far too few for a statement about accuracy.\n"
        f"Results in {arguments.out}"
    )


if __name__ == "__main__":
    main()
