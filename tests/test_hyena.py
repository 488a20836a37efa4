"""The Hyena operator against its equations, and the body around it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from regmask_sk.backbones.hyena import HyenaBackbone, HyenaFilter, HyenaOperator

CHANNELS = 6


def wide(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {key: value.detach().double().numpy() for key, value in module.state_dict().items()}


def filters_by_hand(made: HyenaFilter, n_lags: int) -> np.ndarray:
    """Filters as the paper and its code define them, lag by lag."""
    p = wide(made)
    n_channels, n_features = p["last.weight"].shape[0], p["layers.0.weight"].shape[1]
    n_bands = (n_features - 1) // 2
    bands = np.linspace(1e-4, n_bands - 1, n_bands)
    deltas = np.linspace(math.log(0.01) / 1.5, math.log(0.01) / 0.3, n_channels)
    rows = []
    for k in range(n_lags):
        t = k / (made.n_times - 1)
        w = 2 * math.pi * k / made.n_times
        z = np.concatenate([[t], np.cos(bands * w), -np.sin(bands * w)])
        for layer in range(3):
            z = p[f"layers.{layer}.weight"] @ z + p[f"layers.{layer}.bias"]
            z = np.sin(p["frequency"] * z)
        rows.append(made.scale * (p["last.weight"] @ z) * np.exp(-t * np.abs(deltas)))
    return np.stack(rows, axis=1)


def operator_by_hand(made: HyenaOperator, u: np.ndarray) -> np.ndarray:
    """One window ``(T, d)`` through the operator, with every sum written out."""
    p = wide(made)
    n_tokens, d = u.shape
    z = u @ p["in_proj.weight"].T + p["in_proj.bias"]
    short = np.zeros_like(z)
    for i in range(n_tokens):
        for tap in range(3):
            j = i + tap - (2 if made.causal else 1)
            if 0 <= j < n_tokens:
                short[i] += p["short_conv.weight"][:, 0, tap] * z[j]
        short[i] += p["short_conv.bias"]
    parts = np.split(short, made.order + 1, axis=1)
    x, v = parts[:-1], parts[-1]
    directions = [filters_by_hand(each, n_tokens) for each in made.filters]
    for o, gate in enumerate(reversed(x[1:])):
        v = v * gate
        convolved = np.zeros_like(v)
        for i in range(n_tokens):
            for j in range(n_tokens):
                if j <= i:
                    convolved[i] += directions[0][o * d : (o + 1) * d, i - j] * v[j]
                if j >= i and not made.causal:
                    convolved[i] += directions[1][o * d : (o + 1) * d, j - i] * v[j]
        v = convolved + p["skip"][o] * v
    return (v * x[0]) @ p["out_proj.weight"].T + p["out_proj.bias"]


def operator(d_model: int = 5, **settings: Any) -> HyenaOperator:
    torch.manual_seed(0)
    return HyenaOperator(d_model, **settings).double()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("order", "n_features"), [(2, 5), (3, 3), (4, 9)])
@pytest.mark.parametrize("n_tokens", [1, 2, 23])
def test_the_operator_is_its_equations(
    order: int, n_features: int, n_tokens: int, causal: bool
) -> None:
    made = operator(
        n_times=40,
        order=order,
        causal=causal,
        filter_features=n_features,
        filter_width=7,
        filter_scale=0.3,
    )
    u = torch.randn(2, n_tokens, 5, dtype=torch.float64)
    expected = np.stack([operator_by_hand(made, row.numpy()) for row in u])
    np.testing.assert_allclose(made(u).detach().numpy(), expected, rtol=1e-6, atol=1e-8)


def test_gradients_of_the_operator() -> None:
    made = operator(2, n_times=9, order=3, filter_width=2)
    u = torch.randn(1, 4, 2, dtype=torch.float64, requires_grad=True)
    parameters = {name: value.detach().clone() for name, value in made.named_parameters()}
    for value in parameters.values():
        value.requires_grad_()

    def apply(u: Tensor, *values: Tensor) -> Tensor:
        given = dict(zip(parameters, values, strict=True))
        return torch.func.functional_call(made, given, (u,))

    assert torch.autograd.gradcheck(apply, (u, *parameters.values()))


def test_a_filter_means_the_same_whatever_the_length_of_the_window() -> None:
    made = HyenaFilter(8, n_times=500)
    torch.testing.assert_close(made(500)[:, :60], made(60))
    # The last lag of the longest window is at time 1, where the decays are known.
    made.last.weight.data.fill_(1.0)
    whole = made(500)
    share = (whole[:, -1] / whole[-1, -1]).log() - (whole[:, 0] / whole[-1, 0]).log()
    expected = torch.linspace(math.log(0.01) / 1.5, math.log(0.01) / 0.3, 8)
    torch.testing.assert_close(share, expected - expected[-1], rtol=1e-3, atol=1e-3)


def test_neighbouring_lags_stay_apart_under_autocast() -> None:
    made = HyenaFilter(4, n_times=100_000)
    plain = made(1_000)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(made(1_000), plain)
    assert len(plain[0].unique()) > 500


# -- the body --------------------------------------------------------------------------


def body(**settings: Any) -> HyenaBackbone:
    torch.manual_seed(0)
    shape = {"d_model": 8, "n_layers": 2, "resolution": 1, "max_length": 200, **settings}
    return HyenaBackbone(CHANNELS, **shape)


@pytest.mark.parametrize("causal", [True, False])
def test_which_tokens_see_which(causal: bool) -> None:
    made = body(causal=causal, n_layers=1).double().eval()
    x = torch.randn(1, CHANNELS, 100, dtype=torch.float64)
    changed = x.clone()
    changed[..., 60] += 1.0
    difference = (made(x) - made(changed)).abs().amax(dim=(0, 1))
    assert (difference[60:] > 1e-9).all()
    assert (difference[:60] < 1e-12).all() if causal else (difference[:60] > 1e-9).all()


def test_a_window_longer_than_the_body_was_made_for_is_refused() -> None:
    made = body(max_length=64, resolution=16).eval()
    assert made(torch.zeros(1, CHANNELS, 64)).shape == (1, 8, 4)
    with pytest.raises(ValueError, match=r"x has 65 columns, more than max_length=64.*larger"):
        made(torch.zeros(1, CHANNELS, 65))


def test_a_body_for_one_base_works() -> None:
    assert torch.isfinite(body(max_length=1)(torch.ones(2, CHANNELS, 1))).all()


@contextmanager
def counted(module: torch.nn.Module) -> Iterator[list[None]]:
    calls: list[None] = []
    handle = module.register_forward_pre_hook(lambda *_: calls.append(None))
    yield calls
    handle.remove()


def test_checkpointing_computes_layers_again_and_changes_nothing() -> None:
    x = torch.randn(2, CHANNELS, 50)
    weights = torch.randn(2, 8, 50)
    results = []
    for checkpointing in (False, True):
        made = body(checkpointing=checkpointing, dropout=0.3).train()
        torch.manual_seed(1)
        with counted(made.layers[1]) as calls:
            tokens = made(x)
            (tokens * weights).sum().backward()
        assert len(calls) == (2 if checkpointing else 1)
        results.append([tokens, *(p.grad for p in made.parameters())])
    for plain, again in zip(*results, strict=True):
        torch.testing.assert_close(plain, again)


def test_checkpointing_rests_where_nothing_is_learned() -> None:
    made = body(checkpointing=True)
    with torch.no_grad(), counted(made.layers[0]) as calls:
        made(torch.zeros(1, CHANNELS, 20))
    assert len(calls) == 1


def test_the_residual_stays_in_float32_under_autocast() -> None:
    made = body(n_layers=3).eval()
    x = torch.randn(1, CHANNELS, 64)
    seen = []
    for layer in made.layers:
        layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        low = made(x)
    assert seen == [torch.float32] * 3
    torch.testing.assert_close(low.float(), made(x), rtol=0.1, atol=0.1)


def test_the_size_of_what_a_layer_adds_does_not_grow_with_the_window() -> None:
    sizes = []
    for length in (100, 10_000):
        made = body(max_length=length, n_layers=1).eval()
        x = torch.nn.functional.one_hot(torch.randint(0, CHANNELS, (1, length)), CHANNELS)
        h = made.embedding(x.transpose(1, 2).float()).transpose(1, 2)
        sizes.append(made.layers[0].operator(h).std().item())
    assert 0.2 < sizes[1] / sizes[0] < 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": 1}, r"order=1; expected 2 or more"),
        ({"filter_features": 4}, r"filter_features=4; expected an odd number"),
        ({"filter_features": 1}, r"filter_features=1; expected an odd number, 3 or more"),
        ({"max_length": 0}, r"max_length=0; expected 1 bp or more"),
    ],
)
def test_settings_out_of_range(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        body(**settings)
