"""The step that holds a share, and its gradient."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regmask_sk.ops.budget import following_step, step_to_share

GATES = torch.linspace(-3.0, 2.0, 40, dtype=torch.float64)


@settings(max_examples=50, deadline=None)
@given(wanted=st.floats(0.02, 0.98))
def test_the_step_reaches_the_share(wanted: float) -> None:
    step = step_to_share(lambda s: float(torch.sigmoid(GATES + s).mean()), wanted)
    assert float(torch.sigmoid(GATES + step).mean()) == pytest.approx(wanted, abs=1e-4)


def test_a_share_out_of_reach_gives_an_end_of_the_range() -> None:
    assert step_to_share(lambda step: 0.2, 0.5) == pytest.approx(40.0, abs=1e-3)
    assert step_to_share(lambda step: 0.8, 0.5) == pytest.approx(-40.0, abs=1e-3)


def held(gates: torch.Tensor, wanted: float) -> torch.Tensor:
    """Gates at the share, by bisection alone."""
    step = step_to_share(lambda s: float(torch.sigmoid(gates.detach() + s).mean()), wanted)
    followed = following_step(step, lambda s: torch.sigmoid(gates + s).mean(), gates)
    return torch.sigmoid(gates + followed)


def test_the_gradient_is_that_of_the_held_gates() -> None:
    wanted, width = 0.3, 1e-2
    weight = torch.sin(torch.arange(40, dtype=torch.float64))
    gates = GATES.clone().requires_grad_()
    (held(gates, wanted) * weight).sum().backward()
    assert gates.grad is not None
    for i in (0, 17, 39):
        moved = [GATES.clone(), GATES.clone()]
        moved[0][i] += width
        moved[1][i] -= width
        up, down = ((held(each, wanted) * weight).sum().item() for each in moved)
        assert gates.grad[i].item() == pytest.approx((up - down) / (2 * width), abs=2e-2)


def test_the_share_itself_has_no_gradient() -> None:
    gates = GATES.clone().requires_grad_()
    held(gates, 0.3).mean().backward()
    assert gates.grad is not None
    assert gates.grad.abs().max() < 1e-4
