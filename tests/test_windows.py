"""Tests of regmask_sk.windows."""

from __future__ import annotations

import pickle
import time
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import ToyGenome
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from regmask_sk.features import SequenceChannels, SignalChannels
from regmask_sk.window_cache import WindowCache
from regmask_sk.windows import Windows

COMPLEMENT = str.maketrans("ACGT", "TGCA")


def with_channels(toy_genome: ToyGenome, windows: Windows) -> Windows:
    windows = SequenceChannels(toy_genome.bgzipped).fit_transform(windows)
    tracks = SignalChannels(toy_genome.tracks, scaling="none", missing="mask")
    return tracks.fit_transform(windows)


@pytest.fixture
def windows(toy_genome: ToyGenome) -> Windows:
    return with_channels(toy_genome, Windows(toy_genome.loci, 64, jitter=4))


def naive(
    toy_genome: ToyGenome, gene: pd.Series, length: int, stranded: bool, shift: int
) -> np.ndarray:
    """Each column by itself, from the definition of a column."""
    out = np.zeros((8, length), np.float32)
    bases = toy_genome.sequences[gene["chrom"]].upper()
    backward = stranded and gene["strand"] == "-"
    for column in range(length):
        offset = column - length // 2 + shift
        position = gene["tss"] - offset if backward else gene["tss"] + offset
        if 0 <= position < len(bases):
            base = bases[position].translate(COMPLEMENT) if backward else bases[position]
            if base in "ACGT":
                out["ACGT".index(base), column] = 1
            for number, track in enumerate(["counts", "ratio"]):
                value = toy_genome.values[track][gene["chrom"]][position]
                if not np.isnan(value):
                    out[4 + number, column] = value
                    out[6 + number, column] = 1
    return out


@settings(max_examples=120, deadline=None)
@given(
    chrom=st.sampled_from(["chr1", "chr4"]),
    place=st.floats(0, 1),
    strand=st.sampled_from("+-."),
    length=st.integers(1, 70) | st.sampled_from([1_600, 1_601]),
    stranded=st.booleans(),
    shift=st.integers(-9, 9),
    cached=st.booleans(),
)
def test_read_against_an_oracle(
    toy_genome: ToyGenome,
    chrom: str,
    place: float,
    strand: str,
    length: int,
    stranded: bool,
    shift: int,
    cached: bool,
) -> None:
    tss = round(place * (len(toy_genome.sequences[chrom]) - 1))
    loci = pd.DataFrame({"chrom": [chrom], "tss": [tss], "strand": [strand]}, index=["a"])
    windows = Windows(loci, length, stranded=stranded, jitter=5)
    windows = with_channels(toy_genome, windows)
    if cached:
        windows = WindowCache().fit_transform(windows)
    found = windows.read(0, shift)
    assert found.flags.c_contiguous
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, naive(toy_genome, loci.iloc[0], length, stranded, shift))


@given(
    st.integers(0, 10**9),
    st.sampled_from("+-"),
    st.integers(1, 300),
    st.integers(-50, 50),
)
def test_where_columns_lie(tss: int, strand: str, length: int, shift: int) -> None:
    loci = pd.DataFrame({"chrom": ["c"], "tss": [tss], "strand": [strand]}, index=["a"])
    windows = Windows(loci, length)
    chrom, start, end, cell_type, known = windows.interval(0, shift)
    assert (chrom, end - start, cell_type, known) == ("c", length, None, tss)
    positions = np.arange(start, end)
    if strand == "-":
        positions = positions[::-1]
        assert positions[length // 2] == tss - shift
    else:
        assert positions[length // 2] == tss + shift
    assert windows.interval(0).start == windows.starts[0]


def test_looks_like_an_array(windows: Windows) -> None:
    assert windows.shape == (40, 8, 64)
    assert all(type(size) is int for size in windows.shape)
    assert (len(windows), windows.ndim, windows.dtype) == (40, 3, np.float32)
    assert windows.channel_names == (
        "A", "C", "G", "T", "counts", "ratio", "counts_covered", "ratio_covered",
    )  # fmt: skip
    assert windows.complement == (3, 2, 1, 0, 4, 5, 6, 7)
    assert windows.starts.dtype == np.int64
    assert windows.reversed.dtype == bool
    assert repr(windows).startswith("Windows(n=40, length=64, channels=('A', ")
    for name in ("fit", "iloc", "columns", "is_sparse", "__array_namespace__", "keys"):
        assert not hasattr(windows, name)
    assert windows.chrom_sizes["chr4"] == 1_500


@pytest.mark.parametrize(
    "key",
    [
        [3, 1],
        np.array([3, 1]),
        (np.array([3, 1]), Ellipsis),
        (np.array([3, 1]), Ellipsis, slice(None)),
        (3, 1),
        slice(3, None, 9),
        (slice(3, None, 9), ...),
        [-1, 0],
        np.arange(40) % 7 == 0,
        [True] * 40,
        pd.Series(np.arange(40) % 7 == 0),
        [],
        np.array([], dtype=int),
        slice(0, 0),
    ],
)
def test_selecting_rows(windows: Windows, key: Any) -> None:
    if isinstance(key, tuple) and not isinstance(key[0], np.ndarray | slice):
        with pytest.raises(IndexError, match="by row only"):
            windows[key]
        return
    rows = key[0] if isinstance(key, tuple) else key
    rows = np.asarray(rows, dtype=int) if isinstance(rows, list) and not rows else rows
    some = windows[key]
    assert isinstance(some, Windows)
    expected = np.arange(40)[rows]
    assert some.loci.index.tolist() == windows.loci.index[expected].tolist()
    assert some.shape == (len(expected), 8, 64)
    assert some.starts.tolist() == windows.starts[expected].tolist()
    for row, same in enumerate(expected):
        np.testing.assert_array_equal(some[row], windows[int(same)])


def test_reading_rows(windows: Windows) -> None:
    for key in (5, np.int64(5), -35, (5,), (5, ...), (np.int64(5), Ellipsis)):
        row = windows[key]  # type: ignore[index]
        assert isinstance(row, np.ndarray)
        np.testing.assert_array_equal(row, windows.read(5))
    out = np.full((8, 64), np.nan, np.float32)
    assert windows.read(5, 2, out=out) is out
    np.testing.assert_array_equal(out, windows.read(5, 2))
    assert len(list(windows)) == 40


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (40, "row 40 is out of range: n_samples=40"),
        (-41, "row -41"),
        ([0, 40], "row 40"),
        ([[0, 1]], "2 axes"),
        ([0.5], "float64"),
        (["a"], "expected integers or bool"),
        ([True, False], "2 entries for 40 rows"),
        (True, "0 axes"),
        ((0, 1), "by row only"),
        ((slice(None), np.array([0])), "by row only"),
    ],
)
def test_wrong_keys(windows: Windows, key: Any, message: str) -> None:
    with pytest.raises(IndexError, match=message):
        windows[key]


def test_never_an_array_by_accident(windows: Windows) -> None:
    for make in (np.asarray, np.array, lambda x: np.asarray(x, dtype=float)):
        with pytest.raises(TypeError, match=r"GB as an array of shape \(40, 8, 64\).*to_numpy"):
            make(windows)
    array = windows.to_numpy()
    assert array.shape == windows.shape
    np.testing.assert_array_equal(array[7], windows[7])
    with pytest.raises(ValueError, match="max_bytes is 100"):
        windows.to_numpy(max_bytes=100)


def test_reverse_complement_by_channels(toy_genome: ToyGenome) -> None:
    loci = toy_genome.loci.iloc[:5]
    odd = with_channels(toy_genome, Windows(loci.assign(strand="+"), 63)).to_numpy()
    turned = with_channels(toy_genome, Windows(loci.assign(strand="-"), 63))
    np.testing.assert_array_equal(turned.to_numpy(), odd[:, turned.complement, ::-1])
    assert Windows(loci, 3).complement == ()


def test_pickle(windows: Windows) -> None:
    windows[0]  # opens the files
    copy = pickle.loads(pickle.dumps(windows))
    np.testing.assert_array_equal(copy[3], windows[3])
    assert copy.channel_names == windows.channel_names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": 0}, "length is 0; expected an integer of at least 1"),
        ({"length": 2.0}, "length is 2.0"),
        ({"length": True}, "length is True"),
        ({"jitter": -1}, "jitter is -1"),
    ],
)
def test_wrong_fields(toy_genome: ToyGenome, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Windows(**{"loci": toy_genome.loci, "length": 8, **change})
    with pytest.raises(ValueError, match="no column tss"):
        Windows(toy_genome.loci.drop(columns="tss"), 8)


def test_names_are_unique_across_sources(windows: Windows) -> None:
    with pytest.raises(ValueError, match=r"channels \['A', 'C', 'G', 'T'\] occur more than once"):
        windows.with_source(windows.sources[0])


def test_train_test_split(windows: Windows) -> None:
    train, test = train_test_split(windows, test_size=0.25, random_state=0)
    assert isinstance(train, Windows)
    assert (len(train), len(test)) == (30, 10)
    assert set(train.loci.index).isdisjoint(test.loci.index)


def test_a_human_genome_of_genes_costs_nothing(toy_genome: ToyGenome) -> None:
    n = 18_377
    rng = np.random.default_rng(0)
    loci = pd.DataFrame(
        {
            "chrom": rng.choice(["chr1", "chr2"], n),
            "tss": rng.integers(0, 2_500, n),
            "strand": rng.choice(["+", "-"], n),
        },
        index=pd.Index([f"g{i}" for i in range(n)], name="gene"),
    )
    began = time.perf_counter()
    windows = with_channels(toy_genome, Windows(loci, 200_000))
    assert windows.shape == (n, 8, 200_000)
    assert windows.nbytes == n * 8 * 200_000 * 4
    for _ in range(20):
        windows[np.flatnonzero(rng.random(n) < 0.8)]
    assert len(pickle.dumps(windows)) < 5e6
    assert windows[n - 1].shape == (8, 200_000)
    assert time.perf_counter() - began < 10
