"""A body without a mask: its readouts, and the symmetry of its strands."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from regmask_sk.baselines.backbone import BackboneRegressor, CenterReadout
from regmask_sk.features import SequenceChannels, TSSWindows

TINY: dict[str, Any] = {
    "d_model": 8, "n_layers": 1, "resolution": 8, "max_epochs": 1, "random_state": 0,
    "device": "cpu", "dropout": 0.0,
}  # fmt: skip


def test_the_center_alone_is_read() -> None:
    readout = CenterReadout(3, 1, 0, tokens=slice(4, 6), dropout=0.0).eval()
    h = torch.rand(2, 3, 10)
    elsewhere = h.clone()
    elsewhere[..., :4], elsewhere[..., 6:] = 0.0, 5.0
    nothing = torch.zeros(2, 0)
    assert torch.equal(readout(h, nothing, exact=True), readout(elsewhere, nothing, exact=True))
    torch.testing.assert_close(readout(h, nothing, exact=True), readout(h, nothing, exact=False))


@pytest.mark.parametrize(
    ("length", "center_length", "expected"),
    [
        (64, 16, slice(3, 5)),
        (64, 17, slice(2, 6)),
        (64, 2000, slice(0, 8)),
        (60, 1, slice(3, 5)),
        (64, None, slice(0, 8)),
    ],
)
def test_center_length_is_in_base_pairs(
    length: int, center_length: int | None, expected: slice
) -> None:
    X = np.random.default_rng(0).normal(size=(20, 2, length)).astype(np.float32)
    model = BackboneRegressor(
        **{**TINY, "resolution": 7 if length == 60 else 8},
        readout="center", center_length=center_length,
    ).fit(X, X[:, 0].mean(axis=1))  # fmt: skip
    assert model.net_.module_.readout.tokens == expected


@pytest.mark.parametrize("readout", ["learned", "center"])
@pytest.mark.parametrize("reverse_complement", ["ph", "ps"])
def test_predictions_do_not_change_with_the_strand(
    toy_genome: Any, reverse_complement: str, readout: str
) -> None:
    loci = toy_genome.loci
    windows = SequenceChannels(toy_genome.fasta).fit_transform(TSSWindows(64).fit_transform(loci))
    model = BackboneRegressor(
        **TINY, reverse_complement=reverse_complement, readout=readout, center_length=16
    ).fit(windows, loci["expression"])
    module = model.net_.ready_module.eval()
    x = torch.from_numpy(windows[:6].to_numpy(max_bytes=10**7))
    turned = x[:, [3, 2, 1, 0]].flip(2)
    nothing = torch.zeros(6, 0)
    with torch.no_grad():
        torch.testing.assert_close(
            module(x, nothing), module(turned, nothing), rtol=1e-5, atol=1e-5
        )


def test_it_learns_what_a_window_holds() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 2, 64)).astype(np.float32)
    y = rng.normal(size=200)
    X[:, 1, 24:40] += y[:, None]
    settings = {
        **TINY, "max_epochs": 20, "validation_fraction": 0.0, "ema_decay": 0.9,
        "learning_rate": 0.02,
    }  # fmt: skip
    for readout in ("learned", "center"):
        model = BackboneRegressor(**settings, readout=readout, center_length=32).fit(
            X[:150], y[:150]
        )
        assert model.score(X[150:], y[150:]) > 0.5
