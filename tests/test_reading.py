"""Errors of reading name gene, place and file; a dead worker is an error, and no hang."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.pipeline import make_pipeline

from regmask_sk import (
    BackboneRegressor,
    RegMaskRegressor,
    SequenceChannels,
    SignalChannels,
    TSSWindows,
)
from regmask_sk._batches import WindowDataset
from regmask_sk._reading import (
    LoaderWorkerError,
    WindowReadError,
    WorkerLog,
    explained,
    explaining,
    place_of,
)
from regmask_sk.genome import BigWigReader
from regmask_sk.windows import Windows

TINY: dict[str, Any] = {
    "resolution": 8, "d_model": 8, "n_layers": 1, "batch_size": 4, "max_epochs": 1,
    "validation_fraction": 0.0, "random_state": 0, "device": "cpu",
}  # fmt: skip
KILLED = "DataLoader worker (pid {}) is killed by signal: Killed. "


@pytest.fixture
def copied(toy_genome: Any, tmp_path: Path) -> dict[str, Path]:
    """Copies of the files, to be spoilt."""
    paths = {"fasta": toy_genome.fasta, "counts": toy_genome.tracks["counts"]}
    return {name: Path(shutil.copy(path, tmp_path)) for name, path in paths.items()}


def windows_of(toy_genome: Any, paths: dict[str, Path]) -> Windows:
    made = make_pipeline(
        TSSWindows(64),
        SequenceChannels(paths["fasta"]),
        SignalChannels({"counts": paths["counts"]}),
    ).fit_transform(toy_genome.loci)
    assert isinstance(made, Windows)
    return made


def harm_after(monkeypatch: pytest.MonkeyPatch, n_reads: int, harm: Any) -> None:
    """Harm the files, or this process, before a read of that number."""
    reads = iter(range(10**6))
    values = BigWigReader.values

    def harmed(self: BigWigReader, *given: Any) -> Any:
        self._handle()
        if next(reads) == n_reads:
            harm()
        return values(self, *given)

    monkeypatch.setattr(BigWigReader, "values", harmed)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("n_workers", [0, 1])
@pytest.mark.parametrize("harm", ["shorter", "gone", "other"])
def test_a_file_that_is_spoilt_in_mid_fit_is_named_with_the_gene(
    harm: str, n_workers: int, toy_genome: Any, copied: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    X = windows_of(toy_genome, copied)
    path = copied["counts"]
    model = RegMaskRegressor(**TINY, n_workers=n_workers)

    def spoil() -> None:
        if harm == "shorter":
            os.truncate(path, path.stat().st_size // 2)
        else:
            path.unlink()
        if harm == "other":
            shutil.copy(toy_genome.tracks["ratio"], path)
        for source in X.sources:
            for reader in source.readers:
                reader.close()  # as a worker of the next epoch, which opens its own handle

    harm_after(monkeypatch, 5, spoil)
    expected = {
        "shorter": "has changed on disk since it was opened. Fit again.",
        "gone": "cannot be read: No such file or directory. Check the path.",
        "other": "has changed on disk since it was opened. Fit again.",
    }[harm]
    with pytest.raises(WindowReadError) as caught:
        model.fit(X, toy_genome.loci["expression"])
    message = str(caught.value)
    assert f"bigWig {path} {expected}" in message
    name = message.split("'")[1]
    row = toy_genome.loci.index.get_loc(name)
    start = X.interval(row).start
    assert message.startswith(f"gene {name!r} (window {toy_genome.loci.chrom[name]}:{start}-")
    assert "Traceback" not in message


@pytest.mark.parametrize("model", [RegMaskRegressor(**TINY), BackboneRegressor(**TINY)])
def test_predict_names_the_gene_that_its_worker_cannot_read(
    model: Any, toy_genome: Any, copied: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    X = windows_of(toy_genome, copied)
    model.fit(X, toy_genome.loci["expression"])
    model.net_.n_workers = 1
    model.net_.iterator_valid__num_workers = 1
    with monkeypatch.context() as patched:
        harm_after(patched, 6, kill)
        with pytest.raises(LoaderWorkerError) as caught:
            model.predict(X)
    # Rows are read in order: the seventh is the one at which the worker died.
    assert f"while it read {place_of(X, 6)}, last from bigWig {copied['counts']}. " in str(
        caught.value
    )
    copied["counts"].unlink()
    with pytest.raises(WindowReadError, match=r"^gene 'gene00' .*No such file"):
        model.predict(X)


@pytest.mark.parametrize("n_workers", [1, 2])
def test_a_worker_that_is_killed_in_mid_fit_ends_the_fit(
    n_workers: int, toy_genome: Any, copied: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    X = windows_of(toy_genome, copied)
    harm_after(monkeypatch, 7, kill)
    with pytest.raises(LoaderWorkerError) as caught:
        RegMaskRegressor(**TINY, n_workers=n_workers).fit(X, toy_genome.loci["expression"])
    message = str(caught.value)
    assert "memory runs out" in message
    assert "take fewer n_workers or a smaller batch_size" in message
    assert any(place_of(X, row) in message for row in range(len(X)))
    assert f"last from bigWig {copied['counts']}" in message


def test_a_fit_in_a_thread_ends_too(
    toy_genome: Any, copied: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # There torch hears of no signal, and finds out by itself, after five seconds.
    X = windows_of(toy_genome, copied)
    harm_after(monkeypatch, 3, kill)
    caught: list[Exception] = []

    def fit() -> None:
        try:
            RegMaskRegressor(**TINY, n_workers=1).fit(X, toy_genome.loci["expression"])
        except Exception as error:
            caught.append(error)

    # Loaders of earlier tests, in the main thread, left torch's handler of the signal there.
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        thread = threading.Thread(target=fit)
        thread.start()
        thread.join(60)
    finally:
        signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)
    assert not thread.is_alive()
    assert isinstance(caught[0], LoaderWorkerError)
    assert f"last from bigWig {copied['counts']}" in str(caught[0])


def noted(toy_genome: Any, monkeypatch: pytest.MonkeyPatch) -> WindowDataset:
    """Rows that a worker with the number of this process reads."""
    X = windows_of(toy_genome, {"fasta": toy_genome.fasta, **toy_genome.tracks})
    dataset = WindowDataset(X, np.zeros((len(X), 0), np.float32))
    dataset.watch(2)
    worker = type("Worker", (), {"id": 1})
    monkeypatch.setattr("regmask_sk._reading.get_worker_info", lambda: worker)
    return dataset


def test_the_log_says_what_a_worker_is_at(toy_genome: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = noted(toy_genome, monkeypatch)
    X, log = dataset.x, dataset.log
    assert isinstance(X, Windows)
    assert log is not None
    assert log.doing(os.getpid(), X) is None
    log.begin(X, 3)
    assert log.doing(os.getpid(), X) == (
        f"while it read {place_of(X, 3)}, before it opened a file for it"
    )
    assert log.doing(os.getpid() + 1, X) is None
    X.sources[0].read(X.interval(3))
    assert str(log.doing(os.getpid(), X)).endswith(f"last from FASTA {toy_genome.fasta}")
    X.sources[1].read(X.interval(3))
    assert str(log.doing(os.getpid(), X)).endswith(f"from bigWig {toy_genome.tracks['counts']}")
    dataset.__getitems__([2, 5])
    assert log.doing(os.getpid(), X) == "between two batches"
    dataset.watch(2)
    assert dataset.log is log, "nested watches keep the notes"
    dataset.watch(1)
    assert len(dataset.log) == 1


def test_more_workers_than_the_log_has_rows_are_not_noted(
    toy_genome: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = noted(toy_genome, monkeypatch)
    dataset.log = log = WorkerLog(1)
    dataset.__getitems__([0])
    assert isinstance(dataset.x, Windows)
    assert log.doing(os.getpid(), dataset.x) is None


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (KILLED, "(process 7) was killed by signal: Killed (as the system does where memory runs"),
        ("DataLoader worker (pid(s) {}, 8) exited unexpectedly", "(process 7, 8) exited unexp"),
        ("DataLoader worker (pid {}) is killed by signal: Bus error. It is", "(/dev/shm) is full"),
    ],
)
def test_what_torch_says_of_dead_workers_is_understood(told: str, expected: str) -> None:
    with pytest.raises(LoaderWorkerError) as caught, explained(None, n_workers=1):
        raise RuntimeError(told.format(7))
    assert expected in str(caught.value)
    assert "before it read a window" in str(caught.value)


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match=r"^shapes differ$"), explained(None, n_workers=1):
        raise RuntimeError("shapes differ")
    with pytest.raises(KeyError), explained(None, n_workers=1):
        raise KeyError("x")


def test_a_death_told_in_the_network_is_explained_too(toy_genome: Any) -> None:
    X = windows_of(toy_genome, {"fasta": toy_genome.fasta, **toy_genome.tracks})
    dataset = WindowDataset(X, np.zeros((len(X), 0), np.float32))

    class Net:
        n_workers = 1

        @explaining
        def predict_batches(self, dataset: WindowDataset) -> Any:
            assert dataset.log is not None
            yield torch.zeros(1)
            dataset.log._notes[0] = torch.tensor([7, 4, -1])
            raise RuntimeError(KILLED.format(7))

    batches = Net().predict_batches(dataset)
    next(batches)
    with pytest.raises(LoaderWorkerError, match="'gene04'"):
        next(batches)
