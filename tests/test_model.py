"""Building the model, and its symmetry under reverse complements."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from regmask_sk._model import build_model
from regmask_sk.backbones import BACKBONES
from regmask_sk.masking import MaskedExpressionModel
from regmask_sk.ops.strands import reverse_complement

NAMES = ("A", "C", "G", "T", "atac", "pro_plus", "pro_minus")
COMPLEMENT = (3, 2, 1, 0, 4, 6, 5)
LENGTH = 96


def windows(batch: int = 3, length: int = LENGTH) -> Tensor:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, len(NAMES), length)).astype(np.float32)
    x[:, :4] = 0.0
    np.put_along_axis(x, rng.integers(0, 4, (batch, 1, length)), 1.0, axis=1)
    return torch.from_numpy(x)


def model(**changed: Any) -> MaskedExpressionModel:
    """A model in evaluation, all of whose weights are random."""
    settings: dict[str, Any] = {
        "backbone": "conv", "channel_names": NAMES, "n_channels": len(NAMES), "length": LENGTH,
        "promoter": (40, 56), "n_outputs": 2, "n_covariates": 1, "joint": False, "sparsity": 0.4,
        "gate_distribution": "relaxed_bernoulli",
        "resolution": 4, "d_model": 8, "n_layers": 2, "dropout": 0.0, "complement": COMPLEMENT,
        **changed,
    }  # fmt: skip
    torch.manual_seed(0)
    made = build_model(**settings)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made.eval()


@pytest.mark.parametrize(
    ("kind", "mask_resolution"), [("soft", None), ("hard", None), ("topk", None), ("hard", 1)]
)
@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("symmetry", ["ph", "ps"])
@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_masks_turn_with_the_window_and_predictions_stay(
    backbone: str, symmetry: Any, joint: bool, kind: Any, mask_resolution: Any
) -> None:
    made = model(
        backbone=backbone,
        mask_resolution=mask_resolution,
        reverse_complement=symmetry,
        joint=joint,
        gate_distribution="beta" if joint else "relaxed_bernoulli",
    )
    x, covariates = windows(), torch.tensor([[0.5], [-1.0], [0.0]])
    turned = reverse_complement(x, torch.tensor(COMPLEMENT))
    with torch.no_grad():
        middle = made.openness(x).quantile(0.5)  # so that half of the gates are open
        made.soft_shift.fill_(-middle)
        made.hard_shift.fill_(-middle)
        prediction, mask = made(x, covariates, kind=kind)
        prediction_turned, mask_turned = made(turned, covariates, kind=kind)
        assert 0.0 < mask[:, :40].mean() < 1.0
        torch.testing.assert_close(mask_turned, mask.flip(1), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(prediction_turned, prediction, rtol=1e-5, atol=1e-5)
        std, std_turned = (
            made.mask_std(made.gate_distribution(each), kind) for each in (x, turned)
        )
        torch.testing.assert_close(std_turned, std.flip(1), rtol=1e-4, atol=1e-5)
        given = torch.linspace(0, 1, LENGTH).expand(3, -1)
        one = made(x, covariates, given).prediction
        other = made(turned, covariates, given.flip(1)).prediction
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("symmetry", ["none", "augment"])
def test_without_symmetry_the_strands_are_told_apart(symmetry: Any) -> None:
    made = model(reverse_complement=symmetry)
    x = windows()
    turned = reverse_complement(x, torch.tensor(COMPLEMENT))
    covariates = torch.zeros(3, 1)
    assert not torch.allclose(
        made(x, covariates).prediction, made(turned, covariates).prediction, atol=1e-2
    )


def test_shared_strands_are_symmetric_in_training_and_conjoined_ones_after_it() -> None:
    x = windows()
    turned = reverse_complement(x, torch.tensor(COMPLEMENT))
    for symmetry, same in (("ps", True), ("ph", False)):
        made = model(reverse_complement=symmetry)
        with torch.no_grad():
            made(x, torch.zeros(3, 1))
        made.train()
        for module in made.modules():  # running statistics, so that rows do not matter
            if isinstance(module, nn.BatchNorm1d):
                module.eval()
        one, other = made.openness(x), made.openness(turned).flip(1)
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4) == same


def test_a_window_that_cannot_be_turned_token_by_token_is_refused() -> None:
    with pytest.raises(ValueError, match=r"length, 98 bp, is no multiple of resolution=4"):
        model(length=98, reverse_complement="ps", promoter=(41, 57))


def test_a_promoter_off_the_middle_is_refused() -> None:
    with pytest.raises(ValueError, match=r"columns 40 to 57 of 96 are not"):
        model(reverse_complement="ph", promoter=(40, 57))


def test_a_finer_mask_leaves_the_bodies_as_they_are() -> None:
    plain, same, finer = (model(mask_resolution=each) for each in (None, 4, 2))
    assert [each.n_gates for each in (plain, same, finer)] == [24, 24, 48]
    assert {each.n_tokens for each in (plain, same, finer)} == {24}
    for name, value in plain.state_dict().items():
        assert torch.equal(value, same.state_dict()[name]), name
    names = set(plain.state_dict())
    assert set(same.state_dict()) == names
    added = set(finer.state_dict()) - names
    assert added
    assert all(name.startswith("generator.finer.") for name in added)
    assert set(finer.state_dict()) >= names


def test_the_generator_starts_from_the_predictors_body_at_any_grain() -> None:
    for symmetry in ("none", "ps"):
        made = model(mask_resolution=1, reverse_complement=symmetry)
        made.start_generator()
        ours, theirs = (part.backbone.state_dict() for part in (made.generator, made.predictor))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("mask_resolution", [3, 8])
def test_a_grain_that_does_not_divide_the_tokens_is_refused(mask_resolution: int) -> None:
    with pytest.raises(ValueError, match=rf"mask_resolution={mask_resolution} does not divide the"):
        model(mask_resolution=mask_resolution)
    with pytest.raises(ValueError, match=r"the 12 bp of a token: a window of 96 bp has 8 tokens"):
        model(resolution=16, mask_resolution=8)
