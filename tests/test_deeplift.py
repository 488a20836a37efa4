"""DeepLIFT: numbers of two libraries where these have rules, and completeness elsewhere."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from array_source import one_hot
from torch import nn

from regmask_sk._deeplift import deeplift
from regmask_sk.backbones import make_backbone


def known_to_libraries(seed: int, pool: nn.Module) -> nn.Sequential:
    """Give a network of modules that captum and tangermeme have rules for."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv1d(4, 6, 5, padding=2),
        nn.ReLU(),
        pool,
        nn.Conv1d(6, 5, 3),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Linear(5 * 6, 7),
        nn.Tanh(),
        nn.Linear(7, 2),
    ).eval()


@pytest.fixture(scope="module")
def windows() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(1)
    return torch.from_numpy(one_hot(rng, 5, 32)), torch.from_numpy(one_hot(rng, 5, 32))


def ours(network: nn.Module, x: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    module = copy.deepcopy(network).double().requires_grad_(False)
    contributions, change = deeplift(lambda both: module(both)[:, 1], x, r)
    torch.testing.assert_close(contributions.sum(dim=(1, 2)), change, rtol=1e-9, atol=1e-12)
    return contributions


def test_contributions_are_those_of_captum(windows):
    from captum.attr import DeepLift

    x, r = windows
    network = known_to_libraries(0, nn.AvgPool1d(4))  # captum's maxima do not add up
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tells of the hooks that it sets
        theirs = DeepLift(network).attribute(x.clone(), r.clone(), target=1)
    torch.testing.assert_close(ours(network, x, r).float(), theirs.detach(), rtol=1e-3, atol=1e-5)


def test_contributions_are_those_of_tangermeme(windows):
    from tangermeme.deep_lift_shap import deep_lift_shap

    x, r = windows
    network = known_to_libraries(2, nn.MaxPool1d(4))
    theirs = deep_lift_shap(
        network, x, references=r[:, None], target=1, device="cpu", hypothetical=False
    )
    contributions = ours(network, x, r)
    # Theirs stand at the bases of x: the multipliers times x, and at those of the reference
    # times -r, added up over channels, are the same sum at each base.
    multipliers = contributions / torch.where(x == r, 1.0, (x - r).double())
    assert theirs.shape == x.shape
    at_base = ((x != r) * multipliers * (x - r)).sum(dim=1)
    torch.testing.assert_close(at_base.float(), theirs.sum(dim=1), rtol=1e-3, atol=1e-5)


def test_products_share_what_they_make_together():
    x, r = torch.tensor([[3.0, 2.0, 5.0]]), torch.tensor([[1.0, 4.0, 5.0]])
    found, change = deeplift(lambda t: t[:, 0] * t[:, 1] + t[:, 2], x, r)
    # (3 - 1) * (2 + 4) / 2, (2 - 4) * (3 + 1) / 2, and nothing for what is the same.
    torch.testing.assert_close(found, torch.tensor([[6.0, -4.0, 0.0]]).double())
    assert change.item() == 3.0 * 2.0 - 1.0 * 4.0


def test_a_maximum_credits_its_two_winners():
    x = torch.tensor([[[5.0, 0.0, 1.0, 1.0]]])
    r = torch.tensor([[[1.0, 2.0, 1.0, 1.0]]])
    found, change = deeplift(lambda t: F.max_pool1d(t, 4)[:, 0, 0], x, r)
    # From 2 to 5: all of it to the base that rose to 5, nothing to the one that fell from 2.
    torch.testing.assert_close(found, torch.tensor([[[3.0, 0.0, 0.0, 0.0]]]).double())
    assert change.item() == 3.0
    found, change = deeplift(lambda t: F.max_pool1d(t, 4)[:, 0, 0], r, x)
    torch.testing.assert_close(found, torch.tensor([[[-3.0, 0.0, 0.0, 0.0]]]).double())


def test_what_does_not_change_has_the_slope_of_its_function():
    # Its value goes on as it is, and its slope stands where what is before it changes.
    x, r = torch.tensor([[0.5, 2.0], [0.1, 3.0]]), torch.tensor([[0.5, 1.0], [0.1, 1.0]])
    found, _ = deeplift(lambda t: torch.exp(t[:, 0]) * t[:, 1], x, r)
    expected = [[0.0, np.exp(0.5)], [0.0, 2 * np.exp(0.1)]]
    torch.testing.assert_close(found, torch.tensor(expected).double(), rtol=1e-6, atol=1e-9)
    r = r.double()
    near = r + torch.tensor([[1e-11, 0.0], [1e-11, 0.0]]).double()
    found, _ = deeplift(lambda t: torch.exp(t[:, 0]), near, r)
    torch.testing.assert_close(found[:, 0] / (near - r)[:, 0], r[:, 0].exp(), rtol=1e-6, atol=0.0)


OPERATIONS = {
    "closed softmax": lambda t: (
        F.pad(t, (0, 2), value=-torch.inf).softmax(1)[:, :3].square().sum(1)
    ),
    "far softmax": lambda t: (50.0 * t).softmax(dim=1).square().sum(dim=1),
    "softmax": lambda t: (t.softmax(dim=1) * torch.arange(6.0)).sum(dim=1),
    "attention": lambda t: ((t[:, :, None] @ t[:, None]).softmax(dim=2) @ t[..., None])[:, 2, 0],
    "quotient": lambda t: t[:, 0] / (1.0 + t.square().sum(dim=1)),
    "inverse": lambda t: 1.0 / (1.0 + t.square().sum(dim=1)),
    "layer norm": lambda t: (F.layer_norm(t, (6,)) * torch.arange(6.0)).sum(dim=1).sigmoid(),
    "rms norm": lambda t: F.rms_norm(t, (6,), torch.arange(6.0).double()).sum(dim=1).tanh(),
    "gate": lambda t: (torch.sigmoid(t[:, :3]) * F.gelu(t[:, 3:])).sum(dim=1),
    "clamp": lambda t: t.clamp(-0.5, 0.5).sum(dim=1) * t.clamp_min(0).sum(dim=1),
    "pooling": lambda t: F.max_pool1d(t[:, None], 4, ceil_mode=True)[:, 0].sum(dim=1),
    "in place": lambda t: t[:, 0] * F.relu(3 * t, inplace=True).sum(dim=1),
    "float": lambda t: torch.exp(t.float()).sum(dim=1),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_contributions_add_up_through_every_operation(name):
    def function(t: torch.Tensor) -> torch.Tensor:
        with torch.device("cpu"):
            return OPERATIONS[name](t)

    torch.manual_seed(0)
    x, r = torch.randn(7, 6).double(), torch.randn(7, 6).double()
    found, change = deeplift(function, x, r)
    torch.testing.assert_close(found.sum(dim=1), change, rtol=1e-9, atol=1e-10)
    if name != "float":
        torch.testing.assert_close(change, function(x) - function(r))
    assert change.abs().max() > 1e-3
    gradient = torch.func.vmap(torch.func.grad(lambda row: function(row[None])[0]))(x)
    assert not torch.allclose(found, gradient * (x - r), rtol=1e-2)


@pytest.mark.parametrize("name", ["conv", "transformer", "hyena"])
def test_contributions_add_up_through_whole_bodies(name):
    torch.manual_seed(0)
    body = make_backbone(
        name, 5, d_model=8, n_layers=2, dropout=0.1, resolution=4, max_length=64,
        checkpointing=False,
    )  # fmt: skip
    for parameter in body.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    body = body.double().eval().requires_grad_(False)
    x, r = torch.randn(3, 5, 64), torch.zeros(3, 5, 64)
    found, change = deeplift(lambda t: body(t).sum(dim=(1, 2)), x, r)
    torch.testing.assert_close(found.sum(dim=(1, 2)), change, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(
        change, (body(x.double()) - body(r.double())).sum(dim=(1, 2)), rtol=1e-9, atol=1e-9
    )


def test_activations_without_a_batch_in_front_are_refused():
    x = torch.ones(3, 2)
    with pytest.raises(ValueError, match="batch on the first axis of every activation"):
        deeplift(lambda t: torch.exp(t.mean(dim=0, keepdim=True)).expand(6, 2)[:, 0], x, 0 * x)
