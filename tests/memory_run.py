"""Peak memory in a process of its own: `python memory_run.py TASK ...` prints it as JSON.

``growth N FOLDER`` fits, predicts and exports N genes; ``steps BACKBONE`` trains and reads one
batch of long windows, and gives the estimate beside it.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from regmask_sk import RegMaskRegressor, SequenceChannels, TSSWindows, export_masks
from regmask_sk._benchmark_cells import peak_memory_mb

CHROM = 200_000


def held() -> float:
    """Resident memory of this process in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmRSS"))


def growth_of(run: Any) -> float:
    """MB by which this process grows at most in a call."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = held()
    run()
    return peak_memory_mb() - before


def growth(n_genes: int, folder: Path) -> dict[str, float]:
    """Fit, predict and export a number of genes."""
    rng = np.random.default_rng(0)
    fasta = folder / "genome.fa"
    fasta.write_text(">1\n" + "".join(rng.choice(list("ACGT"), CHROM)) + "\n")
    loci = pd.DataFrame(
        {"chrom": "1", "tss": np.linspace(0, CHROM - 1, n_genes).astype(int), "strand": "+"},
        index=[f"g{i}" for i in range(n_genes)],
    )
    windows = TSSWindows(4_096).fit_transform(loci)
    X: Any = SequenceChannels(fasta).fit_transform(windows)
    y = rng.normal(size=n_genes)
    model = RegMaskRegressor(
        resolution=64, d_model=4, n_layers=1, max_epochs=1, finetune_epochs=0, batch_size=16,
        validation_fraction=0.0, device="cpu", random_state=0,
    )  # fmt: skip
    warm = model.fit(X[:32], y[:32])
    warm.predict(X[:32])
    files = {"bigwig": folder / "masks.bw", "bed": folder / "elements.bed"}
    export_masks(warm, X[:32], **files, overwrite=True)
    return {
        "fit": growth_of(lambda: model.fit(X, y)),
        "predict": growth_of(lambda: model.predict(X)),
        "export": growth_of(lambda: export_masks(model, X, **files, overwrite=True)),
    }


def steps(backbone: str) -> dict[str, float]:
    """Train and read one batch of windows, and estimate the same."""
    X = np.random.default_rng(0).normal(size=(8, 6, 16_384)).astype(np.float32)

    def model(batch_size: int) -> RegMaskRegressor:
        return RegMaskRegressor(
            backbone=backbone, d_model=32, n_layers=2, max_epochs=1, batch_size=batch_size,
            generator_epochs=1, finetune_epochs=1, validation_fraction=0.0, device="cpu",
            random_state=0,
        )  # fmt: skip

    short = X[..., :2048].copy()
    warm = model(8).fit(short, np.arange(8))
    warm.predict(short)
    fitted = model(8)
    result = {
        "fit": growth_of(lambda: fitted.fit(X, np.arange(8))),
        "predict": growth_of(lambda: fitted.predict(X)),
    }
    estimate = model(8).estimate_memory(X)
    return result | {
        "estimated_fit": estimate.fit / 1e6, "estimated_predict": estimate.predict / 1e6
    }  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    task, *words = sys.argv[1:]
    found = growth(int(words[0]), Path(words[1])) if task == "growth" else steps(words[0])
    print(json.dumps(found))
