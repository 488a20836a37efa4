"""The transformer body: pooling, the way back, and Enformer's trunk with the same weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from regmask_sk.backbones.transformer import (
    AttentionPool,
    FastGELU,
    TransformerBackbone,
    _running_statistics_kept,
    _tower_widths,
)

CHANNELS = 6


def body(**settings: Any) -> TransformerBackbone:
    torch.manual_seed(0)
    made = TransformerBackbone(
        CHANNELS, **{"d_model": 8, "n_layers": 2, "resolution": 16, **settings}
    )
    for layer in made.layers:  # attention starts as nothing: give it something to do
        nn.init.normal_(layer.attention.out.weight, std=0.3)
    return made


# -- parts -----------------------------------------------------------------------------


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
    assert _tower_widths(d_model, n_levels) == expected


# -- the body --------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(
    st.integers(1, 700),
    st.one_of(st.sampled_from([1, 2, 4, 8, 16, 32, 64, 128, 256, 384]), st.integers(1, 300)),
    st.sampled_from([4, 128]),
    st.integers(1, 13),
)
def test_any_length_resolution_and_width(
    length: int, resolution: int, pool: int, d_model: int
) -> None:
    made = body(n_layers=1, resolution=resolution, pool=pool, d_model=d_model)
    for training in (True, False):
        tokens = made.train(training)(torch.randn(1, CHANNELS, length))
        assert tokens.shape == (1, d_model, -(-length // resolution))
        assert torch.isfinite(tokens).all()


@pytest.mark.parametrize("length", [1, 16, 63, 64])
def test_short_windows_train_one_at_a_time(length: int) -> None:
    made = body().train()
    optimiser = torch.optim.Adam(made.parameters(), 1e-3)
    for _ in range(2):
        made(torch.randn(1, CHANNELS, length)).square().sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in made.parameters() if p.grad is not None)
        optimiser.step()
    assert torch.isfinite(made.eval()(torch.randn(1, CHANNELS, length))).all()


@pytest.mark.parametrize(
    ("resolution", "finest", "n_steps"),
    [(1, 1, 7), (16, 16, 3), (128, 128, 0), (256, 128, 0), (48, 16, 3), (7, 1, 7), (100, 4, 5)],
)
def test_how_far_the_way_back_goes(resolution: int, finest: int, n_steps: int) -> None:
    made = body(resolution=resolution)
    assert (made.finest, len(made.way_back)) == (finest, n_steps)


def test_tokens_stand_for_their_own_bases() -> None:
    # Without attention the field of view is bounded: what changes lies where it changed.
    made = body(n_layers=0, resolution=16).eval()
    x = torch.randn(1, CHANNELS, 4_096)
    changed = x.clone()
    changed[..., 2_048:2_064] += 1.0
    difference = (made(x) - made(changed)).abs().amax(dim=(0, 1))
    assert difference.argmax().item() == 128
    assert difference[:50].max() == 0
    assert difference[-50:].max() == 0


def test_with_attention_each_token_sees_the_whole_window() -> None:
    made = body(n_layers=1).double().eval()
    x = torch.randn(1, CHANNELS, 4_096, dtype=torch.float64)
    changed = x.clone()
    changed[..., 0] += 1.0
    assert ((made(x) - made(changed)).abs().amax(dim=(0, 1)) > 1e-12).all()


def test_no_token_stands_for_what_lies_outside_the_window() -> None:
    made = body().eval()
    seen: list[Tensor] = []
    made.layers[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    made(torch.randn(1, CHANNELS, 128 * 3 + 1))
    assert seen[0].shape == (1, 4, 8)
    # A base alone in the last token is what the last token consists of.
    x = torch.randn(1, CHANNELS, 128 * 3 + 1)
    pooled = x
    for _ in range(7):
        pooled = AttentionPool(CHANNELS)(pooled)
    assert torch.equal(pooled[..., -1], x[..., -1])


@pytest.mark.parametrize(("d_model", "n_heads", "width"), [(8, 4, 6), (128, 4, 36), (192, 4, 48)])
def test_heads_are_as_wide_as_the_position_features_ask(
    d_model: int, n_heads: int, width: int
) -> None:
    made = body(d_model=d_model, n_heads=n_heads, n_layers=1)
    assert made.head_width == width
    assert made.layers[0].attention.query.out_features == n_heads * width


@contextmanager
def counted(module: nn.Module) -> Iterator[list[None]]:
    calls: list[None] = []
    handle = module.register_forward_pre_hook(lambda *_: calls.append(None))
    yield calls
    handle.remove()


@pytest.mark.parametrize("part", ["stem", "tower.2", "layers.1", "way_back.0"])
def test_checkpointing_computes_parts_again_and_changes_nothing(part: str) -> None:
    x = torch.randn(2, CHANNELS, 600)
    weights = torch.randn(2, 8, 38)
    results = []
    for checkpointing in (False, True):
        made = body(checkpointing=checkpointing, dropout=0.3).train()
        torch.manual_seed(1)
        with counted(made.get_submodule(part)) as calls:
            tokens = made(x)
            (tokens * weights).sum().backward()
        assert len(calls) == (2 if checkpointing else 1)
        # Running statistics of the batch norms among them, and how often they were updated
        results.append([tokens, *(p.grad for p in made.parameters()), *made.buffers()])
    assert len(results[0]) == len(results[1])
    for plain, again in zip(*results, strict=True):
        torch.testing.assert_close(plain, again)


def test_batch_norms_come_back_from_a_second_pass_that_fails() -> None:
    norm = body().stem.mix[0]
    before = norm.momentum, norm.num_batches_tracked
    with pytest.raises(RuntimeError, match="early"), _running_statistics_kept(norm):
        raise RuntimeError("early")
    assert (norm.momentum, norm.num_batches_tracked) == before


def test_autocast_keeps_the_residual_in_float32() -> None:
    made = body(n_layers=2).eval()
    x = torch.randn(1, CHANNELS, 512)
    seen = []
    for layer in made.layers:
        layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        low = made(x)
    assert seen == [torch.float32] * 2
    torch.testing.assert_close(low.float(), made(x), rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pool": 100}, r"pool=100; expected a power of two, 4 or more"),
        ({"pool": 2}, r"pool=2; expected a power of two, 4 or more"),
        ({"pool": 0}, r"pool=0; expected a power of two"),
        ({"n_heads": 0}, r"n_heads=0; expected 1 or more"),
    ],
)
def test_settings_out_of_range(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        body(**settings)


# -- enformer-pytorch ------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 33])
def test_attention_pooling_of_enformer_pytorch(n: int) -> None:
    theirs_module = pytest.importorskip("enformer_pytorch.modeling_enformer")
    ours, theirs = AttentionPool(5), theirs_module.AttentionPool(5)
    torch.testing.assert_close(ours.logits.weight, theirs.to_attn_logits.weight[..., 0])
    nn.init.normal_(ours.logits.weight)
    theirs.to_attn_logits.weight.data.copy_(ours.logits.weight.data[..., None])
    h = torch.randn(2, 5, n)
    torch.testing.assert_close(ours(h), theirs(h), rtol=1e-5, atol=1e-5)


def without_pools(state: dict[str, Tensor], pool: str) -> list[Tensor]:
    return [value for key, value in state.items() if pool not in key]


@pytest.mark.parametrize("length", [128, 1_000, 2_048])
def test_the_trunk_of_enformer_pytorch(length: int) -> None:
    theirs_module = pytest.importorskip("enformer_pytorch.modeling_enformer")
    theirs = theirs_module.Enformer.from_hparams(
        dim=24,
        depth=2,
        heads=2,
        attn_dim_key=12,
        dim_divisible_by=1,
        output_heads={"human": 1},
        target_length=-1,
    ).eval()
    torch.manual_seed(0)
    for value in [*theirs.parameters(), *theirs.buffers()]:
        if value.is_floating_point():
            nn.init.uniform_(value, 0.5, 1.0) if value.ndim == 1 else nn.init.normal_(
                value, std=0.2
            )
    ours = TransformerBackbone(4, d_model=24, n_layers=2, n_heads=2, resolution=128).eval()
    # Convolutions and batch norms come in the same order; the pools of ours belong to the
    # level that they lead to.
    convolutions = {
        **{f"stem.{key}": value for key, value in theirs.stem.state_dict().items()},
        **{f"tower.{key}": value for key, value in theirs.conv_tower.state_dict().items()},
    }
    trunk = nn.ModuleList([ours.stem, ours.tower])
    copied = without_pools(convolutions, "to_attn_logits")
    for mine, other in zip(without_pools(trunk.state_dict(), "pool.logits"), copied, strict=True):
        mine.copy_(other)
    pools = [down.pool for down in ours.tower] + [ours.last_pool]
    logits = [value for key, value in convolutions.items() if "to_attn_logits" in key]
    for pool, weight in zip(pools, logits, strict=True):
        pool.logits.weight.data.copy_(weight[..., 0])
    for layer, (attended, network) in zip(ours.layers, theirs.transformer, strict=True):
        norm, attention, _ = attended.fn
        layer.norm.load_state_dict(norm.state_dict())
        layer.mlp.load_state_dict(network.fn.state_dict())
        for name, other in (
            ("query", "to_q"),
            ("key", "to_k"),
            ("value", "to_v"),
            ("position_key", "to_rel_k"),
            ("out", "to_out"),
        ):
            getattr(layer.attention, name).load_state_dict(getattr(attention, other).state_dict())
        layer.attention.content_bias.data.copy_(attention.rel_content_bias[0])
        layer.attention.position_bias.data.copy_(attention.rel_pos_bias[0])
    seen: list[Tensor] = []
    ours.out.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    x = F.one_hot(torch.randint(0, 4, (2, length)), 4).float()
    with torch.no_grad():
        ours(x.transpose(1, 2))
        expected = theirs.transformer(theirs.conv_tower(theirs.stem(x.mT)).mT).mT
    assert seen[0].shape == (2, 24, -(-length // 128))
    torch.testing.assert_close(seen[0], expected, rtol=1e-5, atol=1e-5)
