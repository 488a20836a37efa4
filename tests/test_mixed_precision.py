"""bfloat16 autocast, body by body: what it changes, what stays in float32, that it trains."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from devices import DEVICES
from torch import Tensor, nn

from regmask_sk import RegMaskRegressor, SequenceChannels, SignalChannels, TSSWindows, Windows
from regmask_sk.backbones import BACKBONES

if TYPE_CHECKING:
    from conftest import ToyGenome

TINY: dict[str, Any] = {
    "d_model": 16, "n_layers": 2, "resolution": 8, "sparsity": 0.3, "max_epochs": 1,
    "generator_epochs": 1, "finetune_epochs": 1, "validation_fraction": 0.0, "batch_size": 8,
    "random_state": 0, "device": "cpu",
}  # fmt: skip
LENGTH = 256
# bfloat16 has 8 bits of mantissa: each rounding is off by up to 0.4 %, and a body rounds some ten
# times in a row. Relative L2 distances, masks without the promoter window; up to 0.015 of masks
# and 0.036 of predictions were seen.
OF_MASKS, OF_PREDICTIONS = 0.03, 0.06


@pytest.fixture(scope="module")
def windows(toy_genome: ToyGenome) -> Windows:
    features = (
        TSSWindows(LENGTH),
        SequenceChannels(toy_genome.fasta),
        SignalChannels(toy_genome.tracks, random_state=0),
    )
    made: Any = toy_genome.loci[:16]
    for step in features:
        made = step.fit_transform(made)
    return made


def lively(model: RegMaskRegressor) -> RegMaskRegressor:
    """Move the weights away from those of a fresh model, whose heads are 0."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.net_.module_.parameters():
            moved = torch.randn(weight.shape, generator=generator).to(weight.device)
            weight.add_(0.1 * moved)
    return model


def in_bfloat16(exact: RegMaskRegressor) -> RegMaskRegressor:
    """Read the same weights under autocast."""
    low = RegMaskRegressor(**(exact.get_params() | {"amp": True}))
    low._set_state(*exact._get_state())
    return low


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """Relative L2 distance of what varies: a constant alone would agree by itself."""
    expected = expected - expected.mean()
    assert expected.std() > 1e-2
    found = found - found.mean()
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_masks_and_predictions_are_those_of_float32(
    windows: Windows, backbone: str, device: str
) -> None:
    y = windows.loci["expression"].to_numpy()
    settings = {**TINY, "device": device}
    exact = lively(RegMaskRegressor(backbone=backbone, amp=False, **settings).fit(windows, y))
    low = in_bfloat16(exact)
    free = np.ones(LENGTH, bool)
    free[exact.promoter_columns_] = False
    masks, expected = low.transform(windows), exact.transform(windows)
    assert masks.dtype == np.float32
    assert not np.array_equal(masks, expected)
    assert distance(masks[:, free], expected[:, free]) < OF_MASKS
    assert distance(low.predict(windows), exact.predict(windows)) < OF_PREDICTIONS
    # A mask shows little of a gate that is almost open or closed; its openness shows all.
    x = torch.from_numpy(np.stack([windows[i] for i in range(len(windows))])).to(device)
    openness = []
    for model in (low, exact):
        with torch.no_grad(), model.net_.autocast():
            openness.append(model.net_.ready_module.eval().openness(x))
    assert openness[0].dtype == torch.float32
    assert distance(*(each.cpu().numpy() for each in openness)) < OF_MASKS


@pytest.mark.parametrize("training", ["decoupled", "joint"])
@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_training_runs_and_heads_stay_in_float32(
    windows: Windows, backbone: str, training: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[nn.Module, set[torch.dtype]] = defaultdict(set)
    plain = nn.Conv1d.forward

    def watched(self: nn.Conv1d, x: Tensor) -> Tensor:
        result = plain(self, x)
        seen[self].add(result.dtype)
        return result

    monkeypatch.setattr(nn.Conv1d, "forward", watched)
    y = windows.loci["expression"].to_numpy()
    model = RegMaskRegressor(backbone=backbone, training=training, amp=True, **TINY)
    model.fit(windows, y)
    assert np.isfinite(model.history_["train_loss"]).all()
    assert np.isfinite(model.predict(windows)).all()
    module = model.net_.module_
    readout = module.predictor.readout
    heads = [module.generator.head, readout.gate, readout.value, readout.to_bins, readout.attention]
    assert all(seen[head] == {torch.float32} for head in heads)
    in_bodies = set.union(*(seen[each] for each in seen if each not in heads))
    assert torch.bfloat16 in in_bodies
    for weight in module.parameters():
        assert weight.dtype == torch.float32
        assert torch.isfinite(weight).all()
