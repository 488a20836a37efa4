"""Tests of regmask_sk._stored_files."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SIZES, ToyGenome, write_bigwig, write_fasta
from hypothesis import given, settings
from hypothesis import strategies as st

from regmask_sk._regions import Regions
from regmask_sk._stored_files import NotStoredError, StoredFile
from regmask_sk.genome import BigWigReader, FastaReader


def regions(**by_chrom: list[tuple[int, int]]) -> Regions:
    return Regions({chrom: np.array(found) for chrom, found in by_chrom.items()})


def stored(folder: Path, path: Path, dtype: str = "float16") -> StoredFile:
    return StoredFile(folder, BigWigReader(path), dtype)


def one_chrom(folder: Path, values: np.ndarray, name: str = "x.bw") -> Path:
    return write_bigwig(folder / name, {"c": values.astype(np.float32)})


@settings(max_examples=40, deadline=None)
@given(
    asked=st.lists(
        st.lists(st.tuples(st.integers(0, 1_499), st.integers(1, 400)), min_size=1, max_size=4),
        min_size=1,
        max_size=3,
    ),
    start=st.integers(-50, 1_600),
    length=st.integers(0, 300),
    part=st.integers(60, 300),
    chunk=st.integers(7, 100),
)
def test_what_was_written_comes_back_and_nothing_else(
    toy_genome: ToyGenome,
    tmp_path_factory: pytest.TempPathFactory,
    asked: list[list[tuple[int, int]]],
    start: int,
    length: int,
    part: int,
    chunk: int,
) -> None:
    folder = tmp_path_factory.mktemp("stored")
    files: list[Any] = [
        StoredFile(folder, FastaReader(toy_genome.fasta), "float16"),
        stored(folder, toy_genome.tracks["ratio"], "float32"),
    ]
    known = np.zeros(SIZES["chr4"], bool)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)  # slow, and no part of this
        patch.setattr("regmask_sk._stored_files._PART_BASES", part)
        patch.setattr("regmask_sk._stored_files._CHUNK_BASES", chunk)
        for places in asked:
            for first, width in places:
                known[first : first + width] = True
            wanted = np.flatnonzero(np.diff(np.pad(known.astype(np.int8), 1))).reshape(-1, 2)
            for file in files:
                new = regions(chr4=wanted.tolist()).without(file.regions)
                file.add(new)
    inside = np.arange(max(start, 0), min(start + length, SIZES["chr4"]))
    for file in (*files, *pickle.loads(pickle.dumps(files))):
        read = file.codes if file.dtype == np.uint8 else file.values
        straight = file.reader.codes if file.dtype == np.uint8 else file.reader.values
        if known[inside].all():
            found = read("chr4", start, start + length)
            np.testing.assert_array_equal(found, straight("chr4", start, start + length))
        else:
            with pytest.raises(NotStoredError, match="chr4:"):
                read("chr4", start, start + length)
    for file in files:
        assert file.regions.n_bases == known.sum()
        n_stored = [len(np.load(path)) for path in file.folder.glob("part-*/values.npy")]
        assert sum(n_stored) == known.sum()  # each base once
        assert max(n_stored) <= part


def as_float16(values: np.ndarray, largest: float) -> np.ndarray:
    """Round to 11 bits, by another way than the package."""
    mantissa, exponent = np.frexp(values.astype(np.float64))
    lowest = np.frexp(largest)[1] - 28  # below which float16 has fewer bits
    step = np.exp2(np.maximum(exponent, lowest) - 11)
    return np.round(np.ldexp(mantissa, exponent) / step) * step


@pytest.mark.parametrize("factor", [1.0, 1e-9, 1e9, 3e-38, 1e33])
def test_float16_is_as_precise_as_stated(tmp_path: Path, factor: float) -> None:
    rng = np.random.default_rng(0)
    values = (rng.normal(size=2_000) * 10.0 ** rng.uniform(-12, 3, 2_000) * factor).astype("f4")
    values = values[np.abs(values) > 1e-37]
    values[:3] = np.nan, values.max(), -values.max()
    file = stored(tmp_path, one_chrom(tmp_path, values))
    file.add(regions(c=[(0, len(values))]))
    packed = file.values("c", 0, len(values))
    assert packed.dtype == np.float16
    assert np.log2(file.unit) % 1 == 0
    found = packed.astype(np.float64) * file.unit
    largest = float(np.nanmax(np.abs(values)))
    np.testing.assert_array_equal(np.isnan(found), np.isnan(values))
    known = ~np.isnan(values)
    if factor > 1e-30:
        np.testing.assert_allclose(
            found[known], as_float16(values[known], largest), rtol=1e-12, atol=0
        )
    error = np.abs(found - values)[known]
    allowed = np.maximum(np.abs(values[known]) * 2.0**-11, largest * 2e-12)
    assert (error <= allowed).all()
    assert (error > 0).any()


def test_whole_numbers_are_exact(tmp_path: Path) -> None:
    values = np.append(np.arange(2_049), 5e6)
    file = stored(tmp_path, one_chrom(tmp_path, values))
    file.add(regions(c=[(0, 2_050)]))
    found = file.values("c", 0, 2_049).astype(np.float64) * file.unit
    np.testing.assert_array_equal(found, values[:-1])


@pytest.mark.parametrize("largest", [None, 1.0])
def test_values_that_float16_cannot_hold_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, largest: float | None
) -> None:
    values = np.ones(100)
    values[40] = 1e6
    path = one_chrom(tmp_path, values)
    monkeypatch.setattr(BigWigReader, "largest", lambda _: largest)
    file = stored(tmp_path / "cache", path)
    (tmp_path / "cache").mkdir()
    wanted = regions(c=[(0, 30), (38, 60)])
    message = r"x.bw does not fit into float16: c:40 \(0-based\) has 1e\+06.* dtype='float32'"
    with pytest.raises(ValueError, match=message):
        file.add(wanted)
    assert not list((tmp_path / "cache").glob("*/*"))
    exact = stored(tmp_path / "cache", path, "float32")
    exact.add(wanted)
    assert exact.values("c", 40, 41) == 1e6


def test_tiny_values_are_refused_where_the_summary_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = one_chrom(tmp_path, np.full(10, 1e-9))
    monkeypatch.setattr(BigWigReader, "largest", lambda _: None)
    with pytest.raises(ValueError, match=r"c:0 \(0-based\) has 1e-09, .* come back as 0"):
        stored(tmp_path, path).add(regions(c=[(0, 10)]))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_infinite_values_are_none(tmp_path: Path, dtype: str) -> None:
    values = np.array([1.0, np.inf, -2.0, -np.inf, np.nan])
    file = stored(tmp_path, one_chrom(tmp_path, values), dtype)
    file.add(regions(c=[(0, 5)]))
    np.testing.assert_array_equal(file.values("c", 0, 5), [1, np.nan, -2, np.nan, np.nan])


def test_the_key_is_the_file(tmp_path: Path) -> None:
    path = one_chrom(tmp_path, np.ones(5))
    first = stored(tmp_path, path)
    assert stored(tmp_path, path).folder == first.folder
    assert stored(tmp_path, path, "float32").folder != first.folder
    other = one_chrom(tmp_path, np.ones(5), "y.bw")
    assert stored(tmp_path, other).folder != first.folder
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert stored(tmp_path, path).folder != first.folder


def test_a_file_that_changes_meanwhile_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_fasta(tmp_path / "g.fa", {"c": "ACGT" * 10})
    file = StoredFile(tmp_path, FastaReader(path), "float16")
    read = StoredFile._read

    def changing(self: StoredFile, segments: Any) -> Any:
        os.utime(path, ns=(0, 0))
        return read(self, segments)

    monkeypatch.setattr(StoredFile, "_read", changing)
    with pytest.raises(ValueError, match=r"g.fa has changed on disk since it was opened"):
        file.add(regions(c=[(0, 40)]))
    assert not list(file.folder.iterdir())


def test_parts_that_overlap_are_read_as_one(tmp_path: Path) -> None:
    """Two processes may write the same where a disk has no locks."""
    path = one_chrom(tmp_path, np.arange(30.0))
    writers = [stored(tmp_path, path, "float32") for _ in range(3)]
    for writer, (start, end) in zip(writers, [(0, 20), (10, 30), (12, 15)], strict=True):
        writer.add(regions(c=[(start, end)]))
    reader = stored(tmp_path, path, "float32")
    reader.refresh()
    np.testing.assert_array_equal(reader.values("c", 0, 30), np.arange(30))
    assert reader.regions.n_bases == 30


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"segments": [["c", 0, 29]]}, r"shape \(30,\) .*expected \(29,\)"),
        ({"segments": [["c", 0]]}, "not enough values"),
        ({"file": "x"}, "segments"),
    ],
)
def test_damaged_parts(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    path = one_chrom(tmp_path, np.arange(30.0))
    stored(tmp_path, path).add(regions(c=[(0, 30)]))
    (listing,) = tmp_path.glob("*/part-*/segments.json")
    assert json.loads(listing.read_text())["file"] == str(path)
    listing.write_text(json.dumps(change))
    with pytest.raises(ValueError, match=rf"part-\w+ of WindowCache is damaged: .*{told}"):
        stored(tmp_path, path).refresh()
