"""Which fit this is: its parameters and its data, in a form that can be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regmask_sk._batches import WindowDataset
from regmask_sk._checkpoint import digest
from regmask_sk._encoding import encode
from regmask_sk.windows import Windows

# Parameters that do not change what a fit comes to.
_NO_MATTER = ("verbose", "device", "warm_start", "accelerate")


def fit_identity(
    params: Mapping[str, Any],
    X: Windows | NDArray[Any],
    parts: Sequence[WindowDataset | None],
    known: Mapping[str, Any],
) -> dict[str, Any]:
    """Say which fit this is, for its checkpoint.

    Parameters
    ----------
    params : mapping of str to object
        The estimator's parameters.
    X : Windows or ndarray
        What the fit is given.
    parts : sequence of WindowDataset or None
        Training rows, and validation rows where there are any.
    known : mapping of str to object
        What was learned before the first epoch: scales, and what files of regions hold.

    Returns
    -------
    dict of str to object
        Parameters that matter, and ``data``, a digest of the rest.
    """
    identity = _that_matter(params)
    if isinstance(X, Windows):
        told: list[Any] = [repr((X.shape, X.channel_names, X.jitter)), X.starts, X.reversed]
        told.append(X.loci["chrom"].to_numpy(dtype=str))
        told += [source.cache_key(fitted=True) for source in X.sources]
        told.append(str(getattr(X.store, "dtype", "float32")))  # what is read differs
    else:
        told = [np.asarray(X)]
    told.append(json.dumps(encode(dict(known), "the fit")))
    rows = [part for part in parts if part is not None]
    told += [array for part in rows for array in (part.y, part.weight, part.covariates)]
    identity["data"] = digest(*told)
    return identity


def shared_identity(
    params: Mapping[str, Any],
    X: Windows | NDArray[Any],
    parts: Sequence[WindowDataset | None],
    known: Mapping[str, Any],
) -> dict[str, str]:
    """Say what the processes that share a fit must have in common.

    Files are told by what is read from them, at three windows, not by their paths and dates:
    each machine may have copies of its own.

    Parameters
    ----------
    params, X, parts, known
        As in :func:`fit_identity`.

    Returns
    -------
    dict of str to str
        By name, as an error can call it.
    """
    told = {}
    for name, value in _that_matter(params).items():
        try:
            told[name] = json.dumps(encode(value, name))
        except TypeError:  # a random state, whose seed is the main process's
            told[name] = type(value).__qualname__
    rows = [part for part in parts if part is not None]
    n_rows = int(X.shape[0])
    windows = [np.asarray(X[row]) for row in sorted({0, n_rows // 2, n_rows - 1})]
    told["X"] = digest(repr(tuple(X.shape)), *windows)
    if isinstance(X, Windows):
        places = (X.loci["chrom"].to_numpy(dtype=str), X.starts, X.reversed)
        told["loci"] = digest(repr((X.channel_names, X.jitter)), *places)
    told["y"] = digest(*(part.y for part in rows))
    told["sample_weight"] = digest(*(part.weight for part in rows))
    told["values of the covariates"] = digest(*(part.covariates for part in rows))
    told["scales and regions"] = digest(json.dumps(encode(dict(known), "the fit")))
    return told


def _that_matter(params: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: f"{value.__module__}:{value.__qualname__}" if isinstance(value, type) else value
        for name, value in params.items()
        if name not in _NO_MATTER
    }
