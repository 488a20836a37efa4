"""Contact maps for tests, written as cooler files."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest


def maps(sizes: dict[str, int], bin_size: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Symmetric counts of bins, fewer far from each other; near the diagonal none is 0."""
    rng = np.random.default_rng(seed)
    made = {}
    for chrom, size in sizes.items():
        n_bins = -(-size // bin_size)
        apart = np.abs(np.subtract.outer(np.arange(n_bins), np.arange(n_bins)))
        upper = np.triu(rng.poisson(60.0 / (1 + apart)) + (apart < 15))
        made[chrom] = upper + np.triu(upper, 1).T
    return made


def write_cool(
    path: Path,
    sizes: dict[str, int],
    bin_size: int,
    counts: dict[str, np.ndarray],
    weights: dict[str, dict[str, np.ndarray]] | None = None,
    group: str = "",
) -> str:
    """Write counts, and columns of weights by name; give the address of the map."""
    cooler: Any = pytest.importorskip("cooler", reason="cooler is not installed")
    rows, first = [], 0
    for chrom in sizes:
        one, other = np.nonzero(np.triu(counts[chrom]))
        rows.append((one + first, other + first, counts[chrom][one, other]))
        first += len(counts[chrom])
    one, other, count = (np.concatenate(column) for column in zip(*rows, strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it says while writing is not ours
        bins = cooler.binnify(pd.Series(sizes), bin_size)
        for name, column in (weights or {}).items():
            bins[name] = np.concatenate([column[chrom] for chrom in sizes])
        pixels = pd.DataFrame({"bin1_id": one, "bin2_id": other, "count": count})
        address = f"{path}::/{group}" if group else str(path)
        cooler.create_cooler(address, bins, pixels, ordered=True, mode="a" if group else "w")
    return address
