"""The best match of each token against torch's convolution and pooling."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from regmask_sk.ops import _best_match_numba
from regmask_sk.ops.best_match import best_match


def inputs(
    batch: int, c: int, length: int, d: int, k: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((batch, c, length), (d, c, k), (d,))
    drawn = [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in shapes]
    x, weight, bias = (t.requires_grad_() for t in drawn)
    return x, weight, bias


def plain(x: Tensor, weight: Tensor, bias: Tensor, resolution: int) -> Tensor:
    scores = F.conv1d(x, weight, bias, padding=weight.shape[2] // 2)
    return F.max_pool1d(scores, resolution, ceil_mode=True)


@pytest.mark.parametrize("resolution", [1, 2, 5, 16, 100])
@pytest.mark.parametrize(
    ("batch", "c", "length", "d", "k"),
    [(1, 1, 1, 1, 1), (2, 3, 5, 2, 7), (3, 5, 97, 4, 15), (2, 4, 20_011, 3, 15)],
)
def test_it_is_torchs_convolution_and_pooling(
    batch: int, c: int, length: int, d: int, k: int, resolution: int
) -> None:
    given = inputs(batch, c, length, d, k)
    expected = plain(*given, resolution)
    generator = torch.Generator().manual_seed(1)
    slope = torch.randn(expected.shape, generator=generator, dtype=expected.dtype)
    gradients = torch.autograd.grad((expected * slope).sum(), given)
    single = [t.detach().float().requires_grad_() for t in given]
    found = best_match(*single, resolution)
    assert found.shape == expected.shape
    assert found.dtype == torch.float32
    found_gradients = torch.autograd.grad((found * slope.float()).sum(), single)
    for a, b in zip((found, *found_gradients), (expected, *gradients), strict=True):
        assert (a.double() - b).norm() <= 1e-5 * b.norm()


def test_each_task_reaches_its_neighbours_bases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_best_match_numba, "_BLOCK", 6)  # motifs are wider than a task
    x, weight, bias = inputs(2, 3, 61, 4, 15)
    gradient = torch.autograd.grad(plain(x, weight, bias, 3).sum(), x)[0]
    single = [t.detach().float().requires_grad_() for t in (x, weight, bias)]
    found = torch.autograd.grad(best_match(*single, 3).sum(), single[0])[0]
    torch.testing.assert_close(found.double(), gradient, rtol=1e-5, atol=1e-5)


def test_it_does_not_depend_on_the_other_rows() -> None:
    x, weight, bias = (t.detach() for t in inputs(5, 4, 300, 8, 15, torch.float32))
    alone = torch.cat([best_match(row[None], weight, bias, 16) for row in x])
    assert torch.equal(best_match(x, weight, bias, 16), alone)


def test_what_is_not_a_number_stays_so() -> None:
    x, weight, bias = (t.detach() for t in inputs(1, 4, 64, 2, 3, torch.float32))
    x[0, 0, 20] = torch.nan
    found = best_match(x, weight, bias, 16)
    assert torch.equal(found.isnan().any(dim=1)[0], torch.tensor([False, True, False, False]))


def test_gradcheck() -> None:
    def scan(*tensors: Tensor) -> Tensor:
        return best_match(*tensors, 4)

    assert torch.autograd.gradcheck(scan, inputs(2, 3, 14, 3, 5))


@pytest.mark.parametrize("learned", [True, False])
def test_the_operator_meets_torchs_rules(learned: bool) -> None:
    x, weight, bias = inputs(2, 4, 70, 5, 15, torch.float32)
    arguments = (x.detach() if learned else x, weight, bias, 16)
    torch.library.opcheck(torch.ops.regmask_sk.best_match.default, arguments)


def test_under_autocast_scores_are_those_of_its_convolution() -> None:
    x, weight, bias = inputs(2, 4, 70, 5, 15, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = best_match(x, weight, bias, 16)
        assert torch.equal(found, plain(x, weight, bias, 16))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((4, 5), (5, 4, 3), (5,)), r"x must have shape \(batch, c, length\), got \(4, 5\)"),
        (((1, 4, 9), (5, 3, 3), (5,)), r"weight must have shape .*\(d, 4, k\).*got \(5, 3, 3\)"),
        (((1, 4, 9), (5, 4, 4), (5,)), r"with k odd .*got \(5, 4, 4\)"),
        (((1, 4, 9), (5, 4, 3), (4,)), r"bias must have shape \(5,\), got \(4,\)"),
    ],
)
def test_shapes_that_do_not_fit(shapes: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        best_match(*(torch.zeros(shape) for shape in shapes), 4)
