"""Tests of regmask_sk._cache: windows from a folder."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import signal
import threading
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from conftest import SIZES, ToyGenome, write_bigwig
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from regmask_sk._files import bytes_in
from regmask_sk._stored_files import StoredFile
from regmask_sk.contacts import ContactChannel
from regmask_sk.features import SequenceChannels, SignalChannels, TSSWindows
from regmask_sk.genome import BigWigReader
from regmask_sk.window_cache import WindowCache
from regmask_sk.windows import Windows


class Setting(NamedTuple):
    """Tracks of two cell types, a blacklist, and a folder that fills from example to example."""

    tracks: dict[str, Any]
    blacklist: Path
    folder: Path


@pytest.fixture(scope="module")
def setting(toy_genome: ToyGenome, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder = tmp_path_factory.mktemp("cache")
    rng = np.random.default_rng(1)
    without = {
        chrom: np.where(rng.random(size) < 0.3, np.nan, 0.01 + rng.gamma(0.5, 40.0, size))
        for chrom, size in SIZES.items()
        if chrom != "chr3"  # a chromosome that a track lacks
    }
    other = write_bigwig(folder / "other.bw", without)
    tracks = {"ratio": toy_genome.tracks["ratio"],
              "cells": {"one": toy_genome.tracks["counts"], "two": other}}  # fmt: skip
    blacklist = folder / "blacklist.bed"
    blacklist.write_text("chr1\t100\t180\nchr4\t0\t40\n")
    return Setting(tracks, blacklist, folder)


def as_float16(windows: Windows, row: int, shift: int) -> np.ndarray:
    """Read a window from values that were rounded to 11 bits, scales and all done as before."""
    values = BigWigReader.values

    def rounded(self: BigWigReader, *interval: Any) -> np.ndarray:
        mantissa, exponent = np.frexp(values(self, *interval))
        return np.ldexp(np.round(mantissa * 2048) / 2048, exponent).astype(np.float32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BigWigReader, "values", rounded)
        return windows.read(row, shift)


@settings(max_examples=40, deadline=None, phases=[Phase.generate])  # shrinking takes minutes
@given(
    places=st.lists(
        st.tuples(
            st.sampled_from(sorted(SIZES)), st.floats(0, 1), st.sampled_from("+-."),
            st.sampled_from(["one", "two"]),
        ),
        min_size=1,
        max_size=5,
    ),
    length=st.integers(1, 300),
    jitter=st.integers(0, 5),
    shift=st.integers(-8, 8),
    stranded=st.booleans(),
    missing=st.sampled_from(["zero", "mask"]),
    scaling=st.sampled_from(["none", "robust"]),
    blacklisted=st.booleans(),
    contact=st.booleans(),
    dtype=st.sampled_from(["float16", "float32"]),
    fitted=st.integers(0, 5),
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:1 of the . chromosomes of the loci are not in bigWig")
def test_windows_are_those_of_the_files(
    toy_genome: ToyGenome,
    setting: Setting,
    places: list[tuple[str, float, str, str]],
    length: int,
    jitter: int,
    shift: int,
    stranded: bool,
    missing: str,
    scaling: str,
    blacklisted: bool,
    contact: bool,
    dtype: str,
    fitted: int,
) -> None:
    frame = [
        (chrom, round(place * (SIZES[chrom] - 1)), strand, cell_type)
        for chrom, place, strand, cell_type in [*places, ("chr1", 0.5, "-", "two")]
    ]
    loci = pd.DataFrame(frame, columns=["chrom", "tss", "strand", "cell_type"])
    windows = Windows(loci, length, stranded=stranded, jitter=jitter)
    windows = SequenceChannels(toy_genome.bgzipped).fit_transform(windows)
    signals = SignalChannels(
        setting.tracks, scaling, missing, setting.blacklist if blacklisted else None, random_state=0
    )
    rows = toy_genome.loci.iloc[[0, 1, 10, 11]].assign(cell_type=["one", "two"] * 2)
    signals.fit(Windows(rows, 300))
    plain = signals.transform(windows)
    if contact:
        plain = ContactChannel(bin_size=50, scaling="none").fit_transform(plain)
    cache = WindowCache(setting.folder / "cache", dtype=dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)  # slow, and no part of this
        cached = cache.fit(plain[:fitted]).transform(plain)
    for windows in (cached, pickle.loads(pickle.dumps(cached))[::-1][::-1]):
        for row in range(len(loci)):
            kept = abs(shift) <= jitter
            found = windows.read(row, shift)
            if dtype == "float16" and kept:
                expected = as_float16(plain, row, shift)
            else:
                expected = plain.read(row, shift)
            np.testing.assert_array_equal(found, expected)
            assert found.flags.c_contiguous
            assert not kept or windows.store.row(windows, row) is not None  # type: ignore[union-attr]


# -- sizes -----------------------------------------------------------------------------------


def features(toy_genome: ToyGenome, length: int = 100, jitter: int = 7) -> Windows:
    windows = TSSWindows(length, jitter=jitter).fit_transform(toy_genome.loci)
    windows = SequenceChannels(toy_genome.fasta).fit_transform(windows)
    return SignalChannels(toy_genome.tracks, random_state=0).fit_transform(windows)


def test_the_estimate_is_what_is_written(toy_genome: ToyGenome, tmp_path: Path) -> None:
    windows = features(toy_genome)
    covered = {
        (chrom, place)
        for chrom, start in zip(toy_genome.loci["chrom"], windows.starts - 7, strict=True)
        for place in range(max(start, 0), min(start + 114, SIZES[chrom]))
    }
    for dtype, each in (("float16", 5), ("float32", 9)):
        folder = tmp_path / dtype
        cache = WindowCache(folder, dtype=dtype)
        needed = len(covered) * each
        assert cache.estimate_bytes(windows) == (needed, needed, 40 * 114 * each)
        assert not folder.exists()
        half = cache.fit(windows[::2]).estimate_bytes(windows)
        assert half.needed == needed
        assert 0 < half.missing < needed
        assert cache.fit(windows).estimate_bytes(windows).missing == 0
        written = sum(np.load(path).nbytes for path in folder.glob("*/*/values.npy"))
        assert written == needed
        assert cache.estimate_bytes(windows[:0]) == (0, 0, 0)


def test_the_estimate_knows_cell_types_and_rows(
    toy_genome: ToyGenome, setting: Setting, tmp_path: Path
) -> None:
    loci = toy_genome.loci.iloc[[0, 0, 0, 15]].assign(cell_type=["one", "two", "two", "two"])
    loci["tss"] = 500
    windows = SequenceChannels(toy_genome.fasta).fit_transform(TSSWindows(100).fit_transform(loci))
    windows = SignalChannels(setting.tracks, random_state=0).fit_transform(windows)
    # chr1 and chr2 have 100 bases each of sequence and of ratio; three rows differ
    cache = WindowCache(tmp_path / "cache")
    expected = 200 * (1 + 2) + 2 * (100 + 200)
    assert cache.estimate_bytes(windows) == (expected, expected, 3 * 100 * 5)
    windows = ContactChannel().fit_transform(windows)
    expected += 3 * 100 * 4
    assert cache.estimate_bytes(windows) == (expected, expected, 3 * 100 * 9)
    cache.fit(windows)
    assert cache.estimate_bytes(windows).missing == 0


def test_windows_that_overlap_are_kept_once(toy_genome: ToyGenome, tmp_path: Path) -> None:
    windows = features(toy_genome, length=4_000, jitter=0)
    size = WindowCache(tmp_path).estimate_bytes(windows)
    assert size.needed == sum(SIZES.values()) * 5
    assert size.separate == 40 * 4_000 * 5
    WindowCache(tmp_path).fit(windows)
    assert bytes_in(tmp_path) < size.needed + 10_000


def test_the_budget(toy_genome: ToyGenome, tmp_path: Path) -> None:
    windows = features(toy_genome)
    need = WindowCache(tmp_path).estimate_bytes(windows).needed
    message = (
        rf"the windows take {need / 1e9:.3g} GB in .*, of which {need / 1e9:.3g} GB are not there "
        rf"yet; .*exceeds max_bytes, {need - 1} .*Raise max_bytes, .*shorter windows"
    )
    for dtype, max_bytes in (("float16", need - 1), ("float32", need + 10_000)):
        with pytest.raises(ValueError, match="max_bytes") as raised:
            WindowCache(tmp_path, max_bytes, dtype).fit(windows)
        assert ("dtype='float16'" in str(raised.value)) == (dtype == "float32")
    with pytest.raises(ValueError, match=message):
        WindowCache(tmp_path, need - 1).fit(windows)
    assert bytes_in(tmp_path) == 0
    WindowCache(tmp_path, need + 10_000).fit(windows)
    # what the folder holds already counts, and what is there needs no room
    WindowCache(tmp_path, 1).fit(windows)
    longer = features(toy_genome, length=130)
    with pytest.raises(ValueError, match="that the folder holds"):
        WindowCache(tmp_path, need + 5_000).fit(longer)


def test_rows_beyond_the_budget_are_read_from_their_files(
    toy_genome: ToyGenome, tmp_path: Path
) -> None:
    windows = features(toy_genome)
    need = WindowCache(tmp_path).estimate_bytes(windows[:20]).needed
    cache = WindowCache(tmp_path, need + 5_000, "float32").fit(windows[:5])
    with pytest.warns(UserWarning, match="max_bytes.* read from their files"):
        cached = cache.transform(windows)
    for row in range(40):
        np.testing.assert_array_equal(cached[row], windows[row])


def test_too_full_a_disk(
    toy_genome: ToyGenome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = features(toy_genome)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000))
    with pytest.raises(ValueError, match=r"the disk has 1e-06 GB left. Give WindowCache another"):
        WindowCache(tmp_path).fit(windows)
    assert bytes_in(tmp_path) == 0


def test_values_that_do_not_fit_are_an_error_of_fit_alone(
    toy_genome: ToyGenome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = features(toy_genome)
    monkeypatch.setattr(BigWigReader, "largest", lambda _: 1e-9)
    with pytest.raises(ValueError, match="does not fit into float16"):
        WindowCache(tmp_path).fit(windows)
    with pytest.warns(UserWarning, match="does not fit into float16.* read from their files"):
        cached = WindowCache(tmp_path).transform(windows)
    for row in range(40):
        np.testing.assert_array_equal(cached[row], windows[row])


# -- what may happen meanwhile ---------------------------------------------------------------


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regmask_sk._stored_files._PART_BASES", 1_000)
    monkeypatch.setattr("regmask_sk._stored_files._CHUNK_BASES", 400)


def counted_reads(monkeypatch: pytest.MonkeyPatch, then: Callable[[int], None]) -> list[Any]:
    """Count reads of stretches, and do something at each."""
    reads: list[Any] = []
    read = StoredFile._read

    def counted(self: StoredFile, segments: Any) -> Any:
        reads.append((self.path, segments))
        then(len(reads))
        return read(self, segments)

    monkeypatch.setattr(StoredFile, "_read", counted)
    return reads


def assert_complete(windows: Windows, folder: Path) -> None:
    cached = WindowCache(folder, dtype="float32").fit_transform(windows)
    for row in range(40):
        np.testing.assert_array_equal(cached[row], windows[row])
    assert not list(folder.glob("*/unfinished-*"))


@pytest.mark.usefixtures("in_parts")
def test_a_disk_that_gets_full(
    toy_genome: ToyGenome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = features(toy_genome)

    def full(number: int) -> None:
        if number == 8:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        counted_reads(patch, full)
        message = r"got full while .*No space left.*What was finished stays.*Make room"
        with pytest.raises(OSError, match=message):
            WindowCache(tmp_path, dtype="float32").fit(windows)
    finished = {part.name for part in tmp_path.glob("*/part-*")}
    assert finished
    assert not list(tmp_path.glob("*/unfinished-*"))
    with monkeypatch.context() as patch:
        counted_reads(patch, lambda _: full(8))
        cache = WindowCache(tmp_path, dtype="float32")
        with pytest.warns(UserWarning, match="got full.*read from their files"):
            cached = cache.transform(windows)
        for row in range(40):
            np.testing.assert_array_equal(cached[row], windows[row])
    assert_complete(windows, tmp_path)
    assert finished < {part.name for part in tmp_path.glob("*/part-*")}


def test_a_folder_that_cannot_be_written_to(
    toy_genome: ToyGenome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = features(toy_genome)
    cache = WindowCache(tmp_path, dtype="float32").fit(windows[:20])

    def refused(self: Path, **_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "touch", refused)
    reads = counted_reads(monkeypatch, lambda _: None)
    WindowCache(tmp_path, dtype="float32").fit(windows[:20])  # it is all there
    with pytest.raises(ValueError, match=r"cannot be written to \(Read-only file system: .*Give"):
        cache.fit(windows)
    with pytest.warns(UserWarning, match="Read-only.* read from their files"):
        cached = cache.transform(windows)
    for row in range(40):
        np.testing.assert_array_equal(cached[row], windows[row])
    assert not reads


def test_another_users_files(
    toy_genome: ToyGenome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder can be written to, the one inside it of a genome file cannot."""
    windows = features(toy_genome)

    def refused(self: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(StoredFile, "_write", refused)
    with pytest.raises(ValueError, match=r"cannot be written to \(Permission denied"):
        WindowCache(tmp_path).fit(windows)


@pytest.mark.usefixtures("in_parts")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_killed_writers(
    toy_genome: ToyGenome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = features(toy_genome)

    def killed(at: int) -> None:
        def kill(number: int) -> None:
            if number == at:
                os.kill(os.getpid(), signal.SIGKILL)

        counted_reads(monkeypatch, kill)
        WindowCache(tmp_path, dtype="float32").fit(windows)

    n_parts = []
    for at in (1, 2, 5, 9):  # each goes on with what the last one finished
        writer = get_context("fork").Process(target=killed, args=(at,))
        writer.start()
        writer.join()
        assert writer.exitcode == -signal.SIGKILL
        n_parts.append(len(list(tmp_path.glob("*/part-*"))))
        assert len(list(tmp_path.glob("*/unfinished-*"))) == 1  # the last one's alone
    # what it left is cleared up before it is counted
    left = bytes_in(tmp_path)
    (unfinished,) = tmp_path.glob("*/unfinished-*")
    (unfinished / "values.npy").write_bytes(bytes(10**6))
    missing = WindowCache(tmp_path, dtype="float32").estimate_bytes(windows[:20]).missing
    WindowCache(tmp_path, left + missing + 5_000, "float32").fit(windows[:20])
    assert n_parts == sorted(n_parts)
    assert n_parts[-1] > n_parts[0]
    assert_complete(windows, tmp_path)
    written = sum(np.load(path).nbytes for path in tmp_path.glob("*/*/values.npy"))
    assert written == WindowCache(tmp_path, dtype="float32").estimate_bytes(windows).needed


@pytest.mark.usefixtures("in_parts")
def test_writers_wait_for_each_other(
    toy_genome: ToyGenome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = features(toy_genome)
    alone = counted_reads(monkeypatch, lambda _: None)
    WindowCache(tmp_path / "alone").fit(windows)
    n_alone = len(alone)
    together = threading.Barrier(4, timeout=60)

    def fit() -> None:
        cache = WindowCache(tmp_path / "cache")
        together.wait()
        cache.fit(windows)

    threads = [threading.Thread(target=fit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(alone) == 2 * n_alone


@pytest.mark.usefixtures("in_parts")
def test_a_disk_without_locks(
    toy_genome: ToyGenome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    windows = features(toy_genome)
    WindowCache(tmp_path, dtype="float32").fit(windows[:3])
    (folder,) = tmp_path.glob("genome.fa-*")
    # another process may be at work there: only who holds the lock may clean up
    (folder / "unfinished-x").mkdir()
    cached = WindowCache(tmp_path, dtype="float32").fit_transform(windows)
    assert (folder / "unfinished-x").exists()
    np.testing.assert_array_equal(cached[30], windows[30])
