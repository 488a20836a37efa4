"""Masks as files: against a dense oracle, in bounded memory, whole or not at all."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyBigWig
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regmask_sk._mask_files import BigWigTrack
from regmask_sk.export import call_elements, export_masks, gene_elements
from regmask_sk.genome import FastaReader
from regmask_sk.windows import Windows

SIZES = {"chr10": 150, "chr2": 90, "chrX": 60}  # not in the order of their names


class GivenMasks:
    """Gives each gene the mask that a table holds for it, and notes the batches asked for."""

    def __init__(self, masks: dict[str, np.ndarray]) -> None:
        self.masks = masks
        self.batches: list[int] = []

    def transform(self, X: Windows) -> np.ndarray:
        self.batches.append(len(X))
        return np.stack([self.masks[gene] for gene in X.loci.index])


def make_windows(rows: list[tuple[str, int, str]], length: int, **kwargs: object) -> Windows:
    loci = pd.DataFrame(rows, columns=["chrom", "tss", "strand"])
    loci.index = pd.Index([f"g{i}" for i in range(len(rows))], name="gene")
    return Windows(loci, length=length, **kwargs)


def position(windows: Windows, row: int, column: int) -> int:
    """Genomic position of a column, by the definition in the documentation of Windows."""
    tss, half = int(windows.loci["tss"].iloc[row]), windows.length // 2
    minus = windows.loci["strand"].iloc[row] == "-"
    return tss + half - column if minus else tss - half + column


def dense_track(windows: Windows, masks: dict[str, np.ndarray], combine: str) -> dict[str, list]:
    """Combine masks base by base, the slow way; None where there is no window."""
    track: dict[str, list] = {chrom: [[] for _ in range(n)] for chrom, n in SIZES.items()}
    for row, (gene, chrom) in enumerate(windows.loci["chrom"].items()):
        for column, value in enumerate(masks[gene]):
            at = position(windows, row, column)
            if 0 <= at < SIZES[chrom]:
                track[chrom][at].append(float(value))
    rule = max if combine == "max" else (lambda values: sum(values) / len(values))
    return {c: [rule(v) if v else None for v in values] for c, values in track.items()}


def naive_elements(mask: list[float], threshold: float, width: int, gap: int) -> list:
    kept = [value >= threshold for value in mask]
    # A gap is filled if it is short and has an open base on both sides.
    filled = list(kept)
    for i in range(len(kept)):
        if not kept[i]:
            left = next((i - j for j in range(i - 1, -1, -1) if kept[j]), None)
            right = next((j - i for j in range(i + 1, len(kept)) if kept[j]), None)
            filled[i] = left is not None and right is not None and left + right - 1 <= gap
    runs, start = [], None
    for i, value in enumerate([*filled, False]):
        if value and start is None:
            start = i
        elif not value and start is not None:
            if i - start >= width:
                runs.append((start, i))
            start = None
    return runs


values = st.sampled_from([0.0, 0.25, 0.5, 0.7, 1.0])


@st.composite
def exports(draw: st.DrawFn) -> tuple[Windows, dict[str, np.ndarray]]:
    length = draw(st.integers(1, 40))
    locus = st.sampled_from(list(SIZES)).flatmap(
        lambda chrom: st.tuples(
            st.just(chrom), st.integers(0, SIZES[chrom] - 1), st.sampled_from("+-")
        )
    )
    rows = draw(st.lists(locus, min_size=1, max_size=8, unique=True))
    windows = make_windows(rows, length)
    masks = {
        gene: np.array(draw(st.lists(values, min_size=length, max_size=length)), np.float32)
        for gene in windows.loci.index
    }
    return windows, masks


@settings(max_examples=120, deadline=None)
@given(
    exports(),
    st.sampled_from(["max", "mean"]),
    st.integers(1, 5),
    st.sampled_from([0.25, 0.5, 0.7]),
    st.integers(1, 6),
    st.integers(0, 4),
)
def test_files_agree_with_a_dense_oracle(
    tmp_path_factory: pytest.TempPathFactory,
    drawn: tuple[Windows, dict[str, np.ndarray]],
    combine: str,
    batch_size: int,
    threshold: float,
    min_width: int,
    merge_gap: int,
) -> None:
    windows, masks = drawn
    folder = tmp_path_factory.mktemp("export")
    done = export_masks(
        GivenMasks(masks),
        windows,
        bigwig=folder / "m.bw",
        bed=folder / "m.bed",
        npz=folder / "m.npz",
        threshold=threshold,
        min_width=min_width,
        merge_gap=merge_gap,
        combine=combine,
        batch_size=batch_size,
        chrom_sizes=SIZES,
    )

    expected = dense_track(windows, masks, combine)
    with pyBigWig.open(str(folder / "m.bw")) as track:
        assert list(track.chroms().items()) == sorted(SIZES.items())
        for chrom, size in SIZES.items():
            found = track.values(chrom, 0, size, numpy=True)
            dense = np.array([np.nan if v is None else v for v in expected[chrom]])
            np.testing.assert_allclose(found, dense, rtol=1e-6)
            runs = track.intervals(chrom) or ()
            for (_, end, value), (start, _, after) in pairwise(runs):
                assert end < start or value != after  # a run of equal values is one interval

    lines = []
    for row, (gene, locus) in enumerate(windows.loci.iterrows()):
        chrom = locus["chrom"]
        there = {position(windows, row, j): float(v) for j, v in enumerate(masks[gene])}
        on = [p for p in sorted(there) if 0 <= p < SIZES[chrom]]
        mask = [there[p] for p in on]
        for start, end in naive_elements(mask, np.float32(threshold), min_width, merge_gap):
            score = round(1000 * float(np.mean(mask[start:end])))
            lines.append((chrom, on[0] + start, on[0] + end, gene, str(score), locus["strand"]))
    lines.sort(key=lambda line: (line[0].encode(), *line[1:4]))
    assert (folder / "m.bed").read_text() == "".join("\t".join(map(str, x)) + "\n" for x in lines)
    assert done.n_elements == len(lines)
    assert done.n_genes == len(windows)
    assert done.mask_fraction == pytest.approx(np.mean(list(masks.values())))

    with np.load(folder / "m.npz") as archive:  # no pickle in it
        assert archive["gene"].tolist() == list(windows.loci.index)
        np.testing.assert_array_equal(archive["masks"], np.stack(list(masks.values())))
        assert archive["masks"].dtype == np.float32
        for row in range(len(windows)):
            start, last = archive["start"][row], windows.length - 1
            first = start + last if archive["reversed"][row] else start
            assert first == position(windows, row, 0)
        for name in ("chrom", "tss", "strand"):
            assert archive[name].tolist() == windows.loci[name].tolist()
    assert sorted(p.name for p in folder.iterdir()) == ["m.bed", "m.bw", "m.npz"]


@settings(max_examples=150, deadline=None)
@given(st.lists(values, max_size=40), st.integers(1, 8), st.integers(0, 8))
def test_call_elements_agrees_with_a_naive_loop(mask: list[float], width: int, gap: int) -> None:
    called = call_elements(mask, threshold=0.5, min_width=width, merge_gap=gap)
    assert called == naive_elements(mask, 0.5, width, gap)


def test_threshold_is_met_by_the_same_number_in_single_precision() -> None:
    assert call_elements(np.full(3, 0.7, np.float32), threshold=0.7, min_width=1) == [(0, 3)]


def test_minus_strand_is_turned_and_cut_at_both_ends(tmp_path: Path) -> None:
    windows = make_windows([("chrX", 2, "-"), ("chrX", 58, "-")], length=10)
    ramp = np.arange(10, dtype=np.float32) / 16
    masks = {"g0": ramp, "g1": ramp}
    export_masks(GivenMasks(masks), windows, bigwig=tmp_path / "m.bw", chrom_sizes=SIZES)
    with pyBigWig.open(str(tmp_path / "m.bw")) as track:
        found = track.values("chrX", 0, 60, numpy=True)
    # Column j is position tss + 5 - j: position 0 is column 7, position 59 is column 4.
    np.testing.assert_array_equal(found[:8], ramp[7::-1])
    np.testing.assert_array_equal(found[54:], ramp[9:3:-1])
    assert np.isnan(found[8:54]).all()


def test_gene_elements_are_those_of_the_file(tmp_path: Path) -> None:
    windows = make_windows([("chr2", 4, "+"), ("chr10", 80, "-")], length=30)
    rng = np.random.default_rng(0)
    masks = {gene: rng.random(30).astype(np.float32) for gene in windows.loci.index}
    how = {"threshold": 0.6, "min_width": 2, "merge_gap": 1, "chrom_sizes": SIZES}
    export_masks(GivenMasks(masks), windows, bed=tmp_path / "m.bed", **how)
    written = pd.read_csv(
        tmp_path / "m.bed", sep="\t", names=["chrom", "start", "end", "name", "score", "strand"]
    )
    tables = [gene_elements(windows, row, masks[f"g{row}"], **how) for row in (1, 0)]
    pd.testing.assert_frame_equal(pd.concat(tables, ignore_index=True), written)


def test_sizes_come_from_the_files_behind_the_channels(tmp_path: Path) -> None:
    fasta = tmp_path / "g.fa"
    fasta.write_text("".join(f">{name}\n{'ACGTA' * (n // 5)}\n" for name, n in SIZES.items()))

    class Source:
        channel_names = ("A",)
        readers = (FastaReader(fasta),)

    windows = make_windows([("chr2", 40, "+")], length=10, sources=(Source(),))
    masks = GivenMasks({"g0": np.ones(10, np.float32)})
    export_masks(masks, windows, bigwig=tmp_path / "m.bw")
    with pyBigWig.open(str(tmp_path / "m.bw")) as track:
        assert dict(track.chroms()) == SIZES


def peak_memory(n_genes: int, folder: Path) -> int:
    length = 20_000
    rows = [("chr1", 500 + 1_000 * i, "+-"[i % 2]) for i in range(n_genes)]  # 20 overlap anywhere
    windows = make_windows(rows, length)
    ramp = np.linspace(0, 1, length // 16, dtype=np.float32).repeat(16)

    class Ramp:
        def transform(self, X: Windows) -> np.ndarray:
            return np.stack([np.roll(ramp, 37 * i) for i in range(len(X))])

    tracemalloc.start()
    try:
        export_masks(
            Ramp(),
            windows,
            bigwig=folder / f"{n_genes}.bw",
            bed=folder / f"{n_genes}.bed",
            npz=folder / f"{n_genes}.npz",
            batch_size=8,
            chrom_sizes={"chr1": 1_000_000},
        )
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_number_of_genes(tmp_path: Path) -> None:
    peak_memory(5, tmp_path / "..")  # imports and caches
    small, large = peak_memory(60, tmp_path), peak_memory(600, tmp_path)
    masks_of_all = 600 * 20_000 * 4
    assert large < small * 1.25
    assert large < masks_of_all / 8


def test_batches_are_as_asked_and_only_npz_needs_no_sizes(tmp_path: Path) -> None:
    windows = make_windows([("chr2", 10 + i, "+") for i in range(5)], length=4)
    masks = GivenMasks({gene: np.zeros(4) for gene in windows.loci.index})
    done = export_masks(masks, windows, npz=tmp_path / "m.npz", batch_size=2)
    assert masks.batches == [2, 2, 1]
    assert (done.bigwig, done.bed, done.npz) == (None, None, tmp_path / "m.npz")


def test_many_short_runs_cross_the_queue_of_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regmask_sk._mask_files._ENTRIES", 7)
    values = np.random.default_rng(0).integers(0, 2, 500).astype(np.float32)
    with BigWigTrack(tmp_path / "m.bw", {"a": 500, "b": 9}, 40, "max") as track:
        for start in range(0, 461, 20):
            track.add("a", start, values[start : start + 40])
        track.add("b", 0, values[:9])
    with pyBigWig.open(str(tmp_path / "m.bw")) as written:
        np.testing.assert_array_equal(written.values("a", 0, 500, numpy=True), values)
        np.testing.assert_array_equal(written.values("b", 0, 9, numpy=True), values[:9])


class Broken:
    def __init__(self, masks: np.ndarray) -> None:
        self.masks = masks

    def transform(self, X: Windows) -> np.ndarray:
        return self.masks


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (np.zeros((1, 3)), r"shape \(1, 3\).*expected numbers of shape \(1, 4\)"),
        (np.full((1, 4), np.nan), r"range from nan.*expected \[0, 1\]"),
        (np.full((1, 4), 1.5), r"to 1\.5; expected \[0, 1\]"),
        (np.full((1, 4), "x"), "dtype <U1"),
    ],
)
def test_what_is_no_mask_is_refused_and_leaves_no_file(
    tmp_path: Path, masks: np.ndarray, message: str
) -> None:
    windows = make_windows([("chr2", 10, "+")], length=4)
    files = {"bigwig": tmp_path / "m.bw", "bed": tmp_path / "m.bed", "npz": tmp_path / "m.npz"}
    with pytest.raises(ValueError, match=message):
        export_masks(Broken(masks), windows, **files, chrom_sizes=SIZES)
    assert list(tmp_path.iterdir()) == []


def test_rounding_past_one_is_clipped(tmp_path: Path) -> None:
    windows = make_windows([("chr2", 10, "+")], length=4)
    masks = Broken(np.full((1, 4), 1 + 1e-7))
    done = export_masks(masks, windows, bigwig=tmp_path / "m.bw", chrom_sizes=SIZES)
    assert done.mask_fraction == 1.0


def test_files_are_kept_unless_overwrite_and_survive_a_failure(tmp_path: Path) -> None:
    windows = make_windows([("chr2", 10, "+")], length=4)
    target = tmp_path / "m.bed"
    target.write_text("precious")
    good = GivenMasks({"g0": np.ones(4)})
    with pytest.raises(FileExistsError, match=r"bed: .*m\.bed exists.*overwrite=True"):
        export_masks(good, windows, bed=target, chrom_sizes=SIZES)
    assert good.batches == []  # refused before anything is computed
    with pytest.raises(ValueError, match="range from"):
        export_masks(
            Broken(np.full((1, 4), 9.0)), windows, bed=target, chrom_sizes=SIZES, overwrite=True
        )
    assert target.read_text() == "precious"
    export_masks(good, windows, bed=target, min_width=1, chrom_sizes=SIZES, overwrite=True)
    assert target.read_text() == "chr2\t8\t12\tg0\t1000\t+\n"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({}, ValueError, "no file is asked for"),
        ({"bed": "m", "npz": "m"}, ValueError, "two outputs share one path"),
        ({"bed": "m.bed.gz"}, ValueError, "bgzip"),
        ({"bed": "no/such/m.bed"}, FileNotFoundError, "no/such does not exist"),
        ({"bed": "."}, IsADirectoryError, "is a folder"),
        ({"bed": "m", "combine": "sum"}, ValueError, "combine is 'sum'"),
        ({"bed": "m", "batch_size": 0}, ValueError, "batch_size is 0"),
        ({"bed": "m", "threshold": 0.0}, ValueError, "threshold is 0"),
        ({"bed": "m", "threshold": float("nan")}, ValueError, "threshold is nan"),
        ({"bed": "m", "min_width": 0}, ValueError, "min_width is 0"),
        ({"bed": "m", "merge_gap": -1}, ValueError, "merge_gap is -1"),
        ({"bed": "m", "chrom_sizes": None}, ValueError, r"no size for \['chr2'\]"),
        ({"bed": "m", "chrom_sizes": {"chr2": 10}}, ValueError, r"TSS past the end.*\['g0'\]"),
    ],
)
def test_bad_arguments_are_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    windows = make_windows([("chr2", 10, "+")], length=4)
    masks = GivenMasks({"g0": np.ones(4)})
    with pytest.raises(error, match=message):
        export_masks(masks, windows, **({"chrom_sizes": SIZES} | change))


def test_bad_windows_are_named(tmp_path: Path) -> None:
    windows = make_windows([("chr2", 10, "+"), ("chr2", 12, "+")], length=4)
    masks = GivenMasks({gene: np.ones(4) for gene in windows.loci.index})
    out = {"bed": tmp_path / "m.bed", "chrom_sizes": SIZES}
    with pytest.raises(ValueError, match="no rows"):
        export_masks(masks, windows[:0], **out)
    mixed = Windows(windows.loci.assign(cell_type=["K562", "GM12878"]), length=4)
    with pytest.raises(ValueError, match=r"several cell types, \['GM12878', 'K562'\]"):
        export_masks(masks, mixed, **out)
    renamed = Windows(windows.loci.rename(index={"g1": "a\tb"}), length=4)
    with pytest.raises(ValueError, match=r"tab or a line break.*'a\\tb'"):
        export_masks(masks, renamed, **out)
    with pytest.raises(ValueError, match="one vector"):
        call_elements(np.zeros((2, 3)))


def test_an_input_is_never_overwritten(tmp_path: Path) -> None:
    fasta = tmp_path / "g.fa"
    fasta.write_text(f">chr2\n{'ACGTA' * 10}\n")

    class Source:
        channel_names = ("A",)
        readers = (FastaReader(fasta),)

    windows = make_windows([("chr2", 10, "+")], length=4, sources=(Source(),))
    with pytest.raises(ValueError, match=r"npz: .*g\.fa is a file that windows reads"):
        export_masks(GivenMasks({}), windows, npz=fasta, overwrite=True)


def test_a_failure_half_way_leaves_no_file(tmp_path: Path) -> None:
    windows = make_windows([("chr2", 10 + i, "+") for i in range(9)], length=4)

    class Fails:
        def transform(self, X: Windows) -> np.ndarray:
            if "g8" in X.loci.index:
                raise RuntimeError("out of memory")
            return np.random.default_rng(0).random((len(X), 4))

    files = {"bigwig": tmp_path / "m.bw", "bed": tmp_path / "m.bed", "npz": tmp_path / "m.npz"}
    with pytest.raises(RuntimeError, match="out of memory"):
        export_masks(Fails(), windows, **files, batch_size=2, chrom_sizes=SIZES, min_width=1)
    assert list(tmp_path.iterdir()) == []


def test_sources_that_disagree_on_a_size_are_refused(tmp_path: Path) -> None:
    readers = []
    for size in (50, 60):
        path = tmp_path / f"{size}.fa"
        path.write_text(f">chr2\n{'A' * size}\n")
        readers.append(FastaReader(path))

    class Source:
        channel_names = ("A",)

    Source.readers = tuple(readers)
    windows = make_windows([("chr2", 10, "+")], length=4, sources=(Source(),))
    with pytest.raises(ValueError, match="disagree on the size of chr2: 50 and 60"):
        export_masks(GivenMasks({}), windows, bed=tmp_path / "m.bed")


def test_a_bigwig_that_lost_bases_is_an_error(tmp_path: Path) -> None:
    track = BigWigTrack(tmp_path / "m.bw", {"a": 50}, 10, "max")
    track.add("a", 0, np.ones(10))
    track._covered = 1  # as if a base had been written that the file does not hold
    with pytest.raises(OSError, match=r"holds 10 bases after writing 11.*free space"):
        track.__exit__(None)
