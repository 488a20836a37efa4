"""The losses against numerical integration, numpy, and the properties they promise."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import beta as beta_distribution

from regmask_sk.generator import BETA_FLOOR
from regmask_sk.losses import (
    beta_prior,
    continuity_penalty,
    kl_beta,
    regression_loss,
    transition_penalty,
)

DOUBLE: Any = torch.float64


def kl_by_integration(a: float, b: float, prior_a: float, prior_b: float) -> float:
    """Integral of p log(p / q) over (0, 1), from the densities themselves."""
    p, q = beta_distribution(a, b), beta_distribution(prior_a, prior_b)

    def integrand(logit: float) -> float:
        # Over the log-odds, where densities that pile up at 0 or 1 are smooth.
        z = 1.0 / (1.0 + np.exp(-logit))
        z = min(max(z, 1e-300), 1.0 - 1e-16)
        return float(np.exp(p.logpdf(z)) * (p.logpdf(z) - q.logpdf(z)) * z * (1.0 - z))

    return quad(integrand, -34.0, 34.0, limit=400)[0]


# -- divergence ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parameters",
    [
        (1.0, 1.0, 1.0, 1.0),
        (2.0, 5.0, 1.0, 9.0),
        (0.8, 0.9, 1.0, 9.0),
        (30.0, 3.0, 10.0, 90.0),
        (1.5, 40.0, 0.7, 2.0),
    ],
)
def test_kl_beta_is_the_integral_of_its_definition(parameters: tuple[float, ...]) -> None:
    a, b, prior_a, prior_b = parameters
    ours = kl_beta(
        torch.tensor(a, dtype=DOUBLE), torch.tensor(b, dtype=DOUBLE), prior_a, prior_b
    ).item()
    assert ours == pytest.approx(kl_by_integration(*parameters), rel=1e-6, abs=1e-8)


shape = st.floats(0.6, 50.0)


@settings(deadline=None, max_examples=20)
@given(shape, shape, shape, shape)
def test_kl_beta_agrees_with_integration_anywhere(
    a: float, b: float, prior_a: float, prior_b: float
) -> None:
    ours = kl_beta(
        torch.tensor([a], dtype=DOUBLE), torch.tensor([b], dtype=DOUBLE), prior_a, prior_b
    )
    assert ours.shape == (1,)
    assert ours.item() == pytest.approx(kl_by_integration(a, b, prior_a, prior_b), 1e-5, abs=1e-6)


@settings(deadline=None)
@given(shape, shape, shape, shape)
def test_kl_beta_is_not_negative_and_zero_only_at_the_prior(
    a: float, b: float, prior_a: float, prior_b: float
) -> None:
    tensors = torch.tensor([a, prior_a], dtype=DOUBLE), torch.tensor([b, prior_b], dtype=DOUBLE)
    elsewhere, at_prior = kl_beta(*tensors, prior_a, prior_b).tolist()
    assert elsewhere > -1e-9
    assert at_prior == pytest.approx(0.0, abs=1e-9)


def test_kl_beta_is_elementwise_and_keeps_shape_and_dtype() -> None:
    a, b = torch.rand(2, 3, 4) + 0.5, torch.rand(2, 3, 4) + 0.5
    whole = kl_beta(a, b, 1.0, 9.0)
    assert whole.shape == a.shape
    assert whole.dtype == torch.float32
    torch.testing.assert_close(whole[1, 2, 3], kl_beta(a[1, 2, 3], b[1, 2, 3], 1.0, 9.0))


@pytest.mark.parametrize("a", [BETA_FLOOR, 1.0, 1e3, 1e5])
@pytest.mark.parametrize("b", [BETA_FLOOR, 1.0, 1e3, 1e5])
def test_kl_beta_has_a_finite_gradient_from_the_floor_up(a: float, b: float) -> None:
    a_, b_ = torch.tensor(a, requires_grad=True), torch.tensor(b, requires_grad=True)
    value = kl_beta(a_, b_, *beta_prior(0.1, 10.0))
    value.backward()
    for number in (value, a_.grad, b_.grad):
        assert number is not None
        assert torch.isfinite(number)
        assert number.abs() < 1e6


def test_beta_prior_has_the_mean_and_concentration_asked_for() -> None:
    a, b = beta_prior(0.2, 15.0)
    assert a / (a + b) == pytest.approx(0.2)
    assert a + b == pytest.approx(15.0)


# -- regression loss -------------------------------------------------------------------


def naive_loss(
    predicted: np.ndarray, target: np.ndarray, weight: np.ndarray | None, loss: str
) -> float:
    total, weights = 0.0, 0.0
    for row in range(len(predicted)):
        each = []
        for error in np.abs(predicted[row] - target[row]):
            if loss == "squared_error":
                each.append(error**2)
            else:
                each.append(0.5 * error**2 if error <= 1 else error - 0.5)
        w = 1.0 if weight is None else float(weight[row])
        total, weights = total + w * float(np.mean(each)), weights + w
    return total / weights if weights else 0.0


@pytest.mark.parametrize("loss", ["squared_error", "huber"])
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_regression_loss_is_the_weighted_mean(loss: Any, data: st.DataObject) -> None:
    n, outputs = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 3))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    predicted, target = rng.normal(scale=2.0, size=(2, n, outputs))
    weight = rng.choice([0.0, 0.5, 1.0, 3.0], n) if data.draw(st.booleans()) else None
    ours = regression_loss(
        torch.tensor(predicted),
        torch.tensor(target),
        None if weight is None else torch.tensor(weight),
        loss=loss,
    )
    assert ours.item() == pytest.approx(naive_loss(predicted, target, weight, loss), abs=1e-12)


def test_a_row_of_weight_zero_has_no_part_in_loss_or_gradient() -> None:
    predicted = torch.tensor([[1.0], [100.0]], requires_grad=True)
    weight = torch.tensor([2.0, 0.0])
    loss = regression_loss(predicted, torch.zeros(2, 1), weight, loss="squared_error")
    loss.backward()
    assert loss.item() == 1.0
    assert predicted.grad is not None
    assert predicted.grad.tolist() == [[2.0], [0.0]]


@pytest.mark.parametrize("loss", ["squared_error", "huber"])
def test_a_batch_of_zero_weights_has_loss_and_gradient_zero(loss: Any) -> None:
    predicted = torch.tensor([[1.0], [2.0]], requires_grad=True)
    value = regression_loss(predicted, torch.zeros(2, 1), torch.zeros(2), loss=loss)
    value.backward()
    assert value.item() == 0.0
    assert predicted.grad is not None
    assert predicted.grad.tolist() == [[0.0], [0.0]]


def test_doubling_a_weight_is_repeating_the_row() -> None:
    predicted, target = torch.randn(3, 2), torch.randn(3, 2)
    rows = [0, 1, 2, 2]
    torch.testing.assert_close(
        regression_loss(predicted, target, torch.tensor([1.0, 1.0, 2.0]), loss="squared_error"),
        regression_loss(predicted[rows], target[rows], loss="squared_error"),
    )


@pytest.mark.parametrize("shapes", [((4, 1), (4,)), ((4, 1), (4, 2)), ((4, 1), (1, 4))])
def test_shapes_that_would_broadcast_are_refused(
    shapes: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    predicted, target = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=r"predicted has shape \(4, 1\) and target"):
        regression_loss(predicted, target, loss="squared_error")


# -- penalties -------------------------------------------------------------------------


def test_continuity_penalty_counts_edges() -> None:
    assert continuity_penalty(torch.ones(2, 7)).item() == 0.0
    assert continuity_penalty(torch.tensor([[0.0, 1.0, 1.0, 0.0, 0.0]])).item() == 0.5
    blocks = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    stripes = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    assert continuity_penalty(blocks) < continuity_penalty(stripes)


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(2, 20), st.integers(0, 100))
def test_continuity_penalty_is_the_mean_step(n: int, length: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((n, length))
    steps = [abs(row[i + 1] - row[i]) for row in mask for i in range(length - 1)]
    ours = continuity_penalty(torch.tensor(mask)).item()
    assert ours == pytest.approx(float(np.mean(steps)))


def test_continuity_penalty_of_one_position_is_zero_not_nan() -> None:
    assert continuity_penalty(torch.rand(3, 1)).item() == 0.0


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 4), st.integers(2, 9), st.integers(0, 100))
def test_transition_penalty_is_the_mean_over_all_masks(n: int, length: int, seed: int) -> None:
    p = np.random.default_rng(seed).random((n, length))
    expected = 0.0
    for mask in product((0, 1), repeat=length):
        probability = np.where(mask, p, 1 - p).prod(axis=1).mean()
        expected += probability * float(np.abs(np.diff(mask)).mean())
    assert transition_penalty(torch.tensor(p)).item() == pytest.approx(expected)


def test_both_continuities_agree_on_masks_of_0_and_1_alone() -> None:
    mask = (torch.rand(3, 20) < 0.5).double()
    assert transition_penalty(mask).item() == pytest.approx(continuity_penalty(mask).item())
    soft = torch.full((2, 5), 0.5)
    assert transition_penalty(soft) == 0.5
    assert continuity_penalty(soft) == 0
    assert transition_penalty(torch.rand(3, 1)) == 0
