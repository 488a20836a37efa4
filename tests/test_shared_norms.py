"""Batch norms over a batch of several processes; two of them do so in test_processes.py."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from regmask_sk._processes import ALONE, Processes
from regmask_sk._shared_norms import share_norms, unshare_norms
from regmask_sk.backbones.conv import TokenNorm


class Twin(Processes):
    """Two processes with the same rows."""

    def sum(self, values: Tensor) -> Tensor:
        """Twice what this one has."""
        return 2.0 * values


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (4, 3, 2, 2), (1, 3, 1)])
def test_two_processes_normalise_as_one_with_both_batches(shape: tuple[int, ...]) -> None:
    kinds = {2: nn.BatchNorm1d, 3: TokenNorm, 4: nn.BatchNorm2d}
    torch.manual_seed(0)
    layer = kinds[len(shape)](3)
    nn.init.normal_(layer.weight)
    alone = copy.deepcopy(layer)
    x = (3.0 + torch.randn(shape)).requires_grad_()
    twice = torch.cat([x.detach(), x.detach()]).requires_grad_()
    share_norms(layer, Twin(0, 2))
    given, expected = layer(x), alone(twice)
    torch.testing.assert_close(given, expected[: len(x)], rtol=0, atol=1e-4)
    given.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(x.grad, twice.grad[: len(x)], rtol=0, atol=2e-3)
    torch.testing.assert_close(2.0 * layer.weight.grad, alone.weight.grad, rtol=1e-3, atol=1e-3)
    for own, its in zip(layer.buffers(), alone.buffers(), strict=True):
        torch.testing.assert_close(own, its)


def test_input_of_another_kind_keeps_it() -> None:
    layer = nn.BatchNorm1d(2)
    share_norms(layer, Twin(0, 2))
    assert layer(torch.randn(4, 2).bfloat16()).dtype == torch.bfloat16


def test_statistics_that_are_kept_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.BatchNorm1d(2, track_running_stats=False)
    share_norms(layer, Twin(0, 2))
    assert layer(torch.randn(4, 2)).shape == (4, 2)
    # As in a second pass over the same batch (regmask_sk/backbones/_trunk.py).
    still = nn.BatchNorm1d(2, momentum=0.0)
    monkeypatch.setattr(still, "num_batches_tracked", None)
    share_norms(still, Twin(0, 2))
    still(torch.randn(4, 2))
    assert still.running_mean.tolist() == [0.0, 0.0]


def test_evaluation_and_copies() -> None:
    layer = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
    x = torch.randn(4, 2)
    expected = copy.deepcopy(layer).eval()(x)
    share_norms(layer, Twin(0, 2))
    copied = copy.deepcopy(layer)
    torch.testing.assert_close(copied.eval()(x), expected)
    copied.train()(x)  # changes itself alone
    assert layer[0].num_batches_tracked == 0
    assert copied[0].num_batches_tracked == 1
    for module in (layer, copied):
        unshare_norms(module)
        assert "forward" not in vars(module[0])
        pickle.dumps(module)


def test_alone_nothing_is_changed() -> None:
    layer = nn.BatchNorm1d(2)
    share_norms(layer, ALONE)
    assert "forward" not in vars(layer)
