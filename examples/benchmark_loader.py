"""Samples a second that reach a model: from FASTA and bigWig, from a cache, from plain arrays.

Writes a genome with two tracks and genes at the density of the human genome, and reads windows in
batches of 8 through the loader that training uses, in shuffled order, from

- files: the FASTA and the bigWig files themselves;
- float16, float32: a ``WindowCache`` in a folder;
- memmap: the same bytes as in the float16 cache, copied from maps by numpy and given to the loader
  as they are: no strand, no scaling, no float32 channels. No cache can be faster.

Then what the first epoch takes with a cache that is not there yet, and the disk that 18,377 genes
of a genome of 3.1 Gb need, placed at random (genes that cluster need less).

    python examples/benchmark_loader.py
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyBigWig
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from regmask_sk import SequenceChannels, SignalChannels, TSSWindows, WindowCache
from regmask_sk._batches import WindowDataset
from regmask_sk._regions import Regions
from regmask_sk.windows import Windows

GENOME, GENES = 3_100_000_000, 18_377
TRACKS = ("dnase", "h3k27ac")
BATCH = 8


class MemmapDataset(Dataset):
    """Batches of bytes, copied from maps."""

    def __init__(self, paths: list[Path], starts: np.ndarray, length: int) -> None:
        self.maps = [np.load(path, mmap_mode="r") for path in paths]
        self.starts, self.length = starts, length

    def __len__(self) -> int:
        return len(self.starts)

    def __getitems__(self, rows: list[int]) -> list[torch.Tensor]:
        """Copy a batch."""
        places = [slice(start, start + self.length) for start in self.starts[rows]]
        return [torch.from_numpy(np.stack([m[place] for place in places])) for m in self.maps]


def write_genome(folder: Path, n_bases: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Write genome.fa, and for each track runs of equal values of 20 bp on average."""
    codes = rng.integers(0, 4, n_bases, dtype=np.uint8)
    letters = np.frombuffer(b"ACGT", np.uint8)[codes].tobytes()
    with open(folder / "genome.fa", "wb") as file:
        file.write(b">chr1\n")
        for start in range(0, n_bases, 100):
            file.write(letters[start : start + 100] + b"\n")
    arrays = {"sequence": codes}
    for name in TRACKS:
        lengths = rng.geometric(1 / 20, n_bases // 20)
        ends = np.minimum(np.cumsum(lengths), n_bases)
        starts = np.append(0, ends[:-1])
        starts, ends = starts[starts < ends], ends[starts < ends]
        values = np.round(rng.gamma(0.3, 3.0, len(starts)), 2) + 0.01
        with pyBigWig.open(str(folder / f"{name}.bw"), "w") as file:
            file.addHeader([("chr1", n_bases)])
            file.addEntries(
                ["chr1"] * len(starts), starts.tolist(), ends=ends.tolist(), values=values.tolist()
            )
        arrays[name] = np.zeros(n_bases, np.float16)
        arrays[name][: ends[-1]] = np.repeat(values, ends - starts)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return arrays


def samples_per_second(dataset: Dataset, n_workers: int, seconds: float) -> float:
    """Read for some seconds, the start of workers and the first batch left out."""
    order = RandomSampler(dataset, replacement=True, num_samples=10**7)
    with warnings.catch_warnings():
        # Newer Pythons warn of any fork beside threads; readers open their files anew in a worker.
        warnings.simplefilter("ignore", DeprecationWarning)
        loader = iter(
            DataLoader(
                dataset,
                batch_sampler=BatchSampler(order, BATCH, drop_last=True),
                num_workers=n_workers,
                collate_fn=lambda batch: batch,
            )
        )
        for _ in range(1 + 2 * n_workers):  # what workers have read ahead
            next(loader)
    began, n_batches = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        next(loader)
        n_batches += 1
    return n_batches * BATCH / (time.perf_counter() - began)


def dataset_of(windows: Windows) -> WindowDataset:
    """Make the dataset that training reads."""
    return WindowDataset(windows, np.zeros((len(windows), 0), np.float32))


def epoch(windows: Windows) -> None:
    """Read each window once."""
    dataset = dataset_of(windows)
    for row in range(0, len(windows), BATCH):
        dataset.__getitems__(list(range(row, min(row + BATCH, len(windows)))))


def seconds_of(work: Callable[[], object]) -> np.ndarray:
    """Seconds that pass, and seconds of the processor."""
    began = np.array([time.perf_counter(), time.process_time()])
    work()
    return np.array([time.perf_counter(), time.process_time()]) - began


def print_disk(lengths: list[int], rng: np.random.Generator) -> None:
    """Print what the human genes would need."""
    chroms, size = 24, GENOME // 24
    genes = pd.DataFrame(
        {"chrom": rng.integers(0, chroms, GENES), "tss": rng.integers(0, size, GENES)}
    )
    print(f"\nGB of disk for {GENES:,} genes, sequence and {len(TRACKS)} tracks, {GENOME:.2g} bp")
    print(
        f"{'length':>8} {'merged bp':>10} {'float16':>8} {'float32':>8} {'one by one, float32':>20}"
    )
    for length in lengths:
        table = genes.assign(start=genes["tss"] - length // 2, end=genes["tss"] + length // 2)
        merged = Regions.from_table(table).clipped({str(i): size for i in range(chroms)}).n_bases
        sizes = [1 + 2 * len(TRACKS), 1 + 4 * len(TRACKS)]
        shared = " ".join(f"{merged * each / 1e9:8.1f}" for each in sizes)
        print(f"{length:>8,} {merged:>10.2e} {shared} {GENES * length * sizes[1] / 1e9:>20.1f}")


def main(words: list[str] | None = None) -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bases", type=int, default=24_000_000, help="of the genome")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2_000, 20_000, 200_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--seconds", type=float, default=3.0, help="for each number")
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    n_genes = max(16, args.bases * GENES // GENOME)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_genome(folder, args.bases, rng)
        longest = max(args.lengths)
        tss = rng.integers(longest, args.bases - longest, n_genes)
        strands = rng.choice(["+", "-"], n_genes)
        loci = pd.DataFrame({"chrom": "chr1", "tss": tss, "strand": strands})
        print(f"{n_genes} genes, {args.bases:,} bp, {4 + len(TRACKS)} channels, batches of {BATCH}")
        print("\nsamples a second")
        heads = [
            f"{source}/{n}" for n in args.workers
            for source in ("files", "float16", "float32", "memmap")
        ]  # fmt: skip
        print(f"{'length':>8}", *(f"{head:>10}" for head in heads))
        firsts = []
        for length in args.lengths:
            windows = TSSWindows(length).fit_transform(loci)
            windows = SequenceChannels(folder / "genome.fa").fit_transform(windows)
            tracks = {track: folder / f"{track}.bw" for track in TRACKS}
            windows = SignalChannels(tracks, random_state=0).fit_transform(windows)
            straight = seconds_of(lambda: epoch(windows))  # noqa: B023
            sources: dict[str, Dataset] = {"files": dataset_of(windows)}
            for dtype in ("float16", "float32"):
                cache = WindowCache(folder / f"cache-{dtype}-{length}", dtype=dtype)
                built = seconds_of(lambda: cache.fit(windows))  # noqa: B023
                cached = cache.transform(windows)
                read = seconds_of(lambda: epoch(cached))  # noqa: B023
                firsts.append((length, dtype, straight, built, read))
                sources[dtype] = dataset_of(cached)
            paths = [folder / f"{track}.npy" for track in ("sequence", *TRACKS)]
            sources["memmap"] = MemmapDataset(paths, windows.starts, length)
            found = [
                samples_per_second(source, n, args.seconds)
                for n in args.workers
                for source in sources.values()
            ]
            print(f"{length:>8,}", *(f"{each:>10,.0f}" for each in found), flush=True)
        print("\nfirst epoch: files, or making the cache + reading from it, in seconds")
        print("that passed and, in brackets, of the processor")
        for length, dtype, *parts in firsts:
            files, built, read = (f"{wall:6.2f} ({cpu:5.2f})" for wall, cpu in parts)
            print(f"{length:>8,} {dtype}  files {files}   cache {built} + {read}")
    print_disk(args.lengths, rng)


if __name__ == "__main__":
    main()
