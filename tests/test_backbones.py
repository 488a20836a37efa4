"""The contract of the bodies: shapes, gradients, independence of rows, shift-equivariance."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from devices import needs_cuda
from torch import Tensor, nn

from regmask_sk.backbones import BACKBONES, ConvBackbone, make_backbone
from regmask_sk.regressor import RegMaskRegressor

CHANNELS = 6  # A, C, G, T, a track, the mask
# Bodies in which a token sees the whole window, hence its edges
SEE_ALL = {"hyena", "hyena-causal", "transformer"}


def body(
    name: str, resolution: int, *, n_layers: int = 1, checkpointing: bool = False
) -> nn.Module:
    torch.manual_seed(0)
    made = make_backbone(
        name, CHANNELS, d_model=8, n_layers=n_layers, dropout=0.1, resolution=resolution,
        checkpointing=checkpointing,
    )  # fmt: skip
    # Blocks start as the identity: give each of them something to do. State spaces start with
    # memories of up to a thousand tokens: shorten them to a few.
    for key, parameter in made.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)
        elif key.endswith("dt_proj.bias"):
            nn.init.ones_(parameter)
    return made


def window(batch: int, length: int, seed: int = 0) -> Tensor:
    """One-hot bases, a track and an open mask."""
    rng = np.random.default_rng(seed)
    x = np.zeros((batch, CHANNELS, length), np.float32)
    codes = rng.integers(0, 4, (batch, length))
    np.put_along_axis(x, codes[:, None], 1.0, axis=1)
    x[:, 4] = rng.normal(size=(batch, length))
    x[:, 5] = 1.0
    return torch.from_numpy(x)


def loss(tokens: Tensor) -> Tensor:
    """Weighted sum: a sum of squares says nothing of what a layer norm gives out."""
    weights = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(0))
    return (tokens * weights).sum()


@pytest.mark.parametrize("resolution", [1, 3, 16])
@pytest.mark.parametrize("length", [1, 15, 16, 17, 100])
@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_tokens_cover_windows_of_any_length(name: str, length: int, resolution: int) -> None:
    made = body(name, resolution)
    for training in (True, False):
        tokens = made.train(training)(window(2, length))
        assert tokens.shape == (2, made.out_channels, -(-length // resolution))
        assert torch.isfinite(tokens).all()
    assert made.resolution == resolution


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_a_batch_of_one_window_of_one_token_can_be_trained_on(name: str) -> None:
    tokens = body(name, 16).train()(window(1, 9))
    tokens.sum().backward()
    assert tokens.shape[2] == 1


@pytest.mark.parametrize("n_layers", [0, 3])
@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_any_number_of_layers(name: str, n_layers: int) -> None:
    assert body(name, 4, n_layers=n_layers)(window(2, 40)).shape == (2, 8, 10)


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_a_narrow_body_works(name: str) -> None:
    made = make_backbone(name, CHANNELS, d_model=1, n_layers=1, dropout=0.0, resolution=4)
    assert made(window(2, 40)).shape == (2, 1, 10)


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_the_gradient_reaches_every_token_and_channel_of_the_input(name: str) -> None:
    made = body(name, 4).eval()
    x = window(3, 64).requires_grad_()
    loss(made(x)).backward()
    assert x.grad is not None
    by_token = x.grad.abs().unflatten(2, (16, 4)).sum(dim=(0, 1, 3))
    assert (by_token > 0).all()
    assert (x.grad.abs().sum(dim=(0, 2)) > 0).all()


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_the_gradient_reaches_every_parameter(name: str) -> None:
    made = body(name, 4).eval()
    loss(made(window(3, 600))).backward()  # several tokens, however coarse
    without = [
        key for key, p in made.named_parameters() if p.grad is None or not p.grad.abs().sum()
    ]
    # The bias that all three phases share falls out of the softmax over them.
    assert set(without) <= {"phase.bias"}


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_in_evaluation_rows_know_nothing_of_each_other(name: str) -> None:
    made = body(name, 4)
    made.train()(window(8, 64, seed=1))  # so that the running statistics are not the initial ones
    made.eval()
    x = window(4, 64)
    together = made(x)
    apart = torch.cat([made(row[None]) for row in x])
    torch.testing.assert_close(together, apart)
    changed = x.clone()
    changed[1:] = 0.0
    torch.testing.assert_close(made(changed)[0], together[0])


@pytest.mark.parametrize("resolution", [4, 6])
@pytest.mark.parametrize("name", sorted(set(BACKBONES) - SEE_ALL))
def test_moving_the_window_by_whole_tokens_moves_the_tokens(name: str, resolution: int) -> None:
    made = body(name, resolution).eval()
    n_tokens, moved = 140, 3  # tokens; 3 of them are a multiple of three bases
    long = window(1, (n_tokens + moved) * resolution)
    first = made(long[:, :, : n_tokens * resolution])
    second = made(long[:, :, moved * resolution :])
    edge = 50  # tokens: more than half of the field of view
    torch.testing.assert_close(
        first[:, :, moved + edge : n_tokens - edge],
        second[:, :, edge : n_tokens - moved - edge],
        rtol=1e-4,
        atol=1e-5,
    )
    assert (first[:, :, edge] - first[:, :, edge + 1]).abs().max() > 1e-3


@needs_cuda
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_on_cuda_output_and_gradients_are_those_on_the_cpu(name: str, checkpointing: bool) -> None:
    if checkpointing and name in ("conv", "codon"):
        pytest.skip("has no layers to compute again")
    results = []
    for device, dtype in (("cpu", torch.float64), ("cuda", torch.float32)):
        made = body(name, 3, n_layers=2, checkpointing=checkpointing).eval().to(device, dtype)
        x = window(2, 500).to(device, dtype).requires_grad_()
        tokens = made(x)
        weights = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(0))
        needed = [x, *(p for p in made.parameters() if p.requires_grad)]
        total = (tokens * weights.to(device, dtype)).sum()
        results.append([tokens, *torch.autograd.grad(total, needed, allow_unused=True)])
    for expected, found in zip(*results, strict=True):
        if expected is not None:
            difference = (found.detach().cpu().double() - expected.detach()).norm()
            # The bias before a normalisation has a gradient of 0, but for rounding.
            assert difference <= 1e-4 * expected.norm() + 1e-5


def test_the_codon_body_reads_the_same_in_every_frame() -> None:
    made = body("codon", 3).eval()
    x = window(1, 600)
    first, second = made(x[:, :, 1:598]), made(x[:, :, 4:])
    # The second window lies one token, three bases, further on.
    torch.testing.assert_close(first[:, :, 81:120], second[:, :, 80:119], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_a_fresh_body_learns_a_few_windows_by_heart(name: str) -> None:
    torch.manual_seed(0)
    made = make_backbone(name, CHANNELS, d_model=16, n_layers=1, dropout=0.0, resolution=4)
    readout = nn.Linear(16, 1)
    optimiser = torch.optim.Adam([*made.parameters(), *readout.parameters()], 1e-2)
    x, y = window(8, 40), torch.randn(8)
    losses = []
    for _ in range(30):
        predicted = readout(made(x).mean(dim=2))[:, 0]
        error = (predicted - y).square().mean()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        losses.append(error.item())
    assert min(losses[-5:]) < 0.3 * losses[0]


# -- making one ------------------------------------------------------------------------


def make(backbone: Any, **changed: Any) -> nn.Module:
    settings = {"d_model": 8, "n_layers": 1, "dropout": 0.0, "resolution": 4, **changed}
    return make_backbone(backbone, CHANNELS, **settings)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"backbone='transfomer' is not known.*'conv'"):
        make("transfomer")


@pytest.mark.parametrize("wrong", [ConvBackbone(CHANNELS), int, None, 3])
def test_what_is_no_module_class_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"subclass of torch.nn.Module"):
        make(wrong)


class Pooled(nn.Module):
    """The smallest body: channels averaged over tokens and mixed."""

    def __init__(
        self, in_channels: int, *, d_model: int, n_layers: int, dropout: float, resolution: int
    ) -> None:
        super().__init__()
        self.out_channels, self.resolution = d_model, resolution
        self.mix = nn.Conv1d(in_channels, d_model, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.mix(nn.functional.avg_pool1d(x, self.resolution, ceil_mode=True)))


class Nameless(nn.Module):
    def __init__(self, in_channels: int, **settings: Any) -> None:
        super().__init__()
        self.resolution = settings["resolution"]


def test_a_class_without_the_interface_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Nameless has no attribute 'out_channels'"):
        make(Nameless)


def test_only_a_class_that_asks_is_told_the_length_of_the_windows() -> None:
    assert make("hyena", max_length=640).max_length == 640
    assert make("hyena").max_length == 200_000
    assert isinstance(make(Pooled, max_length=640), Pooled)


def test_the_estimator_tells_the_body_the_length_of_its_windows() -> None:
    X = np.random.default_rng(0).normal(size=(10, 2, 48)).astype(np.float32)
    model = RegMaskRegressor(
        backbone="hyena", d_model=4, n_layers=1, max_epochs=1, generator_epochs=1, finetune_epochs=0
    )
    model.fit(X, X[:, 0].mean(axis=1))
    assert model.net_.module_.predictor.backbone.max_length == 48
    assert model.net_.module_.generator.backbone.max_length == 48


def test_a_class_is_built_with_the_settings() -> None:
    made = make(Pooled, d_model=5, resolution=7)
    assert isinstance(made, Pooled)
    assert (made.out_channels, made.resolution) == (5, 7)


@pytest.mark.parametrize("training", ["decoupled", "joint"])
def test_a_body_of_ones_own_works_through_the_estimator(training: Any) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(24, 2, 40)).astype(np.float32)
    model = RegMaskRegressor(
        backbone=Pooled,
        training=training,
        d_model=8,
        resolution=4,
        sparsity=0.3,
        max_epochs=2,
        random_state=0,
        device="cpu",
    )
    model.fit(X, X[:, 0].mean(axis=1))
    assert isinstance(model.net_.module_.predictor.backbone, Pooled)
    assert model.predict(X).shape == (24,)
    assert model.transform(X).shape == (24, 40)


def test_a_body_that_reads_codons_needs_bases_by_name() -> None:
    X = np.zeros((10, 4, 30), np.float32)
    with pytest.raises(ValueError, match=r"backbone='codon' needs the channels A, C, G and T"):
        RegMaskRegressor(backbone="codon", max_epochs=1).fit(X, np.arange(10.0))
