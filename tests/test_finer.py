"""The finer grain of a mask: tokens joined to what the window shows at each of its places."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from regmask_sk.backbones.finer import Detail, FinerGrain
from regmask_sk.backbones.strands import SharedStrands
from regmask_sk.ops.strands import reverse_complement
from regmask_sk.ops.tokens import pool_to_tokens

CHANNELS, D_MODEL = 5, 24
COMPLEMENT = (3, 2, 1, 0, 4)


def join(resolution: int, factor: int, *, shared: bool = False) -> FinerGrain:
    torch.manual_seed(0)
    detail: nn.Module = Detail(CHANNELS, D_MODEL, resolution)
    if shared:
        detail = SharedStrands(detail, COMPLEMENT)
    return FinerGrain(D_MODEL, detail, factor)


def inputs(length: int, resolution: int, factor: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    n_tokens = -(-length // (resolution * factor))
    return (
        torch.randn(2, D_MODEL, n_tokens, generator=generator),
        torch.randn(2, CHANNELS, length, generator=generator),
    )


@pytest.mark.parametrize("length", [1, 7, 48, 50, 95, 96])
@pytest.mark.parametrize(("resolution", "factor"), [(1, 16), (3, 2), (4, 4)])
def test_each_gate_has_a_place(length: int, resolution: int, factor: int) -> None:
    finer = join(resolution, factor)
    found = finer(*inputs(length, resolution, factor))
    assert found.shape == (2, finer.out_channels, -(-length // resolution))
    assert torch.isfinite(found).all()
    assert (finer.resolution, finer.out_channels) == (resolution, D_MODEL // 4)


def test_detail_scans_the_window_at_its_grain() -> None:
    detail = Detail(CHANNELS, D_MODEL, 4)
    x = torch.randn(2, CHANNELS, 50)
    pooled = pool_to_tokens(x, 4)
    padded = nn.functional.pad(pooled, (7, 7))
    place = 5
    by_hand = torch.einsum("bcw,ocw->bo", padded[:, :, place : place + 15], detail.scan.weight)
    expected = (by_hand + detail.scan.bias).clamp_min(0)
    torch.testing.assert_close(detail(x)[:, :, place], expected)


def test_narrow_bodies_have_a_few_filters_all_the_same() -> None:
    assert Detail(CHANNELS, 1, 1).out_channels == 4


def test_tokens_are_joined_by_straight_lines() -> None:
    finer = join(1, 8)
    nn.init.zeros_(finer.detail.scan.weight)
    nn.init.zeros_(finer.detail.scan.bias)
    h, x = inputs(64, 1, 8)
    with torch.no_grad():
        context = finer.context(h)
        found = finer(h, x)
    # Half a base right of the centre of token 2, base 20 is 1/16 of the way to token 3.
    expected = nn.functional.gelu(context[..., 2] * 15 / 16 + context[..., 3] / 16)
    torch.testing.assert_close(found[..., 20], expected)


@pytest.mark.parametrize(("resolution", "factor"), [(1, 16), (4, 3)])
def test_it_turns_with_tokens_and_window(resolution: int, factor: int) -> None:
    finer = join(resolution, factor, shared=True)
    h, x = inputs(96, resolution, factor)
    turned = finer(h.flip(2), reverse_complement(x, torch.tensor(COMPLEMENT)))
    torch.testing.assert_close(turned, finer(h, x).flip(2), rtol=1e-5, atol=1e-6)
    plain = join(resolution, factor)
    turned = plain(h.flip(2), reverse_complement(x, torch.tensor(COMPLEMENT)))
    assert not torch.allclose(turned, plain(h, x).flip(2), atol=1e-2)


def test_a_gradient_reaches_tokens_and_window() -> None:
    finer = join(1, 8)
    h, x = (each.requires_grad_() for each in inputs(64, 1, 8))
    finer(h, x).square().sum().backward()
    for each in (h, x):
        assert each.grad is not None
        assert (each.grad != 0).float().mean() > 0.9
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in finer.parameters())
