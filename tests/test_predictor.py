"""The predictor: what it sees of a masked window, and what it reads from tokens."""

from __future__ import annotations

import pytest
import torch
from masked_models import BODIES, LENGTH, covariates, make_model, seeded, window

from regmask_sk import predictor


@pytest.mark.parametrize("backbone", BODIES)
def test_the_predictor_sees_nothing_of_a_closed_base(backbone: str) -> None:
    predictor = make_model(backbone=backbone).predictor
    x, other = window(4, seed=1), window(4, seed=2)
    mask = (torch.rand(4, LENGTH, generator=seeded(0)) < 0.5).float()
    closed = mask.unsqueeze(1) == 0
    changed = torch.where(closed, 7.0 * other, x)
    with torch.no_grad():
        before, after = (predictor(each, mask, covariates(4)) for each in (x, changed))
        elsewhere = predictor(torch.where(closed, x, other), mask, covariates(4))
    assert torch.equal(before, after)
    assert not torch.allclose(before, elsewhere)


@pytest.mark.parametrize("backbone", BODIES)
def test_no_gradient_comes_back_to_a_closed_base(backbone: str) -> None:
    predictor = make_model(backbone=backbone).predictor
    x = window(4).requires_grad_()
    mask = torch.zeros(4, LENGTH)
    mask[:, 30:70] = 1.0
    predictor(x, mask, covariates(4)).sum().backward()
    assert x.grad is not None
    assert (x.grad[:, :, :30] == 0).all()
    assert (x.grad[:, :, 70:] == 0).all()
    assert (x.grad[:, :, 30:70] != 0).any()


@pytest.mark.parametrize("backbone", BODIES)
def test_the_predictor_tells_closed_from_absent(backbone: str) -> None:
    predictor = make_model(backbone=backbone).predictor
    x = window(3)
    x[:, :, 20:60] = 0.0  # no bases, no signal: off the chromosome, or N
    closed = torch.ones(3, LENGTH)
    closed[:, 20:60] = 0.0
    with torch.no_grad():
        absent = predictor(x, torch.ones(3, LENGTH), covariates(3))
        hidden = predictor(x, closed, covariates(3))
    assert ((absent - hidden).abs() > 1e-4).all()


@pytest.mark.parametrize("backbone", BODIES)
def test_under_a_closed_mask_only_covariates_count(backbone: str) -> None:
    predictor = make_model(backbone=backbone).predictor
    with torch.no_grad():
        same = predictor(window(4), torch.zeros(4, LENGTH), torch.ones(4, 1))
        differ = predictor(window(4), torch.zeros(4, LENGTH), covariates(4))
    assert len(same.unique()) == 1
    assert len(differ.unique()) == 4


def test_long_hard_masks_are_read_where_they_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(length=4096, resolution=4)
    x, mask = window(2, 4096), torch.zeros(2, 4096)
    mask[0, 1000:1100], mask[1, 2000:2050] = 1.0, 1.0
    with torch.no_grad():
        kept = model.predict(x, mask, covariates(2))
        assert predictor.can_read_kept(model.predictor.backbone, model.n_tokens)
        monkeypatch.setattr(predictor, "can_read_kept", lambda *_: False)
        torch.testing.assert_close(kept, model.predict(x, mask, covariates(2)))
        assert not torch.equal(kept, model.predict(x, torch.ones(2, 4096), covariates(2)))
        monkeypatch.undo()
        with torch.autocast("cpu", torch.bfloat16):
            low = model.predict(x, mask, covariates(2))
        torch.testing.assert_close(low, kept, rtol=0.05, atol=0.05)
