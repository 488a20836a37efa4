"""The generator: gates from a window, and the gradients that come back to it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from masked_models import BODIES, RESOLUTION, SIGNALS, covariates, make_model, window
from torch import Tensor, nn

from regmask_sk import _objectives
from regmask_sk.distributions import DISTRIBUTIONS
from regmask_sk.generator import BETA_FLOOR


@pytest.mark.parametrize("grain", [1, RESOLUTION])
@pytest.mark.parametrize("backbone", BODIES)
@pytest.mark.parametrize("distribution", ["relaxed_bernoulli", "beta"])
def test_the_prediction_reaches_every_parameter_of_the_generator(
    distribution: Any, backbone: str, grain: int
) -> None:
    model = make_model(distribution=distribution, backbone=backbone, mask_resolution=grain)
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
        gates = model.generator(x).sample()
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
        gates = model.generator(window(3))
    assert gates.a.min() >= BETA_FLOOR * (1 - 1e-6)
    assert gates.b.min() >= BETA_FLOOR * (1 - 1e-6)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_gates_are_float32_under_bfloat16_autocast(distribution: Any) -> None:
    model = make_model(distribution=distribution)
    with torch.autocast("cpu", torch.bfloat16):
        gates = model.generator(window(3))
        output = model(window(3), covariates(3))
        outcome = _objectives.joint_outcome(
            model,
            window(3),
            covariates(3),
            kind="hard",
            kl_weight=1.0,
            prior_mean=0.1,
            prior_concentration=10.0,
        )
        parts = (gates.mean, gates.sample(), gates.std, outcome.penalty)
    for tensor in (*parts, output.mask, output.prediction):
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
        gates = model.generator(x)
        a, b = gates.a, gates.b
        offset = softplus(model.generator.track_offset).sum()
        alone = model.generator(silent)  # what the body says, and the tracks' offset
        body_a, body_b = alone.a, alone.b - offset
        log_density: Tensor = torch.zeros(2, model.n_gates, 9)
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
        gates = model.generator(window(2))
        mean = gates.a / (gates.a + gates.b)
        torch.testing.assert_close(torch.sigmoid(model.openness(window(2))), mean)


def test_the_generator_starts_from_the_predictors_body_where_they_are_alike() -> None:
    model = make_model()
    model.start_generator()
    ours, theirs = (part.backbone.state_dict() for part in (model.generator, model.predictor))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    joint = make_model(distribution="beta")
    before = {name: value.clone() for name, value in joint.generator.state_dict().items()}
    joint.start_generator()
    assert all(torch.equal(before[name], v) for name, v in joint.generator.state_dict().items())
