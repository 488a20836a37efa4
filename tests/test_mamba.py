"""The Mamba body: causality, initial values, checkpoints, and the published implementation."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regmask_sk.backbones import MambaBackbone, make_backbone
from regmask_sk.backbones.mamba import MambaMixer

SETTINGS: dict[str, Any] = {"d_model": 20, "n_layers": 2, "dropout": 0.0, "resolution": 1}


def bases(batch: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 4, (batch, length), generator=generator)
    return F.one_hot(codes, 4).float().transpose(1, 2)


def lively(module: nn.Module) -> nn.Module:
    """Steps long enough to forget, so that the state space does something in a short window."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("dt_proj.bias"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module


def test_a_token_sees_nothing_after_itself() -> None:
    torch.manual_seed(0)
    body = lively(MambaBackbone(4, **SETTINGS))
    x = bases(1, 60).requires_grad_()
    body(x)[:, :, 30].sum().backward()
    assert x.grad is not None
    reached = x.grad.abs().sum(dim=(0, 1)) > 0
    assert reached[:31].all()
    assert not reached[31:].any()


def test_initial_values() -> None:
    torch.manual_seed(0)
    body = MambaBackbone(4, d_model=64, n_layers=3)
    for layer in body.layers:
        space = layer.mixer.state_space
        torch.testing.assert_close(space.A_log.exp(), torch.arange(1.0, 17.0).repeat(128, 1))
        assert (space.D == 1.0).all()
        step = F.softplus(space.dt_proj.bias)
        assert step.min() >= 1e-3 * (1 - 1e-4)
        assert step.max() <= 0.1 * (1 + 1e-4)
        assert step.log().std() > 1.0  # log-uniform: about 1.33
        assert space.dt_proj.weight.shape == (128, 4)
        assert space.dt_proj.weight.abs().max() <= 4**-0.5
        assert layer.mixer.out_proj.weight.abs().max() <= (1 / math.sqrt(128)) / math.sqrt(3)


@pytest.mark.parametrize("name", ["mamba", "caduceus"])
def test_checkpoints_change_memory_and_no_number(name: str) -> None:
    settings = {**SETTINGS, "dropout": 0.3}
    torch.manual_seed(0)
    plain = make_backbone(name, 4, **settings)
    kept = make_backbone(name, 4, **settings, checkpointing=True)
    kept.load_state_dict(plain.state_dict())
    x = bases(2, 50)
    found = []
    for body in (plain, kept):
        saved: list[int] = []
        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, saved=saved: saved.append(t.numel()) or t, lambda t: t
        ):
            out = body(x)
        out.square().sum().backward()
        found.append((out, [p.grad for p in body.parameters()], sum(saved)))
    torch.testing.assert_close(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1])
    assert found[1][2] < 0.5 * found[0][2]


def test_autocast_runs_and_keeps_the_scan_in_float32() -> None:
    torch.manual_seed(0)
    body = lively(MambaBackbone(4, **SETTINGS))
    x = bases(2, 200)
    with torch.autocast("cpu", torch.bfloat16):
        out = body(x)
    out.float().square().sum().backward()
    exact = body(x)
    assert (out.float() - exact).norm() < 0.03 * exact.norm()
    assert all(torch.isfinite(p.grad).all() for p in body.parameters() if p.grad is not None)


def test_bodies_that_cannot_checkpoint_say_so() -> None:
    with pytest.raises(TypeError, match=r"ConvBackbone has no argument 'checkpointing'.*mamba"):
        make_backbone("conv", 4, **SETTINGS, checkpointing=True)


# -- the published implementation ------------------------------------------------------


def published(hidden: int, n_layers: int) -> nn.Module:
    """Mamba of transformers, in plain torch, with random weights."""
    transformers = pytest.importorskip("transformers")
    config = transformers.MambaConfig(
        vocab_size=8, hidden_size=hidden, num_hidden_layers=n_layers, use_mambapy=False
    )
    return transformers.MambaModel(config).eval()


def copy_mixer(source: nn.Module, target: MambaMixer) -> None:
    names = {
        "in_proj.weight": "in_proj.weight",
        "conv1d.weight": "state_space.conv.weight",
        "conv1d.bias": "state_space.conv.bias",
        "x_proj.weight": "state_space.x_proj.weight",
        "dt_proj.weight": "state_space.dt_proj.weight",
        "dt_proj.bias": "state_space.dt_proj.bias",
        "A_log": "state_space.A_log",
        "D": "state_space.D",
        "out_proj.weight": "out_proj.weight",
    }
    state = source.state_dict()
    assert set(state) == set(names)
    target.load_state_dict({ours: state[theirs] for theirs, ours in names.items()})


def test_the_layers_are_those_of_transformers() -> None:
    torch.manual_seed(0)
    theirs = lively(published(32, 2))
    ours = MambaBackbone(4, d_model=32, n_layers=2, dropout=0.0, resolution=1)
    for layer, source in zip(ours.layers, theirs.layers, strict=True):
        copy_mixer(source.mixer, layer.mixer)
        layer.norm.load_state_dict(source.norm.state_dict())
    ours.norm.load_state_dict(theirs.norm_f.state_dict())
    x = bases(2, 70)
    with torch.no_grad():
        tokens = ours.embedding(x).transpose(1, 2)
        expected = theirs(inputs_embeds=tokens, use_cache=False).last_hidden_state
        found = ours(x).transpose(1, 2)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
