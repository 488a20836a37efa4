"""Parts of Enformer's trunk: pooling, widths, batch norms under checkpoints."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from regmask_sk.backbones._trunk import (
    AttentionPool,
    FastGELU,
    Stem,
    head_width,
    running_statistics_kept,
    tower_widths,
)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 2), st.integers(1, 4), st.integers(1, 21))
def test_attention_pooling_against_loops(batch: int, n_channels: int, n: int) -> None:
    pool = AttentionPool(n_channels)
    nn.init.normal_(pool.logits.weight)
    h = torch.randn(batch, n_channels, n)
    found = pool(h)
    assert found.shape == (batch, n_channels, -(-n // 2))
    logits = torch.einsum("ec,bcn->ben", pool.logits.weight[..., 0], h)
    for i in range(found.shape[2]):
        pair = slice(2 * i, 2 * i + 2)
        expected = (h[..., pair] * logits[..., pair].softmax(dim=2)).sum(dim=2)
        torch.testing.assert_close(found[..., i], expected)


def test_a_last_place_alone_is_kept_and_its_gradient_is_finite() -> None:
    h = torch.randn(1, 3, 5, requires_grad=True)
    pool = AttentionPool(3)
    found = pool(h)
    assert torch.equal(found[..., -1], h[..., -1])
    found.square().sum().backward()
    assert torch.isfinite(h.grad).all()
    assert torch.isfinite(pool.logits.weight.grad).all()


def test_pooling_starts_near_the_maximum() -> None:
    pooled = AttentionPool(1)(torch.tensor([[[0.0, 3.0]]]))
    assert pooled.item() == pytest.approx(3.0 / (1 + math.exp(-6)), rel=1e-5)


def test_the_gelu_is_the_fast_one() -> None:
    h = torch.linspace(-6, 6, 101)
    torch.testing.assert_close(FastGELU()(h), h * torch.sigmoid(1.702 * h))


@pytest.mark.parametrize(
    ("d_model", "n_levels", "expected"),
    [
        (1536, 7, [768, 768, 882, 1013, 1164, 1337, 1536]),
        (8, 2, [4, 8]),
        (8, 3, [4, 4, 8]),
        (1, 7, [1] * 7),
    ],
)
def test_the_tower_widens_to_the_width_of_the_body(
    d_model: int, n_levels: int, expected: list[int]
) -> None:
    assert tower_widths(d_model, n_levels) == expected


def test_widths_of_the_published_tower_and_of_one_an_eighth_as_wide() -> None:
    published = [768, 768, 896, 1024, 1152, 1280, 1536]
    assert tower_widths(1536, 7, multiple=128) == published
    assert tower_widths(192, 7, multiple=16) == [width // 8 for width in published]


@pytest.mark.parametrize(("d_model", "n_heads", "width"), [(8, 4, 6), (128, 4, 36), (1536, 8, 192)])
def test_heads_are_as_wide_as_the_position_features_ask(
    d_model: int, n_heads: int, width: int
) -> None:
    assert head_width(d_model, n_heads) == width


def test_batch_norms_come_back_from_a_second_pass_that_fails() -> None:
    norm = Stem(6, 4).mix[0]
    before = norm.momentum, norm.num_batches_tracked
    with pytest.raises(RuntimeError, match="early"), running_statistics_kept(norm):
        raise RuntimeError("early")
    assert (norm.momentum, norm.num_batches_tracked) == before


@pytest.mark.parametrize("n", [1, 2, 33])
def test_attention_pooling_of_enformer_pytorch(n: int) -> None:
    theirs_module = pytest.importorskip("enformer_pytorch.modeling_enformer")
    ours, theirs = AttentionPool(5), theirs_module.AttentionPool(5)
    torch.testing.assert_close(ours.logits.weight, theirs.to_attn_logits.weight[..., 0])
    nn.init.normal_(ours.logits.weight)
    theirs.to_attn_logits.weight.data.copy_(ours.logits.weight.data[..., None])
    h = torch.randn(2, 5, n)
    torch.testing.assert_close(ours(h), theirs(h), rtol=1e-5, atol=1e-5)
