"""What a cell of a comparison is known by: a digest of all that decides its result."""

from __future__ import annotations

import hashlib
import json
import marshal
import os
import pickle
import uuid
from collections.abc import Mapping, Set
from types import FunctionType
from typing import Any

import numpy as np
import pandas as pd

from regmask_sk._cache import content_key
from regmask_sk.windows import Windows

# Parameters that change nothing but what is printed.
_SILENT = ("verbose",)


def digest(*parts: Any) -> str:
    """Digest of anything that :func:`describe` can describe.

    Parameters
    ----------
    *parts : object
        In this order.

    Returns
    -------
    str
        32 hexadecimal digits, the same in every process.

    Examples
    --------
    >>> digest("conv", 16) == digest("conv", 16), digest("conv", 16) == digest("conv", 8)
    (True, False)
    """
    text = json.dumps([describe(part) for part in parts])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def describe(value: Any) -> Any:
    """Describe a value by plain ones, such that equal values have equal descriptions.

    An estimator is its class and its parameters, a path that leads to a file the file's size and
    time of change too, a class its name: what its code says is no part of it.

    Parameters
    ----------
    value : object
        A parameter, an estimator or a table.

    Returns
    -------
    object
        Of the types that JSON has.

    Examples
    --------
    >>> from regmask_sk.features import TSSWindows
    >>> describe({"step": TSSWindows(length=64)})["dict"][0][1]["params"]["length"]
    64
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str | os.PathLike):
        return _describe_path(os.fspath(value))
    if isinstance(value, Mapping):
        return {"dict": [[describe(key), describe(item)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if isinstance(value, Set):
        return {"set": sorted(json.dumps(describe(item)) for item in value)}
    if isinstance(value, Windows):
        return {"windows": [content_key(value), _of_table(value.loci)]}
    if isinstance(value, pd.DataFrame | pd.Series | pd.Index):
        return {"table": _of_table(value)}
    if isinstance(value, np.ndarray) and value.dtype != object:
        data = np.ascontiguousarray(value).tobytes()
        return {"array": [value.dtype.str, list(value.shape), hashlib.sha256(data).hexdigest()]}
    if isinstance(value, np.ndarray):
        return {"objects": describe(value.tolist())}
    if isinstance(value, type):
        return {"type": f"{value.__module__}.{value.__qualname__}"}
    if hasattr(value, "get_params"):
        params = value.get_params(deep=False)
        return {
            **describe(type(value)),
            "params": {k: describe(params[k]) for k in sorted(params) if k not in _SILENT},
        }
    if isinstance(value, FunctionType):
        code = hashlib.sha256(marshal.dumps(value.__code__)).hexdigest()
        return {"function": f"{value.__module__}.{value.__qualname__}", "code": code}
    return {**describe(type(value)), "pickle": hashlib.sha256(_pickled(value)).hexdigest()}


def _describe_path(path: str | bytes) -> Any:
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # no path, or one with a null byte
        return path
    if not os.path.isfile(path):
        return path
    return {"file": [path, found.st_size, found.st_mtime_ns]}


def _of_table(table: pd.DataFrame | pd.Series | pd.Index) -> str:
    frame = table.to_frame() if isinstance(table, pd.Series | pd.Index) else table
    return hashlib.sha256(frame.to_csv().encode()).hexdigest()


def _pickled(value: Any) -> bytes:
    try:
        return pickle.dumps(value, protocol=4)
    except Exception:  # what it holds is not known: never taken for what it was in another run
        return uuid.uuid4().bytes
