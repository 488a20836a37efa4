"""Write files and folders whole or not at all; versions to write into them."""

from __future__ import annotations

import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import BinaryIO

_UNFINISHED = "unfinished-"

# Those that results may depend on.
_PACKAGES = ("regmask_sk", "torch", "numpy", "scipy", "scikit-learn", "pandas", "skorch")


def package_versions() -> dict[str, str]:
    """Name the versions that a result was made with.

    Returns
    -------
    dict of str to str
        Of Python, this package and those that results may depend on.

    Examples
    --------
    >>> list(package_versions())[:2]
    ['Python', 'regmask_sk']
    """
    return {"Python": platform.python_version()} | {
        name: metadata.version(name) for name in _PACKAGES
    }


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file whole or not at all: beside its place first, then moved there.

    Parameters
    ----------
    path : path-like
        File to write; one that is there is replaced.
    content : str or bytes
        Text is written as UTF-8.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_whole(pathlib.Path(folder, "note.txt"), "hello")
    ...     print(pathlib.Path(folder, "note.txt").read_text())
    hello
    """
    target = Path(path)
    beside = beside_of(target)
    try:
        with open(beside, "xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(target.parent)


def beside_of(target: Path) -> Path:
    """Name a hidden neighbour of a path, unlike any other process's or thread's.

    Parameters
    ----------
    target : Path
        The place that what is written there will be moved to.

    Returns
    -------
    Path
        A path in the same folder, so that the move is a rename. Nothing is made.

    Examples
    --------
    >>> beside_of(Path("runs/model")).parent.as_posix()
    'runs'
    """
    return target.parent / f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"


def sync_folder(folder: Path) -> None:
    """Make a rename inside a folder last through a power cut, where the system can.

    Parameters
    ----------
    folder : Path
        The folder whose entries changed.

    Examples
    --------
    >>> sync_folder(Path("."))
    """
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Write a folder whole or not at all; one that is there already is left alone.

    Parameters
    ----------
    target : Path
        The folder; its parent exists.

    Yields
    ------
    Path
        An empty folder beside it to write to, which is moved there at the end, or removed after an
        error. Only SIGKILL and the like leave it; see `remove_unfinished`.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with new_folder(pathlib.Path(folder, "numbers")) as made:
    ...         _ = (made / "one.txt").write_text("1")
    ...     print(pathlib.Path(folder, "numbers", "one.txt").read_text())
    1
    """
    made = target.parent / f"{_ours()}{os.getpid()}-{secrets.token_hex(4)}"
    made.mkdir()
    try:
        yield made
        sync_folder(made)
        try:
            os.rename(made, target)
        except OSError:
            if not target.exists():  # otherwise another process was first
                raise
        sync_folder(target.parent)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def remove_unfinished(parent: Path) -> None:
    """Remove what killed processes of this machine left of folders that they wrote.

    Parameters
    ----------
    parent : Path
        Folder in which they were to appear. No process of this machine may be writing there: hold
        its lock.
    """
    for left in parent.glob(f"{_ours()}*"):
        shutil.rmtree(left, ignore_errors=True)


def _ours() -> str:
    # Other machines may share the disk and not the lock.
    return _UNFINISHED + re.sub(r"[^A-Za-z0-9]", "_", platform.node()) + "-"


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Hold the lock of a folder, once no other process or thread holds it.

    The system releases it when the process ends, however it ends.

    Parameters
    ----------
    folder : Path
        A folder that can be written to; it gets a file ``lock``.

    Yields
    ------
    bool
        False where the disk has no locks, and nothing is held.
    """
    file: BinaryIO
    try:
        file = open(folder / "lock", "ab")  # noqa: SIM115
    except PermissionError:  # another user's, which most disks let others hold too
        file = open(folder / "lock", "rb")  # noqa: SIM115
    with file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
            held = True
        except (ImportError, OSError):
            held = False
        yield held


def bytes_in(folder: Path) -> int:
    """Sum the sizes of all files in a folder and those in it.

    Parameters
    ----------
    folder : Path
        The folder; others may change it meanwhile.

    Returns
    -------
    int
        0 where there is no such folder.

    Examples
    --------
    >>> bytes_in(Path("no such folder"))
    0
    """
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(place, name)).st_size
            except FileNotFoundError:  # gone meanwhile
                continue
    return total
