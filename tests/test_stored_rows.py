"""Tests of regmask_sk._stored_rows."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from conftest import ToyGenome

from regmask_sk._stored_rows import StoredRows
from regmask_sk.contacts import ContactChannel
from regmask_sk.features import TSSWindows
from regmask_sk.windows import Windows


@pytest.fixture
def windows(toy_genome: ToyGenome) -> Windows:
    windows = TSSWindows(60, jitter=3).fit_transform(toy_genome.loci)
    for bin_size, name in ((10, "near"), (25, "far")):
        windows = ContactChannel(bin_size=bin_size, name=name).fit_transform(windows)
    return windows


def stored(folder: Path, windows: Windows) -> StoredRows:
    rows = StoredRows(folder, windows.sources, windows)
    rows.refresh()
    return rows


def test_rows_come_back(windows: Windows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = stored(tmp_path, windows)
    assert rows.row(windows, 3) is None
    assert rows.bytes_of_a_row(windows) == 2 * 66 * 4
    monkeypatch.setattr("regmask_sk._stored_rows._BLOCK_BYTES", 3 * 2 * 66 * 4)
    rows.add(windows, range(10))
    assert len(list(tmp_path.glob("*/block-*"))) == 4  # of three rows each
    assert rows.missing(windows) == list(range(10, 40))
    for one in (rows, pickle.loads(pickle.dumps(rows)), stored(tmp_path, windows)):
        for row in range(10):
            found = one.row(windows, row)
            assert found is not None
            backward = bool(windows.reversed[row])
            interval = windows.interval(row, flank=3)
            for source, array in zip(windows.sources, found, strict=True):
                expected = windows.read_raw(source, interval, backward)
                np.testing.assert_array_equal(array, expected)
    assert not list(tmp_path.glob("*/unfinished-*"))


def test_without_sources_nothing_is_missing(windows: Windows, tmp_path: Path) -> None:
    rows = StoredRows(tmp_path, (), windows)
    assert rows.row(windows, 0) == rows.missing(windows) == []
    assert rows.bytes_of_a_row(windows) == 0


def test_the_key_is_the_layout_and_the_sources(windows: Windows, tmp_path: Path) -> None:
    loci = windows.loci
    layouts = [Windows(loci, 60, jitter=3), Windows(loci, 62, jitter=3), Windows(loci, 60),
               Windows(loci, 60, jitter=3, stranded=False)]  # fmt: skip
    folders = {StoredRows(tmp_path, windows.sources, layout).folder for layout in layouts}
    folders.add(StoredRows(tmp_path, windows.sources[:1], layouts[0]).folder)
    assert len(folders) == 5
    assert stored(tmp_path, windows).folder in folders


@pytest.mark.parametrize("damage", ["cut", "missing", "listing"])
def test_damaged_blocks(windows: Windows, tmp_path: Path, damage: str) -> None:
    rows = stored(tmp_path, windows)
    rows.add(windows, [1, 2])
    (block,) = tmp_path.glob("*/block-*")
    if damage == "cut":
        (block / "1.npy").write_bytes((block / "1.npy").read_bytes()[:-4])
    elif damage == "missing":
        (block / "1.npy").unlink()
    else:
        (block / "rows.json").write_text("[]")
    with pytest.raises(ValueError, match=r"block-\w+ of WindowCache is damaged: .*Delete this"):
        stored(tmp_path, windows)
