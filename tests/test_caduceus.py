"""The Caduceus body against a transcription of its equations, and what it shares."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from regmask_sk.backbones import CaduceusBackbone
from regmask_sk.backbones.caduceus import BiMambaMixer
from regmask_sk.backbones.mamba import SelectiveStateSpace


def mamba(h: Tensor, mixer: BiMambaMixer, space: SelectiveStateSpace) -> Tensor:
    """One Mamba mixer, algorithm 2 of Gu and Dao (2023), a step at a time."""
    length, (d, n) = h.shape[1], space.A_log.shape
    x, z = (h @ mixer.in_proj.weight.T).chunk(2, dim=-1)
    x = F.conv1d(x.mT, space.conv.weight, space.conv.bias, padding=3, groups=d)[..., :length].mT
    x = F.silu(x)
    dt, b, c = (x @ space.x_proj.weight.T).split([space.dt_proj.in_features, n, n], dim=-1)
    delta = F.softplus(dt @ space.dt_proj.weight.T + space.dt_proj.bias)
    state = torch.zeros(len(h), d, n, dtype=h.dtype)
    ys = []
    for t in range(length):
        decay = torch.exp(delta[:, t, :, None] * -torch.exp(space.A_log))
        state = decay * state + (delta * x)[:, t, :, None] * b[:, t, None]
        ys.append((state * c[:, t, None]).sum(-1) + space.D * x[:, t])
    return (torch.stack(ys, dim=1) * F.silu(z)) @ mixer.out_proj.weight.T


def lively_mixer() -> BiMambaMixer:
    torch.manual_seed(0)
    mixer = BiMambaMixer(20)
    for space in (mixer.ahead, mixer.back):
        torch.nn.init.normal_(space.dt_proj.bias)
    return mixer


def test_a_mixer_is_both_directions_between_shared_projections() -> None:
    mixer = lively_mixer()
    h = torch.randn(2, 50, 20, requires_grad=True)
    expected = mamba(h, mixer, mixer.ahead) + mamba(h.flip(1), mixer, mixer.back).flip(1)
    found = mixer(h)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    wanted = (h, *mixer.parameters())
    weight = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad((found * weight).sum(), wanted),
        torch.autograd.grad((expected * weight).sum(), wanted),
        rtol=1e-4,
        atol=1e-4,
    )


def test_what_is_shared_and_what_is_not() -> None:
    names = {name for name, _ in BiMambaMixer(20).named_parameters()}
    own = ("conv.weight", "conv.bias", "x_proj.weight", "dt_proj.weight", "dt_proj.bias")
    spaces = {f"{way}.{name}" for way in ("ahead", "back") for name in (*own, "A_log", "D")}
    assert names == {"in_proj.weight", "out_proj.weight"} | spaces
    mixer = lively_mixer()
    assert not torch.equal(mixer.ahead.conv.weight, mixer.back.conv.weight)


def test_every_token_sees_the_whole_window() -> None:
    torch.manual_seed(0)
    body = CaduceusBackbone(4, d_model=20, n_layers=1, dropout=0.0, resolution=1)
    x = torch.randn(1, 4, 60, requires_grad=True)
    body(x)[:, :, 30].sum().backward()
    assert x.grad is not None
    assert (x.grad.abs().sum(dim=(0, 1)) > 0).all()


def test_with_equal_directions_reading_backwards_reads_the_same() -> None:
    mixer = lively_mixer()
    mixer.back.load_state_dict(mixer.ahead.state_dict())
    h = torch.randn(1, 40, 20)
    torch.testing.assert_close(mixer(h.flip(1)).flip(1), mixer(h))


def test_tokens_that_are_embedded_already_go_straight_to_the_layers() -> None:
    torch.manual_seed(0)
    whole = CaduceusBackbone(4, d_model=6, n_layers=2, dropout=0.0, resolution=4)
    layers = CaduceusBackbone(6, d_model=6, n_layers=2, dropout=0.0, embedded=True)
    state = whole.state_dict()
    layers.load_state_dict(
        {key: value for key, value in state.items() if not key.startswith("embedding")}
    )
    x = torch.randn(2, 4, 40)
    assert torch.equal(layers(whole.embedding(x)), whole(x))
