"""The transformer body: pooling, the way back, and Enformer's trunk with the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from enformer_weights import copy_trunk, theirs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from regmask_sk.backbones._trunk import AttentionPool
from regmask_sk.backbones.transformer import TransformerBackbone

CHANNELS = 6


def body(**settings: Any) -> TransformerBackbone:
    torch.manual_seed(0)
    made = TransformerBackbone(
        CHANNELS, **{"d_model": 8, "n_layers": 2, "resolution": 16, **settings}
    )
    for layer in made.layers:  # attention starts as nothing: give it something to do
        nn.init.normal_(layer.attention.out.weight, std=0.3)
    return made


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


@pytest.mark.parametrize("length", [128, 1_000, 2_048])
def test_the_trunk_of_enformer_pytorch(length: int) -> None:
    other = theirs(dim=24, depth=2, heads=2, attn_dim_key=12, dim_divisible_by=1, target_length=-1)
    ours = TransformerBackbone(4, d_model=24, n_layers=2, n_heads=2, resolution=128).eval()
    copy_trunk(other, ours)
    seen: list[Tensor] = []
    ours.out.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    x = F.one_hot(torch.randint(0, 4, (2, length)), 4).float()
    with torch.no_grad():
        ours(x.transpose(1, 2))
        expected = other.transformer(other.conv_tower(other.stem(x.mT)).mT).mT
    assert seen[0].shape == (2, 24, -(-length // 128))
    torch.testing.assert_close(seen[0], expected, rtol=1e-5, atol=1e-5)
