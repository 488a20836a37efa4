"""Write files whole or not at all, beside their place first; versions to write into them."""

from __future__ import annotations

import os
import platform
import secrets
from importlib import metadata
from pathlib import Path

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
