"""What a comparison runs: which estimators, in which variants, on which rows, with which seeds."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone

from regmask_sk._benchmark_cells import failed, take
from regmask_sk._benchmark_keys import digest
from regmask_sk.contacts import ContactChannel
from regmask_sk.features import SignalChannels, TSSWindows


class Fold(NamedTuple):
    """Rows of one split, and its name."""

    name: str
    train: NDArray[np.intp]
    test: NDArray[np.intp]


class Cell(NamedTuple):
    """One estimator on one split with one seed.

    Attributes
    ----------
    name : str
        Of the estimator, as in the tables.
    fold : Fold
        The split.
    seed : int
        The seed.
    estimator : estimator or None
        Not fitted, with its seed; None where there is none, for the reason `problem`.
    problem : str
        Why it cannot be run; empty where it can.
    key : str
        Digest of all that decides the result; empty where it cannot be run.
    """

    name: str
    fold: Fold
    seed: int
    estimator: Any
    problem: str
    key: str


def variants(
    estimators: Mapping[str, Any], *, truncate: int | None, ablate_signals: bool
) -> dict[str, Any]:
    """Check the estimators, and add those with shorter windows and those without signals.

    Parameters
    ----------
    estimators : mapping of str to estimator
        Names and estimators.
    truncate : int or None
        Length in base pairs of the shorter windows.
    ablate_signals : bool
        Whether to add estimators without ``SignalChannels`` and ``ContactChannel``.

    Returns
    -------
    dict of str to (estimator or str)
        Each estimator followed by its variants; in place of a variant that cannot be made, why.

    Raises
    ------
    TypeError, ValueError
        If there is none, or one is no estimator, or a name is taken.

    Examples
    --------
    >>> from sklearn.dummy import DummyRegressor
    >>> variants({"mean": DummyRegressor()}, truncate=64, ablate_signals=False)["mean, 64 bp"]
    'no step of it is a TSSWindows, whose length could be set to 64'
    """
    if not isinstance(estimators, Mapping) or not estimators:
        raise ValueError(
            f"estimators is {estimators!r}; expected a dict of at least one name to an estimator."
        )
    if truncate is not None and (
        isinstance(truncate, bool) or not isinstance(truncate, Integral) or truncate < 1
    ):
        raise ValueError(f"truncate is {truncate!r}; expected base pairs, 1 or more, or None.")
    found: dict[str, Any] = {}
    for name, estimator in estimators.items():
        if not isinstance(name, str) or not name:
            raise TypeError(f"estimators has the key {name!r}; expected a name (str).")
        lacking = [a for a in ("fit", "predict", "get_params") if not hasattr(estimator, a)]
        if isinstance(estimator, type) or lacking:
            raise TypeError(
                f"estimators[{name!r}] is {estimator!r}; expected an instance with fit, predict "
                "and get_params, such as a Pipeline that begins with TSSWindows."
            )
        more = {name: estimator}
        if truncate is not None:
            more[f"{name}, {truncate} bp"] = _made(_truncated, estimator, int(truncate))
        if ablate_signals:
            more[f"{name}, sequence only"] = _made(_without_signals, estimator)
        taken = sorted(set(more) & set(found) | set(more) & (set(estimators) - {name}))
        if taken:
            raise ValueError(
                f"estimators has {', '.join(map(repr, taken))}, which is the name of a variant "
                f"of {name!r} too. Name it otherwise."
            )
        found |= more
    return found


def _steps(estimator: Any, *kinds: type) -> dict[str, Any]:
    """Parameters that are steps of one of the kinds."""
    params = estimator.get_params(deep=True)
    return {name: value for name, value in params.items() if isinstance(value, kinds)}


def _made(change: Callable[..., Any], *given: Any) -> Any:
    """Make a variant; where that fails, say why."""
    try:
        return change(*given)
    except Exception as error:
        return failed(error).error


def _truncated(estimator: Any, length: int) -> Any:
    steps = _steps(estimator, TSSWindows)
    if not steps:
        return f"no step of it is a TSSWindows, whose length could be set to {length}"
    longest = max(step.length for step in steps.values())
    if longest <= length:
        return f"its windows of {longest} bp are no longer than {length} bp already"
    return clone(estimator).set_params(**{f"{name}__length": length for name in steps})


def _without_signals(estimator: Any) -> Any:
    steps = _steps(estimator, SignalChannels, ContactChannel)
    if not steps:
        return "no step of it is a SignalChannels or ContactChannel, which could be left out"
    return clone(estimator).set_params(**dict.fromkeys(steps, "passthrough"))


def seeded(estimator: Any, seed: int) -> Any:
    """Clone an estimator and set every ``random_state`` in it.

    Parameters
    ----------
    estimator : estimator
        An estimator, or a pipeline of them.
    seed : int
        The seed, the same for each step.

    Returns
    -------
    estimator
        The clone.

    Examples
    --------
    >>> from sklearn.ensemble import RandomForestRegressor
    >>> seeded(RandomForestRegressor(), 3).random_state
    3
    """
    copy = clone(estimator)
    names = [
        name
        for name in copy.get_params(deep=True)
        if name == "random_state" or name.endswith("__random_state")
    ]
    return copy.set_params(**dict.fromkeys(names, seed))


def check_seeds(seeds: Iterable[int]) -> tuple[int, ...]:
    """Check seeds: distinct integers, 0 or more.

    Parameters
    ----------
    seeds : iterable of int
        The seeds.

    Returns
    -------
    tuple of int
        The same.

    Raises
    ------
    ValueError
        If there is none, or one is not as expected.

    Examples
    --------
    >>> check_seeds(range(3))
    (0, 1, 2)
    """
    found = list(seeds) if isinstance(seeds, Iterable) else []
    good = all(isinstance(s, Integral) and not isinstance(s, bool) and s >= 0 for s in found)
    if not found or not good or len(set(found)) < len(found):
        raise ValueError(
            f"seeds is {seeds!r}; expected distinct integers, 0 or more, such as (0, 1, 2)."
        )
    return tuple(int(seed) for seed in found)


def check_target(y: ArrayLike, n_rows: int) -> NDArray[np.float64]:
    """Check measured values: one finite number a row.

    Parameters
    ----------
    y : array-like of shape (n_rows,)
        Measured values.
    n_rows : int
        Rows of the loci.

    Returns
    -------
    ndarray of shape (n_rows,)
        The values.

    Raises
    ------
    ValueError
        If there are more or fewer, or one is not finite.

    Examples
    --------
    >>> check_target([1, 2], 2)
    array([1., 2.])
    """
    values = np.asarray(y, dtype=np.float64)
    if values.shape != (n_rows,):
        raise ValueError(
            f"y has shape {values.shape}; expected ({n_rows},), one value for each row of loci. "
            "For several targets, compare once for each."
        )
    wrong = int((~np.isfinite(values)).sum())
    if wrong:
        raise ValueError(
            f"y holds {wrong} values that are NaN or infinite among {n_rows}. Leave those rows out "
            "of loci and y."
        )
    return values


def make_folds(cv: Any, loci: Any, y: NDArray[np.float64], groups: ArrayLike | None) -> list[Fold]:
    """Make the splits that all estimators share.

    Parameters
    ----------
    cv : splitter, mapping of str to (train, test), or iterable of (train, test)
        A scikit-learn splitter, or positions (or boolean masks) of the rows.
    loci : DataFrame, Windows or ndarray
        All rows.
    y : ndarray of shape (n_rows,)
        Measured values.
    groups : array-like of shape (n_rows,) or None
        Of a splitter that needs them; None takes the loci's column ``chrom``.

    Returns
    -------
    list of Fold
        Named as in the mapping, else ``"0"``, ``"1"``, ...

    Raises
    ------
    TypeError, ValueError
        If `cv` is something else, or a split has rows in both parts, or none in one.

    Examples
    --------
    >>> make_folds({"last": ([0, 1], [2])}, np.zeros((3, 2)), np.zeros(3), None)[0].test
    array([2])
    """
    pairs: Iterable[tuple[Any, Any]]
    if hasattr(cv, "split"):
        table = loci if isinstance(loci, pd.DataFrame) else getattr(loci, "loci", None)
        with warnings.catch_warnings():
            if groups is None and table is not None and "chrom" in table.columns:
                groups = table["chrom"].to_numpy(dtype=object)
                # Not every splitter needs them.
                warnings.filterwarnings("ignore", "The groups parameter is ignored", UserWarning)
            pairs = list(enumerate(cv.split(np.zeros((len(y), 1)), y, groups)))
    elif isinstance(cv, Mapping):
        pairs = cv.items()
    elif isinstance(cv, Iterable) and not isinstance(cv, str):
        pairs = enumerate(cv)
    else:
        raise TypeError(
            f"cv is {cv!r}; expected a splitter such as GroupKFold(5), (train, test) pairs, or a "
            "dict of names to such pairs."
        )
    folds = []
    for name, pair in pairs:
        if not isinstance(pair, Sequence) or len(pair) != 2:
            raise ValueError(f"split {name!r} of cv is {pair!r}; expected a pair (train, test).")
        train, test = (_positions(rows, len(y), name) for rows in pair)
        both = np.intersect1d(train, test)
        if len(both):
            raise ValueError(
                f"split {name!r} of cv has {len(both)} rows in both train and test, the first "
                f"{int(both[0])}. Keep each row on one side."
            )
        folds.append(Fold(str(name), train, test))
    if not folds or len({fold.name for fold in folds}) < len(folds):
        raise ValueError(f"cv gave the splits {[f.name for f in folds]}; expected distinct names.")
    return folds


def _positions(rows: ArrayLike, n_rows: int, name: Any) -> NDArray[np.intp]:
    found = np.asarray(rows)
    if found.dtype == bool and found.shape == (n_rows,):
        found = np.flatnonzero(found)
    integers = found.ndim == 1 and (found.size == 0 or np.issubdtype(found.dtype, np.integer))
    if not integers or not len(found):
        raise ValueError(
            f"split {name!r} of cv has rows {rows!r}; expected at least one position, or a boolean "
            f"mask of {n_rows} rows with at least one True."
        )
    if found.min() < 0 or found.max() >= n_rows or len(np.unique(found)) < len(found):
        raise ValueError(
            f"split {name!r} of cv has positions from {found.min()} to {found.max()}, "
            f"{len(found) - len(np.unique(found))} of them repeated; expected distinct ones from 0 "
            f"to {n_rows - 1}."
        )
    return found.astype(np.intp)


def make_cells(
    models: Mapping[str, Any],
    loci: Any,
    y: NDArray[np.float64],
    folds: Sequence[Fold],
    seeds: Sequence[int],
) -> list[Cell]:
    """Make the cells, all estimators of a seed and a split before the next split.

    Parameters
    ----------
    models : mapping of str to (estimator or str)
        As :func:`variants` gives them.
    loci, y, folds, seeds
        Rows, measured values, splits and seeds.

    Returns
    -------
    list of Cell
        ``len(models) * len(folds) * len(seeds)`` of them.
    """
    data = [
        digest([take(loci, rows) for rows in fold[1:]], [y[rows] for rows in fold[1:]])
        for fold in folds
    ]
    version = metadata.version("regmask_sk")
    cells = []
    for seed in seeds:
        known = {name: _prepared(model, seed) for name, model in models.items()}
        for fold, rows in zip(folds, data, strict=True):
            for name, (estimator, params, problem) in known.items():
                key = "" if problem else digest(version, params, rows, seed)
                cells.append(Cell(name, fold, seed, estimator, problem, key))
    return cells


def _prepared(model: Any, seed: int) -> tuple[Any, str, str]:
    """Give the estimator with its seed, its digest, and what is wrong with it."""
    if isinstance(model, str):
        return None, "", model
    try:
        estimator = seeded(model, seed)
        return estimator, digest(estimator), ""
    except Exception as error:
        return None, "", failed(error).error
