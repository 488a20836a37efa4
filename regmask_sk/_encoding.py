"""Values as JSON and back: numbers, text, containers, arrays and tables; never code.

JSON's own kinds stand for themselves; every other is an object whose key ``"$"`` names its kind.
"""

from __future__ import annotations

import os
import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd


def encode(value: Any, where: str) -> Any:
    """Turn a value into one that ``json.dumps(..., allow_nan=False)`` takes.

    Parameters
    ----------
    value : object
        None, bool, int, float, str, or list, tuple, dict or slice of these, a path, a numpy
        scalar or array (numbers, bool, text, or objects of the kinds above), or a pandas table.
    where : str
        What the value is, for the error.

    Returns
    -------
    object
        Of JSON's own kinds.

    Raises
    ------
    TypeError
        If the value, or one inside it, is of another kind.

    Examples
    --------
    >>> encode((1, float("nan")), "pair")
    {'$': 'tuple', 'items': [1, {'$': 'float', 'value': 'nan'}]}
    """
    if value is None or isinstance(value, bool | str) or type(value) is int:
        return value
    if type(value) is float:
        return value if np.isfinite(value) else {"$": "float", "value": repr(value)}
    if isinstance(value, list):
        return [encode(item, where) for item in value]
    if isinstance(value, tuple):
        return {"$": "tuple", "items": [encode(item, where) for item in value]}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value) and "$" not in value:
            return {key: encode(item, where) for key, item in value.items()}
        pairs = [[encode(k, where), encode(v, where)] for k, v in value.items()]
        return {"$": "dict", "pairs": pairs}
    if isinstance(value, slice):
        parts = (value.start, value.stop, value.step)
        return {"$": "slice", "parts": [encode(part, where) for part in parts]}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.generic | np.ndarray) and value.dtype.kind in "biufUO":
        flat = np.asarray(value).ravel().tolist()
        kind = "scalar" if isinstance(value, np.generic) else "array"
        items = [encode(item, where) for item in flat]
        return {"$": kind, "dtype": value.dtype.str, "shape": list(value.shape), "items": items}
    if isinstance(value, pd.DataFrame):
        columns = [
            [encode(name, where), encode(value[name].to_numpy(), where)] for name in value.columns
        ]
        index = encode(value.index.to_numpy(), where)
        return {"$": "frame", "columns": columns, "index": index, "name": value.index.name}
    raise TypeError(
        f"{where} is {reprlib.repr(value)}, which a saved model cannot hold. {_remedy(value)}"
    )


def _remedy(value: Any) -> str:
    if isinstance(value, np.random.RandomState | np.random.Generator):
        return "Set an integer random_state with set_params(random_state=0) before saving."
    if isinstance(value, type) or callable(value):
        return (
            "Loading never imports code that a file names, so only what has a short name, such "
            'as backbone="conv", can be saved; keep this model with joblib.dump instead.'
        )
    return "Use plain numbers, text, lists, tuples, dicts, arrays or tables of these."


def decode(value: Any) -> Any:
    """Turn what `encode` returned back into the value.

    Paths come back as text, whole numbers and floats as the same number, to the bit.

    Parameters
    ----------
    value : object
        Of JSON's own kinds.

    Returns
    -------
    object
        The value.

    Raises
    ------
    ValueError
        If an object's key ``"$"`` names a kind that is not known here.

    Examples
    --------
    >>> decode({"$": "tuple", "items": [1, 2]})
    (1, 2)
    """
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get("$")
    if kind is None:
        return {key: decode(item) for key, item in value.items()}
    if kind == "float":
        return float(value["value"])
    if kind == "tuple":
        return tuple(decode(item) for item in value["items"])
    if kind == "dict":
        return {decode(key): decode(item) for key, item in value["pairs"]}
    if kind == "slice":
        return slice(*decode(value["parts"]))
    if kind in ("scalar", "array"):
        items = decode(value["items"])
        array = np.empty(len(items), dtype=np.dtype(value["dtype"]))
        array[:] = items
        return array[0] if kind == "scalar" else array.reshape(value["shape"])
    if kind == "frame":
        index = pd.Index(decode(value["index"]), name=value["name"])
        columns = {decode(name): decode(column) for name, column in value["columns"]}
        return pd.DataFrame(columns, index=index)
    raise ValueError(f"unknown kind of value {kind!r}")
