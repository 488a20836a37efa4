"""How the cells of a comparison are run, here or by joblib, and kept in a folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed

from regmask_sk._benchmark_cells import COSTS, SCORES, Outcome, Task, failed, run_cell
from regmask_sk._benchmark_plan import Cell
from regmask_sk._benchmark_process import pack, run_isolated, run_packed
from regmask_sk._files import write_whole

_FORMAT = 1  # of a cell's file


def run_tasks(
    tasks: Mapping[int, Task], *, n_jobs: int | None, isolate: bool
) -> Iterator[tuple[int, Outcome]]:
    """Run tasks, and give each one's outcome when it is there.

    Parameters
    ----------
    tasks : mapping of int to Task
        Tasks, by any number.
    n_jobs : int or None
        1 runs them here, anything else is joblib's.
    isolate : bool
        Whether each runs in a process of its own.

    Yields
    ------
    int, Outcome
        The number and its outcome, in the order in which they finish.
    """
    if n_jobs == 1:
        for place, task in tasks.items():
            yield place, _run_here(task, isolate)
        return
    unpacked: dict[int, Outcome] = {}

    def jobs() -> Iterator[Any]:
        for place, task in tasks.items():
            try:
                payload = pack(task)
            except Exception as error:
                unpacked[place] = failed(error)
                continue
            yield delayed(_run_packed)(place, payload, isolate)

    # One cell at a time, so that each is kept when it is finished.
    parallel = Parallel(n_jobs=n_jobs, batch_size=1, return_as="generator_unordered")
    yield from parallel(jobs())
    yield from unpacked.items()


def _run_here(task: Task, isolate: bool) -> Outcome:
    if not isolate:
        return run_cell(task)
    try:
        payload = pack(task)
    except Exception as error:
        return failed(error)
    return run_isolated(payload)


def _run_packed(place: int, payload: bytes, isolate: bool) -> tuple[int, Outcome]:
    return place, run_isolated(payload) if isolate else run_packed(payload)


def keep(folder: Path, cell: Cell, outcome: Outcome) -> None:
    """Keep a finished cell in a folder, whole or not at all."""
    if outcome.predicted is None:
        raise AssertionError("a finished cell has predictions")
    content = {
        "format": _FORMAT,
        "estimator": cell.name,
        "fold": cell.fold.name,
        "seed": cell.seed,
        # JSON has no NaN.
        "measures": {k: v if np.isfinite(v) else None for k, v in outcome.measures.items()},
        "warnings": outcome.warnings,
        "predicted": outcome.predicted.tolist(),
    }
    write_whole(folder / f"{cell.key}.json", json.dumps(content, allow_nan=False) + "\n")


def find(folder: Path, cell: Cell) -> Outcome | None:
    """Read a cell that :func:`keep` wrote; None where there is none."""
    path = folder / f"{cell.key}.json"
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        if content["format"] != _FORMAT:
            raise ValueError(f"its format is {content['format']!r}, expected {_FORMAT}")
        measures = {
            name: float("nan") if content["measures"][name] is None else content["measures"][name]
            for name in (*SCORES, *COSTS)
        }
        predicted = np.array(content["predicted"], dtype=np.float64)
        if predicted.shape != cell.fold.test.shape:
            raise ValueError(f"it has {len(predicted)} predictions, not {len(cell.fold.test)}")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not a finished cell ({error}). Delete it, to have the cell run again."
        ) from error
    return Outcome(measures, predicted, warnings=tuple(content["warnings"]))
