"""A fit that is interrupted goes on to the same bits, and its file is never half written."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import resumed_fit
import torch
from resumed_fit import SMALL, data
from sklearn.base import clone
from sklearn.pipeline import Pipeline

from regmask_sk import (
    BackboneRegressor,
    RegMaskRegressor,
    SequenceChannels,
    SignalChannels,
    TSSWindows,
    WindowCache,
)
from regmask_sk import _checkpoint as checkpoint_module
from regmask_sk._training import RegMaskNet

N_EPOCHS = 9
N_STEPS = N_EPOCHS * 5  # 36 training windows, 8 a step


class Killed(BaseException):
    """What stands for SIGKILL inside the process: nothing catches it."""


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole() -> RegMaskRegressor:
    """The fit that nothing interrupts."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    fitted = RegMaskRegressor(**SMALL).fit(*data())
    torch.set_num_threads(threads)
    return fitted


def state(model: Any) -> dict[str, torch.Tensor]:
    return dict(model.net_.ready_module.state_dict())


def assert_same(one: Any, other: Any) -> None:
    first, second = state(one), state(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    columns = [name for name in one.history_.columns if name != "seconds"]
    assert one.history_[columns].equals(other.history_[columns])
    X = data()[0]
    np.testing.assert_array_equal(one.predict(X), other.predict(X))


def interrupted(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Have the next fit die in its step of that number."""
    steps = iter(range(10**6))
    train_step: Any = RegMaskNet.train_step

    def dying(self: Any, *given: Any, **named: Any) -> Any:
        if next(steps) == step:
            raise Killed
        return train_step(self, *given, **named)

    monkeypatch.setattr(RegMaskNet, "train_step", dying)


@pytest.mark.parametrize("step", np.random.default_rng(0).choice(N_STEPS, 30, replace=False))
def test_killed_in_any_step_it_goes_on_to_the_same_bits(
    step: int, whole: RegMaskRegressor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "fit.ckpt"
    with monkeypatch.context() as patch:
        interrupted(patch, int(step))
        with pytest.raises(Killed):
            RegMaskRegressor(**SMALL).fit(*data(), checkpoint=file)
    assert file.exists() == (step >= 5)  # there is none before the first epoch's end
    model = RegMaskRegressor(**SMALL).fit(*data(), checkpoint=file, resume=True)
    assert_same(model, whole)
    assert [path.name for path in tmp_path.iterdir()] == ["fit.ckpt"]


def test_killed_again_and_again(
    whole: RegMaskRegressor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "fit.ckpt"
    for _ in range(N_EPOCHS - 1):  # each time it comes one epoch further
        with monkeypatch.context() as patch:
            interrupted(patch, 7)
            with pytest.raises(Killed):
                RegMaskRegressor(**SMALL).fit(*data(), checkpoint=file, resume=True)
    assert_same(RegMaskRegressor(**SMALL).fit(*data(), checkpoint=file, resume=True), whole)


def test_killed_by_the_system(tmp_path: Path) -> None:
    file, out = tmp_path / "fit.ckpt", tmp_path / "out.npy"
    words = [sys.executable, resumed_fit.__file__, str(file), str(out)]
    for _ in range(2):
        before = file.stat().st_mtime_ns if file.exists() else 0
        process = subprocess.Popen(words)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if file.exists() and file.stat().st_mtime_ns != before:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not out.exists()
    subprocess.run(words, check=True)
    model = RegMaskRegressor(**SMALL).fit(*data())
    X = data()[0]
    expected = np.stack([model.predict(X), model.transform(X).mean(axis=1)])
    np.testing.assert_array_equal(np.load(out), expected)


def test_a_finished_fit_is_read_and_may_be_replaced(
    whole: RegMaskRegressor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "fit.ckpt"
    assert_same(RegMaskRegressor(**SMALL).fit(*data(), checkpoint=file), whole)
    with monkeypatch.context() as patch:
        interrupted(patch, 0)  # no step is made
        model = RegMaskRegressor(**SMALL).fit(*data(), checkpoint=file, resume=True)
    assert_same(model, whole)
    RegMaskRegressor(**{**SMALL, "max_epochs": 1}).fit(*data(), checkpoint=file)


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """File of a fit that died in its third epoch."""
    with monkeypatch.context() as patch:
        interrupted(patch, 12)
        with pytest.raises(Killed):
            RegMaskRegressor(**SMALL).fit(*data(), checkpoint=tmp_path / "fit.ckpt")
    return tmp_path / "fit.ckpt"


def test_what_is_not_finished_is_not_replaced(stopped: Path) -> None:
    kept = stopped.read_bytes()
    with pytest.raises(FileExistsError, match=r"stopped after epoch 2\. Pass resume=True"):
        RegMaskRegressor(**SMALL).fit(*data(), checkpoint=stopped)
    X, y = data()
    for change, named in (
        ({"learning_rate": 0.01, "d_model": 16}, "d_model, learning_rate differ"),
        ({"random_state": 1}, "random_state differ"),
    ):
        with pytest.raises(ValueError, match=named):
            RegMaskRegressor(**{**SMALL, **change}).fit(X, y, checkpoint=stopped, resume=True)
    for other in ((X + 1, y), (X, y**3), (X[::-1], y[::-1])):
        with pytest.raises(ValueError, match="of another fit: data differ"):
            RegMaskRegressor(**SMALL).fit(*other, checkpoint=stopped, resume=True)
    assert stopped.read_bytes() == kept


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"resume": True}, ValueError, "pass checkpoint=FILE"),
        (
            {"checkpoint": "no/such/folder/x"},
            FileNotFoundError,
            "there is no folder no/such/folder",
        ),
        ({"checkpoint": "."}, IsADirectoryError, "is a folder"),
    ],
)
def test_wrong_places(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        RegMaskRegressor(**SMALL).fit(*data(), **given)


def test_a_seed_is_needed(tmp_path: Path) -> None:
    model = RegMaskRegressor(**{**SMALL, "random_state": None})
    with pytest.raises(ValueError, match="a fit that can be resumed needs an integer"):
        model.fit(*data(), checkpoint=tmp_path / "fit.ckpt")


def test_other_files_are_left_alone(stopped: Path, tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("mine")
    for resume in (False, True):
        with pytest.raises(ValueError, match=r"notes\.txt"):
            RegMaskRegressor(**SMALL).fit(*data(), checkpoint=other, resume=resume)
    assert other.read_text() == "mine"
    stopped.write_bytes(stopped.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"cannot be read: .* Remove it to begin anew"):
        RegMaskRegressor(**SMALL).fit(*data(), checkpoint=stopped, resume=True)


def test_a_full_disk_stops_no_training(
    whole: RegMaskRegressor, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = stopped.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_module, "write_whole", full)
    with pytest.warns(RuntimeWarning) as caught:
        model = RegMaskRegressor(**SMALL).fit(*data(), checkpoint=stopped, resume=True)
    told = [warning for warning in caught if warning.category is RuntimeWarning]
    assert len(told) == N_EPOCHS - 2
    assert "could not be written after epoch 3 (No space left" in str(told[0].message)
    assert_same(model, whole)
    assert stopped.read_bytes() == kept


def test_in_a_pipeline_and_for_rivals(
    toy_genome: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loci, y = toy_genome.loci, toy_genome.loci["expression"]
    rival = BackboneRegressor(
        resolution=8,
        d_model=8,
        n_layers=1,
        max_epochs=3,
        batch_size=8,
        random_state=0,
        device="cpu",
    )
    pipeline = Pipeline(
        [
            ("windows", TSSWindows(64)),
            ("sequence", SequenceChannels(toy_genome.fasta)),
            ("model", rival),
        ]
    )
    file = tmp_path / "fit.ckpt"
    whole = clone(pipeline).fit(loci, y)
    with monkeypatch.context() as patch:
        steps = iter(range(100))
        train_step: Any = type(whole[-1].net_).train_step

        def dying(self: Any, *given: Any, **named: Any) -> Any:
            if next(steps) == 3:
                raise Killed
            return train_step(self, *given, **named)

        patch.setattr(type(whole[-1].net_), "train_step", dying)
        with pytest.raises(Killed):
            clone(pipeline).fit(loci, y, model__checkpoint=file)
    again = clone(pipeline).fit(loci, y, model__checkpoint=file, model__resume=True)
    np.testing.assert_array_equal(again.predict(loci), whole.predict(loci))


def test_a_file_of_regions_that_has_changed_is_another_fit(
    toy_genome: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    regions, file = tmp_path / "closed.bed", tmp_path / "fit.ckpt"
    regions.write_text("chr1\t1000\t1400\n")
    windows = TSSWindows(64).fit_transform(toy_genome.loci)
    X, y = SequenceChannels(toy_genome.fasta).fit_transform(windows), toy_genome.loci["expression"]
    model = RegMaskRegressor(**SMALL, closed_regions=regions)
    with monkeypatch.context() as patch:
        interrupted(patch, 6)
        with pytest.raises(Killed):
            model.fit(X, y, checkpoint=file)
    regions.write_text("chr1\t1000\t1500\n")
    with pytest.raises(ValueError, match="of another fit: data differ"):
        model.fit(X, y, checkpoint=file, resume=True)


def test_the_precision_of_a_cache_is_part_of_the_fit(
    toy_genome: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = TSSWindows(64).fit_transform(toy_genome.loci)
    X = SignalChannels(toy_genome.tracks, random_state=0).fit_transform(windows)
    y, file = toy_genome.loci["expression"], tmp_path / "fit.ckpt"
    exact = WindowCache(tmp_path / "cache", dtype="float32").fit_transform(X)
    rounded = WindowCache(tmp_path / "cache").fit_transform(X)
    model = RegMaskRegressor(**SMALL)
    with monkeypatch.context() as patch:
        interrupted(patch, 6)
        with pytest.raises(Killed):
            model.fit(X, y, checkpoint=file)
    with pytest.raises(ValueError, match="of another fit: data differ"):
        clone(model).fit(rounded, y, checkpoint=file, resume=True)
    clone(model).fit(exact, y, checkpoint=file, resume=True)
