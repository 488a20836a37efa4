"""The opposite strand: turning windows, and bodies that turn with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from regmask_sk.backbones import BACKBONES, make_backbone
from regmask_sk.backbones.strands import SharedStrands
from regmask_sk.ops.strands import reverse_complement

# A, C, G, T, a track, the plus and the minus strand of another one, the mask
COMPLEMENT = (3, 2, 1, 0, 4, 6, 5, 7)
PAIRS = {"A": "T", "C": "G", "G": "C", "T": "A"}


def window(batch: int, length: int) -> Tensor:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, len(COMPLEMENT), length)).astype(np.float32)
    x[:, :4] = 0.0
    np.put_along_axis(x, rng.integers(0, 4, (batch, 1, length)), 1.0, axis=1)
    return torch.from_numpy(x)


def test_turning_against_letters() -> None:
    text = "AACGTTTGC"
    x = torch.eye(4)[["ACGT".index(letter) for letter in text]].T[None]
    turned = reverse_complement(x, torch.tensor([3, 2, 1, 0]))
    letters = "".join("ACGT"[i] for i in turned[0].argmax(dim=0))
    assert letters == "".join(PAIRS[letter] for letter in reversed(text))


def test_turning_twice_changes_nothing() -> None:
    x, complement = window(2, 11), torch.tensor(COMPLEMENT)
    assert not torch.equal(reverse_complement(x, complement), x)
    assert torch.equal(reverse_complement(reverse_complement(x, complement), complement), x)


@pytest.mark.parametrize("resolution", [1, 4])
@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_any_body_turns_with_the_window(name: str, resolution: int) -> None:
    torch.manual_seed(0)
    body = make_backbone(
        name, len(COMPLEMENT), d_model=8, n_layers=2, dropout=0.0, resolution=resolution
    )
    for parameter in body.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)
    shared = SharedStrands(body, COMPLEMENT).eval()
    x = window(2, 96)
    turned = reverse_complement(x, shared.complement)
    torch.testing.assert_close(shared(turned), shared(x).flip(2), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(body(turned), body(x).flip(2), rtol=1e-2, atol=1e-2)
    assert (shared.out_channels, shared.resolution) == (body.out_channels, resolution)


class _Scaled(nn.Module):
    """Two readings a window, scaled by what is given beside it."""

    out_channels, resolution = len(COMPLEMENT), 1

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        return (scale[:, :, None, None] * x.cumsum(dim=2)[:, None]).flatten(0, 1)


def test_what_else_a_body_takes_is_the_same_for_both_strands() -> None:
    shared, x, scale = SharedStrands(_Scaled(), COMPLEMENT), window(3, 10), torch.rand(3, 2)
    turned = reverse_complement(x, shared.complement)
    both = 0.5 * (x.cumsum(dim=2) + turned.cumsum(dim=2).flip(2))
    expected = scale[:, :, None, None] * both[:, None]
    torch.testing.assert_close(shared(x, scale).unflatten(0, (3, 2)), expected)
