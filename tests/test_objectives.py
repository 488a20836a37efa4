"""What each stage minimises: which masks it trains under, and whom its gradient reaches."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from regmask_sk import _objectives
from regmask_sk._model import build_model
from regmask_sk._objectives import LEAK, Outcome, annealed_budget, open_share
from regmask_sk.backbones import BACKBONES, make_backbone
from regmask_sk.distributions import DISTRIBUTIONS
from regmask_sk.generator import Generator
from regmask_sk.losses import continuity_penalty, transition_penalty
from regmask_sk.masking import MaskedExpressionModel
from regmask_sk.predictor import Predictor, Readout

LENGTH, RESOLUTION, PROMOTER = 64, 4, (30, 36)
JOINT: dict[str, Any] = {"prior_mean": 0.1, "prior_concentration": 10.0}


def make_model(distribution: Any = "relaxed_bernoulli", *, dropout: float = 0.0) -> Any:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"d_model": 8, "n_layers": 1, "resolution": RESOLUTION}
    generator = Generator(
        make_backbone("conv", 3, dropout=dropout, **shape),
        body_channels=(0, 1),
        signal_channels=(1,),
        n_gates=16,
        distribution=distribution,
    )
    readout = Readout(8, 1, 1, n_tokens=16, resolution=RESOLUTION, dropout=dropout)
    predictor = Predictor(make_backbone("conv", 3, dropout=dropout, **shape), readout, (0, 1))
    model = MaskedExpressionModel(
        generator, predictor, length=LENGTH, promoter=PROMOTER, sparsity=0.3
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def batch(n: int = 16) -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(1)
    return torch.randn(n, 2, LENGTH, generator=drawn), torch.randn(n, 1, generator=drawn)


def reached(part: nn.Module) -> bool:
    """Whether a gradient has come to the module."""
    return any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in part.parameters())


def backward(outcome: Outcome) -> None:
    total = torch.stack([p.square().mean() for p in outcome.predictions]).mean()
    (total + outcome.penalty).backward()


def check_shapes(outcome: Outcome, n: int = 16) -> None:
    assert all(p.shape == (n, 1) for p in outcome.predictions)
    assert outcome.penalty.shape == ()
    assert outcome.kept.shape == ()
    assert 0 < outcome.kept.item() <= 1


# -- schedules -------------------------------------------------------------------------


def test_open_windows_come_first_and_become_fewer() -> None:
    shares = [open_share(step / 50) for step in range(60)]
    assert shares[0] == 1.0
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == open_share(1.0) < 0.5


@pytest.mark.parametrize("budget", [0.01, 0.1, 0.5, 0.9])
def test_the_budget_is_lowered_and_then_held(budget: float) -> None:
    shares = [annealed_budget(budget, step / 50, start=0.5) for step in range(60)]
    assert shares[0] >= budget
    assert all(first >= second for first, second in pairwise(shares))
    assert shares[45:] == pytest.approx([budget] * 15)  # well before the end of the stage


@pytest.mark.parametrize("kind", ["soft", "hard"])
@pytest.mark.parametrize("budget", [0.1, 0.5, 0.9])
def test_budget_shift_finds_the_shift(kind: Any, budget: float) -> None:
    model = make_model()
    openness = 3.0 * torch.randn(200, model.n_tokens, generator=torch.Generator().manual_seed(0))
    shifted = openness + _objectives.budget_shift(model, openness, budget, kind)
    gates = torch.sigmoid(shifted) if kind == "soft" else (shifted > 0).float()
    assert model.expand(gates).mean().item() == pytest.approx(budget, abs=0.01)


# -- the predictor's stage -------------------------------------------------------------


def test_the_predictors_stage_trains_the_predictor_alone() -> None:
    model = make_model().train()
    outcome = _objectives.predictor_outcome(model, *batch(), progress=1.0)
    check_shapes(outcome)
    assert outcome.target is None
    assert outcome.penalty == 0
    backward(outcome)
    assert reached(model.predictor)
    assert not reached(model.generator)


def test_the_predictors_stage_starts_with_open_windows() -> None:
    model = make_model().eval()
    x, covariates = batch()
    outcome = _objectives.predictor_outcome(model, x, covariates, progress=0.0)
    assert outcome.kept == 1
    whole = model.predictor(x, torch.ones(16, LENGTH), covariates)
    torch.testing.assert_close(outcome.predictions[0], whole)
    assert _objectives.predictor_outcome(model, x, covariates, progress=1.0).kept < 0.95


# -- the generator's stage -------------------------------------------------------------


def generator_outcome(model: Any, *, budget: float = 0.3) -> Outcome:
    return _objectives.generator_outcome(model, *batch(), budget=budget)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_generators_stage_trains_the_generator_against_the_open_window(
    distribution: Any,
) -> None:
    model = make_model(distribution, dropout=0.5).train()
    model.predictor.requires_grad_(False)
    x, covariates = batch()
    outcome = generator_outcome(model)
    check_shapes(outcome)
    assert outcome.target is not None
    assert not outcome.target.requires_grad
    model.eval()  # without dropout, as the target must have been made
    whole = model.predictor(x, torch.ones(16, LENGTH), covariates)
    torch.testing.assert_close(outcome.target, whole)
    backward(outcome)
    assert reached(model.generator)
    assert not reached(model.predictor)


def test_the_generators_stage_leaves_the_predictors_statistics_alone() -> None:
    model = make_model().train()
    before = {name: value.clone() for name, value in model.predictor.state_dict().items()}
    generator_outcome(model)
    after = model.predictor.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("budget", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_masks_of_a_batch_keep_the_budget_soft_and_hard(
    distribution: Any, budget: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(distribution).eval()
    seen: list[Tensor] = []
    monkeypatch.setattr(
        model.predictor, "forward", lambda x, m, c, **_: seen.append(m.detach()) or c
    )
    for share in (1.0, 0.0):
        monkeypatch.setattr(_objectives, "SOFT_SHARE", share)
        outcome = generator_outcome(model, budget=budget)
        assert outcome.kept.item() == pytest.approx(budget, abs=0.01)
        assert seen[-1].mean().item() == pytest.approx(budget, abs=0.01)
    assert set(seen[-1].round(decimals=4).unique().tolist()) <= {0.0, 1.0}


def test_a_bias_of_all_gates_changes_nothing_and_has_no_gradient() -> None:
    model = make_model().train()
    predictions = []
    for bias in (0.0, 3.0):
        nn.init.constant_(model.generator.head.bias, bias)
        model.zero_grad()
        torch.manual_seed(0)
        outcome = generator_outcome(model)
        backward(outcome)
        predictions.append(outcome.predictions[0].detach())
        weight, own = model.generator.head.weight.grad, model.generator.head.bias.grad
        assert own.abs().max() < 1e-2 * weight.abs().max()
    torch.testing.assert_close(*predictions, rtol=1e-3, atol=1e-4)


# -- the fine-tuning stage -------------------------------------------------------------


def finetune_outcome(model: Any, n: int = 16, *, budget: float = 0.3) -> Outcome:
    return _objectives.finetune_outcome(model, *batch(n), budget=budget)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_finetuning_stage_trains_both_networks(distribution: Any) -> None:
    model = make_model(distribution).train()
    outcome = finetune_outcome(model)
    check_shapes(outcome)
    assert outcome.target is None
    torch.stack([p.square().mean() for p in outcome.predictions]).mean().backward()
    assert reached(model.predictor)
    assert reached(model.generator)  # by the prediction, without the penalty


def test_the_finetuning_stage_mixes_soft_hard_and_random_masks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make_model().eval()
    seen: list[Tensor] = []
    monkeypatch.setattr(
        model.predictor, "forward", lambda x, m, c, **_: seen.append(m.detach()) or c
    )
    torch.manual_seed(0)
    finetune_outcome(model, 400)
    outside = torch.cat([seen[0][:, : PROMOTER[0]], seen[0][:, PROMOTER[1] :]], dim=1)
    openness = model.openness(batch(400)[0]).detach()
    model.soft_shift.fill_(_objectives.budget_shift(model, openness, 0.3, "soft"))
    soft = model.expand(model.gates(openness, "soft"))
    is_soft = torch.isclose(seen[0], soft, atol=1e-3).all(dim=1)
    is_open = (outside > 0.999).all(dim=1)
    is_binary = ((outside < 0.001) | (outside > 0.999)).all(dim=1) & ~is_open
    for share in (is_soft, is_binary, is_open):
        assert 0.03 < share.float().mean() < 0.8


@pytest.mark.parametrize("stage", [_objectives.generator_outcome, _objectives.finetune_outcome])
def test_continuity_is_part_of_the_penalty(stage: Any) -> None:
    model = make_model().eval()
    penalties = []
    for weight in (0.0, 1.0, 2.0):
        torch.manual_seed(0)
        outcome = stage(model, *batch(), budget=0.3, continuity_weight=weight)
        penalties.append(outcome.penalty.item())
    assert penalties[1] > penalties[0]
    assert penalties[2] - penalties[1] == pytest.approx(penalties[1] - penalties[0], rel=1e-3)


STAGES: tuple[Any, ...] = (
    partial(_objectives.generator_outcome, budget=0.3),
    partial(_objectives.finetune_outcome, budget=0.3),
    partial(_objectives.joint_outcome, kind="soft", kl_weight=0.1, **JOINT),
)


@pytest.mark.parametrize("stage", STAGES, ids=["generator", "finetune", "joint"])
@pytest.mark.parametrize("distribution", ["relaxed_bernoulli", "beta"])
def test_every_stage_with_gates_knows_both_continuities(stage: Any, distribution: Any) -> None:
    model = make_model(distribution).eval()
    gates = model.generator(batch()[0])
    if stage is not STAGES[2]:  # read at the budget
        step = _objectives.budget_shift(model, gates.log_odds.detach(), 0.3, "soft")
        gates = gates.moved(torch.tensor(step))
    means = gates.mean
    for continuity, expected in (
        ("difference", continuity_penalty(means)),
        ("transitions", transition_penalty(means)),
    ):
        penalties = []
        for weight in (0.0, 1.0):
            torch.manual_seed(0)
            outcome = stage(model, *batch(), continuity_weight=weight, continuity=continuity)
            penalties.append(outcome.penalty)
        torch.testing.assert_close(penalties[1] - penalties[0], expected, rtol=1e-3, atol=1e-4)


def whole_model(backbone: str, distribution: Any, *, joint: bool, **changed: Any) -> Any:
    """A model of sequence and a track, with random weights, that is in evaluation."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "channel_names": ("A", "C", "G", "T", "dnase"), "n_channels": 5, "length": LENGTH,
        "promoter": PROMOTER, "n_outputs": 1, "n_covariates": 1, "sparsity": 0.3,
        "resolution": RESOLUTION, "d_model": 8, "n_layers": 1, "dropout": 0.0, **changed,
    }  # fmt: skip
    model = build_model(
        backbone=backbone, gate_distribution=distribution, joint=joint, **settings
    ).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def whole_batch(n: int) -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(1)
    bases = torch.randint(0, 4, (n, LENGTH), generator=drawn)
    letters = nn.functional.one_hot(bases, 4).transpose(1, 2).float()
    x = torch.cat([letters, torch.randn(n, 1, LENGTH, generator=drawn)], dim=1)
    return x, torch.randn(n, 1, generator=drawn)


HARD_STAGES: dict[str, Any] = {
    "generator": (False, STAGES[0]),
    "finetune": (False, STAGES[1]),
    "joint": (True, partial(_objectives.joint_outcome, kind="hard", kl_weight=0.1, **JOINT)),
}


@pytest.mark.parametrize("stage", sorted(HARD_STAGES))
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_the_prediction_under_hard_masks_alone_moves_the_gates_head(
    backbone: str, distribution: Any, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the windows of which a stage samples 0/1 masks, none through the penalty."""
    joint, run = HARD_STAGES[stage]
    model = whole_model(backbone, distribution, joint=joint, mask_resolution=2)
    expand, seen = model.expand, []
    monkeypatch.setattr(model, "expand", lambda g, *rest: seen.append(g) or expand(g, *rest))
    x, covariates = whole_batch(32)
    outcome = run(model, x, covariates)
    gates = seen[-1].detach()
    hard = ((gates == 1) | (gates == LEAK)).all(dim=1) & (gates != 1).any(dim=1)
    assert hard.any()
    # In evaluation a window's prediction hangs on no other window's mask.
    outcome.predictions[0][hard].square().sum().backward()
    for name, parameter in model.generator.head.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert (parameter.grad != 0).all(), name


@pytest.mark.parametrize("continuity", ["difference", "transitions"])
def test_an_edge_costs_the_same_at_any_grain(continuity: Any) -> None:
    costs = []
    for grain in (RESOLUTION, 1):
        model = whole_model("conv", "relaxed_bernoulli", joint=False, mask_resolution=grain)
        means = torch.zeros(1, model.n_gates)
        means[:, model.n_gates // 4 : model.n_gates // 2] = 1.0  # an element of 16 bp
        costs.append(_objectives._continuity(model, means, continuity).item())
    assert costs[1] == pytest.approx(costs[0], rel=0.1)


@pytest.mark.parametrize("stage", STAGES, ids=["generator", "finetune", "joint"])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_every_stage_with_gates_can_sample_them_together(
    stage: Any, distribution: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(distribution)
    nn.init.zeros_(model.generator.head.weight)  # gates much alike
    reading = model.predictor.forward
    seen: list[Tensor] = []
    monkeypatch.setattr(
        model.predictor, "forward", lambda x, m, c, **_: seen.append(m.detach()) or reading(x, m, c)
    )
    edges = []
    for correlation in (0.0, 6.0 * RESOLUTION):
        seen.clear()
        torch.manual_seed(0)
        outcome = stage(model, *batch(256), gate_correlation=correlation)
        mask = seen[-1][:, ::RESOLUTION]
        edges.append(mask.diff(dim=1).abs().mean().item())
    assert edges[1] < 0.95 * edges[0]  # fine-tuning mixes in masks that are not sampled
    backward(outcome)
    assert reached(model.generator)


@pytest.mark.parametrize("stage", [_objectives.generator_outcome, _objectives.finetune_outcome])
def test_no_more_is_asked_for_than_closed_bases_leave(stage: Any) -> None:
    model = make_model()
    forced = torch.full((16, LENGTH), -1, dtype=torch.int8)
    forced[:, :8] = 0  # 14 bases of 64 can be kept, with the promoter
    for budget, kept in ((0.15, 0.15), (14 / 64, 14 / 64), (0.5, 14 / 64)):
        outcome = stage(model, *batch(), forced, budget=budget)
        assert outcome.kept.item() == pytest.approx(kept, abs=0.005)
        assert torch.isfinite(outcome.predictions[0]).all()
        backward(outcome)
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


FORCED_STAGES: tuple[Any, ...] = (
    partial(_objectives.predictor_outcome, progress=1.0),
    *STAGES,
    *(
        partial(_objectives.validation_outcome, stage=stage, kind=kind, budget=0.3)
        for stage, kind in (("predictor", "soft"), ("joint", "soft"), ("finetune", "topk"))
    ),
)


@pytest.mark.parametrize("stage", FORCED_STAGES)
def test_every_mask_of_every_stage_has_its_forced_bases(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model().eval()
    forced = torch.zeros(16, LENGTH, dtype=torch.int8)
    forced[:8, 3:11] = -1
    forced[8:, 50:53] = 1
    forced[:, 28:33] = -1  # reaches into the promoter
    seen: list[Tensor] = []
    monkeypatch.setattr(
        model.predictor, "forward", lambda x, m, c, **_: seen.append(m.detach()) or c
    )
    outcome = stage(model, *batch(), forced)
    for mask in seen:
        assert (mask[:8, 3:11] == 0).all()
        assert (mask[8:, 50:53] == 1).all()
        assert (mask[:, 28 : PROMOTER[0]] == 0).all()
        assert (mask[:, slice(*PROMOTER)] == 1).all()
    if stage.func in (_objectives.predictor_outcome, _objectives.validation_outcome):
        torch.testing.assert_close(outcome.kept, seen[-1].mean(), atol=1e-5, rtol=0)


# -- joint training --------------------------------------------------------------------


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("kind", ["soft", "hard", "topk"])
def test_joint_training_reaches_both_networks(kind: Any, distribution: Any) -> None:
    model = make_model(distribution).train()
    outcome = _objectives.joint_outcome(model, *batch(), kind=kind, kl_weight=0.0, **JOINT)
    check_shapes(outcome)
    assert outcome.target is None
    assert outcome.penalty == 0
    backward(outcome)
    assert reached(model.generator)
    assert reached(model.predictor)


@pytest.mark.parametrize("kind", ["soft", "hard", "topk"])
def test_joint_masks_are_of_the_kind_asked_for(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("beta").train()
    seen: list[Tensor] = []
    monkeypatch.setattr(model.predictor, "forward", lambda x, m, c, **_: seen.append(m) or c)
    _objectives.joint_outcome(model, *batch(), kind=kind, kl_weight=0.0, **JOINT)
    mask = seen[0]
    assert (mask[:, slice(*PROMOTER)] == 1).all()
    if kind == "soft":
        assert len(mask.unique()) > 50
    else:
        # A closed gate may leak a trace to the gradient; nothing lies in between.
        assert len(mask.unique()) == 2
        assert mask.max() == 1
        assert mask.min() < 1e-5
    if kind == "topk":
        assert ((mask.mean(dim=1) - model.sparsity).abs() <= RESOLUTION / LENGTH).all()
    assert mask.requires_grad


def test_joint_samples_differ_from_step_to_step() -> None:
    model = make_model("beta").eval()
    first, second = (
        _objectives.joint_outcome(model, *batch(), kind="soft", kl_weight=0.0, **JOINT)
        for _ in range(2)
    )
    assert not torch.equal(first.predictions[0], second.predictions[0])


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_joint_penalty_is_the_divergence_times_its_weight(distribution: Any) -> None:
    model = make_model(distribution).eval()
    x, covariates = batch()
    expected = model.generator(x).kl(0.1, 10.0).mean()
    for weight in (0.5, 2.0):
        outcome = _objectives.joint_outcome(
            model, x, covariates, kind="hard", kl_weight=weight, **JOINT
        )
        torch.testing.assert_close(outcome.penalty, weight * expected)


# -- validation ------------------------------------------------------------------------


def validate(model: Any, stage: str, kind: Any = "hard") -> Outcome:
    with torch.no_grad():
        return _objectives.validation_outcome(
            model.eval(), *batch(), stage=stage, kind=kind, budget=0.3
        )


@pytest.mark.parametrize("stage", ["predictor", "generator", "finetune"])
def test_validation_is_the_same_in_each_epoch(stage: str) -> None:
    model = make_model(dropout=0.5)
    state = torch.get_rng_state()
    first, second = (validate(model, stage) for _ in range(2))
    for one, other in zip(first.predictions, second.predictions, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)  # so that it does not change the training
    assert first.penalty == 0


def test_the_predictor_is_judged_open_and_masked() -> None:
    model = make_model()
    x, covariates = batch()
    outcome = validate(model, "predictor")
    whole = model.predictor(x, torch.ones(16, LENGTH), covariates)
    assert len(outcome.predictions) == 2
    torch.testing.assert_close(outcome.predictions[0], whole)
    assert not torch.allclose(outcome.predictions[1], whole)


@pytest.mark.parametrize("kind", ["soft", "hard", "topk"])
@pytest.mark.parametrize(
    ("stage", "distribution"),
    [("generator", "relaxed_bernoulli"), ("finetune", "relaxed_bernoulli"), ("joint", "beta")],
)
def test_later_stages_are_judged_as_the_fitted_model_predicts(
    stage: str, distribution: Any, kind: Any
) -> None:
    model = make_model(distribution)
    outcome = validate(model, stage, kind)
    if stage != "joint":  # a fitted model is calibrated
        openness = model.openness(batch()[0]).detach()
        for read, shift in (("soft", model.soft_shift), ("hard", model.hard_shift)):
            shift.fill_(_objectives.budget_shift(model, openness, 0.3, read))
    prediction, mask = model(*batch(), kind=kind)
    torch.testing.assert_close(outcome.predictions[0], prediction)
    torch.testing.assert_close(outcome.kept, mask.mean())
