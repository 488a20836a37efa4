"""Distributions of gates against numerical integration, closed forms and their own samples."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import quad
from scipy.special import betaln
from torch import Tensor

from regmask_sk.distributions import (
    DISTRIBUTIONS,
    Beta,
    GateDistribution,
    HardConcrete,
    Kumaraswamy,
    RelaxedBernoulli,
)
from regmask_sk.generator import BETA_FLOOR
from regmask_sk.losses import beta_prior
from regmask_sk.ops.gates import logistic_noise

DOUBLE: Any = torch.float64
SHAPES = [(0.3, 0.6), (0.8, 5.0), (1.0, 1.0), (2.5, 1.5), (6.0, 40.0)]
LOCATIONS = [-4.0, -1.0, 0.0, 0.7, 3.0]
ALL = [
    *[(family, shapes) for family in (Beta, Kumaraswamy) for shapes in SHAPES],
    *[(family, (place,)) for family in (HardConcrete, RelaxedBernoulli) for place in LOCATIONS],
]


def make(family: Any, values: tuple[float, ...], n: int = 1, dtype: Any = DOUBLE) -> Any:
    return family(*(torch.full((n,), value, dtype=dtype) for value in values))


def drawn(gates: GateDistribution, seed: int = 0) -> np.ndarray:
    torch.manual_seed(seed)
    return gates.sample().numpy()


def log1mexp(x: np.ndarray) -> np.ndarray:
    small = x < -0.7
    return np.where(
        small, np.log1p(-np.exp(np.minimum(x, -0.7))), np.log(-np.expm1(np.maximum(x, -0.7)))
    )


def kl_by_integration(a: float, b: float, prior_a: float, prior_b: float) -> float:
    """Mean of log(p / q) over the quantiles of p, from the densities themselves."""
    t = np.arange(-45.0, 45.0, 0.02)  # log-odds of F(z)
    weight = np.exp(-np.logaddexp(0, t) - np.logaddexp(0, -t)) * 0.02
    power_rest = -np.logaddexp(0, -t) / b  # log(1 - z ** a)
    log_z = log1mexp(power_rest) / a
    log_rest = log1mexp(log_z)
    log_p = np.log(a * b) + (a - 1) * log_z + (b - 1) * power_rest
    log_q = (prior_a - 1) * log_z + (prior_b - 1) * log_rest - betaln(prior_a, prior_b)
    return float((weight * (log_p - log_q)).sum())


# -- moments and probabilities ---------------------------------------------------------


@pytest.mark.parametrize(("family", "values"), ALL)
def test_samples_have_the_moments_and_the_share_of_open_gates(family: Any, values: Any) -> None:
    n = 40_000
    gates = make(family, values, n, torch.float32)
    z = drawn(gates)
    assert z.dtype == np.float32
    assert z.min() >= 0
    assert z.max() <= 1
    mean, std, opened = (part[0].item() for part in (gates.mean, gates.std, gates.open_probability))
    is_open = z > 0 if family is HardConcrete else z > 0.5
    if family is RelaxedBernoulli:  # its moments are those of the Bernoulli gate
        z = is_open.astype(np.float32)
    assert z.mean() == pytest.approx(mean, abs=5 * std / n**0.5)
    assert z.std() == pytest.approx(std, abs=0.02)
    assert is_open.mean() == pytest.approx(opened, abs=0.012)


@pytest.mark.parametrize(("family", "values"), ALL)
def test_log_odds_are_those_of_the_mean(family: Any, values: Any) -> None:
    gates = make(family, values)
    torch.testing.assert_close(torch.logit(gates.mean), gates.log_odds)


@pytest.mark.parametrize("values", SHAPES)
def test_beta_gates_agree_with_scipy(values: tuple[float, float]) -> None:
    gates, reference = make(Beta, values), stats.beta(*values)
    assert gates.mean.item() == pytest.approx(reference.mean())
    assert gates.std.item() == pytest.approx(reference.std())
    assert gates.open_probability.item() == pytest.approx(reference.sf(0.5))


@pytest.mark.parametrize("values", SHAPES)
def test_kumaraswamy_gates_agree_with_integration(values: tuple[float, float]) -> None:
    a, b = values
    gates = make(Kumaraswamy, values)

    def moment(order: int) -> float:  # from P(gate > z)
        return quad(lambda z: order * z ** (order - 1) * (1 - z**a) ** b, 0, 1)[0]

    assert gates.mean.item() == pytest.approx(moment(1), rel=1e-6)
    assert gates.std.item() == pytest.approx((moment(2) - moment(1) ** 2) ** 0.5, rel=1e-5)
    assert gates.open_probability.item() == pytest.approx((1 - 0.5**a) ** b)


def test_a_kumaraswamy_gate_with_one_parameter_1_is_a_beta_gate() -> None:
    for values in ((1.0, 3.0), (4.0, 1.0), (1.0, 1.0)):
        ours, beta = make(Kumaraswamy, values), make(Beta, values)
        noise = torch.linspace(-5, 5, 11, dtype=DOUBLE)
        wide = (make(family, values, 11).sample(noise) for family in (Kumaraswamy, Beta))
        torch.testing.assert_close(*wide)
        torch.testing.assert_close(ours.mean, beta.mean)
        torch.testing.assert_close(ours.kl(0.2, 10.0), beta.kl(0.2, 10.0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("place", [-12.0, *LOCATIONS, 12.0])
def test_hard_concrete_moments_are_the_integrals(place: float) -> None:
    gates = make(HardConcrete, (place,))

    def above(z: float) -> float:
        concrete = (z - gates.gamma) / (gates.zeta - gates.gamma)
        shifted = place - gates.temperature * np.log(concrete / (1 - concrete))
        return float(1 / (1 + np.exp(-shifted)))

    mean = quad(above, 0, 1, epsabs=1e-13)[0]
    second = quad(lambda z: 2 * z * above(z), 0, 1, epsabs=1e-13)[0]
    assert gates.mean.item() == pytest.approx(mean, rel=1e-6)
    assert gates.std.item() == pytest.approx((second - mean**2) ** 0.5, rel=1e-4)
    assert gates.open_probability.item() == pytest.approx(above(0.0))


def test_hard_concrete_gates_close_and_open_altogether() -> None:
    z = drawn(make(HardConcrete, (0.0,), 20_000, torch.float32))
    gates = make(HardConcrete, (0.0,))
    assert (z == 0).mean() == pytest.approx(1 - gates.open_probability.item(), abs=0.01)
    assert (z == 1).mean() == pytest.approx((z == 0).mean(), abs=0.02)
    assert ((z > 0) & (z < 1)).any()


# -- divergence ------------------------------------------------------------------------


KUMARASWAMY = list(product([0.3, 1.0, 4.0, 30.0], [0.3, 1.0, 6.0, 60.0]))


@pytest.mark.parametrize("values", KUMARASWAMY)
@pytest.mark.parametrize("prior", [(0.1, 10.0), (0.1, 100.0), (0.45, 0.222)])
def test_kumaraswamy_divergence_is_the_integral_of_its_definition(values: Any, prior: Any) -> None:
    expected = kl_by_integration(*values, *beta_prior(*prior))
    for dtype in (torch.float32, DOUBLE):
        ours = make(Kumaraswamy, values, dtype=dtype).kl(*prior).item()
        assert ours == pytest.approx(expected, rel=1e-5, abs=2e-5)


@settings(deadline=None, max_examples=25)
@given(st.floats(0.4, 40.0), st.floats(0.4, 40.0), st.floats(0.05, 0.9), st.floats(0.5, 60.0))
def test_kumaraswamy_divergence_agrees_with_integration_anywhere(
    a: float, b: float, mean: float, concentration: float
) -> None:
    ours = make(Kumaraswamy, (a, b)).kl(mean, concentration).item()
    expected = kl_by_integration(a, b, *beta_prior(mean, concentration))
    assert ours == pytest.approx(expected, rel=1e-5, abs=2e-5)
    assert ours > -2e-5


@settings(deadline=None)
@given(st.floats(-12, 12), st.floats(0.01, 0.99), st.sampled_from([HardConcrete, RelaxedBernoulli]))
def test_divergence_of_the_others_is_that_of_bernoulli_gates(
    place: float, mean: float, family: Any
) -> None:
    gates = make(family, (place,))
    p = gates.open_probability.item()
    expected = p * np.log(p / mean) + (1 - p) * np.log((1 - p) / (1 - mean))
    assert gates.kl(mean, 10.0).item() == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert gates.kl(p, 1.0).item() == pytest.approx(0.0, abs=1e-9)


# -- samples of given noise ------------------------------------------------------------


@pytest.mark.parametrize(("family", "values"), ALL)
def test_a_sample_is_the_quantile_of_its_noise(family: Any, values: Any) -> None:
    noise = torch.linspace(-7, 7, 29, dtype=DOUBLE)
    z = make(family, values, 29).sample(noise)
    assert (z.diff() >= 0).all()
    u = torch.sigmoid(noise).numpy()
    if family is Beta:
        np.testing.assert_allclose(stats.beta(*values).cdf(z.numpy()), u, rtol=1e-8)
    elif family is Kumaraswamy:
        a, b = values
        np.testing.assert_allclose(1 - (1 - z.numpy() ** a) ** b, u, rtol=1e-6)
    else:
        gates = make(family, values)
        low, high = (gates.gamma, gates.zeta) if family is HardConcrete else (0.0, 1.0)
        s = 1 / (1 + np.exp(-(values[0] + noise.numpy()) / gates.temperature))
        np.testing.assert_allclose(z, np.clip(low + (high - low) * s, 0, 1))


@pytest.mark.parametrize("family", [Beta, Kumaraswamy])
def test_the_gradient_of_a_quantile_is_its_slope(family: Any) -> None:
    noise = torch.linspace(-4, 4, 9, dtype=DOUBLE)
    values = [torch.full((9,), v, dtype=DOUBLE, requires_grad=True) for v in (1.7, 0.6)]
    family(*values).sample(noise).sum().backward()
    for number, parameter in enumerate(values):
        moved = [v.detach().clone() for v in values]
        moved[number] += 1e-6
        higher = family(*moved).sample(noise)
        moved[number] -= 2e-6
        slope = (higher - family(*moved).sample(noise)) / 2e-6
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, slope, rtol=1e-4, atol=1e-7)


def test_the_two_samplers_of_beta_gates_pass_the_same_gradient() -> None:
    """The mean of z has the slopes b / (a + b)² and -a / (a + b)²."""
    torch.manual_seed(0)
    for noise in (None, logistic_noise(torch.zeros(40_000))):
        a = torch.tensor(2.0, requires_grad=True)
        b = torch.tensor(3.0, requires_grad=True)
        Beta(a.expand(40_000), b.expand(40_000)).sample(noise).mean().backward()
        assert a.grad is not None
        assert b.grad is not None
        assert a.grad.item() == pytest.approx(3 / 25, abs=0.005)
        assert b.grad.item() == pytest.approx(-2 / 25, abs=0.005)


# -- at the ends -----------------------------------------------------------------------


def corners(family: Any) -> list[tuple[float, ...]]:
    ends = (BETA_FLOOR, 1.0, 1e3)
    return list(product(ends, ends)) if family.n_parameters == 2 else [(-12.0,), (0.0,), (12.0,)]


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_values_and_gradients_are_finite_up_to_the_ends_in_float32(name: str) -> None:
    family: Any = DISTRIBUTIONS[name]
    for values in corners(family):
        parameters = [torch.full((64,), value, requires_grad=True) for value in values]
        gates = family(*parameters)
        noise = torch.linspace(-13.8, 13.8, 64)
        torch.manual_seed(0)
        parts: list[Tensor] = [
            gates.sample(), gates.sample(noise), gates.mean, gates.std, gates.log_odds,
            gates.kl(0.1, 10.0), gates.open_probability,
        ]  # fmt: skip
        for part in parts:
            assert part.dtype == torch.float32
            assert part.shape == (64,)
            assert torch.isfinite(part).all(), values
            if part.requires_grad:
                grads = torch.autograd.grad(part.sum(), parameters, retain_graph=True)
                assert all(torch.isfinite(g).all() for g in grads), values
                assert all(g.abs().max() < 1e6 for g in grads), values


def test_numbers_that_are_none_stay_so() -> None:
    for family in DISTRIBUTIONS.values():
        gates = make(family, (float("nan"),) * family.n_parameters, 3, torch.float32)
        assert gates.sample().isnan().all()
        assert gates.mean.isnan().all()


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_samples_repeat_with_the_global_seed(name: str) -> None:
    family: Any = DISTRIBUTIONS[name]
    gates = make(family, (0.5,) * family.n_parameters, 20, torch.float32)
    np.testing.assert_array_equal(drawn(gates, 3), drawn(gates, 3))
    assert not np.array_equal(drawn(gates, 3), drawn(gates, 4))


@pytest.mark.parametrize(
    ("family", "values"), [(Beta, (0.8, 5.0)), (Kumaraswamy, (2.5, 1.5)), (HardConcrete, (0.7,))]
)
def test_correlated_gates_keep_their_distribution(family: Any, values: Any) -> None:
    torch.manual_seed(0)
    noise = logistic_noise(torch.zeros(3_000, 12), 3.0)
    wide = family(*(torch.full((3_000, 12), value) for value in values))
    together = wide.sample(noise).numpy()
    alone = drawn(make(family, values, 3_000, torch.float32), seed=5)
    for column in (0, 5, 11):
        assert stats.ks_2samp(together[:, column], alone).pvalue > 1e-3
    near, far = (stats.spearmanr(together[:, 0], together[:, k]).statistic for k in (1, 11))
    expected = 6 / np.pi * np.arcsin(np.exp(-1 / 18) / 2)  # of normal scores so correlated
    assert near == pytest.approx(expected, abs=0.08)
    assert abs(far) < 0.08


# -- gates of a fitted model -----------------------------------------------------------


@pytest.mark.parametrize(("family", "values"), ALL)
@pytest.mark.parametrize("shift", [-6.0, -0.5, 2.0])
def test_shifted_gates_have_the_log_odds_asked_for(family: Any, values: Any, shift: float) -> None:
    gates = make(family, values, 3)
    moved = gates.shifted(shift)
    assert type(moved) is family
    torch.testing.assert_close(moved.log_odds, gates.log_odds + shift, atol=1e-3, rtol=0)
    if family is Beta:
        torch.testing.assert_close(moved.a + moved.b, gates.a + gates.b)


@pytest.mark.parametrize(("family", "values"), ALL)
def test_what_is_drawn_has_the_mean_and_std(family: Any, values: Any) -> None:
    n = 40_000
    gates = make(family, values, n, torch.float32)
    torch.manual_seed(1)
    for z in (gates.draw(), gates.draw(logistic_noise(torch.zeros(n)))):
        assert z.mean().item() == pytest.approx(gates.mean[0].item(), abs=0.012)
        assert z.std().item() == pytest.approx(gates.std[0].item(), abs=0.02)
