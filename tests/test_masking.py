"""The masked expression model: what its masks keep, and what its predictor can see."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from regmask_sk import _objectives
from regmask_sk.backbones import make_backbone
from regmask_sk.losses import regression_loss
from regmask_sk.masking import (
    BETA_FLOOR,
    Generator,
    MaskedExpressionModel,
    Predictor,
    Readout,
    distance_bins,
    random_block_masks,
    sample_relaxed_bernoulli,
    straight_through,
)

LENGTH, RESOLUTION, PROMOTER = 100, 8, (45, 58)  # neither edge lies on a token's
SEQUENCE, SIGNALS = (0, 1, 2, 3), (4, 5)
KINDS: tuple[Any, ...] = ("soft", "hard", "topk")
BODIES = ("conv", "codon")


def window(batch: int, length: int = LENGTH, seed: int = 0) -> Tensor:
    """One-hot bases and two tracks."""
    rng = np.random.default_rng(seed)
    x = np.zeros((batch, 6, length), np.float32)
    np.put_along_axis(x, rng.integers(0, 4, (batch, 1, length)), 1.0, axis=1)
    x[:, 4:] = rng.normal(size=(batch, 2, length))
    return torch.from_numpy(x)


def make_model(
    *,
    backbone: str = "conv",
    distribution: Literal["relaxed_bernoulli", "beta"] = "relaxed_bernoulli",
    length: int = LENGTH,
    resolution: int = RESOLUTION,
    promoter: tuple[int, int] = PROMOTER,
    sparsity: float = 0.3,
    n_covariates: int = 1,
    n_outputs: int = 1,
    spread: float = 0.3,
) -> MaskedExpressionModel:
    """A model all of whose weights are random: nothing is zero because it starts at zero."""
    torch.manual_seed(0)
    read = SEQUENCE if distribution == "beta" else SEQUENCE + SIGNALS
    shape: dict[str, Any] = {
        "d_model": 8, "n_layers": 1, "dropout": 0.0, "resolution": resolution
    }  # fmt: skip
    n_tokens = -(-length // resolution)
    generator = Generator(
        make_backbone(backbone, len(read) + 1, **shape),
        body_channels=read,
        signal_channels=SIGNALS,
        n_tokens=n_tokens,
        distribution=distribution,
    )
    readout = Readout(
        8, n_outputs, n_covariates, n_tokens=n_tokens, resolution=resolution, dropout=0.0
    )
    predictor = Predictor(make_backbone(backbone, 7, **shape), readout, SEQUENCE + SIGNALS)
    model = MaskedExpressionModel(
        generator, predictor, length=length, promoter=promoter, sparsity=sparsity
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=spread)
    return model.eval()


def covariates(batch: int, n: int = 1) -> Tensor:
    return torch.linspace(-1, 1, batch * n).view(batch, n)


# -- random masks ----------------------------------------------------------------------


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 8), st.integers(1, 70), st.integers(0, 1000), st.sampled_from([0.0, 0.25, 1.0])
)
def test_random_masks_of_any_shape_lie_in_the_unit_interval(
    n: int, n_tokens: int, seed: int, open_share: float
) -> None:
    masks = random_block_masks(n, n_tokens, open_share=open_share, generator=seeded(seed))
    assert masks.shape == (n, n_tokens)
    assert masks.dtype == torch.float32
    assert masks.min() >= 0
    assert masks.max() <= 1
    # Apart from the open ones a mask has two levels: open, and what a closed token lets through.
    assert all(len(row.unique()) <= 2 for row in masks)
    assert (masks.max(dim=1).values == 1).all() or n_tokens == 1
    if open_share == 1.0:
        assert (masks == 1).all()


def test_random_masks_keep_from_nothing_to_all_and_more_often_little() -> None:
    masks = random_block_masks(4_000, 64, open_share=0.0, generator=seeded(0))
    kept = (masks == 1).float().mean(dim=1)
    assert kept.mean().item() == pytest.approx(1 / 3, abs=0.03)  # of Beta(1, 2)
    assert (kept < 0.1).float().mean().item() == pytest.approx(0.19, abs=0.03)
    assert (kept > 0.9).any()
    closed = masks.min(dim=1).values
    assert 0.1 < (closed > 0).float().mean() < 0.5
    assert closed[kept < 1].max() < 0.5


@pytest.mark.parametrize("open_share", [0.0, 0.25, 0.8])
def test_the_share_of_open_windows_is_the_one_asked_for(open_share: float) -> None:
    masks = random_block_masks(4_000, 64, open_share=open_share, generator=seeded(0))
    found = (masks == 1).all(dim=1).float().mean().item()
    assert found == pytest.approx(open_share, abs=0.03)


def test_random_masks_are_blocks() -> None:
    masks = random_block_masks(2_000, 64, open_share=0.0, generator=seeded(0)) == 1
    half = masks[(masks.float().mean(dim=1) - 0.5).abs() < 0.1].float()
    edges = half.diff(dim=1).abs().mean()
    assert edges < 0.35  # white noise has 0.5


def test_every_token_is_kept_as_often_as_any_other() -> None:
    masks = random_block_masks(8_000, 32, open_share=0.0, generator=seeded(0)) == 1
    kept = masks.float().mean(dim=0)
    assert (kept.max() - kept.min()).item() < 0.12


def test_random_masks_repeat_with_their_generator_and_leave_the_global_one_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again = (random_block_masks(6, 20, generator=seeded(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, random_block_masks(6, 20, generator=seeded(4)))
    assert torch.equal(torch.get_rng_state(), before)
    by_global = random_block_masks(6, 20)
    torch.manual_seed(5)
    assert torch.equal(by_global, random_block_masks(6, 20))


# -- samples ---------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(0, 1000))
def test_straight_through_is_the_hard_value_to_the_last_bit(seed: int) -> None:
    soft = torch.rand(50, generator=seeded(seed), requires_grad=True)
    hard = (soft > 0.5).float()
    value = straight_through(soft, hard)
    assert torch.equal(value, hard)
    (value * torch.arange(50)).sum().backward()
    assert soft.grad is not None
    assert torch.equal(soft.grad, torch.arange(50).float())


@pytest.mark.parametrize("log_odds", [-2.0, 0.0, 1.0])
@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_relaxed_gates_are_open_as_often_as_their_log_odds_say(
    log_odds: float, temperature: float
) -> None:
    torch.manual_seed(0)
    gates = sample_relaxed_bernoulli(torch.full((20_000,), log_odds), temperature)
    assert gates.min() >= 0
    assert gates.max() <= 1
    expected = float(torch.sigmoid(torch.tensor(log_odds)))
    assert (gates > 0.5).float().mean().item() == pytest.approx(expected, abs=0.02)


def test_relaxed_gates_come_close_to_0_and_1_as_it_gets_cold() -> None:
    def undecided(temperature: float) -> float:
        torch.manual_seed(0)
        gates = sample_relaxed_bernoulli(torch.zeros(5_000), temperature)
        return float(((gates > 0.05) & (gates < 0.95)).float().mean())

    assert undecided(0.05) < undecided(0.5) < undecided(2.0)


def test_relaxed_gates_stay_finite_and_pass_a_gradient() -> None:
    openness = torch.tensor([-50.0, -1.0, 0.0, 1.0, 50.0], requires_grad=True)
    gates = sample_relaxed_bernoulli(openness, 0.5)
    gates.sum().backward()
    assert openness.grad is not None
    assert torch.isfinite(gates).all()
    assert torch.isfinite(openness.grad).all()
    assert (openness.grad[1:4] > 0).all()


# -- from gates to masks ---------------------------------------------------------------


@pytest.mark.parametrize("distribution", ["relaxed_bernoulli", "beta"])
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
    assert model.expand(torch.zeros(2, model.n_tokens)).sum() == 0
    assert model.kept_share(torch.zeros(2, model.n_tokens)).tolist() == [0.0, 0.0]


def test_a_gate_opens_the_bases_of_its_token() -> None:
    model = make_model()
    gates = torch.zeros(1, model.n_tokens)
    gates[0, 1] = 0.5
    gates[0, -1] = 1.0  # the last token holds 4 bases
    mask = model.expand(gates)[0]
    expected = torch.zeros(LENGTH)
    expected[8:16], expected[96:], expected[slice(*PROMOTER)] = 0.5, 1.0, 1.0
    assert torch.equal(mask, expected)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_kept_share_is_the_mean_of_the_mask(data: st.DataObject) -> None:
    length = data.draw(st.integers(1, 120))
    first = data.draw(st.integers(0, length))
    promoter = (first, data.draw(st.integers(first, length)))
    model = make_model(
        length=length, resolution=data.draw(st.integers(1, length)), promoter=promoter
    )
    gates = torch.rand(3, model.n_tokens, generator=seeded(data.draw(st.integers(0, 99))))
    torch.testing.assert_close(model.kept_share(gates), model.expand(gates).mean(dim=1))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_topk_keeps_the_budget_of_each_window_within_a_token(data: st.DataObject) -> None:
    length = data.draw(st.integers(20, 150))
    resolution = data.draw(st.integers(1, 16))
    width = data.draw(st.integers(0, length // 5))
    first = data.draw(st.integers(0, length - width))
    sparsity = data.draw(st.floats(0.2, 0.95))
    model = make_model(
        length=length, resolution=resolution, promoter=(first, first + width), sparsity=sparsity
    )
    openness = torch.randn(4, model.n_tokens, generator=seeded(data.draw(st.integers(0, 99))))
    kept = model.expand(model.topk_gates(openness)).sum(dim=1)
    assert (kept - sparsity * length).abs().max() <= resolution


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


# -- what the predictor sees -----------------------------------------------------------


@pytest.mark.parametrize("backbone", BODIES)
def test_the_predictor_sees_nothing_of_a_closed_base(backbone: str) -> None:
    predictor = make_model(backbone=backbone).predictor
    x, other = window(4, seed=1), window(4, seed=2)
    mask = (torch.rand(4, LENGTH, generator=seeded(0)) < 0.5).float()
    closed = mask.unsqueeze(1) == 0
    changed = torch.where(closed, 7.0 * other, x)
    with torch.no_grad():
        before, after = (predictor(each, mask, covariates(4)) for each in (x, changed))
        elsewhere = predictor(torch.where(closed, x, other), mask, covariates(4))
    assert torch.equal(before, after)
    assert not torch.allclose(before, elsewhere)


@pytest.mark.parametrize("backbone", BODIES)
def test_no_gradient_comes_back_to_a_closed_base(backbone: str) -> None:
    predictor = make_model(backbone=backbone).predictor
    x = window(4).requires_grad_()
    mask = torch.zeros(4, LENGTH)
    mask[:, 30:70] = 1.0
    predictor(x, mask, covariates(4)).sum().backward()
    assert x.grad is not None
    assert (x.grad[:, :, :30] == 0).all()
    assert (x.grad[:, :, 70:] == 0).all()
    assert (x.grad[:, :, 30:70] != 0).any()


@pytest.mark.parametrize("backbone", BODIES)
def test_the_predictor_tells_closed_from_absent(backbone: str) -> None:
    predictor = make_model(backbone=backbone).predictor
    x = window(3)
    x[:, :, 20:60] = 0.0  # no bases, no signal: off the chromosome, or N
    closed = torch.ones(3, LENGTH)
    closed[:, 20:60] = 0.0
    with torch.no_grad():
        absent = predictor(x, torch.ones(3, LENGTH), covariates(3))
        hidden = predictor(x, closed, covariates(3))
    assert ((absent - hidden).abs() > 1e-4).all()


@pytest.mark.parametrize("backbone", BODIES)
def test_under_a_closed_mask_only_covariates_count(backbone: str) -> None:
    predictor = make_model(backbone=backbone).predictor
    with torch.no_grad():
        same = predictor(window(4), torch.zeros(4, LENGTH), torch.ones(4, 1))
        differ = predictor(window(4), torch.zeros(4, LENGTH), covariates(4))
    assert len(same.unique()) == 1
    assert len(differ.unique()) == 4


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


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 200), st.integers(1, 64))
def test_distance_bins_average_tokens_that_lie_together(n_tokens: int, resolution: int) -> None:
    bins = distance_bins(n_tokens, resolution)
    assert bins.shape[0] == n_tokens
    torch.testing.assert_close(bins.sum(dim=0), torch.ones(bins.shape[1]))
    assert ((bins > 0).sum(dim=1) == 1).all()  # each token in one bin
    column = bins.argmax(dim=1)
    assert (column.diff() >= 0).all()  # from left to right


# -- gradients to the masks ------------------------------------------------------------


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


@pytest.mark.parametrize("backbone", BODIES)
@pytest.mark.parametrize("distribution", ["relaxed_bernoulli", "beta"])
def test_the_prediction_reaches_every_parameter_of_the_generator(
    distribution: Any, backbone: str
) -> None:
    model = make_model(distribution=distribution, backbone=backbone)
    x = window(8)
    if distribution == "beta":
        outcome = _objectives.joint_outcome(
            model,
            x,
            covariates(8),
            kind="hard",
            kl_weight=0.0,
            prior_mean=0.1,
            prior_concentration=10.0,
        )
        predicted = outcome.predictions[0]
    else:
        gates = sample_relaxed_bernoulli(model.openness(x), 0.5)
        predicted = model.predictor(x, model.expand(gates), covariates(8))
    predicted.square().sum().backward()
    without = [
        name
        for name, parameter in model.generator.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum()
    ]
    # The bias that all three phases share falls out of the softmax over them, and the
    # tracks' offset belongs to Beta gates.
    allowed = {"backbone.phase.bias"}
    assert set(without) <= allowed | ({"track_offset"} if distribution != "beta" else set())


# -- the distribution of the gates -----------------------------------------------------


def test_beta_parameters_stay_above_the_floor() -> None:
    model = make_model(distribution="beta")
    with torch.no_grad():
        model.generator.head.bias.fill_(-200.0)
        model.generator.track_weight.fill_(-200.0)
        model.generator.track_offset.fill_(-200.0)
        a, b = model.generator(window(3))
    assert a.min() >= BETA_FLOOR * (1 - 1e-6)
    assert b.min() >= BETA_FLOOR * (1 - 1e-6)


@pytest.mark.parametrize("distribution", ["relaxed_bernoulli", "beta"])
def test_gates_are_float32_under_bfloat16_autocast(distribution: Any) -> None:
    model = make_model(distribution=distribution)
    with torch.autocast("cpu", torch.bfloat16):
        a, b = model.generator(window(3))
        output = model(window(3), covariates(3))
        if distribution == "beta":
            outcome = _objectives.joint_outcome(
                model,
                window(3),
                covariates(3),
                kind="hard",
                kl_weight=1.0,
                prior_mean=0.1,
                prior_concentration=10.0,
            )
            assert torch.isfinite(outcome.penalty)
    for tensor in (a, b, output.mask, output.prediction):
        assert tensor.dtype == torch.float32
        assert torch.isfinite(tensor).all()


def token_means(track: Tensor) -> Tensor:
    return torch.stack([part.mean(dim=-1) for part in track.split(RESOLUTION, dim=-1)], dim=-1)


def test_beta_gates_are_the_product_of_the_bodys_and_the_tracks_densities() -> None:
    """Proposition 2 of Su et al.: parameters add up, less one a factor."""
    model = make_model(distribution="beta")
    x = window(2)
    silent = x.clone()
    silent[:, 4:] = 0.0
    softplus = nn.functional.softplus
    with torch.no_grad():
        a, b = model.generator(x)
        offset = softplus(model.generator.track_offset).sum()
        a1, b1 = model.generator(silent)  # what the body says, and the tracks' offset
        body_a, body_b = a1, b1 - offset
        log_density: Tensor = torch.zeros(2, model.n_tokens, 9)
        z = torch.linspace(0.1, 0.9, 9)
        log_density += torch.distributions.Beta(body_a[..., None], body_b[..., None]).log_prob(z)
        for number, channel in enumerate(SIGNALS):
            weight = softplus(model.generator.track_weight[number])
            own_offset = softplus(model.generator.track_offset[number])
            signal = token_means(x[:, channel])
            a2 = 1 + weight * signal.clamp_min(0)
            b2 = 1 + weight * (-signal).clamp_min(0) + own_offset
            log_density += torch.distributions.Beta(a2[..., None], b2[..., None]).log_prob(z)
        ours = torch.distributions.Beta(a[..., None], b[..., None]).log_prob(z)
    # Two normalised densities that are proportional differ by a constant in the logarithm.
    difference = ours - log_density
    torch.testing.assert_close(
        difference, difference[..., :1].expand_as(difference), rtol=1e-3, atol=1e-3
    )


def test_a_positive_track_opens_beta_gates_and_a_negative_one_closes_them() -> None:
    model = make_model(distribution="beta")
    x = window(2)
    x[:, 4:] = 0.0
    with torch.no_grad():
        neutral = model.openness(x)
        x[:, 4] = 3.0
        opened = model.openness(x)
        x[:, 4] = -3.0
        closed = model.openness(x)
    assert (opened > neutral).all()
    assert (closed < neutral).all()


def test_openness_of_beta_gates_is_the_log_odds_of_their_mean() -> None:
    model = make_model(distribution="beta")
    with torch.no_grad():
        a, b = model.generator(window(2))
        torch.testing.assert_close(torch.sigmoid(model.openness(window(2))), a / (a + b))


def test_the_generator_starts_from_the_predictors_body_where_they_are_alike() -> None:
    model = make_model()
    model.start_generator()
    ours, theirs = (part.backbone.state_dict() for part in (model.generator, model.predictor))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    joint = make_model(distribution="beta")
    before = {name: value.clone() for name, value in joint.generator.state_dict().items()}
    joint.start_generator()
    assert all(torch.equal(before[name], v) for name, v in joint.generator.state_dict().items())
