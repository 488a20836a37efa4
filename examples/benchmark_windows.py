"""Cost of windows: a pipeline over 18,377 loci of 200 kb, and reading one window.

Makes a small genome, spreads 18,377 loci over it (windows run off its chromosomes, as windows
may), and prints what it takes to fit the feature steps, to split and to pickle, with the peak
memory of the process; then the time of reading a window, as a ratio to reading the same bases
with pyfaidx and pyBigWig and expanding them with numpy alone.

    python examples/benchmark_windows.py
"""

from __future__ import annotations

import pickle
import tempfile
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import pyBigWig
import pyfaidx
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline

from regmask_sk import SequenceChannels, SignalChannels, TSSWindows, WindowCache, simulate_genome
from regmask_sk._benchmark_cells import peak_memory_mb

N_LOCI = 18_377
LENGTH = 200_000
SHORT = 4_096
REPEATS = 200


def median_ms(read: Callable[[int], object], n: int) -> float:
    """Median time of reading windows 0 to n - 1, in milliseconds."""
    seconds = []
    for row in range(n):
        started = time.perf_counter()
        read(row)
        seconds.append(time.perf_counter() - started)
    return 1e3 * float(np.median(seconds))


def main() -> None:
    """Run and print."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        genome = simulate_genome(folder, n_genes=2400, random_state=0)
        with pyfaidx.Fasta(str(genome.fasta)) as fasta:
            sizes = {record.name: len(record) for record in fasta}
        chrom = rng.choice(list(sizes), N_LOCI)
        loci = pd.DataFrame(
            {
                "chrom": chrom,
                "tss": [int(rng.integers(sizes[name])) for name in chrom],
                "strand": rng.choice(["+", "-"], N_LOCI),
            },
            index=pd.Index([f"gene{i:05d}" for i in range(N_LOCI)], name="gene"),
        )
        features = make_pipeline(
            TSSWindows(LENGTH), SequenceChannels(genome.fasta), SignalChannels(genome.tracks)
        )
        clock = time.perf_counter
        started = clock()
        windows = features.fit_transform(loci)
        fitted = clock()
        folds = [
            (windows[train], windows[test])
            for train, test in GroupKFold(5).split(windows, groups=loci["chrom"])
        ]
        split = clock()
        n_bytes = len(pickle.dumps(pickle.loads(pickle.dumps(folds[0][0]))))
        pickled = clock()
        peak = peak_memory_mb()
        print(f"{N_LOCI:,} loci x {LENGTH:,} bp x {windows.shape[1]} channels")
        print(f"  fit the feature steps   {fitted - started:8.2f} s")
        print(f"  five splits by chrom    {split - fitted:8.2f} s")
        print(f"  pickle and load a fold  {pickled - split:8.2f} s ({n_bytes / 2**20:.1f} MB)")
        print(f"  peak memory             {peak:8.0f} MB")

        for length in (SHORT, LENGTH):
            features.set_params(tsswindows__length=length)
            few = loci[:REPEATS]
            windows = features.fit_transform(few)
            cached = WindowCache().fit(windows).transform(windows)
            fasta = pyfaidx.Fasta(str(genome.fasta), sequence_always_upper=True)
            tracks = [pyBigWig.open(str(path)) for path in genome.tracks.values()]

            def plain(row: int) -> np.ndarray:
                """Read the bases of a window that lie on the chromosome, the plain way."""
                name, start, end, *_ = windows.interval(row)  # noqa: B023
                start, end = max(start, 0), min(end, sizes[name])
                letters = np.frombuffer(str(fasta[name][start:end]).encode(), "S1")  # noqa: B023
                hot = (letters[None] == np.array([[b"A"], [b"C"], [b"G"], [b"T"]])).astype("f4")
                values = [bw.values(name, start, end, numpy=True) for bw in tracks]  # noqa: B023
                return np.concatenate([hot, np.nan_to_num(np.stack(values)).astype("f4")])

            reference = median_ms(plain, REPEATS)
            print(f"\none window of {length:,} bp, median of {REPEATS}")
            print(f"  pyfaidx + pyBigWig + numpy {reference:8.3f} ms")
            for name, source in (("Windows", windows), ("Windows, memory cache", cached)):
                ms = median_ms(source.__getitem__, REPEATS)
                print(f"  {name:26s} {ms:8.3f} ms, {ms / reference:.2f} of it")


if __name__ == "__main__":
    main()
