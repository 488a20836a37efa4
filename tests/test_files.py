from __future__ import annotations

import os
import platform
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from regmask_sk._files import (
    beside_of,
    bytes_in,
    locked,
    new_folder,
    remove_unfinished,
    write_whole,
)


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


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a") as made:
        (made / "one").write_text("1")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a" / "one").read_text() == "1"
    with new_folder(tmp_path / "a") as made:  # another process was first
        (made / "one").write_text("2")
    assert (tmp_path / "a" / "one").read_text() == "1"

    def interrupted() -> None:
        with new_folder(tmp_path / "b") as made:
            (made / "one").write_text("1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert os.listdir(tmp_path) == ["a"]


def test_only_what_this_machine_left_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    for node in ("there", "here"):
        monkeypatch.setattr(platform, "node", lambda node=node: node)
        with pytest.raises(ValueError, match="killed"), new_folder(tmp_path / "a"):
            raise ValueError("killed")
    assert len(os.listdir(tmp_path)) == 2
    monkeypatch.undo()
    monkeypatch.setattr(platform, "node", lambda: "here")
    (tmp_path / "kept").mkdir()
    remove_unfinished(tmp_path)
    left = sorted(os.listdir(tmp_path))
    assert left[0] == "kept"
    assert left[1].startswith("unfinished-there-")


def test_one_holds_the_lock(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with locked(tmp_path) as held:
            order.append(f"second {held}")

    thread = threading.Thread(target=second)
    with locked(tmp_path) as held:
        thread.start()
        thread.join(0.2)
        order.append(f"first {held}")
    thread.join()
    assert order == ["first True", "second True"]


def test_a_lock_of_another_user_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lock").touch()
    real = open

    def refused(path: Path, mode: str) -> Any:
        if "b" in mode and mode != "rb":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, mode)

    monkeypatch.setattr("builtins.open", refused)
    with locked(tmp_path) as held:
        assert held


def test_bytes_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "one").write_bytes(b"123")
    (tmp_path / "deep" / "er" / "two").write_bytes(b"12345")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert bytes_in(tmp_path) == 8
