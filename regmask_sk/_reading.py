"""What goes wrong while windows are read: which gene, which file, and in which process."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from regmask_sk.windows import Windows

# What torch says of a worker that is no more; it names processes, not what they were doing.
_DEAD = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? (?P<pids>[\d, ]+)\) "
    r"(?P<how>is killed by signal: [^.]*|exited unexpectedly)"
)
_NOTHING = -1


class WindowReadError(ValueError):
    """A window cannot be read; the message names the gene, the place and the file."""


class LoaderWorkerError(RuntimeError):
    """A process that read windows is dead; the message says what it was reading."""


def place_of(windows: Windows, row: int, shift: int = 0) -> str:
    """Name a row of windows in a message.

    Parameters
    ----------
    windows : Windows
        The windows.
    row : int
        The row.
    shift : int, default=0
        Base pairs by which it is shifted.

    Returns
    -------
    str
        The gene's name in the loci table, and the window, 0-based and half-open.

    Examples
    --------
    >>> import pandas as pd
    >>> loci = pd.DataFrame({"chrom": ["chr1"], "tss": [100], "strand": ["+"]}, index=["YAL1"])
    >>> place_of(Windows(loci, length=10), 0)
    "gene 'YAL1' (window chr1:95-105)"
    """
    chrom, start, end, *_ = windows.interval(row, shift)
    return f"gene {str(windows.loci.index[row])!r} (window {chrom}:{start}-{end})"


class WorkerLog:
    """What each loader worker reads, in memory that they share with the process they work for.

    Parameters
    ----------
    n_workers : int
        Number of workers of a loader.
    """

    def __init__(self, n_workers: int) -> None:
        # Process, row, and number of the file among those of the windows.
        self._notes = torch.full((n_workers, 3), _NOTHING, dtype=torch.int64).share_memory_()
        self._begun = 0  # the process in which the readers tell of their reads

    def __len__(self) -> int:
        return len(self._notes)

    def begin(self, windows: Windows, row: int) -> None:
        """Note that this process, if it is a worker, begins to read a row."""
        worker = get_worker_info()
        if worker is None or worker.id >= len(self._notes):
            return
        note = self._notes[worker.id]
        if self._begun != os.getpid():
            self._begun = os.getpid()
            note[0] = self._begun
            for number, reader in enumerate(windows.readers):
                reader.on_read = _Noting(note, number)
        note[2] = _NOTHING
        note[1] = row

    def end(self) -> None:
        """Note that this process has read the rows of a batch."""
        worker = get_worker_info()
        if worker is not None and worker.id < len(self._notes):
            self._notes[worker.id, 1:] = _NOTHING

    def doing(self, pid: int, windows: Windows) -> str | None:
        """Say what a process was reading; None where it is not known here.

        Parameters
        ----------
        pid : int
            The process.
        windows : Windows
            What it reads.
        """
        for worker, row, file in self._notes.tolist():
            if worker != pid:
                continue
            if row == _NOTHING:
                return "between two batches"
            doing = f"while it read {place_of(windows, row)}"
            if file == _NOTHING:
                return f"{doing}, before it opened a file for it"
            reader = windows.readers[file]
            return f"{doing}, last from {reader.kind} {reader.path}"
        return None


class _Noting:
    """Notes the number of a file each time it is read."""

    def __init__(self, note: torch.Tensor, number: int) -> None:
        self.note, self.number = note, number

    def __call__(self) -> None:
        self.note[2] = self.number


def read_row(
    windows: Windows, row: int, shift: int, out: NDArray[np.float32], log: WorkerLog | None
) -> None:
    """Read one window of a batch.

    Parameters
    ----------
    windows : Windows
        The windows.
    row, shift, out
        As for ``Windows.read``.
    log : WorkerLog, optional
        Where a worker notes what it reads.

    Raises
    ------
    WindowReadError
        If a file cannot be read; the message names the gene.
    """
    if log is not None:
        log.begin(windows, row)
    try:
        windows.read(row, shift, out=out)
    except (OSError, ValueError) as error:
        raise WindowReadError(f"{place_of(windows, row, shift)}: {error}") from error


@contextmanager
def explained(*datasets: Any, n_workers: int) -> Iterator[None]:
    """Say in errors of loader workers which gene and which file they were at.

    Parameters
    ----------
    *datasets : WindowDataset, Subset of one, or None
        What is read.
    n_workers : int
        Number of workers that read it.

    Raises
    ------
    WindowReadError
        If a window could not be read, in this process or in a worker.
    LoaderWorkerError
        If a worker is dead.
    """
    watched = [getattr(given, "dataset", given) for given in datasets if given is not None]
    for dataset in watched:
        if n_workers and hasattr(dataset, "watch"):
            dataset.watch(n_workers)
    try:
        yield
    except WindowReadError as error:
        words = _own_words(error)
        if words == str(error):
            raise
        raise WindowReadError(words) from error  # from a worker, with its trace as the message
    except RuntimeError as error:
        found = _DEAD.search(str(error))
        if found is None:
            raise
        pids = [int(pid) for pid in found["pids"].split(",")]
        raise LoaderWorkerError(_obituary(pids, found["how"], watched)) from error


def explaining(method: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """Have a method that yields what it makes of a dataset, its first argument, explain errors.

    torch tells of a dead worker wherever the main thread happens to be, in the network as well.
    """

    @wraps(method)
    def wrapped(self: Any, dataset: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        with explained(dataset, n_workers=self.n_workers):
            yield from method(self, dataset, *args, **kwargs)

    return wrapped


def _own_words(error: WindowReadError) -> str:
    """Take the message out of the trace that torch makes of a worker's error."""
    return str(error).rsplit(f"{WindowReadError.__name__}: ", 1)[-1].strip()


def _obituary(pids: list[int], how: str, datasets: list[Any]) -> str:
    doing = []
    for pid in pids:
        for dataset in datasets:
            log = getattr(dataset, "log", None)
            if log is not None and isinstance(dataset.x, Windows):
                doing.append(log.doing(pid, dataset.x))
    known = "; ".join(dict.fromkeys(told for told in doing if told is not None))
    why = "killed, as the system does where memory runs out, or crashed"
    if "Bus error" in how:
        why = "shared memory (/dev/shm) is full, or a file that it mapped has become shorter"
    elif "killed" in how:
        why = "as the system does where memory runs out"
    return (
        f"a loader worker (process {', '.join(map(str, pids))}) "
        f"{how.strip().replace('is killed', 'was killed')} ({why}) "
        f"{known or 'before it read a window'}. Where memory is short take fewer n_workers or a "
        "smaller batch_size; n_workers=0 reads in this process, where an error shows its cause."
    )
