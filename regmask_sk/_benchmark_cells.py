"""One cell of a comparison: one estimator fitted and scored on one split with one seed."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.pipeline import Pipeline

from regmask_sk.metrics import regression_metrics

#: What is measured of predictions, and what of an estimator, in the order of the tables.
SCORES = ("mse", "mae", "pearson", "spearman", "r2")
COSTS = (
    "mask_fraction",
    "n_parameters",
    "fit_seconds",
    "predict_seconds",
    "peak_memory_mb",
    "peak_gpu_memory_mb",
)
_MASK_BATCH = 64  # windows whose masks are held at a time
_SLACK = 1e-5  # by which rounding may take a mask out of [0, 1]


class Task(NamedTuple):
    """What is to be done.

    Attributes
    ----------
    estimator : estimator
        Not fitted; it has its seed.
    X : DataFrame, Windows or ndarray
        All rows.
    y : ndarray of shape (n_rows,)
        Measured values.
    train, test : ndarray of int
        Rows to fit on and to predict.
    fit_params : mapping of str to object, optional
        Further arguments of the estimator's ``fit``.
    """

    estimator: Any
    X: Any
    y: NDArray[np.float64]
    train: NDArray[np.intp]
    test: NDArray[np.intp]
    fit_params: Mapping[str, Any] | None = None


class Outcome(NamedTuple):
    """What came of it.

    Attributes
    ----------
    measures : dict of str to float
        `SCORES` and `COSTS`; NaN where there is nothing to measure. Empty where it failed.
    predicted : ndarray of shape (n_test,) or None
        Predictions of the test rows.
    error : str
        Why it failed, in one line; empty where it did not.
    warnings : tuple of str
        Distinct warnings to users, in one line each.
    """

    measures: dict[str, float]
    predicted: NDArray[np.float64] | None
    error: str = ""
    warnings: tuple[str, ...] = ()


def take(X: Any, rows: Any) -> Any:
    """Take rows of a table, of windows or of an array."""
    return X.iloc[rows] if hasattr(X, "iloc") else X[rows]


def failed(error: BaseException) -> Outcome:
    r"""Outcome of a cell that raised an error.

    Parameters
    ----------
    error : BaseException
        The error.

    Returns
    -------
    Outcome
        With its type and message in one line.

    Examples
    --------
    >>> failed(ValueError("too\n few genes")).error
    'ValueError: too few genes'
    """
    return Outcome({}, None, f"{type(error).__name__}: {' '.join(str(error).split())}")


def run_cell(task: Task, *, own_process: bool = False) -> Outcome:
    """Fit, predict and measure; an error is an outcome.

    Parameters
    ----------
    task : Task
        What to do.
    own_process : bool, default=False
        Whether nothing else has run in this process, so that its memory is the cell's.

    Returns
    -------
    Outcome
        Measures and predictions, or the error.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            measures, predicted, notes = _measure(task, own_process)
        except Exception as error:
            return failed(error)
    told = [
        f"{item.category.__name__}: {' '.join(str(item.message).split())}"
        for item in caught
        if issubclass(item.category, UserWarning | RuntimeWarning)
    ]
    return Outcome(measures, predicted, warnings=tuple(dict.fromkeys([*told, *notes])))


def _measure(
    task: Task, own_process: bool
) -> tuple[dict[str, float], NDArray[np.float64], list[str]]:
    estimator = clone(task.estimator)
    held_out = take(task.X, task.test)
    _reset_gpu_peak()
    started = time.perf_counter()
    estimator.fit(take(task.X, task.train), task.y[task.train], **(task.fit_params or {}))
    fitted = time.perf_counter()
    predicted = np.asarray(estimator.predict(held_out), dtype=np.float64)
    done = time.perf_counter()
    memory = peak_memory_mb() if own_process else float("nan")
    gpu_memory = _gpu_peak_mb()
    if predicted.shape not in ((len(task.test),), (len(task.test), 1)):
        raise ValueError(
            f"predict gave an array of shape {predicted.shape}; expected ({len(task.test)},), one "
            "value for each gene of the test."
        )
    predicted = predicted.reshape(-1)
    measures = regression_metrics(task.y[task.test], predicted)
    notes = []
    try:
        kept = mask_fraction(estimator, held_out)
    except Exception as error:  # the predictions stand
        kept = float("nan")
        notes.append(f"no masks: {failed(error).error}")
    measures |= {
        "mask_fraction": kept,
        "n_parameters": n_parameters(estimator),
        "fit_seconds": fitted - started,
        "predict_seconds": done - fitted,
        "peak_memory_mb": memory,
        "peak_gpu_memory_mb": gpu_memory,
    }
    return measures, predicted, notes


def last_step(estimator: Any) -> tuple[Any, Any]:
    """Take a fitted pipeline, or a search or a target transformer around one, apart.

    Parameters
    ----------
    estimator : estimator
        Fitted.

    Returns
    -------
    head, last : estimator or None, estimator
        The pipeline's other steps, None where there are none, and its last one.

    Examples
    --------
    >>> from sklearn.linear_model import Ridge
    >>> last_step(Ridge())
    (None, Ridge())
    """
    for name in ("best_estimator_", "regressor_"):
        if hasattr(estimator, name):
            return last_step(getattr(estimator, name))
    if not isinstance(estimator, Pipeline):
        return None, estimator
    return (estimator[:-1] if len(estimator) > 1 else None), estimator[-1]


def mask_fraction(estimator: Any, X: Any) -> float:
    """Share of the bases that the masks of the last step keep, a batch of windows at a time.

    Parameters
    ----------
    estimator : estimator
        Fitted. Its last step gives masks if its ``transform`` gives an array of shape
        ``(n, length)`` of numbers from 0 to 1 for windows of that length.
    X : DataFrame, Windows or ndarray
        Rows.

    Returns
    -------
    float
        Mean of the masks, NaN where there are none.
    """
    head, last = last_step(estimator)
    if not hasattr(last, "transform"):
        return float("nan")
    windows = X if head is None else head.transform(X)
    n_rows, length = int(windows.shape[0]), int(windows.shape[-1])
    total = 0.0
    for start in range(0, n_rows, _MASK_BATCH):
        batch = take(windows, slice(start, start + _MASK_BATCH))
        masks = np.asarray(last.transform(batch))
        if masks.shape != (min(_MASK_BATCH, n_rows - start), length):
            return float("nan")
        if not (masks.min() >= -_SLACK and masks.max() <= 1 + _SLACK):
            return float("nan")
        total += float(masks.mean(axis=1, dtype=np.float64).sum())
    return total / n_rows


def n_parameters(estimator: Any) -> float:
    """Count the trainable parameters of the last step's network.

    Parameters
    ----------
    estimator : estimator
        Fitted.

    Returns
    -------
    float
        Their number; NaN where ``net_.module_``, a torch module, is not there.

    Examples
    --------
    >>> from sklearn.linear_model import Ridge
    >>> n_parameters(Ridge())
    nan
    """
    module = getattr(getattr(last_step(estimator)[1], "net_", None), "module_", None)
    if module is None:
        return float("nan")
    return float(sum(p.numel() for p in module.parameters() if p.requires_grad))


def peak_memory_mb() -> float:
    """Most memory that this process has held since it began.

    Returns
    -------
    float
        Resident memory in MB (10**6 bytes), interpreter and libraries included.

    Examples
    --------
    >>> peak_memory_mb() > 10
    True
    """
    status = Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss, which on Linux begins with that of the process that started this one.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else 1024) / 1e6


def _reset_gpu_peak() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def _gpu_peak_mb() -> float:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return float("nan")
    return torch.cuda.max_memory_allocated() / 1e6 or float("nan")
