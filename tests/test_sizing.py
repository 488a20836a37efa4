"""Memory: estimates against what is taken, what is said when it runs out, batches by themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from devices import needs_cuda
from sklearn.base import clone

from regmask_sk import (
    BackboneRegressor,
    EPInformerRegressor,
    RegMaskRegressor,
    SequenceChannels,
    SignalChannels,
    TSSWindows,
    _memory_probe,
    load_model,
    save_model,
)
from regmask_sk import _sizing as sizing
from regmask_sk.backbones import BACKBONES, ConvBackbone

SMALL: dict[str, Any] = {
    "resolution": 8, "d_model": 8, "n_layers": 1, "max_epochs": 1, "generator_epochs": 1,
    "finetune_epochs": 1, "sparsity": 0.3, "validation_fraction": 0.0, "random_state": 0,
    "device": "cpu",
}  # fmt: skip
RESETS = Path("/proc/self/clear_refs")


def arrays(n: int = 12, length: int = 64) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, 2, length)).astype(np.float32)


def run_apart(*words: object) -> dict[str, float]:
    """Run a task of ``memory_run.py`` in a process of its own."""
    if not os.access(RESETS, os.W_OK):
        pytest.skip("peak memory can be begun anew on Linux only")
    here = Path(__file__).resolve().parent
    done = subprocess.run(
        [sys.executable, str(here / "memory_run.py"), *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(here.parent), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    result: dict[str, float] = json.loads(done.stdout)
    return result


# -- estimates ---------------------------------------------------------------------------------


def test_the_estimate_is_near_what_a_process_takes() -> None:
    # The tolerance that docs/long-windows.md states: 40 %, and 30 MB of the allocator's.
    found = run_apart("steps", "conv")
    for task in ("fit", "predict"):
        assert abs(found[task] - found[f"estimated_{task}"]) < 0.4 * found[task] + 30, found
    assert found["estimated_fit"] > 50


@needs_cuda
@pytest.mark.parametrize("backbone", sorted(set(BACKBONES) - {"codon"}))
def test_the_estimate_is_no_less_than_a_gpu_gives(backbone: str) -> None:
    X = np.random.default_rng(0).normal(size=(8, 6, 32_768)).astype(np.float32)
    model = RegMaskRegressor(
        **{**SMALL, "backbone": backbone, "d_model": 32, "batch_size": 8, "device": "cuda"}
    )
    estimate = model.estimate_memory(X)
    for task, run in (
        ("fit", lambda: model.fit(X, np.arange(8))), ("predict", lambda: model.predict(X))
    ):  # fmt: skip
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        taken = torch.cuda.max_memory_allocated() - before
        # More is said where cuDNN takes much for short windows; less would end a fit.
        assert taken < 1.25 * getattr(estimate, task), (task, taken, estimate)


@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_short_windows_tell_of_long_ones(backbone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    X = arrays(4, 4096)
    if backbone == "codon":
        pytest.skip("needs the channels by name; see below")
    model = RegMaskRegressor(**{**SMALL, "backbone": backbone, "batch_size": 3})
    monkeypatch.setattr(_memory_probe, "lengths_to_measure", lambda length, _: (length,))
    whole = model.estimate_memory(X)
    monkeypatch.setattr(_memory_probe, "lengths_to_measure", lambda *_: (512, 1024, 2048))
    carried = model.estimate_memory(X)
    for name in ("parameters", "fit", "predict", "transform"):
        assert getattr(carried, name) == pytest.approx(getattr(whole, name), rel=0.1), name


def test_one_and_two_windows_tell_of_many() -> None:
    X = arrays(16, 512)
    model = RegMaskRegressor(**SMALL, batch_size=16)
    estimate = model.estimate_memory(X)
    with _memory_probe.Tally() as tally:
        model.fit(X, np.arange(16))
        fit = tally.peak
        before = tally.restart()
        model.predict(X)
        predict = tally.peak - before
    held = _memory_probe.HELD_ON_HOST
    assert estimate.fit - estimate.windows == pytest.approx(held * fit, rel=0.1)
    assert estimate.predict_step == pytest.approx(held * predict, rel=0.1)
    weights = sum(p.numel() for p in model.net_.module_.parameters()) * 4
    assert estimate.optimizer == 4 * weights
    assert estimate.parameters >= weights
    assert estimate.masks == X.shape[0] * X.shape[2] * 4
    assert estimate.windows == (2 * 16 + 2) * 2 * 512 * 4


def test_the_estimator_and_random_numbers_stay_as_they_are() -> None:
    model = RegMaskRegressor(**{**SMALL, "random_state": np.random.RandomState(3)})
    before, state = dict(vars(model)), torch.get_rng_state()
    drawn = model.random_state.get_state()[1].copy()
    first = model.estimate_memory(arrays())
    assert vars(model) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert (model.random_state.get_state()[1] == drawn).all()
    assert model.estimate_memory(arrays()) == first


def test_targets_of_several_outputs_and_bad_parameters() -> None:
    model = RegMaskRegressor(**SMALL)
    one = model.estimate_memory(arrays())
    three = model.estimate_memory(arrays(), np.zeros((12, 3)))
    assert three.parameters > one.parameters
    with pytest.raises(ValueError, match=r"0 windows|0 sample"):
        model.estimate_memory(arrays()[:0])
    with pytest.raises(ValueError, match="batch_size='some'; expected a whole number"):
        model.set_params(batch_size="some").estimate_memory(arrays())


def test_workers_hold_batches_too() -> None:
    none, two = (
        RegMaskRegressor(**SMALL, n_workers=n).estimate_memory(arrays()).windows for n in (0, 2)
    )
    assert two - none == 4 * 32 * 2 * 64 * 4


def test_gates_by_which_the_budget_is_met_count() -> None:
    # Many windows, little in each: the gates of 2,048 of them are most of it.
    X = np.zeros((5000, 1, 64), np.float32)
    tiny = {**SMALL, "d_model": 1, "batch_size": 1, "resolution": 1}
    estimate = RegMaskRegressor(**tiny).estimate_memory(X)
    assert estimate.training_step >= 5 * 4 * 64 * 2048
    joint = RegMaskRegressor(**tiny, training="joint").estimate_memory(X)
    assert joint.training_step < estimate.training_step / 2


def test_rivals_and_windows_on_a_genome(toy_genome: Any) -> None:
    windows = TSSWindows(256).fit_transform(toy_genome.loci)
    windows = SequenceChannels(toy_genome.fasta).fit_transform(windows)
    X = SignalChannels({"counts": toy_genome.tracks["counts"]}).fit_transform(windows)
    rival = BackboneRegressor(d_model=8, n_layers=1, device="cpu").estimate_memory(X)
    assert min(rival.training_step, rival.predict_step) > 0
    assert rival.transform_step == rival.masks == 0
    elements = EPInformerRegressor(track="counts", device="cpu", covariates=["gc"])
    assert elements.estimate_memory(X, toy_genome.loci["expression"]).fit > 0
    codon = RegMaskRegressor(**{**SMALL, "backbone": "codon"}).estimate_memory(X)
    assert codon.fit > 0


def test_estimators_that_take_no_shorter_windows_are_measured_at_their_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_memory_probe, "lengths_to_measure", lambda *_: (16, 32, 64))

    class LongOnly(RegMaskRegressor):
        def _make_module(self, n_outputs: int) -> Any:
            if self.n_features_in_ < 128:
                raise ValueError("too short")
            return super()._make_module(n_outputs)

    X = arrays(4, 128)
    found = LongOnly(**SMALL).estimate_memory(X)
    monkeypatch.setattr(_memory_probe, "lengths_to_measure", lambda length, _: (length,))
    assert found == RegMaskRegressor(**SMALL).estimate_memory(X)


# -- out of memory -----------------------------------------------------------------------------

LIMIT = {"windows": 10**9}


class Greedy(ConvBackbone):
    """A body for which memory runs out beyond a number of windows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > LIMIT["windows"]:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate "
                "memory: you tried to allocate 8 bytes.\nand more"
            )
        return super().forward(x)


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda n: monkeypatch.setitem(LIMIT, "windows", n)


@pytest.mark.parametrize("estimator", [RegMaskRegressor, BackboneRegressor])
def test_out_of_memory_says_how_much_and_what_takes_less(estimator: Any, limit: Any) -> None:
    own = {k: v for k, v in SMALL.items() if k in estimator().get_params()}
    model = estimator(**{**own, "backbone": Greedy, "batch_size": 4})
    X = arrays()
    y = X[:, 0, 0]
    tasks: dict[str, Any] = {"predict": lambda: model.predict(X)}
    if estimator is RegMaskRegressor:
        tasks |= {
            "transform": lambda: model.transform(X),
            "predict_samples": lambda: model.predict_samples(X, 2, random_state=0),
            "predict_masked": lambda: model.predict_masked(X, np.ones(64)),
        }
    model.fit(X, y)
    limit(3)
    tasks |= {"partial_fit": lambda: model.partial_fit(X, y), "fit": lambda: model.fit(X, y)}
    for task, run in tasks.items():
        with pytest.raises(MemoryError) as caught:
            run()
        message = str(caught.value)
        assert message.startswith(
            f"out of memory in {task} on cpu with batch_size=4: [enforce fail at alloc_cpu.cpp:118]"
        )
        assert "By the estimate: fit " in message
        assert "and more" not in message
        for knob in ("a smaller batch_size", "checkpointing=True", "resolution than 8"):
            assert knob in message
        assert isinstance(caught.value.__cause__, RuntimeError)


def test_where_not_even_one_window_fits_there_is_no_estimate(limit: Any) -> None:
    limit(0)
    model = RegMaskRegressor(**{**SMALL, "backbone": Greedy, "batch_size": 1})
    with pytest.raises(MemoryError) as caught:
        model.fit(arrays(), np.arange(12))
    assert "By the estimate" not in str(caught.value)
    assert "There is no estimate: measuring failed (RuntimeError)." in str(caught.value)
    assert "smaller batch_size" not in str(caught.value)
    assert "shorter windows" in str(caught.value)
    with pytest.raises(MemoryError, match=r"what one window takes was measured.*shorter windows"):
        model.set_params(batch_size="auto").fit(arrays(), np.arange(12))


def test_other_errors_of_a_network_pass() -> None:
    class Broken(ConvBackbone):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match=r"^shapes differ$"):
        RegMaskRegressor(**{**SMALL, "backbone": Broken}).fit(arrays(), np.arange(12))


# -- batches by themselves ---------------------------------------------------------------------


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set how many bytes are free, by the batch that just fits."""

    def set_free(X: np.ndarray, batch_size: int) -> None:
        at = RegMaskRegressor(**SMALL, batch_size=batch_size).estimate_memory(X)
        n_bytes = int(at.largest_step / sizing_share()) + 1
        monkeypatch.setattr(sizing, "free_memory", lambda device: n_bytes)

    return set_free


def sizing_share() -> float:
    from regmask_sk._memory import SHARE_OF_FREE

    return SHARE_OF_FREE


def test_auto_takes_what_fits(free: Any, tmp_path: Path) -> None:
    X = arrays()
    auto = RegMaskRegressor(**SMALL, batch_size="auto")
    free(X, 9)
    assert auto.estimate_memory(X).batch_size == 8
    auto.fit(X, X[:, 0, 0])
    assert auto.batch_size_ == auto.net_.batch_size == 8
    assert auto.get_params()["batch_size"] == "auto"
    assert clone(auto).batch_size == "auto"
    fixed = RegMaskRegressor(**SMALL, batch_size=8).fit(X, X[:, 0, 0])
    np.testing.assert_array_equal(auto.predict(X), fixed.predict(X))
    # A saved model keeps the size, whatever is free where it is read.
    save_model(auto, tmp_path / "model")
    free(X, 2)
    read = load_model(tmp_path / "model")
    assert read.batch_size_ == read.net_.batch_size == 8
    assert read.batch_size == "auto"
    assert clone(auto).fit(X, X[:, 0, 0]).batch_size_ == 2


def test_auto_takes_no_more_than_the_default(free: Any) -> None:
    X = arrays()
    free(X, 1000)
    assert RegMaskRegressor(**SMALL, batch_size="auto").fit(X, X[:, 0, 0]).batch_size_ == 32
    rival = EPInformerRegressor(track="x", batch_size="auto")
    assert rival._automatic_size(RegMaskRegressor(**SMALL)._memory_model(X, None)) == 16


def test_auto_refuses_what_cannot_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizing, "free_memory", lambda device: 1000)
    model = RegMaskRegressor(**SMALL, batch_size="auto")
    with pytest.raises(MemoryError, match="batch_size='auto' finds no batch that fits: one window"):
        model.fit(arrays(), np.arange(12))
    assert not hasattr(model, "net_")


def test_a_resumed_fit_keeps_its_batch_size(free: Any, tmp_path: Path) -> None:
    X = arrays()
    y = X[:, 0, 0]
    free(X, 4)
    model = RegMaskRegressor(**SMALL, batch_size="auto")
    whole = clone(model).fit(X, y)
    train_epoch = RegMaskRegressor._train_epoch
    with pytest.MonkeyPatch.context() as patched:

        def once(self: Any, data: Any) -> None:
            if self.batch_size == "auto" and self._epochs_done == 1:  # not in the estimate
                raise KeyboardInterrupt
            train_epoch(self, data)

        patched.setattr(RegMaskRegressor, "_train_epoch", once)
        with pytest.raises(KeyboardInterrupt):
            clone(model).fit(X, y, checkpoint=tmp_path / "fit.ckpt")
    free(X, 2)
    resumed = clone(model).fit(X, y, checkpoint=tmp_path / "fit.ckpt", resume=True)
    assert resumed.batch_size_ == 4
    np.testing.assert_array_equal(resumed.predict(X), whole.predict(X))


def test_partial_fit_chooses_once(free: Any) -> None:
    X = arrays()
    model = RegMaskRegressor(**SMALL, batch_size="auto")
    free(X, 4)
    model.partial_fit(X, X[:, 0, 0])
    free(X, 1)
    assert model.partial_fit(X, X[:, 0, 0]).batch_size_ == 4


# -- many genes --------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_number_of_genes(tmp_path: Path) -> None:
    few, many = (run_apart("growth", n, tmp_path) for n in (150, 1200))
    # The windows of 1,050 genes more are 69 MB, their masks 17 MB; the allocator keeps up to 20 MB
    # of a training on a machine with other work.
    for task, allowed in {"fit": 30, "predict": 10, "export": 10}.items():
        assert many[task] - few[task] < allowed, (few, many)
