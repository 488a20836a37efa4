"""The plan of a training: the learning rate of a step, and averaged weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from regmask_sk._plan import learning_rate_factor, moving_average


def test_the_learning_rate_warms_up_and_falls() -> None:
    factors = [learning_rate_factor(step / 100, end=0.1) for step in range(120)]
    peak = int(np.argmax(factors))
    assert 0 < factors[0] < 0.2
    assert factors[:peak] == sorted(factors[:peak])
    assert factors[peak] == pytest.approx(1.0, abs=0.02)
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert factors[100:] == pytest.approx([0.1] * 20)


def test_the_moving_average_is_short_at_first_and_takes_counters_as_they_are() -> None:
    def after(n: int, decay: float = 0.9) -> float:
        zero, one = torch.zeros(()), torch.ones(())
        return float(moving_average(zero, one, torch.tensor(n), decay=decay))

    assert after(1) > after(10) > after(1000)
    assert after(1000) == pytest.approx(0.1)
    assert after(1000, decay=0.0) == 1.0
    counter = moving_average(torch.tensor(3), torch.tensor(8), torch.tensor(5), decay=0.9)
    assert counter.item() == 8


def test_the_moving_average_of_a_constant_is_the_constant() -> None:
    value, average = torch.randn(5), torch.zeros(5)
    average = value.clone()
    for n in range(1, 50):
        average = moving_average(average, value, torch.tensor(n), decay=0.99)
    torch.testing.assert_close(average, value)
