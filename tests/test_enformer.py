"""Enformer as a rival: the whole architecture against enformer-pytorch, padding, what is read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from enformer_weights import copy_trunk, theirs
from torch import nn

from regmask_sk.baselines.enformer import EnformerRegressor, EnformerTrunk
from regmask_sk.features import SequenceChannels, TSSWindows

TINY: dict[str, Any] = {
    "d_model": 12, "n_layers": 1, "n_heads": 2, "key_width": 4, "n_downsamples": 3,
    "max_epochs": 1, "random_state": 0, "device": "cpu", "dropout": 0.0,
}  # fmt: skip
PUBLISHED = {"d_model": 1536, "n_layers": 11, "n_heads": 8, "key_width": 64, "n_downsamples": 7}


def trunk(**changed: Any) -> EnformerTrunk:
    torch.manual_seed(0)
    shape = {name: TINY[name] for name in (*PUBLISHED, "dropout")}
    made = EnformerTrunk(4, **{**shape, **changed}).eval()
    for layer in made.layers:  # attention starts as nothing: give it something to do
        nn.init.normal_(layer.attention.out.weight, std=0.3)
    return made


@pytest.mark.parametrize(("length", "kept"), [(2_048, 6), (1_920, 15), (128, 1)])
def test_the_architecture_of_enformer_pytorch(length: int, kept: int) -> None:
    other = theirs(
        dim=24, depth=2, heads=2, attn_dim_key=8, dim_divisible_by=2, target_length=kept
    )  # fmt: skip
    first = (length // 128 - kept) // 2
    ours = trunk(
        d_model=24, n_layers=2, key_width=8, n_downsamples=7, tokens=slice(first, first + kept)
    )
    copy_trunk(other, ours)
    ours.pointwise[0].load_state_dict(other.final_pointwise[1].state_dict())
    x = F.one_hot(torch.randint(0, 4, (2, length)), 4).float()
    with torch.no_grad():
        found, expected = ours(x.mT).mT, other(x, return_only_embeddings=True)
    assert found.shape == (2, kept, 48)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_published_size() -> None:
    module = pytest.importorskip("enformer_pytorch.modeling_enformer")
    with torch.device("meta"):
        ours = EnformerTrunk(4, dropout=0.4, **PUBLISHED)
        other = module.Enformer.from_hparams(output_heads={}, dropout_rate=0.4)
    assert sorted(p.numel() for p in ours.parameters()) == sorted(
        p.numel() for p in other.parameters()
    )


def test_dropout_has_the_published_proportions() -> None:
    made = trunk(dropout=0.4)
    layer = made.layers[0]
    found = [
        layer.dropout.p, layer.attention.dropout.p, layer.attention.position_dropout.p,
        made.pointwise[1].p,
    ]  # fmt: skip
    assert found == pytest.approx([0.4, 0.05, 0.01, 0.05])


@pytest.mark.parametrize(("length", "left", "right"), [(60, 2, 2), (61, 1, 2), (64, 0, 0)])
def test_windows_are_padded_on_both_sides(length: int, left: int, right: int) -> None:
    made, x = trunk(), torch.randn(2, 4, length)
    with torch.no_grad():
        assert torch.equal(made(x), made(F.pad(x, (left, right))))


@pytest.mark.parametrize(
    ("length", "center_length", "expected"),
    [(64, 16, slice(3, 5)), (64, None, slice(0, 8)), (61, 1, slice(3, 5)), (40, 1, slice(2, 3))],
)
def test_the_center_is_read(length: int, center_length: int | None, expected: slice) -> None:
    X = np.random.default_rng(0).normal(size=(20, 2, length)).astype(np.float32)
    model = EnformerRegressor(**TINY, center_length=center_length).fit(X, X[:, 0].mean(axis=1))
    assert model.net_.module_.backbone.tokens == expected


def test_without_attention_what_lies_far_from_the_center_is_not_read() -> None:
    made = trunk(n_layers=0, tokens=slice(31, 33))
    x = torch.randn(1, 4, 512)
    changed = x.clone()
    changed[..., :128], changed[..., -128:] = 0.0, 1.0
    with torch.no_grad():
        assert torch.equal(made(x), made(changed))
        changed[..., 256] += 1.0
        assert not torch.equal(made(x), made(changed))


@pytest.mark.parametrize("length", [64, 60])
@pytest.mark.parametrize("reverse_complement", ["ph", "ps"])
def test_predictions_do_not_change_with_the_strand(
    toy_genome: Any, reverse_complement: str, length: int
) -> None:
    loci = toy_genome.loci
    windows = TSSWindows(length).fit_transform(loci)
    windows = SequenceChannels(toy_genome.fasta).fit_transform(windows)
    model = EnformerRegressor(
        **TINY, reverse_complement=reverse_complement, center_length=20
    ).fit(windows, loci["expression"])  # fmt: skip
    module = model.net_.ready_module.eval()
    x = torch.from_numpy(windows[:6].to_numpy(max_bytes=10**7))
    turned, nothing = x[:, [3, 2, 1, 0]].flip(2), torch.zeros(6, 0)
    with torch.no_grad():
        expected = module(x, nothing)
        torch.testing.assert_close(module(turned, nothing), expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0


def test_checkpointing_changes_nothing() -> None:
    X = np.random.default_rng(0).normal(size=(40, 2, 64)).astype(np.float32)
    y = X[:, 0].mean(axis=1)
    plain, again = (
        EnformerRegressor(**{**TINY, "dropout": 0.2}, checkpointing=checkpointing).fit(X, y)
        for checkpointing in (False, True)
    )
    np.testing.assert_allclose(again.predict(X), plain.predict(X), rtol=1e-4, atol=1e-6)


def test_it_learns_what_a_window_holds() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 2, 64)).astype(np.float32)
    y = rng.normal(size=200)
    X[:, 1, 24:40] += y[:, None]
    settings = {
        **TINY, "max_epochs": 20, "validation_fraction": 0.0, "ema_decay": 0.9,
        "learning_rate": 0.01,
    }  # fmt: skip
    model = EnformerRegressor(**settings, center_length=32).fit(X[:150], y[:150])
    assert model.score(X[150:], y[150:]) > 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_downsamples": 8}, r"n_downsamples=8 makes tokens of 256 bp, but .* 64 bp"),
        ({"n_downsamples": 1}, r"n_downsamples == 1, must be >= 2"),
        ({"n_heads": 0}, r"n_heads == 0, must be >= 1"),
        ({"key_width": 0}, r"key_width == 0, must be >= 1"),
        ({"center_length": 0}, r"center_length == 0, must be >= 1"),
    ],
)
def test_parameters_out_of_range(settings: dict[str, int], message: str) -> None:
    X = np.zeros((20, 2, 64), np.float32)
    with pytest.raises(ValueError, match=message):
        EnformerRegressor(**{**TINY, **settings}).fit(X, np.arange(20.0))
