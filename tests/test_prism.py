"""Prism: background states, the loss of three terms, and which channels are signals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from regmask_sk.baselines.prism import (
    BackgroundStates,
    PrismModel,
    PrismRegressor,
    SignalBody,
    uniform_penalty,
)
from regmask_sk.features import SequenceChannels, SignalChannels, TSSWindows
from regmask_sk.windows import Windows

TINY: dict[str, Any] = {
    "d_model": 8, "n_layers": 1, "resolution": 1, "max_epochs": 1, "random_state": 0,
    "device": "cpu", "dropout": 0.0,
}  # fmt: skip
#: One step over all rows, too small to change a weight.
STILL: dict[str, Any] = {
    "learning_rate": 1e-30, "weight_decay": 0.0, "validation_fraction": 0.0, "batch_size": 40,
}  # fmt: skip


@pytest.fixture
def windows(toy_genome: Any) -> Windows:
    made = TSSWindows(64).fit_transform(toy_genome.loci)
    made = SignalChannels(toy_genome.tracks).fit_transform(made)
    return SequenceChannels(toy_genome.fasta).fit_transform(made)


@pytest.fixture
def y(toy_genome: Any) -> Any:
    return toy_genome.loci["expression"].to_numpy()


def dense(windows: Windows) -> Tensor:
    return torch.from_numpy(windows.to_numpy(max_bytes=10**7))


# -- the equations ---------------------------------------------------------------------


@pytest.mark.parametrize("n_states", [1, 2, 4])
def test_the_uniform_term_against_its_equation(n_states: int) -> None:
    weights = torch.rand(5, n_states, 7, dtype=torch.float64)
    t, terms = 2.0, []
    for window in weights:
        total = 0.0
        for a in window:
            for b in window:
                cosine = float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))
                total += math.exp(2 * t * cosine - 2 * t)
        terms.append(math.log(total))
    assert uniform_penalty(weights).item() == pytest.approx(sum(terms) / 5, rel=1e-12)


def test_the_uniform_term_moves_states_apart() -> None:
    weights = torch.rand(1, 2, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (gradient,) = torch.autograd.grad(uniform_penalty(weights), weights)
    before, after = weights.detach()[0], (weights - 0.1 * gradient).detach()[0]
    assert F.cosine_similarity(*after, dim=0) < F.cosine_similarity(*before, dim=0)


def states_by_hand(states: BackgroundStates, signals: Tensor, n_states: int) -> Tensor:
    """Weights of the states in training, ``(batch, n_states, d)``."""
    h = signals
    for block in states.blocks:
        taps = block[0].weight
        h = F.conv1d(h, taps, block[0].bias, padding=taps.shape[2] // 2)
        mean, var = h.mean((0, 2), keepdim=True), h.var((0, 2), unbiased=False, keepdim=True)
        h = torch.relu((h - mean) / (var + 1e-5).sqrt())
        h = h[..., : h.shape[2] // 4 * 4].unflatten(2, (-1, 4)).amax(dim=3)
    raw = h.mean(dim=2) @ states.project.weight.T + states.project.bias
    return torch.sigmoid(raw).reshape(len(signals), n_states, -1)


def test_the_network_of_the_states_against_its_layers() -> None:
    torch.manual_seed(0)
    made, signals = BackgroundStates(3, 6, 2), torch.randn(4, 3, 2_000)
    assert [block[0].out_channels for block in made.blocks] == [8, 16, 32]
    assert [block[0].kernel_size for block in made.blocks] == [(7,), (5,), (3,)]
    torch.testing.assert_close(made(signals), states_by_hand(made, signals, 2))


@pytest.mark.parametrize("length", [1, 3, 5, 17, 63])
def test_states_of_short_windows(length: int) -> None:
    made = BackgroundStates(1, 6, 2)
    for training in (True, False):
        weights = made.train(training)(torch.randn(1, 1, length))
        assert weights.shape == (1, 2, 6)
        assert ((weights > 0) & (weights < 1)).all()


@pytest.mark.parametrize("loss", ["squared_error", "huber"])
def test_the_loss_against_its_equations(windows: Windows, y: np.ndarray, loss: Any) -> None:
    n, intervention, uniform = 2, 0.7, 0.3
    model = PrismRegressor(
        **TINY, **STILL, loss=loss, n_states=n, intervention_weight=intervention,
        uniform_weight=uniform, center_length=20, covariates=["gc"],
    ).fit(windows, y)  # fmt: skip
    module = model.net_.module_.train()
    names = list(windows.channel_names)
    x = dense(windows)
    sequence = x[:, [names.index(base) for base in "ACGT"]]
    signals = x[:, [i for i, name in enumerate(names) if name not in "ACGT"]]
    covariates = torch.tensor(windows.loci[["gc"]].to_numpy(np.float32))
    covariates = (covariates - model.covariate_mean_[0]) / model.covariate_scale_[0]
    body: SignalBody = module.backbone

    def embedded(part: Any, channels: Tensor) -> Tensor:
        embedding = part.means.weight[..., 0]
        return torch.einsum("dc,bcl->bdl", embedding, channels) + part.means.bias[:, None]

    def f(h: Tensor) -> Tensor:
        mean = body.body(h)[..., 22:42].mean(dim=2)
        return module.readout.network(torch.cat([mean, covariates.float()], dim=1))[:, 0]

    with torch.no_grad():
        s = embedded(body.sequence_embedding, sequence)
        e = embedded(body.signal_embedding, signals)
        a = states_by_hand(module.states, signals, n)
        direct = f(s + e)
        intervened = sum(f(s + a[:, k, :, None] * e) for k in range(n)) / n
        target = torch.from_numpy((y - y.mean()) / y.std()).float()
        compare = F.mse_loss if loss == "squared_error" else F.smooth_l1_loss
        expected = compare(direct, target) + intervention * compare(intervened, target)
        expected = expected + uniform * uniform_penalty(a)
    assert model.history_["train_loss"][0] == pytest.approx(expected.item(), rel=1e-4)
    predicted = model.predict(windows)
    found = (predicted - model.target_mean_) / model.target_scale_
    np.testing.assert_allclose(found, direct.numpy(), rtol=1e-4, atol=1e-5)


def test_without_its_two_terms_the_training_is_that_without_states(
    windows: Windows, y: np.ndarray
) -> None:
    settings = {**TINY, "max_epochs": 3, "learning_rate": 0.01}
    without = PrismRegressor(**settings, n_states=0).fit(windows, y)
    assert without.net_.module_.states is None
    free = PrismRegressor(**settings, intervention_weight=0.0, uniform_weight=0.0)
    np.testing.assert_allclose(
        free.fit(windows, y).predict(windows), without.predict(windows), rtol=1e-3, atol=1e-5
    )
    full = PrismRegressor(**settings).fit(windows, y)
    assert not np.allclose(full.predict(windows), without.predict(windows), rtol=1e-3)


def test_the_states_have_no_part_in_predictions(windows: Windows, y: np.ndarray) -> None:
    model = PrismRegressor(**TINY).fit(windows, y)
    predicted = model.predict(windows)
    with torch.no_grad():
        for weight in model.net_.ready_module.states.parameters():
            weight.fill_(float("nan"))
    np.testing.assert_array_equal(model.predict(windows), predicted)


def test_a_reading_for_each_weighting() -> None:
    torch.manual_seed(0)
    body = SignalBody(4, 2, d_model=6, n_layers=1, dropout=0.0, resolution=4).eval()
    x, weights = torch.randn(3, 6, 40), torch.rand(3, 2, 6)
    weights[:, 1] = 1.0
    with torch.no_grad():
        found = body(x, weights).unflatten(0, (3, 2))
        assert found.shape == (3, 2, 6, 10)
        torch.testing.assert_close(found[:, 1], body(x))
        assert not torch.allclose(found[:, 0], found[:, 1], atol=1e-3)


# -- channels and strands --------------------------------------------------------------


def test_channels_of_windows_are_told_by_name_and_those_of_arrays_are_signals(
    windows: Windows, y: np.ndarray
) -> None:
    named: PrismModel = PrismRegressor(**TINY).fit(windows, y).net_.module_
    assert windows.channel_names[:2] == ("counts", "ratio")
    assert named.body_index.tolist() == [2, 3, 4, 5, 0, 1]
    assert named.n_sequence == 4
    array: PrismModel = PrismRegressor(**TINY).fit(dense(windows).numpy(), y).net_.module_
    assert array.body_index.tolist() == list(range(6))
    assert array.n_sequence == 0
    assert array.backbone.sequence_embedding is None


def test_sequence_alone_is_refused(toy_genome: Any) -> None:
    loci = toy_genome.loci
    windows = SequenceChannels(toy_genome.fasta).fit_transform(TSSWindows(64).fit_transform(loci))
    with pytest.raises(ValueError, match=r"reads signals, but X has only .*'A', 'C', 'G', 'T'"):
        PrismRegressor(**TINY).fit(windows, loci["expression"])


@pytest.mark.parametrize("reverse_complement", ["ph", "ps"])
def test_predictions_do_not_change_with_the_strand(
    windows: Windows, y: np.ndarray, reverse_complement: str
) -> None:
    settings = {**TINY, "resolution": 8}
    model = PrismRegressor(
        **settings, reverse_complement=reverse_complement, center_length=16
    ).fit(windows, y)  # fmt: skip
    module, x = model.net_.ready_module.eval(), dense(windows)
    turned, nothing = x[:, list(windows.complement)].flip(2), torch.zeros(len(x), 0)
    with torch.no_grad():
        expected = module(x, nothing)
        torch.testing.assert_close(module(turned, nothing), expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0


def test_windows_that_cannot_be_turned_are_refused(toy_genome: Any, y: np.ndarray) -> None:
    windows = TSSWindows(60).fit_transform(toy_genome.loci)
    windows = SignalChannels(toy_genome.tracks).fit_transform(windows)
    windows = SequenceChannels(toy_genome.fasta).fit_transform(windows)
    with pytest.raises(ValueError, match=r"60 bp, is no multiple of resolution=7"):
        PrismRegressor(**{**TINY, "resolution": 7}, reverse_complement="ps").fit(windows, y)


def test_it_learns_what_a_window_holds() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 2, 64)).astype(np.float32)
    y = rng.normal(size=200)
    X[:, 1, 24:40] += y[:, None]
    settings = {
        **TINY, "resolution": 8, "max_epochs": 20, "validation_fraction": 0.0, "ema_decay": 0.9,
        "learning_rate": 0.02,
    }  # fmt: skip
    model = PrismRegressor(**settings, center_length=32).fit(X[:150], y[:150])
    assert model.score(X[150:], y[150:]) > 0.5


@pytest.mark.parametrize("name", ["n_states", "intervention_weight", "uniform_weight"])
def test_parameters_out_of_range(name: str) -> None:
    X = np.zeros((20, 2, 64), np.float32)
    with pytest.raises(ValueError, match=f"{name} == -1, must be >= 0"):
        PrismRegressor(**{**TINY, name: -1}).fit(X, np.arange(20.0))
