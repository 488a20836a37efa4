"""Published evidence of tracks: against a transcription of its formulas, number by number."""

from __future__ import annotations

from math import exp, log1p
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regmask_sk.ops.evidence import seq2exp_gates

CONSTANTS: dict[Any, dict[str, float]] = {
    "seq2exp-soft": {"beta_min": 1.0, "prior_scale_factor": 10.0},
    "seq2exp-hard": {"beta_min": 0.0, "prior_scale_factor": 1.0},
}


def softplus(x: float) -> float:
    return max(x, 0.0) + log1p(exp(-abs(x)))


def by_hand(
    l1: float, l0: float, signals: list[float], *, beta_min: float, prior_scale_factor: float
) -> tuple[float, float]:
    """One gate as the paper's supplement and the released code have it, z_scale = 1."""
    prior_beta = (1.5, 0.2, 1.0)
    prior_weight = (2 / 5, 2 / 5, 1 / 5)
    a1 = softplus(l1) + beta_min + 1e-8
    b1 = softplus(l0) + beta_min + 1e-8
    a2, b2 = 0.0, 0.0
    for s, c, w in zip(signals, prior_beta, prior_weight, strict=True):
        a2 += w * ((s + beta_min) * prior_scale_factor + 1e-8)
        b2 += w * (c + beta_min) * prior_scale_factor
    return a1 + a2, b1 + b2


@pytest.mark.parametrize("preset", CONSTANTS)
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000))
def test_gates_are_the_published_ones_on_raw_signals(preset: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    l1, l0 = rng.normal(scale=4, size=(2, 2, 5))
    signals = rng.gamma(0.3, 20, size=(2, 3, 5)) * (rng.random((2, 3, 5)) < 0.7)
    expected = np.array(
        [
            [by_hand(l1[i, t], l0[i, t], signals[i, :, t], **CONSTANTS[preset]) for t in range(5)]
            for i in range(2)
        ]
    )
    for dtype in (torch.float32, torch.float64):
        given_ = (torch.tensor(each, dtype=dtype) for each in (l1, l0, signals))
        a, b = seq2exp_gates(*given_, preset)
        assert a.dtype == b.dtype == dtype
        np.testing.assert_allclose(a, expected[..., 0], rtol=1e-6)
        np.testing.assert_allclose(b, expected[..., 1], rtol=1e-6)


@pytest.mark.parametrize(("preset", "mean"), [("seq2exp-soft", 0.363), ("seq2exp-hard", 0.306)])
def test_the_mean_without_signal_is_the_published_floor(preset: Any, mean: float) -> None:
    zero = torch.zeros(1, 1)
    a, b = seq2exp_gates(zero, zero, torch.zeros(1, 3, 1), preset)
    assert (a / (a + b)).item() == pytest.approx(mean, abs=5e-4)


def test_the_product_of_densities_is_kept_without_its_minus_one() -> None:
    """In the limit of a silent body and weight on one track, a is 1 more than the product's."""
    low = torch.full((1, 1), -60.0, dtype=torch.float64)
    signals = torch.tensor([[[7.0], [7.0], [7.0]]], dtype=torch.float64)
    a, _ = seq2exp_gates(low, low, signals, "seq2exp-soft")
    body, tracks = 1.0, (7.0 + 1.0) * 10.0
    assert a.item() == pytest.approx(body + tracks, abs=1e-6)  # not body + tracks - 1


def test_other_tracks_and_presets_are_refused() -> None:
    zero = torch.zeros(1, 4)
    with pytest.raises(ValueError, match=r"signals has 2 tracks; expected 3: H3K27ac, DNase"):
        seq2exp_gates(zero, zero, torch.zeros(1, 2, 4), "seq2exp-soft")
    unknown: Any = "soft"
    with pytest.raises(ValueError, match=r"preset='soft' is not known"):
        seq2exp_gates(zero, zero, torch.zeros(1, 3, 4), unknown)
