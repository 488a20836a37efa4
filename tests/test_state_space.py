"""The selective state space as one operator: its parts, its blocks, its gradients."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from devices import needs_cuda
from torch import Tensor

from regmask_sk.backbones import CaduceusBackbone
from regmask_sk.ops import _state_space_numba as kernels
from regmask_sk.ops import state_space as module
from regmask_sk.ops.state_space import state_space

CHUNK = 32  # steps between two states that the scan keeps
DIRECTIONS = [(False,), (True,), (False, True), (True, True)]


def inputs(
    batch: int,
    length: int,
    d: int = 6,
    n: int = 3,
    rank: int = 2,
    taps: int = 4,
    directions: int = 1,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    m = directions
    drawn = {
        "xz": draw(batch, length, 2 * d),
        "conv_weight": draw(m, d, taps) / 2,
        "conv_bias": draw(m, d),
        "x_proj": draw(m, rank + 2 * n, d) / d**0.5,
        "dt_weight": draw(m, d, rank),
        "dt_bias": draw(m, d) - 1.0,
        "A": -draw(m, d, n).exp(),
        "D": draw(m, d),
        "out_weight": draw(5, d),
    }
    return {name: tensor.to(dtype).requires_grad_() for name, tensor in drawn.items()}


def by_the_equations(given: dict[str, Tensor], reverse: tuple[bool, ...]) -> Tensor:
    """Algorithm 2 in each direction, step by step, with convolutions of torch and a loop."""
    d = given["xz"].shape[2] // 2
    taps, rank, n = given["conv_weight"].shape[2], given["dt_weight"].shape[2], given["A"].shape[2]
    total = torch.zeros(())
    for i, back in enumerate(reverse):
        xz = given["xz"].flip(1) if back else given["xz"]
        x, z = xz.split(d, dim=2)
        padded = F.pad(x.transpose(1, 2), (taps - 1, 0))
        s = F.conv1d(padded, given["conv_weight"][i][:, None], given["conv_bias"][i], groups=d)
        s = F.silu(s).transpose(1, 2)
        dt, b, c = (s @ given["x_proj"][i].T).split([rank, n, n], dim=-1)
        delta = F.softplus(dt @ given["dt_weight"][i].T + given["dt_bias"][i])
        h = torch.zeros(x.shape[0], d, n, dtype=x.dtype)
        y = []
        for t in range(x.shape[1]):
            decay = torch.exp(delta[:, t, :, None] * given["A"][i])
            h = decay * h + (delta[:, t] * s[:, t])[..., None] * b[:, t, None]
            y.append((h * c[:, t, None]).sum(dim=-1) + given["D"][i] * s[:, t])
        out = torch.stack(y, dim=1) * F.silu(z)
        total = total + (out.flip(1) if back else out)
    return total @ given["out_weight"].T


def with_gradients(out: Tensor, given: dict[str, Tensor]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype)
    needed = [t for t in given.values() if t.requires_grad]
    return [out, *torch.autograd.grad((out * weight).sum(), needed)]


def distance(a: Tensor, b: Tensor) -> float:
    """Relative L2."""
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / b.norm().clamp_min(1e-30))


def check(given: dict[str, Any], reverse: tuple[bool, ...]) -> None:
    exact = {name: tensor.detach().double().requires_grad_() for name, tensor in given.items()}
    found = with_gradients(state_space(**given, reverse=reverse), given)
    expected = with_gradients(by_the_equations(exact, reverse), exact)
    for name, ours, theirs in zip(["output", *given], found, expected, strict=True):
        assert distance(ours, theirs) < 2e-5, name


@pytest.mark.parametrize("reverse", DIRECTIONS)
def test_gradients_in_double_precision(reverse: tuple[bool, ...]) -> None:
    given = inputs(2, 9, directions=len(reverse), dtype=torch.float64)
    torch.testing.assert_close(
        state_space(**given, reverse=reverse), by_the_equations(given, reverse)
    )
    assert torch.autograd.gradcheck(
        lambda *tensors: state_space(*tensors, reverse=reverse), tuple(given.values())
    )


@pytest.mark.parametrize(
    ("length", "block", "reverse"),
    list(itertools.product([1, 2, 31, 32, 33, 64, 65, 67, 130], [1, 128, 4096], DIRECTIONS)),
)
def test_blocks_change_no_number(
    length: int, block: int, reverse: tuple[bool, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "_BLOCK", block)
    check(inputs(2, length, directions=len(reverse)), reverse)


@pytest.mark.parametrize("reverse", [(True,), (False, True)])
@pytest.mark.parametrize("taps", [1, 2, 7])
@pytest.mark.parametrize("d", [2, 32, 128, 130])
def test_any_number_of_taps_and_channels(
    taps: int, d: int, reverse: tuple[bool, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "_BLOCK", 1)
    check(inputs(1, 70, d=d, n=5, taps=taps, directions=len(reverse)), reverse)


@pytest.mark.parametrize("rank", [1, 8, 9])
def test_any_rank_of_the_step_sizes(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_BLOCK", 1)
    check(inputs(1, 70, d=34, rank=rank), (False,))


@pytest.mark.parametrize("n_threads", [1, 3])
def test_tiles_and_threads_change_no_number(
    n_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of several tiles, with so much work that threads share it."""
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    monkeypatch.setattr("regmask_sk.ops._numba_math._MIN_PARALLEL", 0)
    try:
        check(inputs(2, 700, d=10, n=2, directions=2), (False, True))
    finally:
        torch.set_num_threads(before)


def test_rows_do_not_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_BLOCK", 1)
    given = {name: tensor.detach() for name, tensor in inputs(3, 80).items()}
    together = state_space(**given)
    alone = state_space(**{**given, "xz": given["xz"][1:2]})
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-4)


def test_half_precision_keeps_its_dtype_and_a_state_in_single() -> None:
    given = inputs(1, 200)
    half = {
        name: t.detach().bfloat16().requires_grad_() if name in ("xz", "out_weight") else t
        for name, t in given.items()
    }
    found = with_gradients(state_space(**half), half)
    assert found[0].dtype == torch.bfloat16
    assert [g.dtype for g in found[1:]] == [t.dtype for t in half.values()]
    # The same operator on inputs rounded beforehand: nothing inside is rounded to bfloat16 but
    # what goes into the output projection.
    rounded = {name: tensor.detach().float().requires_grad_() for name, tensor in half.items()}
    torch.testing.assert_close(found[0].float(), state_space(**rounded), rtol=3e-2, atol=5e-2)


def test_gradients_of_some_inputs_only() -> None:
    given = inputs(1, 40)
    frozen = {
        name: tensor if name == "dt_weight" else tensor.detach() for name, tensor in given.items()
    }
    state_space(**frozen).sum().backward()
    assert frozen["dt_weight"].grad is not None
    assert frozen["xz"].grad is None


def test_autograd_keeps_no_tensor_between_input_and_output() -> None:
    """Input and gate, and states, but neither the convolved input, the step sizes nor y."""
    given = inputs(1, 320, d=64, n=16)
    saved: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t.numel()) or t, lambda t: t
    ):
        state_space(**given)
    states = 320 // CHUNK * 16 * 64
    assert sum(saved) <= sum(t.numel() for t in given.values()) + states


def test_a_checkpoint_scans_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward is not run again for backward, and gradients are those without checkpoints."""
    scans: list[int] = []
    run = kernels.forward

    def counted(*given: Any, **options: Any) -> tuple[Tensor, Tensor]:
        scans.append(1)
        return run(*given, **options)

    monkeypatch.setattr(kernels, "forward", counted)
    body = CaduceusBackbone(3, d_model=8, n_layers=3, dropout=0.2, resolution=1)
    x = torch.rand(1, 3, 70)
    found = []
    for body.checkpointing in (False, True):
        torch.manual_seed(0)
        body.zero_grad()
        scans.clear()
        body(x).square().sum().backward()
        assert len(scans) == 3
        found.append([p.grad.clone() for p in body.parameters() if p.grad is not None])
    assert len(found[0]) == len(list(body.parameters()))
    for plain, checkpointed in zip(*found, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_tensors_need_not_be_contiguous() -> None:
    given = {name: tensor.detach() for name, tensor in inputs(2, 40, directions=2).items()}
    strided = {
        name: t.transpose(1, 2).contiguous().transpose(1, 2) if t.ndim == 3 else t
        for name, t in given.items()
    }
    assert not strided["xz"].is_contiguous()
    both = (False, True)
    torch.testing.assert_close(
        state_space(**strided, reverse=both), state_space(**given, reverse=both)
    )


@pytest.mark.parametrize("reverse", [(False,), (False, True)])
def test_it_is_a_whole_operator_of_torch(reverse: tuple[bool, ...]) -> None:
    given = inputs(2, 40, directions=len(reverse))
    torch.library.opcheck(module._run, (*given.values(), list(reverse), True))


def test_the_backend_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    given = inputs(1, 40, directions=2)
    fast = with_gradients(state_space(**given, reverse=(False, True)), given)
    monkeypatch.setenv("REGMASK_SCAN_BACKEND", "torch")
    plain = with_gradients(state_space(**given, reverse=(False, True)), given)
    for ours, theirs in zip(fast, plain, strict=True):
        assert distance(ours, theirs) < 2e-5


def test_a_projection_of_another_size_is_named() -> None:
    given: dict[str, Any] = inputs(1, 4)
    given["x_proj"] = torch.zeros(1, 3, 6)
    with pytest.raises(
        ValueError, match=r"x_proj must have r \+ 2 n = 2 \+ 2 \* 3 rows .* \(1, 3, 6"
    ):
        state_space(**given)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        *(("xz", (1, 4, 11)), ("conv_bias", (1, 5)), ("x_proj", (1, 8, 5)), ("dt_bias", (6,))),
        *(("dt_weight", (1, 5, 2)), ("A", (1, 5, 3)), ("D", (2, 6)), ("out_weight", (5, 7))),
        *(("xz", (4, 12)), ("A", (6, 3)), ("conv_weight", (6, 4))),
    ],
)
def test_a_tensor_of_another_shape_is_named(name: str, shape: tuple[int, ...]) -> None:
    given: dict[str, Any] = inputs(1, 4)
    given[name] = torch.zeros(shape)
    got = str(shape).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ValueError, match=rf"{name} must have .* got (shape )?{got}"):
        state_space(**given)


def test_a_tensor_on_another_device_is_named() -> None:
    given: dict[str, Any] = inputs(1, 4)
    given["D"] = torch.zeros(1, 6, device="meta")
    with pytest.raises(ValueError, match="D is on meta, but xz is on cpu"):
        state_space(**given)


def test_a_direction_too_many_is_named() -> None:
    given: dict[str, Any] = inputs(1, 4)
    with pytest.raises(ValueError, match=r"an entry for each of the 1 directions .* got 2"):
        state_space(**given, reverse=(False, True))


def test_a_projection_in_another_dtype_is_named() -> None:
    given: dict[str, Any] = inputs(1, 4)
    given["out_weight"] = given["out_weight"].bfloat16()
    with pytest.raises(ValueError, match=r"dtype of xz, torch\.float32, got torch\.bfloat16"):
        state_space(**given)


# -- on a GPU --------------------------------------------------------------------------


@needs_cuda
@pytest.mark.parametrize("reverse", DIRECTIONS)
def test_on_cuda(reverse: tuple[bool, ...]) -> None:
    drawn = inputs(2, 300, d=20, n=5, directions=len(reverse))
    exact = {name: t.detach().double().requires_grad_() for name, t in drawn.items()}
    given = {name: t.detach().cuda().requires_grad_() for name, t in drawn.items()}
    weight = torch.randn(2, 300, 5, generator=torch.Generator().manual_seed(1))
    out = state_space(**given, reverse=reverse)
    found = [out, *torch.autograd.grad((out * weight.cuda()).sum(), list(given.values()))]
    true = by_the_equations(exact, reverse)
    expected = [true, *torch.autograd.grad((true * weight).sum(), list(exact.values()))]
    for name, ours, theirs in zip(["output", *given], found, expected, strict=True):
        assert distance(ours.cpu(), theirs) < 2e-5, name
