"""Checks of the files that a command writes, before it does any work."""

from __future__ import annotations

from pathlib import Path

from regmask_sk._files import beside_of


def check_free(path: Path, force: bool) -> None:
    """Refuse a file that is there, unless it may be replaced."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder, expected the name of a file to write")
    if path.exists() and not path.is_file():
        raise FileExistsError(f"{path} is a device, expected the name of a file to write")
    if path.exists() and not force:
        raise FileExistsError(f"{path} exists; pass --force to replace it, or another name")


def check_writable(folder: Path) -> None:
    """Find out now, rather than after the training, that nothing can be written."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file, expected a folder; name another")
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    probe = beside_of(there / "regmask")
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise PermissionError(
            f"cannot write to {folder} ({error.strerror}); name a folder that can be written to"
        ) from error
