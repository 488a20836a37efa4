"""One file that holds a fit which is not finished, replaced as a whole after each epoch."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from regmask_sk._encoding import decode, encode
from regmask_sk._files import beside_of, write_whole

_FORMAT = "regmask_sk checkpoint"
_FORMAT_VERSION = 1


class Unfinished(NamedTuple):
    """State of a fit between two epochs.

    Attributes
    ----------
    values : dict
        What changes and is no tensor.
    tensors : dict of str to Tensor
        Weights, their averages and the optimizer's moments.
    """

    values: dict[str, Any]
    tensors: dict[str, Tensor]


class Checkpoint:
    """The file of one fit.

    Parameters
    ----------
    path : Path
        The file.
    identity : mapping of str to object
        What the fit is, by name: its parameters, its data. A file of another fit is refused.

    Raises
    ------
    ValueError
        If a value of the identity cannot be written.
    PermissionError, NotADirectoryError
        If a file cannot be written there.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self.path = path
        try:
            self.identity = {
                name: json.dumps(encode(value, name)) for name, value in identity.items()
            }
        except TypeError as error:
            raise ValueError(f"checkpoint: the fit cannot be named in a file: {error}") from error
        self._check_place()

    def _check_place(self) -> None:
        if self.path.is_dir():
            raise IsADirectoryError(f"checkpoint {self.path} is a folder; expected a file's name.")
        probe = beside_of(self.path)
        try:
            probe.touch()
            probe.unlink()
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"checkpoint {self.path}: there is no folder {self.path.parent}. Make it first."
            ) from error
        except OSError as error:
            raise PermissionError(
                f"checkpoint {self.path} cannot be written ({error.strerror}). Name a file in a "
                "folder that can be written to."
            ) from error

    def read(self) -> Unfinished | None:
        """Read the state, None where there is no file.

        Raises
        ------
        ValueError
            If the file is damaged, or of another fit; the message names what differs.
        """
        if not self.path.exists():
            return None
        try:
            with safe_open(str(self.path), framework="pt") as file:
                notes = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"checkpoint {self.path} cannot be read: {error}. Remove it to begin anew."
            ) from error
        known = (_FORMAT, str(_FORMAT_VERSION))
        if (notes.get("format"), notes.get("format_version")) != known:
            raise ValueError(
                f"{self.path} is no checkpoint of this version's format. Name another file."
            )
        theirs = json.loads(notes["identity"])
        names = {*theirs, *self.identity}
        differ = sorted(name for name in names if theirs.get(name) != self.identity.get(name))
        if differ:
            raise ValueError(
                f"checkpoint {self.path} is of another fit: {', '.join(differ)} differ. Fit as "
                "before, or name another file."
            )
        return Unfinished(decode(json.loads(notes["values"])), tensors)

    def check_replaceable(self) -> None:
        """Refuse to begin anew where the file holds a fit, of this kind or another, that stopped.

        Raises
        ------
        FileExistsError
            If it does.
        ValueError
            If the file is something else.
        """
        if not self.path.exists():
            return
        try:
            with safe_open(str(self.path), framework="pt") as file:
                notes = file.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{self.path} is no checkpoint, and is not replaced. Name another file."
            ) from error
        if notes.get("format") != _FORMAT:
            raise ValueError(f"{self.path} is no checkpoint, and is not replaced.")
        if notes.get("finished") != "True":
            raise FileExistsError(
                f"checkpoint {self.path} holds a fit that stopped after epoch "
                f"{notes.get('epochs')}. Pass resume=True to go on with it, or remove the file to "
                "begin anew."
            )

    def write(self, state: Unfinished, *, epochs: int, finished: bool) -> None:
        """Replace the file; where that fails the last one stays, and training goes on."""
        notes = {
            "format": _FORMAT,
            "format_version": str(_FORMAT_VERSION),
            "package_version": metadata.version("regmask_sk"),
            "identity": json.dumps(self.identity),
            "values": json.dumps(encode(state.values, "state")),
            "epochs": str(epochs),
            "finished": str(finished),
        }
        # A copy of its own for each: safetensors refuses tensors that share memory.
        tensors = {
            name: tensor.detach().cpu().clone().contiguous()
            for name, tensor in state.tensors.items()
        }
        try:
            write_whole(self.path, save_tensors(tensors, metadata=notes))
        except OSError as error:
            warnings.warn(
                f"checkpoint {self.path} could not be written after epoch {epochs} "
                f"({error.strerror}); training goes on, and the file is still that of an earlier "
                "epoch.",
                RuntimeWarning,
                stacklevel=2,
            )


def digest(*parts: NDArray[Any] | str) -> str:
    """Digest of arrays and texts, their shapes and kinds included.

    Examples
    --------
    >>> digest(np.zeros(2)) == digest(np.zeros(2)), digest(np.zeros(2)) == digest(np.zeros(3))
    (True, False)
    """
    found = hashlib.sha256()
    for part in parts:
        array = np.asarray(part)
        found.update(f"{array.dtype.str}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
