"""Fits that two processes share, over gloo on the CPU; see shared_fits.py for what they do."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("accelerate", reason="needs accelerate: pip install 'regmask_sk[accelerate]'")
pytest.importorskip("torch.distributed", reason="needs a torch that is built for several processes")

import shared_fits
from accelerate.utils import DistributedType
from shared_fits import ALIKE, SMALL, data

from regmask_sk import BackboneRegressor
from regmask_sk._processes import ALONE, Processes, join

TIMEOUT = 600.0  # seconds, on a machine that does much else
# No loss depends on these: what they add is taken off by a batch norm, a softmax or the step to
# the budget. Their gradients are rounding, which AdamW makes steps of.
WITHOUT_EFFECT = (
    "scan.bias", "means.bias", "conv.bias", "mix.bias", "attention.bias", "head.bias", "0.bias",
    "running_mean", "shift",
)  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What either process found, started as torchrun starts them."""
    out = tmp_path_factory.mktemp("both")
    shared = {
        "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    words = [sys.executable, "-W", "error", shared_fits.__file__, str(out)]
    started = []
    for rank in ("0", "1"):
        environment = {**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank}
        started.append(subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True))
    try:
        errors = [process.communicate(timeout=TIMEOUT)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n".join(errors)
    return [json.loads((out / f"{rank}.json").read_text()) for rank in (0, 1)]


# -- two processes fit what one does ---------------------------------------------------------


@pytest.mark.parametrize("fit", ALIKE, ids=lambda each: each.__name__)
def test_two_processes_come_to_the_weights_of_one(both: list[dict[str, Any]], fit: Any) -> None:
    found, other = (each[fit.__name__] for each in both)
    assert found == other
    assert found["n_processes"] == 2
    expected = fit(False)
    assert expected["n_processes"] == 1
    for name, value in expected["weights"].items():
        if not name.endswith(WITHOUT_EFFECT):
            given = np.array(found["weights"][name])
            np.testing.assert_allclose(given, value, rtol=0, atol=5e-5, err_msg=name)
    np.testing.assert_allclose(found["predicted"], expected["predicted"], atol=3e-3)
    for name, value in expected["history"].items():
        if name in ("stage", "epoch"):
            assert found["history"][name] == value
        else:
            given = np.array(found["history"][name], float)
            np.testing.assert_allclose(given, np.array(value, float), rtol=1e-3, atol=1e-6)
    if "masks" in expected:
        np.testing.assert_allclose(found["masks"], expected["masks"], atol=1e-3)


def test_sampled_masks_leave_all_processes_with_the_same_bits(both: list[dict[str, Any]]) -> None:
    found, other = (each["drawn"] for each in both)
    assert found == other
    stages = found["history"]["stage"]
    assert stages[-2:] == ["generator", "finetune"]
    assert set(stages) == {"predictor", "generator", "finetune"}
    losses = found["history"]["valid_loss"][: len(stages) - 2]
    # Out of patience after the first epoch that is no better, in both.
    assert len(losses) < 6
    assert np.argmin(losses) == len(losses) - 2
    assert np.isfinite(found["predicted"]).all()
    assert np.mean(found["masks"]) == pytest.approx(0.3, abs=0.05)


def test_each_process_draws_numbers_of_its_own(both: list[dict[str, Any]]) -> None:
    found, other = (each["random_numbers"] for each in both)
    assert len(found) == len(other) == 3
    assert not set(found) & set(other)


def test_every_row_is_read_once_by_one_process(both: list[dict[str, Any]]) -> None:
    found = [each["rows_read"]["read"] for each in both]
    assert both[0]["rows_read"]["batches"] == both[1]["rows_read"]["batches"] == [4, 4]
    # 23 training rows in batches of 7, 7, 7 and 2, and 8 for validation, of which one, too few
    # for a batch of two processes, joins the 7 before it; two epochs.
    sizes = [[(augmented, len(rows)) for augmented, rows in each] for each in found]
    assert sizes[0] == 2 * [(True, 3), (True, 3), (True, 3), (True, 1), (False, 4)]
    assert sizes[1] == 2 * [(True, 4), (True, 4), (True, 4), (True, 1), (False, 4)]
    for start in (0, 5):
        epoch = [rows for each in found for _, rows in each[start : start + 5]]
        assert sorted(row for rows in epoch for row in rows) == list(range(31))
    assert found[0][0] != found[0][5]  # another order


def test_loader_workers_and_no_seed(both: list[dict[str, Any]]) -> None:
    assert both[0]["loader_workers"] == both[1]["loader_workers"]


def test_partial_fit_and_warm_start(both: list[dict[str, Any]]) -> None:
    found = both[0]["epoch_by_epoch"]
    assert found == both[1]["epoch_by_epoch"]
    assert found["parts"] == found["whole"]
    assert found["again"] != found["whole"]


def test_path_of_budgets(both: list[dict[str, Any]]) -> None:
    assert both[0]["budgets"] == both[1]["budgets"]
    np.testing.assert_allclose(both[0]["budgets"], [0.4, 0.3], atol=0.02)


def test_the_main_process_writes_checkpoints_and_all_go_on_from_them(
    both: list[dict[str, Any]],
) -> None:
    main, other = (each["checkpoints"] for each in both)
    assert main["stopped"] == other["stopped"] == ["SharedFitError", "enough"]
    assert main["written"] == [1, 2, 3]
    assert other["written"] == []
    assert main["anew"][0] == "FileExistsError"
    assert "holds a fit that stopped after epoch 2. Pass resume=True" in main["anew"][1]
    assert other["anew"][0] == "SharedFitError"
    assert "process 0 of 2 failed: FileExistsError" in other["anew"][1]
    assert main["resumed"] == main["whole"] == other["resumed"]


def test_batch_norms_see_the_whole_batch(both: list[dict[str, Any]]) -> None:
    for each in both:
        assert each["norms"]["off"] is False
        for kind in ("plain", "average", "bare"):
            differences = each["norms"][kind]
            assert max(differences[:5]) < 5e-6  # output, gradient of the input, buffers
            assert max(differences) < 2e-4  # gradients of the weights, which are in the hundreds


def test_sums_and_means(both: list[dict[str, Any]]) -> None:
    first, second = (each["quantities"] for each in both)
    assert first["mean"] == second["mean"] == (1 + 2 + 3 + 10) / 4
    # d (L_0 + L_1) / d value, with L_0 + L_1 = 3 mean, over four values
    assert first["gradient"] == [0.75] * 3
    assert second["gradient"] == [0.75]
    assert first["pooled"] == second["pooled"] == [10.0, 0.0]  # (0 * 2 + 2 * 10) / 2
    assert first["gradients"] == second["gradients"] == [None, [3.0, 3.0], [1.0]]
    assert first["from_main"] == second["from_main"] == 5
    assert first["failed"][0] == "ZeroDivisionError"
    assert second["failed"][0] == "SharedFitError"


# -- what goes wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["y", "X", "learning_rate"])
def test_processes_that_do_not_fit_the_same_are_refused(
    both: list[dict[str, Any]], name: str
) -> None:
    for each in both:
        kind, text = each["unlike"][name]
        assert kind == "ValueError"
        expected = "scales and regions, y" if name == "y" else name
        assert f"the 2 processes differ in {expected}; they must all fit" in text


def test_an_error_of_one_process_is_told_to_all(both: list[dict[str, Any]]) -> None:
    first, second = (each["unlike"]["gap"] for each in both)
    assert second[0] == "ValueError"
    assert first[0] == "SharedFitError"
    assert first[1] == f"process 1 of 2 failed: ValueError: {second[1]}"
    for each in both:
        assert each["unlike"]["batch_size"][0] == "ValueError"
        assert "fewer rows than that: batch_size 1. Raise" in each["unlike"]["batch_size"][1]
        assert each["unlike"]["partial_fit"][0] == "ValueError"
        assert "began in 1 processes and cannot go on in 2" in each["unlike"]["partial_fit"][1]
        assert each["unlike"]["infinite"][0] == "FloatingPointError"
        assert each["unlike"]["and then"] == ["nothing", ""]


def test_a_file_that_one_process_cannot_read_ends_the_fit_in_both(
    both: list[dict[str, Any]],
) -> None:
    for each in both:
        text = "process 1 of 2 failed: FileNotFoundError: genome.fa is gone"
        assert each["unread"]["error"] == ["SharedFitError", text]
        assert each["unread"]["and then"] == ["nothing", ""]


def test_nobody_waits_for_a_process_that_stopped(both: list[dict[str, Any]]) -> None:
    first, second = (each["lost"] for each in both)
    kind, message = second["error"]
    assert kind == "MemoryError"
    assert message.startswith("out of memory in fit on cpu with batch_size=")
    assert first["error"][0] == "ConnectionError"
    assert "another process of this fit stopped" in first["error"][1]
    for each in (first, second):
        assert each["and then"][0] == "RuntimeError"
        assert "Start the script anew" in each["and then"][1]


# -- joining, and one process ------------------------------------------------------------------


def launcher(monkeypatch: pytest.MonkeyPatch, world_size: int = 1, **told: Any) -> None:
    """Let accelerate say what it is told to."""
    state: dict[str, Any] = {
        "num_processes": world_size, "process_index": 0, "mixed_precision": "no",
        "distributed_type": DistributedType.NO, "gradient_accumulation_steps": 1, "device": "cpu",
    }  # fmt: skip
    monkeypatch.setenv("WORLD_SIZE", str(world_size))
    monkeypatch.setattr("accelerate.Accelerator", lambda cpu: SimpleNamespace(**{**state, **told}))


def test_one_process_fits_as_without() -> None:
    X, y, _ = data()
    plain = BackboneRegressor(**SMALL).fit(X, y)
    model = BackboneRegressor(accelerate=True, **SMALL).fit(X, y)
    assert model.n_processes_ == plain.n_processes_ == 1
    np.testing.assert_array_equal(model.predict(X), plain.predict(X))
    assert model.net_.processes is ALONE


def test_a_launcher_that_was_told_bf16_turns_amp_on(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y, _ = data(8)
    small = {**SMALL, "max_epochs": 1}
    launcher(monkeypatch, mixed_precision="bf16")
    assert BackboneRegressor(accelerate=True, **small).fit(X, y).net_.settings.amp
    assert not BackboneRegressor(**small).fit(X, y).net_.settings.amp
    launcher(monkeypatch)
    assert not BackboneRegressor(accelerate=True, **small).fit(X, y).net_.settings.amp
    assert BackboneRegressor(accelerate=True, amp=True, **small).fit(X, y).net_.settings.amp


@pytest.mark.parametrize(
    ("told", "amp", "message"),
    [
        ({"mixed_precision": "bf16"}, False, "mixed_precision='bf16', and amp=False"),
        ({"mixed_precision": "fp16"}, "auto", "--mixed_precision no or bf16"),
        ({"distributed_type": DistributedType.FSDP}, "auto", "set up for FSDP"),
        ({"gradient_accumulation_steps": 4}, "auto", "gradient_accumulation_steps=4"),
    ],
)
def test_what_a_launcher_may_not_be_told(
    monkeypatch: pytest.MonkeyPatch, told: dict[str, Any], amp: Any, message: str
) -> None:
    launcher(monkeypatch, **told)
    with pytest.raises(ValueError, match=message):
        join("cpu", amp)


def test_a_device_for_all_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher(monkeypatch, 2, distributed_type=DistributedType.MULTI_GPU, device="cuda:0")
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    with pytest.raises(ValueError, match="each takes a GPU of its own"):
        join("cuda:1", "auto")
    assert join("cuda", "auto") == Processes(0, 2, "cuda:0")


def test_an_accelerator_of_another_device_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher(monkeypatch, 2, num_processes=1)
    with pytest.raises(ValueError, match=r"started 2 processes .* accelerate knows of 1"):
        join("cpu", "auto")


def test_a_worker_of_joblib_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher(monkeypatch, 2)
    named = SimpleNamespace(name="LokyProcess-1")
    monkeypatch.setattr("multiprocessing.current_process", lambda: named)
    with pytest.raises(ValueError, match="Set n_jobs=1, or accelerate=False"):
        join("cpu", "auto")


def test_accelerate_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    X, y, _ = data(8)
    with pytest.raises(ImportError, match=r"pip install 'regmask_sk\[accelerate\]'"):
        BackboneRegressor(accelerate=True, **SMALL).fit(X, y)


def test_accelerate_is_true_or_false() -> None:
    X, y, _ = data(8)
    with pytest.raises(ValueError, match="accelerate='auto'; expected True or False"):
        BackboneRegressor(accelerate="auto", **SMALL).fit(X, y)  # type: ignore[arg-type]


def test_alone_everything_stays_as_it_is() -> None:
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    assert ALONE.sum(values) is values
    assert ALONE.pooled(values, torch.tensor(0.0)) is values
    assert float(ALONE.mean(values).detach()) == 1.5
    assert ALONE.from_main(lambda: 3) == 3
    assert ALONE.rows(5) == range(5)
    ALONE.spread([values])
    ALONE.check_alike({})
    with pytest.raises(KeyError), ALONE.leaving(), ALONE.together():
        raise KeyError


def test_shares_of_rows() -> None:
    parts = [Processes(rank, 3).rows(8) for rank in range(3)]
    assert [list(part) for part in parts] == [[0, 1], [2, 3, 4], [5, 6, 7]]


def test_seeds_of_processes_and_epochs_differ() -> None:
    seen = set()
    with torch.random.fork_rng():
        for rank in range(3):
            for epoch in range(3):
                torch.manual_seed(7 + epoch)
                Processes(rank, 3).part_ways()
                seen.add(float(torch.rand(())))
    assert len(seen) == 9
