"""The selective state space as one operator: its parts, its blocks, its gradients."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from regmask_sk.ops import state_space as module
from regmask_sk.ops.state_space import state_space

CHUNK = 32  # steps between two states that the scan keeps


def inputs(
    batch: int,
    length: int,
    d: int = 6,
    n: int = 3,
    rank: int = 2,
    taps: int = 4,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    drawn = {
        "x": draw(batch, length, d),
        "z": draw(batch, length, d),
        "conv_weight": draw(d, taps) / 2,
        "conv_bias": draw(d),
        "x_proj": draw(rank + 2 * n, d),
        "dt_weight": draw(d, rank),
        "dt_bias": draw(d) - 1.0,
        "A": -draw(d, n).exp(),
        "D": draw(d),
    }
    return {name: tensor.to(dtype).requires_grad_() for name, tensor in drawn.items()}


def by_the_equations(given: dict[str, Tensor], reverse: bool) -> Tensor:
    """Algorithm 2, step by step, with convolutions of torch and a loop over time."""
    x, z = given["x"], given["z"]
    if reverse:
        x, z = x.flip(1), z.flip(1)
    d, taps = given["conv_weight"].shape
    rank, n = given["dt_weight"].shape[1], given["A"].shape[1]
    padded = F.pad(x.transpose(1, 2), (taps - 1, 0))
    s = F.conv1d(padded, given["conv_weight"][:, None], given["conv_bias"], groups=d)
    s = F.silu(s).transpose(1, 2)
    dt, b, c = (s @ given["x_proj"].T).split([rank, n, n], dim=-1)
    delta = F.softplus(dt @ given["dt_weight"].T + given["dt_bias"])
    h = torch.zeros(x.shape[0], d, n, dtype=x.dtype)
    y = []
    for t in range(x.shape[1]):
        decay = torch.exp(delta[:, t, :, None] * given["A"])
        h = decay * h + (delta[:, t] * s[:, t])[..., None] * b[:, t, None]
        y.append((h * c[:, t, None]).sum(dim=-1) + given["D"] * s[:, t])
    out = torch.stack(y, dim=1) * F.silu(z)
    return out.flip(1) if reverse else out


def with_gradients(out: Tensor, given: dict[str, Tensor]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype)
    needed = [t for t in given.values() if t.requires_grad]
    return [out, *torch.autograd.grad((out * weight).sum(), needed)]


def distance(a: Tensor, b: Tensor) -> float:
    """Relative L2."""
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / b.norm().clamp_min(1e-30))


@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_in_double_precision(reverse: bool) -> None:
    given = inputs(2, 9, dtype=torch.float64)
    torch.testing.assert_close(
        state_space(**given, reverse=reverse), by_the_equations(given, reverse)
    )
    assert torch.autograd.gradcheck(
        lambda *tensors: state_space(*tensors, reverse=reverse), tuple(given.values())
    )


@pytest.mark.parametrize(
    ("length", "block", "reverse"),
    list(itertools.product([1, 2, 31, 32, 33, 64, 65, 67, 130], [1, 2, 2048], [False, True])),
)
def test_blocks_change_no_number(
    length: int, block: int, reverse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    given = inputs(2, length)
    exact = inputs(2, length, dtype=torch.float64)
    found = with_gradients(state_space(**given, reverse=reverse), given)
    expected = with_gradients(by_the_equations(exact, reverse), exact)
    for name, ours, theirs in zip(["output", *given], found, expected, strict=True):
        assert distance(ours, theirs) < 2e-5, name


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("taps", [1, 2, 7])
@pytest.mark.parametrize("d", [1, 64, 70])
def test_any_number_of_taps_and_channels(
    taps: int, d: int, reverse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK", 1)
    given = inputs(1, 70, d=d, n=5, taps=taps)
    exact = inputs(1, 70, d=d, n=5, taps=taps, dtype=torch.float64)
    found = with_gradients(state_space(**given, reverse=reverse), given)
    expected = with_gradients(by_the_equations(exact, reverse), exact)
    for name, ours, theirs in zip(["output", *given], found, expected, strict=True):
        assert distance(ours, theirs) < 2e-5, name


def test_rows_do_not_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", 1)
    given = {name: tensor.detach() for name, tensor in inputs(3, 80).items()}
    together = state_space(**given)
    alone = state_space(**{**given, "x": given["x"][1:2], "z": given["z"][1:2]})
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-4)


def test_half_precision_keeps_its_dtype_and_a_state_in_single() -> None:
    given = inputs(1, 200)
    half = {
        name: tensor.detach().bfloat16().requires_grad_() if name in ("x", "z") else tensor
        for name, tensor in given.items()
    }
    found = with_gradients(state_space(**half), half)
    assert found[0].dtype == torch.bfloat16
    assert [g.dtype for g in found[1:]] == [t.dtype for t in half.values()]
    # The same operator on inputs rounded beforehand: nothing inside is rounded to bfloat16.
    rounded = {name: tensor.detach().float().requires_grad_() for name, tensor in half.items()}
    torch.testing.assert_close(found[0].float(), state_space(**rounded), rtol=8e-3, atol=1e-6)


def test_gradients_of_some_inputs_only() -> None:
    given = inputs(1, 40)
    frozen = {
        name: tensor if name == "dt_weight" else tensor.detach() for name, tensor in given.items()
    }
    state_space(**frozen).sum().backward()
    assert frozen["dt_weight"].grad is not None
    assert frozen["x"].grad is None


def test_autograd_keeps_no_tensor_between_input_and_output() -> None:
    """The input, the gate and states, but neither the convolved input nor the step sizes."""
    given = inputs(1, 320, d=64, n=16)
    saved: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t.numel()) or t, lambda t: t
    ):
        out = state_space(**given)
    states = 320 // CHUNK * 16 * 64
    parameters = sum(t.numel() for name, t in given.items() if name not in ("x", "z"))
    assert sum(saved) <= 2 * out.numel() + states + parameters


def test_tensors_need_not_be_contiguous() -> None:
    given = {name: tensor.detach() for name, tensor in inputs(2, 40).items()}
    strided = {
        name: t.transpose(1, 2).contiguous().transpose(1, 2) if t.ndim == 3 else t
        for name, t in given.items()
    }
    assert not strided["x"].is_contiguous()
    torch.testing.assert_close(state_space(**strided), state_space(**given))


@pytest.mark.parametrize("reverse", [False, True])
def test_it_is_a_whole_operator_of_torch(reverse: bool) -> None:
    given = inputs(2, 40)
    torch.library.opcheck(module._run, (*given.values(), reverse, True))


def test_the_backend_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    given = inputs(1, 40)
    fast = with_gradients(state_space(**given), given)
    monkeypatch.setenv("REGMASK_SCAN_BACKEND", "torch")
    plain = with_gradients(state_space(**given), given)
    for ours, theirs in zip(fast, plain, strict=True):
        assert distance(ours, theirs) < 2e-5


def test_a_projection_of_another_size_is_named() -> None:
    given: dict[str, Any] = inputs(1, 4)
    given["x_proj"] = torch.zeros(3, 6)
    with pytest.raises(ValueError, match=r"x_proj must have r \+ 2 n = 2 \+ 2 \* 3 rows .* got 3"):
        state_space(**given)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *(("z", (1, 3, 6)), ("conv_weight", (5, 4)), ("conv_bias", (5,)), ("x_proj", (8, 5))),
        *(("dt_weight", (5, 2)), ("dt_bias", (1,)), ("A", (5, 3)), ("D", (7,)), ("x", (4, 6))),
    ],
)
def test_a_tensor_of_another_shape_is_named(name: str, shape: tuple[int, ...]) -> None:
    given: dict[str, Any] = inputs(1, 4)
    given[name] = torch.zeros(shape)
    with pytest.raises(ValueError, match=rf"{name} must have .* got (shape )?\({shape[0]}"):
        state_space(**given)


def test_a_tensor_on_another_device_is_named() -> None:
    given: dict[str, Any] = inputs(1, 4)
    given["D"] = torch.zeros(6, device="meta")
    with pytest.raises(ValueError, match="D is on meta, but x is on cpu"):
        state_space(**given)
