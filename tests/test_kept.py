"""The convolutional body on what a mask keeps, against the body on the whole window."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from regmask_sk.backbones import CodonBackbone, ConvBackbone, MambaBackbone, kept
from regmask_sk.backbones.kept import can_read_kept, read_kept


def body(resolution: int, n_layers: int = 3) -> ConvBackbone:
    """A body none of whose parts is at its start, where it would do nothing."""
    torch.manual_seed(0)
    made = ConvBackbone(5, d_model=8, n_layers=n_layers, resolution=resolution).eval()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    for part in made.modules():
        if isinstance(part, nn.BatchNorm1d):
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
    return made


def masked(mask: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(len(mask), 4, mask.shape[1], generator=generator)
    return torch.cat([x * mask[:, None], mask[:, None]], dim=1)


@pytest.fixture
def whole_runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the rows that are computed whole."""
    counted: list[int] = []
    forward = ConvBackbone.forward

    def counting(self: Any, x: Tensor) -> Tensor:
        counted.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(ConvBackbone, "forward", counting)
    return counted


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_it_is_the_whole_computation(data: st.DataObject) -> None:
    resolution = data.draw(st.sampled_from([1, 3, 8, 16]), label="resolution")
    length = data.draw(st.integers(1, 90 * resolution), label="length")
    made = body(resolution, n_layers=data.draw(st.integers(0, 4), label="layers"))
    mask = torch.zeros(2, length)
    for row in range(2):
        for _ in range(data.draw(st.integers(0, 2))):
            start = data.draw(st.integers(0, length - 1))
            mask[row, start : start + data.draw(st.integers(1, 20))] = 1.0
    x = masked(mask)
    worth = kept._WORTH
    try:
        kept._WORTH = 2.0  # never the whole computation
        with torch.no_grad():
            torch.testing.assert_close(read_kept(made, x), made(x), rtol=1e-4, atol=1e-5)
    finally:
        kept._WORTH = worth


def test_few_kept_bases_are_not_computed_whole(whole_runs: list[int]) -> None:
    mask = torch.zeros(2, 4096)
    mask[:, 2000:2100] = 1.0
    read_kept(body(4), masked(mask))
    assert whole_runs == []


def test_many_kept_bases_are(whole_runs: list[int]) -> None:
    mask = torch.zeros(2, 4096)
    mask[0] = 1.0
    mask[1, 100] = 1.0
    read_kept(body(4), masked(mask))
    assert whole_runs == [1]


def test_no_row_depends_on_the_others() -> None:
    mask = torch.zeros(3, 4096)
    mask[0, 500:600], mask[1, 10:20], mask[2] = 1.0, 1.0, 1.0
    made, x = body(4), masked(mask)
    alone = torch.cat([read_kept(made, row[None]) for row in x])
    assert torch.equal(read_kept(made, x), alone)


def test_only_bodies_whose_closed_tokens_are_alike_have_the_form() -> None:
    assert can_read_kept(ConvBackbone(5).eval(), 2048)
    assert not can_read_kept(ConvBackbone(5), 2048)  # in training
    assert not can_read_kept(ConvBackbone(5).eval(), 100)  # no gain
    assert not can_read_kept(CodonBackbone(5).eval(), 2048)
    assert not can_read_kept(MambaBackbone(5).eval(), 2048)
