"""Shared fixtures: a small genome as real files, and the yeast and CRISPRi data where they are."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Before torch is imported: workers that each take all the cores hinder each other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Where there is a screen, displays would open windows.
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
import pandas as pd
import pyBigWig
import pytest
import torch
from Bio import bgzf

# Convolutions are in TensorFloat-32 on CUDA unless told otherwise: no numbers to compare.
torch.backends.cudnn.allow_tf32 = False

SIZES = {"chr1": 3_000, "chr2": 2_500, "chr3": 2_000, "chr4": 1_500}


@dataclass(frozen=True)
class ToyGenome:
    """Four chromosomes with two tracks and 40 genes, written once, not to be changed.

    ``values[track][chrom]`` is what the bigWig holds, nan where uncovered: "counts" are sparse
    counts whose zeros are not stored, "ratio" signed values in bins of 100 bp.
    """

    folder: Path
    fasta: Path
    bgzipped: Path
    tracks: dict[str, Path]
    loci_path: Path
    loci: pd.DataFrame
    sequences: dict[str, str]
    values: dict[str, dict[str, np.ndarray]]


def write_fasta(path: Path, sequences: dict[str, str], width: int = 60) -> Path:
    lines = []
    for name, bases in sequences.items():
        lines.append(f">{name} a comment\n")
        lines += [bases[i : i + width] + "\n" for i in range(0, len(bases), width)]
    if path.suffix == ".gz":
        with bgzf.BgzfWriter(str(path)) as file:
            file.write("".join(lines).encode())
    else:
        path.write_text("".join(lines))
    return path


def write_bigwig(path: Path, values: dict[str, np.ndarray]) -> Path:
    """Write one value a base; nan is not stored."""
    with pyBigWig.open(str(path), "w") as file:
        file.addHeader([(chrom, len(array)) for chrom, array in values.items()])
        for chrom, array in values.items():
            starts = np.flatnonzero(~np.isnan(array))
            if len(starts):
                file.addEntries(
                    [chrom] * len(starts),
                    starts.tolist(),
                    ends=(starts + 1).tolist(),
                    values=array[starts].astype(float).tolist(),
                )
    return path


@pytest.fixture(scope="session")
def toy_genome(tmp_path_factory: pytest.TempPathFactory) -> ToyGenome:
    folder = tmp_path_factory.mktemp("genome")
    rng = np.random.default_rng(0)
    sequences = {
        chrom: "".join(rng.choice(list("ACGTacgtN"), size, p=[0.11] * 8 + [0.12]))
        for chrom, size in SIZES.items()
    }
    counts, ratio = {}, {}
    for chrom, size in SIZES.items():
        drawn = rng.poisson(0.2, size).astype(np.float32)
        drawn[drawn == 0] = np.nan
        counts[chrom] = drawn
        ratio[chrom] = np.repeat(rng.normal(-0.3, 1.0, size // 100).astype(np.float32), 100)
    values = {"counts": counts, "ratio": ratio}
    chroms = np.repeat(list(SIZES), 10)
    loci = pd.DataFrame(
        {
            "chrom": chroms,
            "tss": np.concatenate([rng.permutation(SIZES[chrom])[:10] for chrom in SIZES]),
            "strand": rng.choice(["+", "-"], 40),
            "gc": rng.random(40).round(3),
            "expression": rng.normal(size=40).round(3),
        },
        index=pd.Index([f"gene{i:02d}" for i in range(40)], name="gene"),
    )
    loci_path = folder / "loci.tsv"
    loci.to_csv(loci_path, sep="\t")
    return ToyGenome(
        folder=folder,
        fasta=write_fasta(folder / "genome.fa", sequences),
        bgzipped=write_fasta(folder / "genome.fa.gz", sequences),
        tracks={name: write_bigwig(folder / f"{name}.bw", values[name]) for name in values},
        loci_path=loci_path,
        loci=loci,
        sequences=sequences,
        values=values,
    )


@pytest.fixture(scope="session")
def yeast() -> Path:
    """Folder of the yeast data: ``REGMASK_YEAST``, or the shared data beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "yeast-sacCer3"
    folder = Path(os.environ.get("REGMASK_YEAST", beside))
    if not (folder / "genes.tsv").exists():
        pytest.skip(f"no yeast data in {folder}; set REGMASK_YEAST to their folder")
    return folder


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    """Close what displays draw with pyplot, which warns of many open figures."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(scope="session")
def crispri() -> Path:
    """Table of CRISPRi pairs: in ``REGMASK_CRISPRI``, or in the shared data beside the repository.

    It is the combined K562 table of the ENCODE-rE2G benchmark, as published.
    """
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "human-crispri-k562"
    folder = Path(os.environ.get("REGMASK_CRISPRI", beside))
    table = folder / "EPCrisprBenchmark_combined_data.training_K562.GRCh38.tsv.gz"
    if not table.exists():
        pytest.skip(f"no CRISPRi data in {folder}; set REGMASK_CRISPRI to their folder")
    return table
