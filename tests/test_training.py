"""Training: stages in order, early stopping, the budget, errors, and bits that repeat."""

from __future__ import annotations

import pickle
import warnings
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from devices import needs_cuda
from torch import Tensor

from regmask_sk._batches import WindowDataset
from regmask_sk._training import (
    RegMaskNet,
)
from regmask_sk.regressor import RegMaskRegressor

KINDS: tuple[Any, ...] = ("soft", "hard", "topk")
TINY: dict[str, Any] = {
    "d_model": 8, "n_layers": 1, "resolution": 4, "sparsity": 0.3, "max_epochs": 3,
    "generator_epochs": 2, "finetune_epochs": 2, "validation_fraction": 0.25,
    "batch_size": 16, "random_state": 0, "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2, 48)).astype(np.float32)
    return X, X[:, 0, 8:16].mean(axis=1) + 0.1 * rng.normal(size=60)


def regressor(**changed: Any) -> RegMaskRegressor:
    return RegMaskRegressor(**{**TINY, **changed})


@pytest.fixture(scope="module")
def fitted(data: tuple[np.ndarray, np.ndarray]) -> RegMaskRegressor:
    return regressor().fit(*data)


class Rows(NamedTuple):
    """What a fit trains on, and is judged by."""

    train: WindowDataset
    valid: WindowDataset


class Caught(Exception):  # noqa: N818
    """Leaves a fit once its first epoch has begun."""


def started(data: tuple[np.ndarray, np.ndarray], **changed: Any) -> tuple[RegMaskNet, Rows]:
    """A net at the start of its plan, and the rows to train it on."""
    seen: list[Any] = []

    def catch(*arguments: Any) -> None:
        seen.extend(arguments)
        raise Caught

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RegMaskNet, "train_epoch", catch)
        with pytest.raises(Caught):
            regressor(**changed).fit(*data)
    torch.manual_seed(0)
    net, train, valid = seen
    return net, Rows(train, valid)


def state(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


# -- stages and history ----------------------------------------------------------------


def test_decoupled_training_has_three_stages_in_one_history(fitted: RegMaskRegressor) -> None:
    history = fitted.history_
    assert history["stage"].tolist() == ["predictor"] * 3 + ["generator"] * 2 + ["finetune"] * 2
    assert history["epoch"].tolist() == list(range(1, 8))
    assert list(history.columns) == [
        "epoch", "stage", "train_loss", "valid_loss", "train_kept", "valid_kept", "seconds"
    ]  # fmt: skip
    numbers = history.drop(columns="stage").to_numpy(float)
    assert np.isfinite(numbers).all()
    assert history[["train_kept", "valid_kept"]].to_numpy().min() > 0
    assert history[["train_kept", "valid_kept"]].to_numpy().max() <= 1
    assert (history["seconds"] > 0).all()


def test_joint_training_has_one_stage(data: Any) -> None:
    model = regressor(training="joint").fit(*data)
    assert model.history_["stage"].tolist() == ["joint"] * 3


def test_without_validation_rows_the_history_says_nan(data: Any) -> None:
    history = regressor(validation_fraction=0.0).fit(*data).history_
    assert len(history) == 7
    assert history[["valid_loss", "valid_kept"]].isna().all(axis=None)
    assert history[["train_loss", "train_kept"]].notna().all(axis=None)


def test_later_stages_take_a_third_each_by_default_and_the_last_may_be_left_out(data: Any) -> None:
    model = regressor(max_epochs=4, generator_epochs=None, finetune_epochs=None).fit(*data)
    assert model.history_["stage"].value_counts().to_dict() == {
        "predictor": 4, "generator": 2, "finetune": 2
    }  # fmt: skip
    without = regressor(finetune_epochs=0).fit(*data)
    assert set(without.history_["stage"]) == {"predictor", "generator"}


def test_each_stage_changes_only_what_it_trains(data: Any) -> None:
    net, rows = started(data)
    for stage in ("predictor", "generator", "finetune"):
        before = state(net.module_)
        assert net.stage.name == stage
        while not net.finished and net.stage.name == stage:
            net.train_epoch(rows.train, rows.valid)
        after = state(net.module_)
        moved = {
            part
            for part in ("predictor.", "generator.")
            if not same(
                {k: v for k, v in before.items() if k.startswith(part)},
                {k: v for k, v in after.items() if k.startswith(part)},
            )
        }
        if stage != "finetune":
            assert moved == {f"{stage}."}
        else:
            assert "predictor." in moved
    assert net.finished


def test_learning_shows_in_the_history(data: Any) -> None:
    model = regressor(max_epochs=40, learning_rate=0.01, ema_decay=0.9, dropout=0.0).fit(*data)
    losses = model.history_.query("stage == 'predictor'")["train_loss"]
    assert losses.iloc[-5:].mean() < 0.7 * losses.iloc[:5].mean()


# -- early stopping --------------------------------------------------------------------


def feed(net: RegMaskNet, losses: list[float]) -> None:
    for loss in losses:
        net._note_validation_loss(loss)


def test_a_plateau_at_the_start_does_not_run_out_of_patience(data: Any) -> None:
    net, _ = started(data, patience=2)
    constant = net.settings.constant_loss
    feed(net, [constant * 1.01, *[constant * 1.05] * 30])
    assert net.progress_.epochs_without_gain == 0
    feed(net, [constant * 0.5])
    assert net.progress_.epochs_without_gain == 0
    feed(net, [constant * 0.6, constant * 0.55])
    assert net.progress_.epochs_without_gain == 2


def test_a_gain_starts_the_count_again(data: Any) -> None:
    net, _ = started(data)
    constant = net.settings.constant_loss
    feed(net, [share * constant for share in (0.5, 0.6, 0.6, 0.4, 0.6)])
    assert net.progress_.epochs_without_gain == 1
    assert net.progress_.best_loss == 0.4 * constant


@pytest.mark.parametrize("loss", ["squared_error", "huber"])
def test_the_constant_is_judged_by_the_loss_that_is_trained(data: Any, loss: Any) -> None:
    """Else huber, which is smaller, seems to have learned before the first step."""
    net, rows = started(data, loss=loss)
    y = rows.valid.y.astype(np.float64)
    size = np.abs(y)
    expected = y**2 if loss == "squared_error" else np.where(size <= 1, y**2 / 2, size - 0.5)
    assert net.settings.constant_loss == pytest.approx(expected.mean(), rel=1e-5)


def test_a_stage_out_of_patience_ends_and_the_next_one_begins(
    data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, rows = started(data, max_epochs=50, patience=2)
    reported = iter([1.0, 0.2, 0.9, 0.9])
    note = RegMaskNet._note_validation_loss
    monkeypatch.setattr(
        RegMaskNet,
        "_note_validation_loss",
        lambda self, loss: note(self, next(reported) * net.settings.constant_loss),
    )
    kept: list[dict[str, Tensor]] = []
    for _ in range(4):
        assert net.stage.name == "predictor"
        net.train_epoch(rows.train, rows.valid)
        if len(kept) < 2:
            kept.append(state(net.ready_module))
    assert net.stage.name == "generator"
    assert same(net.module_.state_dict(), kept[1])  # the best epoch's weights, not the last's
    assert not same(net.module_.state_dict(), kept[0])


def test_the_generators_stage_runs_to_its_end(data: Any) -> None:
    """Its losses rise as its budget is lowered; that is no reason to stop."""
    net, rows = started(data, max_epochs=1, generator_epochs=6, patience=1)
    net.settings = net.settings.__class__(**{**net.settings.__dict__, "constant_loss": 1e9})
    while not net.finished:
        net.train_epoch(rows.train, rows.valid)
    stages = [row["stage"] for row in net.history]
    assert stages.count("generator") == 6


def through(
    monkeypatch: pytest.MonkeyPatch, net: RegMaskNet, rows: Rows, share: float
) -> list[str]:
    """What is warned of in a plan whose validation losses are a share of the constant's."""
    note = RegMaskNet._note_validation_loss
    monkeypatch.setattr(
        RegMaskNet,
        "_note_validation_loss",
        lambda self, loss: note(self, share * net.settings.constant_loss),
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        while not net.finished:
            net.train_epoch(rows.train, rows.valid)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize("training", ["decoupled", "joint"])
def test_a_predictor_that_has_learned_nothing_is_told_of_once(
    data: Any, training: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, rows = started(data, training=training)
    (message,) = through(monkeypatch, net, rows, 1.0)
    stage = "joint" if training == "joint" else "predictor"
    assert f"learned nothing in 3 epochs of stage {stage!r}" in message
    assert "Masks that come of it mean nothing" in message
    assert "Raise max_epochs" in message


def test_one_that_has_learned_is_not_warned_of(data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    net, rows = started(data)
    assert through(monkeypatch, net, rows, 0.9) == []


def test_a_constant_target_leaves_nothing_to_learn(
    data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, rows = started((data[0], np.ones(len(data[0]))))
    assert net.settings.constant_loss == 0.0
    assert through(monkeypatch, net, rows, 1.0) == []


# -- the budget ------------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", [0.15, 0.4])
def test_decoupled_masks_meet_the_budget_on_the_training_rows(data: Any, sparsity: float) -> None:
    X, y = data
    model = regressor(
        sparsity=sparsity, validation_fraction=0.0, generator_epochs=5, resolution=1
    ).fit(X, y)
    for kind in KINDS:
        kept = model.set_params(mask=kind).transform(X).mean()
        assert kept == pytest.approx(sparsity, rel=0.1), kind


def test_the_budget_is_met_after_each_partial_fit(data: Any) -> None:
    X, y = data
    model = regressor(validation_fraction=0.0, resolution=1)
    for epoch in range(7):
        model.partial_fit(X, y)
        kept = model.set_params(mask="soft").transform(X).mean()
        assert kept == pytest.approx(0.3, rel=0.1), epoch


def test_masks_finer_than_tokens_meet_the_budget(
    data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = data
    model = regressor(sparsity=0.2, validation_fraction=0.0, mask_resolution=1).fit(X, y)
    module = model.net_.module_
    assert (module.n_tokens, module.n_gates) == (12, 48)
    for kind in KINDS:
        kept = model.set_params(mask=kind).transform(X).mean()
        assert kept == pytest.approx(0.2, rel=0.1), kind
    # Of long windows at a fine grain fewer are read: here every second one.
    monkeypatch.setattr("regmask_sk._training._CALIBRATION_GATES", 30 * 48)
    calls: list[int] = []
    openness = type(module).openness
    monkeypatch.setattr(
        type(module), "openness", lambda self, x: calls.append(len(x)) or openness(self, x)
    )
    model.net_.calibrate(WindowDataset(X, np.zeros((60, 0), np.float32)))
    assert sum(calls) == 30


def test_gates_are_sampled_together_over_base_pairs_at_any_grain(data: Any) -> None:
    X, y = data
    seen = []
    for grain in (4, 1):
        model = regressor(mask_resolution=grain, gate_correlation=8.0).fit(X, y)
        module, edges = model.net_.module_, []
        drawn_gates = module.drawn_gates

        def drawn(gates: Any, kind: Any, noise: Tensor, *args: Any, edges: Any = edges) -> Tensor:
            edges.append((noise > 0).float())
            return drawn_gates(gates, kind, noise, *args)  # noqa: B023

        module.drawn_gates = drawn
        model.net_.ready_module.drawn_gates = drawn
        model.predict_samples(X, 10, random_state=0)
        seen.append(torch.cat(edges).diff(dim=1).abs().sum(dim=1).mean().item())
    # Zeros of the noise per window: of a smooth process they do not depend on the grain.
    assert seen[1] == pytest.approx(seen[0], rel=0.15)


# -- what goes wrong -------------------------------------------------------------------


@pytest.mark.parametrize("training", ["decoupled", "joint"])
def test_a_loss_that_is_no_number_stops_the_fit(data: Any, training: Any) -> None:
    with pytest.raises(FloatingPointError, match=r"Lower learning_rate \(now 1e\+30\)"):
        regressor(training=training, learning_rate=1e30, gradient_clip=1e30).fit(*data)


def test_the_error_names_epoch_and_stage(data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    net, rows = started(data)
    net.train_epoch(rows.train, rows.valid)
    with torch.no_grad():
        net.module_.predictor.readout.network[-1].bias.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match=r"the loss became nan in epoch 2, stage 'predict"):
        net.train_epoch(rows.train, rows.valid)


def test_after_an_error_the_net_still_pickles_without_the_data(data: Any) -> None:
    net, rows = started(data)
    with torch.no_grad():
        net.module_.predictor.readout.network[-1].bias.fill_(torch.nan)
    with pytest.raises(FloatingPointError):
        net.train_epoch(rows.train, rows.valid)
    assert b"WindowDataset" not in pickle.dumps(net)


# -- bits that repeat ------------------------------------------------------------------


@pytest.mark.parametrize("training", ["decoupled", "joint"])
def test_partial_fits_are_the_epochs_of_fit_bit_for_bit(data: Any, training: Any) -> None:
    X, y = data
    whole = regressor(training=training).fit(X, y)
    step = regressor(training=training)
    columns = ["stage", "train_loss", "valid_loss", "train_kept"]
    for epoch in range(1, 4):
        step.partial_fit(X, y)
        assert len(step.history_) == epoch
    ours, theirs = (m.history_[columns][:3].values.tolist() for m in (step, whole))
    assert ours == theirs
    for _ in range(len(whole.history_) - 3):
        step.partial_fit(X, y)
    np.testing.assert_array_equal(step.predict(X), whole.predict(X))
    np.testing.assert_array_equal(step.transform(X), whole.transform(X))


def test_partial_fit_beyond_the_plan_goes_on_with_the_last_stage(data: Any) -> None:
    model = regressor(max_epochs=1, generator_epochs=1, finetune_epochs=1)
    for _ in range(5):
        model.partial_fit(*data)
    assert model.history_["stage"].tolist() == ["predictor", "generator", *["finetune"] * 3]


def test_partial_fit_keeps_its_validation_rows_without_a_seed(
    data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new split in each call would train on the rows that epochs are judged by."""
    X, y = data
    train_epoch = RegMaskNet.train_epoch
    for random_state in (None, np.random.RandomState(0)):
        judged: list[np.ndarray] = []

        def note(net: RegMaskNet, train: Any, valid: Any, judged: Any = judged) -> None:
            judged.append(valid.x)
            train_epoch(net, train, valid)

        monkeypatch.setattr(RegMaskNet, "train_epoch", note)
        model = regressor(random_state=random_state)
        for _ in range(3):
            model.partial_fit(X, y)
        np.testing.assert_array_equal(judged[0], judged[1])
        np.testing.assert_array_equal(judged[0], judged[2])


# -- small parts -----------------------------------------------------------------------


def test_the_net_follows_the_learning_rate(data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    net, rows = started(data, max_epochs=6, learning_rate=0.01)
    rates: list[float] = []
    count = RegMaskNet.on_batch_end

    def note(self: RegMaskNet, *args: Any, training: bool = False, **kwargs: Any) -> None:
        if training:
            rate = {group["part"]: group["lr"] for group in self.optimizer_.param_groups}
            assert rate["generator"] == 0.0  # of this stage
            rates.append(rate["predictor"])
        count(self, *args, training=training, **kwargs)

    monkeypatch.setattr(RegMaskNet, "on_batch_end", note)
    for _ in range(6):
        net.train_epoch(rows.train, rows.valid)
    assert len(rates) == 6 * net.steps_per_epoch_
    assert max(rates) <= 0.01
    assert max(rates) > 2 * rates[0]
    assert rates[-1] < max(rates)


def test_the_gradient_is_clipped(data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    step = torch.optim.AdamW.step

    def note(self: Any, *args: Any, **kwargs: Any) -> Any:
        grads = [p.grad for group in self.param_groups for p in group["params"]]
        loss = step(self, *args, **kwargs)
        present = [g.norm() for g in grads if g is not None] or [
            p.grad.norm() for g in self.param_groups for p in g["params"] if p.grad is not None
        ]
        norms.append(float(torch.stack(present).norm()))
        return loss

    monkeypatch.setattr(torch.optim.AdamW, "step", note)
    net, rows = started(data, gradient_clip=1e-3)
    net.train_epoch(rows.train, rows.valid)
    assert norms
    assert max(norms) <= 1e-3 * 1.01


def test_while_a_stage_averages_its_average_predicts(data: Any) -> None:
    net, rows = started(data)
    assert net.ready_module is net.module_
    net.train_epoch(rows.train, rows.valid)
    assert net.ready_module is not net.module_
    assert not same(net.ready_module.state_dict(), net.module_.state_dict())


def test_the_net_pickles_without_the_data(fitted: RegMaskRegressor, data: Any) -> None:
    content = pickle.dumps(fitted.net_)
    assert b"WindowDataset" not in content
    larger = RegMaskRegressor(**TINY).fit(*(np.concatenate([part] * 5) for part in data))
    assert len(pickle.dumps(larger.net_)) < len(content) + data[0].nbytes


def test_a_net_pickled_within_the_plan_goes_on_where_it_was(data: Any) -> None:
    X, y = data
    straight, paused = regressor(), regressor()
    for _ in range(4):
        straight.partial_fit(X, y)
    for _ in range(2):
        paused.partial_fit(X, y)
    paused = pickle.loads(pickle.dumps(paused))
    for _ in range(2):
        paused.partial_fit(X, y)
    assert paused.history_["stage"].tolist() == straight.history_["stage"].tolist()
    np.testing.assert_array_equal(paused.predict(X), straight.predict(X))


# -- reading ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_predicted_in_order_whatever_their_size(
    fitted: RegMaskRegressor, data: Any, kind: Any
) -> None:
    X = data[0]
    covariates = np.zeros((len(X), 0), np.float32)
    dataset = WindowDataset(X, covariates)
    batches = list(fitted.net_.predict_batches(dataset, kind))
    masks = [mask for mask, _ in fitted.net_.mask_batches(dataset, kind)]
    assert [len(p) for p in batches] == [len(m) for m in masks] == [16, 16, 16, 12]
    together = torch.cat(batches)
    assert together.dtype == torch.float32
    module = fitted.net_.ready_module.eval()
    with torch.no_grad():
        expected = module(torch.from_numpy(X), torch.from_numpy(covariates), kind=kind)
    torch.testing.assert_close(together, expected.prediction)
    torch.testing.assert_close(torch.cat(masks), expected.mask)


def test_a_dataset_with_masks_is_predicted_under_them(fitted: RegMaskRegressor, data: Any) -> None:
    X = data[0]
    masks = np.random.default_rng(0).random((len(X), X.shape[2])).astype(np.float32)
    dataset = WindowDataset(X, np.zeros((len(X), 0), np.float32), masks=masks)
    read = torch.cat(list(fitted.net_.predict_batches(dataset, "hard")))
    module = fitted.net_.ready_module.eval()
    with torch.no_grad():
        none = torch.zeros(len(X), 0)
        expected = module.predict(torch.from_numpy(X), torch.from_numpy(masks), none)
    torch.testing.assert_close(read, expected.float())


def test_restored_state_predicts_the_same_bits(fitted: RegMaskRegressor, data: Any) -> None:
    net, _ = started(data)
    tensors = state(fitted.net_.ready_module)
    net.restore(tensors, [{"epoch": 1, "stage": "joint", "train_loss": 0.5}])
    assert net.finished
    assert net.history[-1]["stage"] == "joint"
    dataset = WindowDataset(data[0], np.zeros((60, 0), np.float32))
    first, second = (
        torch.cat(list(each.predict_batches(dataset, "soft"))) for each in (fitted.net_, net)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("training", ["decoupled", "joint"])
def test_bfloat16_training_works_on_the_cpu(data: Any, training: Any) -> None:
    X, y = data
    model = regressor(training=training, amp=True).fit(X, y)
    assert np.isfinite(model.predict(X)).all()
    assert model.transform(X).dtype == np.float32
    plain = regressor(training=training).fit(X, y)
    assert not np.array_equal(plain.predict(X), model.predict(X))


@needs_cuda
@pytest.mark.parametrize("training", ["decoupled", "joint"])
def test_training_on_cuda_reaches_the_predictions_of_the_same_weights_on_the_cpu(
    data: Any, training: Any
) -> None:
    X, y = data
    on_cuda = RegMaskRegressor(**{**TINY, "device": "cuda", "amp": False, "training": training})
    on_cuda.fit(X, y)
    on_cpu = RegMaskRegressor(**{**TINY, "device": "cpu", "training": training})
    on_cpu._set_state(*on_cuda._get_state())
    np.testing.assert_allclose(on_cpu.predict(X), on_cuda.predict(X), rtol=1e-3, atol=1e-4)


def test_decay_rates_and_skips_of_scans_are_not_weighed_down() -> None:
    X = np.random.default_rng(0).normal(size=(16, 2, 32)).astype(np.float32)
    model = RegMaskRegressor(
        backbone="mamba", d_model=8, n_layers=2, resolution=4, sparsity=0.3, max_epochs=1,
        random_state=0, device="cpu",
    ).fit(X, X[:, 0].mean(axis=1))  # fmt: skip
    net = model.net_
    names = {id(p): name for name, p in net.module_.named_parameters()}
    decays: dict[float, list[str]] = {}
    for group in net.optimizer_.param_groups:
        found = [names[id(p)] for p in group["params"]]
        assert all(name.startswith(group["part"]) for name in found)
        decays.setdefault(group["weight_decay"], []).extend(found)
    assert sorted(decays) == [0.0, model.weight_decay]
    assert {name.rsplit(".")[-1] for name in decays[0.0]} == {"A_log", "D"}
    assert len(decays[0.0]) == 2 * 2 * 2  # two bodies of two layers
    assert sorted(names.values()) == sorted(decays[0.0] + decays[model.weight_decay])
