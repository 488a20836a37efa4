"""The folder of a saved model: two files that are written whole, checked and read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from regmask_sk._files import beside_of, sync_folder, write_whole

FORMAT = "regmask_sk model"
FORMAT_VERSION = 1
MODEL_JSON = "model.json"

_KEYS = {"format", "format_version", "package_version", "notes", "pipeline", "weights", "steps"}


def check_target(folder: Path, overwrite: bool) -> None:
    """Make sure that a model may be written to a folder.

    Parameters
    ----------
    folder : Path
        The folder.
    overwrite : bool
        Whether a saved model there may be replaced.

    Raises
    ------
    FileExistsError
        If `folder` exists and may not be replaced.

    Examples
    --------
    >>> check_target(Path("no-such-folder"), overwrite=False)
    """
    if not folder.exists():
        return
    if not (folder / MODEL_JSON).is_file():
        raise FileExistsError(
            f"path: {folder} exists and is not a saved model, so it is left as it is. "
            "Name a folder that does not exist yet."
        )
    if not overwrite:
        raise FileExistsError(
            f"path: there is a saved model in {folder}. Pass overwrite=True to replace it, "
            "or another path."
        )


def write_folder(
    folder: Path, content: dict[str, Any], tensors: dict[str, Tensor], overwrite: bool
) -> None:
    """Write a model, or replace one, whole or not at all.

    Parameters
    ----------
    folder : Path
        The folder. Its parent is made if need be.
    content : dict
        The keys ``notes``, ``pipeline`` and ``steps`` of ``model.json``.
    tensors : dict of str to Tensor
        The weights, on the CPU, no two of which share memory.
    overwrite : bool
        Whether a saved model there may be replaced.

    Raises
    ------
    FileExistsError
        See `check_target`.
    """
    check_target(folder, overwrite)
    weights = save_tensors(tensors)
    digest = hashlib.sha256(weights).hexdigest()
    weights_name = f"weights-{digest[:16]}.safetensors"
    document = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "package_version": metadata.version("regmask_sk"),
        **content,
        "weights": {"file": weights_name, "sha256": digest},
    }
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"

    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = beside_of(folder)
        beside.mkdir()
        try:
            write_whole(beside / weights_name, weights)
            write_whole(beside / MODEL_JSON, text)
            os.rename(beside, folder)
            sync_folder(folder.parent)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        return
    # A folder cannot be swapped in one step everywhere, a file can: the new weights lie beside
    # the old under another name until the replaced model.json points at them.
    old = None
    with contextlib.suppress(ValueError):  # a damaged model can be replaced too
        old = read_document(folder)["weights"]["file"]
    write_whole(folder / weights_name, weights)
    write_whole(folder / MODEL_JSON, text)
    if old not in (None, weights_name):
        (folder / str(old)).unlink(missing_ok=True)


def read_document(folder: Path) -> dict[str, Any]:
    """Read ``model.json`` and check its frame.

    Parameters
    ----------
    folder : Path
        The folder.

    Returns
    -------
    dict
        As written.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it is damaged or of another format.
    """
    file = folder / MODEL_JSON
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder}: there is no saved model there (no {MODEL_JSON}). "
            "Give the folder that save_model wrote."
        )
    with naming(file):
        document = json.loads(file.read_bytes())
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ValueError(f"its 'format' is not {FORMAT!r}")
        version = document.get("format_version")
        if version != FORMAT_VERSION:
            raise ValueError(
                f"it has format_version {version!r} (written by regmask_sk "
                f"{document.get('package_version')}), this version reads {FORMAT_VERSION}; "
                "use the regmask_sk that wrote it, or a newer one"
            )
        odd = set(document) ^ _KEYS
        if odd:
            raise ValueError(f"unknown or missing keys {sorted(odd)}")
        weights = document["weights"]
        if Path(weights["file"]).name != weights["file"]:
            raise ValueError(f"the weights file {weights['file']!r} is not in the model's folder")
    return document


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read both files of a model.

    Parameters
    ----------
    folder : Path
        The folder.

    Returns
    -------
    document : dict
        ``model.json``.
    tensors : dict of str to Tensor
        The weights.

    Raises
    ------
    FileNotFoundError, ValueError
        As `read_document`, and for the weights.
    """
    document = read_document(folder)
    file = folder / document["weights"]["file"]
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        # The model may have been replaced between the two reads; once more, then it is an error.
        document = read_document(folder)
        file = folder / document["weights"]["file"]
        with naming(file):
            content = file.read_bytes()
    with naming(file):
        if hashlib.sha256(content).hexdigest() != document["weights"]["sha256"]:
            raise ValueError(
                f"its {len(content)} bytes are not those that were saved (sha256 differs)"
            )
        return document, load_tensors(content)


@contextlib.contextmanager
def naming(file: Path) -> Iterator[None]:
    """Turn whatever goes wrong with a file into an error that has its path, cause and remedy.

    Parameters
    ----------
    file : Path
        The file that is read.
    """
    try:
        yield
    except (
        ValueError, LookupError, TypeError, AttributeError, RuntimeError, OSError, SafetensorError
    ) as error:  # fmt: skip
        cause = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"{file} cannot be read as part of a saved model ({cause}). "
            "Restore it from a copy, or save the model again."
        ) from error
