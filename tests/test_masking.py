"""The masked expression model: what its masks keep."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from masked_models import (
    KINDS,
    LENGTH,
    PROMOTER,
    RESOLUTION,
    covariates,
    make_model,
    seeded,
    window,
)
from torch import Tensor, nn

from regmask_sk import _objectives
from regmask_sk.distributions import DISTRIBUTIONS, HardConcrete
from regmask_sk.losses import regression_loss
from regmask_sk.masking import MaskedExpressionModel


def divisors(number: int) -> list[int]:
    return [each for each in range(1, number + 1) if number % each == 0]


def draw_model(data: st.DataObject, length: int, resolution: int, **settings: Any) -> Any:
    """A model whose gates stand for as many bases as its tokens, or for fewer."""
    grain = data.draw(st.sampled_from(divisors(resolution)))
    model = make_model(length=length, resolution=resolution, mask_resolution=grain, **settings)
    assert (model.resolution, model.n_tokens) == (resolution, -(-length // resolution))
    assert (model.mask_resolution, model.n_gates) == (grain, -(-length // grain))
    return model


# -- from gates to masks ---------------------------------------------------------------


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_promoter_is_open_in_masks_of_every_kind(kind: Any, distribution: Any) -> None:
    model = make_model(distribution=distribution)
    with torch.no_grad():
        for owner in (model.soft_shift, model.hard_shift):
            owner.fill_(-3.0)  # all but closed
        prediction, mask = model(window(5), covariates(5), kind=kind)
    assert mask.shape == (5, LENGTH)
    assert prediction.shape == (5, 1)
    assert (mask[:, slice(*PROMOTER)] == 1).all()
    outside = torch.cat([mask[:, : PROMOTER[0]], mask[:, PROMOTER[1] :]], dim=1)
    assert (outside < 1).any()
    assert outside.min() >= 0
    if kind != "soft":
        assert set(mask.unique().tolist()) <= {0.0, 1.0}


def test_a_model_without_promoter_keeps_nothing_of_its_own() -> None:
    model = make_model(promoter=(50, 50))
    assert model.expand(torch.zeros(2, model.n_gates)).sum() == 0
    assert model.kept_share(torch.zeros(2, model.n_gates)).tolist() == [0.0, 0.0]


def test_a_gate_opens_the_bases_of_its_token() -> None:
    model = make_model()
    gates = torch.zeros(1, model.n_gates)
    gates[0, 1] = 0.5
    gates[0, -1] = 1.0  # the last token holds 4 bases
    mask = model.expand(gates)[0]
    expected = torch.zeros(LENGTH)
    expected[8:16], expected[96:], expected[slice(*PROMOTER)] = 0.5, 1.0, 1.0
    assert torch.equal(mask, expected)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("grain", [1, 2])
def test_a_mask_may_be_finer_than_the_bodies(grain: int, distribution: Any) -> None:
    model = make_model(mask_resolution=grain, distribution=distribution)
    kept: list[Tensor] = []
    reading = model.predictor.readout.forward
    model.predictor.readout.forward = lambda h, k, c, **_: kept.append(k) or reading(h, k, c)
    with torch.no_grad():
        mask = model(window(4), covariates(4), kind="soft").mask
    gates = mask[:, : PROMOTER[0] // grain * grain].unflatten(1, (-1, grain))
    assert (gates == gates[..., :1]).all()
    assert (gates[:, 1:, 0] != gates[:, :-1, 0]).float().mean() > 0.9  # every gate is its own
    assert kept[0].shape == (4, model.n_tokens)  # what the readout reads stays at the tokens
    tokens = torch.stack([part.mean(1) for part in mask.split(RESOLUTION, dim=1)], dim=1)
    torch.testing.assert_close(kept[0], tokens)


def test_a_gate_finer_than_a_token_opens_its_own_bases() -> None:
    model = make_model(mask_resolution=4)
    gates = torch.zeros(1, model.n_gates)
    gates[0, 3] = 0.5
    mask = model.expand(gates)[0]
    expected = torch.zeros(LENGTH)
    expected[12:16], expected[slice(*PROMOTER)] = 0.5, 1.0
    assert torch.equal(mask, expected)


def test_one_base_moves_the_gates_near_it_most() -> None:
    """What the finer grain adds: the body alone moves the gates of a token together."""
    model, x = make_model(mask_resolution=1), window(1)
    nn.init.zeros_(model.generator.finer.context.weight)  # the detail alone
    changed = x.clone()
    changed[:, :4, 30] = x[:, :4, 30].roll(1, dims=1)
    with torch.no_grad():
        moved = (model.openness(x) - model.openness(changed))[0].abs() > 0
    assert moved.any()
    assert not moved[: 30 - 8].any()  # 7 bases of the filter, and one neighbour of the gate
    assert not moved[30 + 9 :].any()


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_kept_share_is_the_mean_of_the_mask(data: st.DataObject) -> None:
    length = data.draw(st.integers(1, 120))
    first = data.draw(st.integers(0, length))
    promoter = (first, data.draw(st.integers(first, length)))
    model = draw_model(data, length, data.draw(st.integers(1, length)), promoter=promoter)
    gates = torch.rand(3, model.n_gates, generator=seeded(data.draw(st.integers(0, 99))))
    torch.testing.assert_close(model.kept_share(gates), model.expand(gates).mean(dim=1))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_topk_keeps_the_budget_of_each_window_within_a_token(data: st.DataObject) -> None:
    length = data.draw(st.integers(20, 150))
    resolution = data.draw(st.integers(1, 16))
    width = data.draw(st.integers(0, length // 5))
    first = data.draw(st.integers(0, length - width))
    sparsity = data.draw(st.floats(0.2, 0.95))
    promoter = (first, first + width)
    model = draw_model(data, length, resolution, promoter=promoter, sparsity=sparsity)
    openness = torch.randn(4, model.n_gates, generator=seeded(data.draw(st.integers(0, 99))))
    kept = model.expand(model.topk_gates(openness)).sum(dim=1)
    assert (kept - sparsity * length).abs().max() <= model.mask_resolution


def test_topk_opens_the_most_open_gates() -> None:
    model = make_model(promoter=(50, 50), length=96, sparsity=3 / 12)
    openness = torch.randn(5, 12, generator=seeded(0))
    gates = model.topk_gates(openness)
    for row, opened in zip(openness, gates, strict=True):
        assert set(row.topk(3).indices.tolist()) == set(opened.nonzero()[:, 0].tolist())


def test_topk_spends_no_budget_on_gates_inside_the_promoter() -> None:
    model = make_model(promoter=(40, 56), length=96, sparsity=0.5)
    openness = torch.zeros(1, 12)
    openness[0, 5:7] = 10.0
    assert model.expand(model.topk_gates(openness)).sum().item() == 48


def test_shifts_move_soft_and_hard_masks_and_leave_topk() -> None:
    model, x = make_model(), window(3)
    with torch.no_grad():
        openness = model.openness(x)
        before = {kind: model.gates(openness, kind) for kind in KINDS}
        model.soft_shift.fill_(1.0)
        model.hard_shift.fill_(40.0)
    assert (model.gates(openness, "soft") > before["soft"]).all()
    assert (model.gates(openness, "hard") == 1).all()
    assert torch.equal(model.gates(openness, "topk"), before["topk"])


def some_forced(batch: int, length: int = LENGTH, seed: int = 0) -> Tensor:
    """Blocks of closed and of open bases, others in each window."""
    marks = torch.randint(-1, 2, (batch, -(-length // 6)), generator=seeded(seed))
    return marks.repeat_interleave(6, dim=1)[:, :length].to(torch.int8)


@pytest.mark.parametrize("kind", KINDS)
def test_forced_bases_are_closed_and_open_and_the_promoter_is_open(kind: Any) -> None:
    model, x, forced = make_model(), window(5), some_forced(5)
    with torch.no_grad():
        mask = model(x, covariates(5), forced=forced, kind=kind).mask
        free = model(x, covariates(5), kind=kind).mask
        std = model.mask_std(model.generator(x), kind, forced)
    promoter = torch.zeros(5, LENGTH, dtype=torch.bool)
    promoter[:, slice(*PROMOTER)] = True
    assert (mask[promoter] == 1).all()
    assert (mask[(forced > 0)] == 1).all()
    assert (mask[(forced < 0) & ~promoter] == 0).all()
    decided = (forced == 0) & ~promoter
    if kind != "topk":
        torch.testing.assert_close(mask[decided], free[decided])
    assert (std[~decided] == 0).all()
    assert (std[decided] > 0).all()


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_kept_share_counts_forced_bases(data: st.DataObject) -> None:
    length = data.draw(st.integers(1, 120))
    first = data.draw(st.integers(0, length))
    promoter = (first, data.draw(st.integers(first, length)))
    model = draw_model(data, length, data.draw(st.integers(1, length)), promoter=promoter)
    seed = data.draw(st.integers(0, 99))
    gates = torch.rand(3, model.n_gates, generator=seeded(seed))
    forced = some_forced(3, length, seed)
    mask = model.expand(gates, forced)
    torch.testing.assert_close(model.kept_share(gates, model.room(forced)), mask.mean(dim=1))
    nothing = torch.zeros(3, length, dtype=torch.int8)
    torch.testing.assert_close(
        model.kept_share(gates, model.room(nothing)), model.kept_share(gates)
    )
    assert torch.equal(model.expand(gates, nothing), model.expand(gates))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_topk_spends_its_budget_on_bases_that_gates_decide_about(data: st.DataObject) -> None:
    length, resolution = data.draw(st.integers(30, 150)), data.draw(st.integers(1, 12))
    sparsity = data.draw(st.floats(0.1, 0.95))
    model = draw_model(data, length, resolution, promoter=(10, 14), sparsity=sparsity)
    seed = data.draw(st.integers(0, 99))
    openness = torch.randn(4, model.n_gates, generator=seeded(seed))
    forced = some_forced(4, length, seed)
    room = model.room(forced)
    assert room is not None
    kept = model.expand(model.topk_gates(openness, room), forced).sum(dim=1)
    # As near to the budget as what is open in any case, and what can be opened, allow.
    most = room.opened + room.free.sum(dim=1)
    wanted = torch.maximum(torch.minimum(torch.tensor(sparsity * length), most), room.opened)
    assert (kept - wanted).abs().max() <= model.mask_resolution


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_topk_of_a_sample_tells_clipped_gates_apart_by_their_means(end: float) -> None:
    model = make_model(promoter=(50, 50), length=96, sparsity=3 / 12)
    gates = HardConcrete(torch.randn(5, 12, generator=seeded(0)))
    opened = model.topk_of_sample(torch.full((5, 12), end), gates)
    for row, found in zip(gates.log_odds, opened, strict=True):
        assert set(row.topk(3).indices.tolist()) == set(found.nonzero()[:, 0].tolist())
    drawn = torch.rand(5, 12, generator=seeded(1))
    torch.testing.assert_close(
        model.topk_of_sample(drawn, gates), model.topk_gates(torch.logit(drawn))
    )


def test_a_given_mask_takes_the_place_of_the_models_own() -> None:
    model, x = make_model(), window(3)
    given_mask = torch.rand(3, LENGTH, generator=seeded(0))
    with torch.no_grad():
        prediction, mask = model(x, covariates(3), given_mask)
        own = model(x, covariates(3))
        again = model(x, covariates(3), own.mask)
    assert torch.equal(mask, given_mask)
    torch.testing.assert_close(again.prediction, own.prediction)
    assert not torch.allclose(prediction, own.prediction)


def test_several_outputs_and_no_covariates() -> None:
    model = make_model(n_outputs=3, n_covariates=0)
    assert model(window(4), torch.zeros(4, 0)).prediction.shape == (4, 3)


def head_gradients(model: MaskedExpressionModel, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {
        name: parameter.grad
        for name, parameter in model.generator.named_parameters()
        if name.startswith(("head", "track")) and parameter.grad is not None
    }


@pytest.mark.parametrize("kind", KINDS)
def test_joint_prediction_loss_alone_moves_the_mask_head(kind: Any) -> None:
    model = make_model(distribution="beta").train()
    outcome = _objectives.joint_outcome(
        model,
        window(8),
        covariates(8),
        kind=kind,
        kl_weight=0.0,
        prior_mean=0.1,
        prior_concentration=10.0,
    )
    loss = regression_loss(outcome.predictions[0], torch.ones(8, 1), loss="squared_error")
    gradients = head_gradients(model, loss)
    assert set(gradients) == {"head.weight", "head.bias", "track_weight", "track_offset"}
    for name, gradient in gradients.items():
        assert torch.isfinite(gradient).all(), name
        assert (gradient != 0).all(), name


@pytest.mark.parametrize("kind", KINDS)
def test_joint_prediction_loss_moves_the_head_of_an_untrained_model(kind: Any) -> None:
    """The heads start at zero, which must not keep them there."""
    model = make_model(distribution="beta", spread=0.3).train()
    nn.init.zeros_(model.generator.head.weight)
    nn.init.zeros_(model.generator.head.bias)
    outcome = _objectives.joint_outcome(
        model,
        window(8),
        covariates(8),
        kind=kind,
        kl_weight=0.0,
        prior_mean=0.1,
        prior_concentration=10.0,
    )
    loss = regression_loss(outcome.predictions[0], torch.ones(8, 1), loss="squared_error")
    gradients = head_gradients(model, loss)
    assert gradients["head.weight"].abs().max() > 0
    assert gradients["head.bias"].abs().min() > 0
