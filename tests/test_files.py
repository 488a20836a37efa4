from __future__ import annotations

import os
from pathlib import Path

import pytest

from regmask_sk._files import beside_of, write_whole


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "note.txt"
    write_whole(target, "old")
    write_whole(target, b"n\xc3\xa9w")
    assert target.read_text(encoding="utf-8") == "néw"
    assert os.listdir(tmp_path) == ["note.txt"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "note.txt"
    write_whole(target, "old")

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(target, "new")
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["note.txt"]


def test_neighbours_are_in_the_same_folder_and_differ(tmp_path: Path) -> None:
    one, other = beside_of(tmp_path / "a"), beside_of(tmp_path / "a")
    assert one.parent == tmp_path
    assert one != other
