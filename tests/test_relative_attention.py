"""Relative attention against loops, and against enformer-pytorch where it is installed."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import gamma

from regmask_sk.backbones._relative_attention import (
    RelativeAttention,
    position_features,
    shift_to_pairs,
)


def features_by_hand(n_tokens: int, n_features: int) -> np.ndarray:
    size = n_features // 6
    half_lives = 2 ** np.linspace(3, math.log2(n_tokens), size)
    means = np.linspace(n_tokens / size, n_tokens, size)
    deviation = n_tokens / (2 * size)
    rows = []
    for signed in range(1 - n_tokens, n_tokens):
        x = abs(signed)
        exponential = np.exp(-math.log(2) * x / half_lives)
        central = [float(2**i - 1 > x) for i in range(1, size + 1)]
        density = gamma.pdf(x, (means / deviation) ** 2, scale=deviation**2 / means) + 1e-8
        symmetric = np.concatenate([exponential, central, density / density.max()])
        rows.append(np.concatenate([symmetric, np.sign(signed) * symmetric]))
    return np.stack(rows)


@pytest.mark.parametrize(("n_tokens", "n_features"), [(1, 6), (2, 12), (7, 6), (40, 18), (300, 48)])
def test_position_features_against_their_formulas(n_tokens: int, n_features: int) -> None:
    found = position_features(n_tokens, n_features)
    assert found.dtype == torch.float32
    expected = features_by_hand(n_tokens, n_features)
    np.testing.assert_allclose(found.numpy(), expected, rtol=2e-4, atol=2e-5)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 2_000), st.integers(1, 16))
def test_position_features_are_finite_and_symmetric(n_tokens: int, size: int) -> None:
    found = position_features(n_tokens, 6 * size)
    assert found.shape == (2 * n_tokens - 1, 6 * size)
    assert torch.isfinite(found).all()
    assert found.abs().max() <= 1
    symmetric, signed = found.split(3 * size, dim=1)
    torch.testing.assert_close(symmetric, symmetric.flip(0), rtol=0, atol=1e-5)
    torch.testing.assert_close(signed, -signed.flip(0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("n_features", [0, 5, 8])
def test_position_features_come_in_sixes(n_features: int) -> None:
    with pytest.raises(ValueError, match=rf"n_features={n_features}; expected a multiple of 6"):
        position_features(4, n_features)


@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_each_pair_gets_what_its_distance_has(n: int) -> None:
    by_distance = torch.randn(2, 3, n, 2 * n - 1)
    pairs = shift_to_pairs(by_distance)
    assert pairs.shape == (2, 3, n, n)
    for i in range(n):
        for j in range(n):
            assert torch.equal(pairs[..., i, j], by_distance[..., i, n - 1 + j - i])


def attention(**changed: int) -> RelativeAttention:
    torch.manual_seed(0)
    shape = {"n_heads": 3, "key_width": 4, "value_width": 5, "n_position_features": 12, **changed}
    made = RelativeAttention(10, **shape).eval()
    torch.nn.init.normal_(made.out.weight)
    torch.nn.init.normal_(made.out.bias)
    return made


def test_attention_against_loops() -> None:
    made = attention().double()
    h = torch.randn(2, 6, 10, dtype=torch.float64)
    positions = position_features(6, 12).double()
    found = made(h, positions)
    with torch.no_grad():
        for b in range(2):
            for i in range(6):
                parts = []
                for head in range(3):
                    keys, values = slice(4 * head, 4 * head + 4), slice(5 * head, 5 * head + 5)
                    q = made.query(h[b, i])[keys] / 2  # the root of the key width
                    logits = torch.stack(
                        [
                            (q + made.content_bias[head, 0]) @ made.key(h[b, j])[keys]
                            + (q + made.position_bias[head, 0])
                            @ made.position_key(positions[5 + j - i])[keys]
                            for j in range(6)
                        ]
                    )
                    parts.append(logits.softmax(dim=0) @ made.value(h[b])[:, values])
                torch.testing.assert_close(found[b, i], made.out(torch.cat(parts)))


def test_a_fresh_layer_adds_nothing() -> None:
    made = RelativeAttention(8, n_heads=2, key_width=4, value_width=4, n_position_features=6)
    assert not made(torch.randn(1, 5, 8), position_features(5, 6)).any()


@pytest.mark.parametrize("n", [1, 2, 50, 129])
def test_attention_of_enformer_pytorch(n: int) -> None:
    theirs_module = pytest.importorskip("enformer_pytorch.modeling_enformer")
    made = attention()
    theirs = theirs_module.Attention(
        10, heads=3, dim_key=4, dim_value=5, num_rel_pos_features=12
    ).eval()
    with torch.no_grad():
        for ours, copy in (
            (made.query, theirs.to_q),
            (made.key, theirs.to_k),
            (made.value, theirs.to_v),
            (made.position_key, theirs.to_rel_k),
            (made.out, theirs.to_out),
        ):
            copy.load_state_dict(ours.state_dict())
        theirs.rel_content_bias.copy_(made.content_bias[None])
        theirs.rel_pos_bias.copy_(made.position_bias[None])
        h = torch.randn(2, n, 10)
        found, expected = made(h, position_features(n, 12)), theirs(h)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
