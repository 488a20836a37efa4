"""Batches: order, shifts that read real bases, strands, masks passed through."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import write_bigwig
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, RandomSampler

from regmask_sk._batches import (
    BatchShares,
    WindowDataset,
    batch_sizes,
    forced_bases,
    off_chromosome,
)
from regmask_sk._processes import Processes
from regmask_sk._regions import ForcedRegions, Regions
from regmask_sk.features import SequenceChannels, SignalChannels, TSSWindows
from regmask_sk.windows import Windows

LENGTH, JITTER = 61, 7
COMPLEMENT = [3, 2, 1, 0, 4]  # A and T, C and G, the track itself
PAIRS = {"A": "T", "C": "G", "G": "C", "T": "A", "N": "N"}


def make_windows(toy_genome: Any, *, stranded: bool = True, jitter: int = JITTER) -> Windows:
    windows = TSSWindows(LENGTH, stranded=stranded, jitter=jitter).fit_transform(toy_genome.loci)
    windows = SequenceChannels(toy_genome.fasta).fit_transform(windows)
    tracks = {"counts": toy_genome.tracks["counts"]}
    return SignalChannels(tracks).fit_transform(windows)


def no_covariates(n: int) -> np.ndarray:
    return np.zeros((n, 0), np.float32)


def letters(one_hot: np.ndarray) -> str:
    """Bases of ``(4, length)`` as text."""
    return "".join("ACGT"[base.argmax()] if base.any() else "N" for base in one_hot.T)


def genome_around(toy_genome: Any, row: int, flank: int) -> str:
    """Bases of a gene's window and of what lies around it, in gene orientation."""
    gene = toy_genome.loci.iloc[row]
    bases = toy_genome.sequences[gene.chrom].upper()
    half = LENGTH // 2

    def at(position: int) -> str:
        return bases[position] if 0 <= position < len(bases) else "N"

    offsets = range(-half - flank, LENGTH - half + flank)
    if gene.strand == "+":
        return "".join(at(gene.tss + offset) for offset in offsets)
    return "".join(PAIRS[at(gene.tss - offset)] for offset in offsets)


@pytest.fixture
def array() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(10, 5, 12)).astype(np.float32)


def test_a_batch_holds_the_rows_asked_for_in_their_order(array: np.ndarray) -> None:
    covariates = np.arange(20, dtype=np.float32).reshape(10, 2)
    y = np.arange(10, dtype=np.float32)[:, None]
    weight = np.linspace(0, 1, 10, dtype=np.float32)
    rows = [7, 2, 2, 9]
    inputs, (target, weights) = WindowDataset(array, covariates, y, weight).__getitems__(rows)
    assert set(inputs) == {"x", "covariates"}
    np.testing.assert_array_equal(inputs["x"], array[rows])
    np.testing.assert_array_equal(inputs["covariates"], covariates[rows])
    np.testing.assert_array_equal(target, y[rows])
    np.testing.assert_array_equal(weights, weight[rows])
    assert all(t.dtype == torch.float32 for t in (*inputs.values(), target, weights))


def test_one_row_is_a_batch_of_one(array: np.ndarray) -> None:
    dataset = WindowDataset(array, no_covariates(10))
    assert len(dataset) == 10
    inputs, (target, weight) = dataset[3]
    np.testing.assert_array_equal(inputs["x"], array[3:4])
    assert target.tolist() == [[0.0]]
    assert weight.tolist() == [1.0]


def test_a_loader_gives_batches_without_stacking_them_again(array: np.ndarray) -> None:
    dataset = WindowDataset(array, no_covariates(10))
    loader = DataLoader(dataset, batch_size=4, collate_fn=lambda batch: batch)
    sizes = [len(inputs["x"]) for inputs, _ in loader]
    assert sizes == [4, 4, 2]


def test_masks_pass_through_as_float32(array: np.ndarray) -> None:
    masks = np.random.default_rng(1).random((10, 12)) < 0.5
    inputs, _ = WindowDataset(array, no_covariates(10), masks=masks).__getitems__([4, 1])
    assert inputs["mask"].dtype == torch.float32
    np.testing.assert_array_equal(inputs["mask"], masks[[4, 1]])


def test_one_mask_for_all_rows_need_not_be_repeated(array: np.ndarray) -> None:
    mask = np.broadcast_to(np.linspace(0, 1, 12), (10, 12))
    inputs, _ = WindowDataset(array, no_covariates(10), masks=mask).__getitems__([0, 9])
    np.testing.assert_allclose(inputs["mask"], mask[:2], rtol=1e-6)


def test_other_dtypes_are_converted_and_the_data_never_changed(array: np.ndarray) -> None:
    for source in (array, array.astype(np.float64)):
        before = source.copy()
        dataset = WindowDataset(source, no_covariates(10), augment=True, complement=COMPLEMENT)
        for _ in range(3):
            inputs, _ = dataset.__getitems__(list(range(10)))
            assert inputs["x"].dtype == torch.float32
            inputs["x"] += 1.0
        np.testing.assert_array_equal(source, before)


# -- windows from files ----------------------------------------------------------------


@pytest.mark.parametrize("stranded", [True, False])
def test_windows_are_read_as_they_are_without_augmentation(toy_genome: Any, stranded: bool) -> None:
    windows = make_windows(toy_genome, stranded=stranded)
    inputs, _ = WindowDataset(windows, no_covariates(40)).__getitems__([5, 0, 31])
    np.testing.assert_array_equal(inputs["x"], windows[[5, 0, 31]].to_numpy())


def test_jitter_shifts_windows_over_real_bases(toy_genome: Any) -> None:
    dataset = WindowDataset(make_windows(toy_genome), no_covariates(40), augment=True)
    torch.manual_seed(0)
    seen: set[int] = set()
    for _ in range(4):
        inputs, _ = dataset.__getitems__(list(range(40)))
        for row, window in enumerate(inputs["x"].numpy()):
            around = genome_around(toy_genome, row, JITTER)
            bases = letters(window[:4])
            shifts = [s for s in range(2 * JITTER + 1) if around[s : s + LENGTH] == bases]
            assert shifts, f"row {row} is no shift of its gene's window"
            if len(shifts) == 1:
                seen.add(shifts[0] - JITTER)
    assert seen == set(range(-JITTER, JITTER + 1))


def test_without_jitter_or_augmentation_nothing_moves(toy_genome: Any) -> None:
    still = make_windows(toy_genome, jitter=0)
    expected = still.to_numpy()
    for dataset in (
        WindowDataset(still, no_covariates(40), augment=True),
        WindowDataset(make_windows(toy_genome), no_covariates(40), augment=False),
    ):
        inputs, _ = dataset.__getitems__(list(range(40)))
        np.testing.assert_array_equal(inputs["x"], expected)


def test_reverse_complements_against_letters(toy_genome: Any) -> None:
    windows = make_windows(toy_genome, jitter=0)
    plain = windows.to_numpy()
    dataset = WindowDataset(windows, no_covariates(40), augment=True, complement=COMPLEMENT)
    torch.manual_seed(0)
    turned = 0
    for _ in range(3):
        inputs, _ = dataset.__getitems__(list(range(40)))
        for window, original in zip(inputs["x"].numpy(), plain, strict=True):
            if np.array_equal(window, original):
                continue
            turned += 1
            opposite = "".join(PAIRS[base] for base in reversed(letters(original[:4])))
            assert letters(window[:4]) == opposite
            np.testing.assert_array_equal(window[4], original[4][::-1])
    assert 35 <= turned <= 85  # of 120


def test_validation_rows_are_never_turned(toy_genome: Any) -> None:
    windows = make_windows(toy_genome)
    dataset = WindowDataset(windows, no_covariates(40), augment=False, complement=COMPLEMENT)
    inputs, _ = dataset.__getitems__(list(range(40)))
    np.testing.assert_array_equal(inputs["x"], windows.to_numpy())


def test_augmentation_repeats_with_the_seed(toy_genome: Any) -> None:
    dataset = WindowDataset(
        make_windows(toy_genome), no_covariates(40), augment=True, complement=COMPLEMENT
    )
    batches = []
    for _ in range(2):
        torch.manual_seed(3)
        batches.append(dataset.__getitems__(list(range(20)))[0]["x"])
    assert torch.equal(*batches)


def test_a_missing_file_is_an_error_of_the_batch(toy_genome: Any, tmp_path: Path) -> None:
    copy = tmp_path / "g.fa"
    copy.write_bytes(toy_genome.fasta.read_bytes())
    windows = SequenceChannels(copy).fit_transform(
        TSSWindows(LENGTH).fit_transform(toy_genome.loci)
    )
    copy.unlink()
    with pytest.raises((FileNotFoundError, ValueError), match=r"g\.fa"):
        WindowDataset(windows, no_covariates(40)).__getitems__([0])


# -- bases that masks close or open in any case ----------------------------------------


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_forced_bases_lie_where_the_columns_lie(data: st.DataObject) -> None:
    """The oracle asks of each column which position it is, as ``Windows`` says."""
    length, stranded = data.draw(st.integers(1, 40)), data.draw(st.booleans())
    n = data.draw(st.integers(1, 4))
    loci = pd.DataFrame(
        {
            "chrom": [data.draw(st.sampled_from(["chr1", "chr2"])) for _ in range(n)],
            "tss": [data.draw(st.integers(0, 90)) for _ in range(n)],
            "strand": [data.draw(st.sampled_from("+-")) for _ in range(n)],
        }
    )
    windows = Windows(loci, length=length, stranded=stranded)
    regions = []
    for _ in range(2):
        start = data.draw(st.integers(0, 90))
        regions.append([("chr1", start, start + data.draw(st.integers(1, 30)))])
    closed, opened = (
        Regions.from_table(pd.DataFrame(each, columns=["chrom", "start", "end"]))
        for each in regions
    )
    shifts = [data.draw(st.integers(-9, 9)) for _ in range(n)]
    found = forced_bases(windows, ForcedRegions(closed, opened), list(range(n)), shifts)
    for row, gene in enumerate(loci.itertuples()):
        for column in range(length):
            offset = column - length // 2 + shifts[row]
            minus = stranded and gene.strand == "-"
            position = gene.tss - offset if minus else gene.tss + offset
            within = [gene.chrom == c and s <= position < e for ((c, s, e),) in regions]
            assert found[row, column] == (1 if within[1] else -1 if within[0] else 0)


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_what_is_off_the_chromosome_is_closed(data: st.DataObject) -> None:
    sizes = {"chr1": 40, "chr2": 90}

    @dataclass(frozen=True)
    class Sized:
        """No channels, of files whose chromosomes have these sizes."""

        channel_names: tuple[()] = ()
        readers: tuple[Any, ...] = (SimpleNamespace(chrom_sizes=sizes),)

    length, jitter = data.draw(st.integers(1, 40)), data.draw(st.integers(0, 5))
    n, stranded = data.draw(st.integers(1, 4)), data.draw(st.booleans())
    chroms = [data.draw(st.sampled_from(["chr1", "chr2"])) for _ in range(n)]
    loci = pd.DataFrame(
        {
            "chrom": chroms,
            "tss": [data.draw(st.integers(0, sizes[chrom] - 1)) for chrom in chroms],
            "strand": [data.draw(st.sampled_from("+-")) for _ in range(n)],
        }
    )
    windows = Windows(loci, length, (Sized(),), stranded=stranded, jitter=jitter)
    forced = ForcedRegions(off_chromosome(windows), Regions({}))
    shifts = [data.draw(st.integers(-jitter, jitter)) for _ in range(n)]
    found = forced_bases(windows, forced, list(range(n)), shifts)
    for row, gene in enumerate(loci.itertuples()):
        for column in range(length):
            offset = column - length // 2 + shifts[row]
            position = gene.tss + (-offset if stranded and gene.strand == "-" else offset)
            assert found[row, column] == (0 if 0 <= position < sizes[gene.chrom] else -1)


@pytest.mark.parametrize("stranded", [True, False])
def test_forced_bases_move_with_shifts_and_complements(
    toy_genome: Any, tmp_path: Path, stranded: bool
) -> None:
    """A track that is 1 in the regions shows in every batch where they came to lie."""
    rng = np.random.default_rng(0)
    inside = {c: np.zeros(len(s), np.float32) for c, s in toy_genome.sequences.items()}
    lines = []
    for chrom, values in inside.items():
        for start in rng.integers(0, len(values) - 9, 40).tolist():
            lines.append((chrom, start, start + 9))
            values[start : start + 9] = 1.0
    track = write_bigwig(tmp_path / "inside.bw", inside)
    windows = TSSWindows(LENGTH, stranded=stranded, jitter=JITTER).fit_transform(toy_genome.loci)
    windows = SequenceChannels(toy_genome.fasta).fit_transform(windows)
    windows = SignalChannels({"inside": track}, scaling="none").fit_transform(windows)
    closed = Regions.from_table(pd.DataFrame(lines, columns=["chrom", "start", "end"]))
    dataset = WindowDataset(
        windows,
        no_covariates(40),
        forced=ForcedRegions(closed, Regions({})),
        augment=True,
        complement=COMPLEMENT,
    )
    torch.manual_seed(0)
    seen = set()
    for _ in range(4):
        inputs, _ = dataset.__getitems__(list(range(40)))
        assert inputs["forced"].dtype == torch.int8
        np.testing.assert_array_equal(inputs["forced"], -inputs["x"][:, 4])
        seen.add(inputs["forced"].numpy().tobytes())
    assert len(seen) == 4
    assert "forced" not in WindowDataset(windows, no_covariates(40))[0][0]


@given(st.integers(1, 5), st.integers(0, 60), st.integers(0, 9))
def test_shares_of_batches_are_a_partition_of_them(n_processes: int, more: int, size: int) -> None:
    n_rows, batch_size = n_processes + more, n_processes + size
    sizes = batch_sizes(n_rows, batch_size, n_processes)
    assert sum(sizes) == n_rows
    assert min(sizes) >= n_processes
    assert max(sizes) < batch_size + n_processes
    plain = batch_sizes(n_rows, batch_size)
    assert len(plain) == -(-n_rows // batch_size)
    # Those of one process, but where the last batch would have too few rows.
    assert sizes == plain if min(plain) >= n_processes else sizes[:-1] == plain[:-2]
    shares = [
        list(BatchShares(range(n_rows), batch_size, Processes(rank, n_processes)))  # type: ignore[arg-type]
        for rank in range(n_processes)
    ]
    for size, *parts in zip(sizes, *shares, strict=True):
        assert sum(map(len, parts)) == size
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    rows = [row for batch in zip(*shares, strict=True) for part in batch for row in part]
    assert rows == list(range(n_rows))


def test_processes_part_once_the_order_is_drawn() -> None:
    orders, drawn = [], []
    for rank in (0, 1):
        torch.manual_seed(5)
        shares = BatchShares(
            RandomSampler(range(6)),  # type: ignore[arg-type]
            3,
            Processes(rank, 2),
            part_ways=True,
        )
        orders.append(list(shares))
        drawn.append(float(torch.rand(())))
        assert len(shares) == 2
    joined = [a + b for a, b in zip(*orders, strict=True)]
    torch.manual_seed(5)
    expected = list(RandomSampler(range(6)))  # type: ignore[arg-type]
    assert joined == [expected[:3], expected[3:]]
    assert drawn[0] != drawn[1]
