"""Small masked models with random weights, and windows for them."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from regmask_sk.backbones import make_backbone
from regmask_sk.backbones.finer import Detail, FinerGrain
from regmask_sk.generator import Generator
from regmask_sk.masking import MaskedExpressionModel
from regmask_sk.predictor import Predictor, Readout

LENGTH, RESOLUTION, PROMOTER = 100, 8, (45, 58)  # neither edge lies on a token's
SEQUENCE, SIGNALS = (0, 1, 2, 3), (4, 5)
KINDS: tuple[Any, ...] = ("soft", "hard", "topk")
BODIES = ("conv", "codon")

SEQUENCE, SIGNALS = (0, 1, 2, 3), (4, 5)
KINDS: tuple[Any, ...] = ("soft", "hard", "topk")
BODIES = ("conv", "codon")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def window(batch: int, length: int = LENGTH, seed: int = 0) -> Tensor:
    """One-hot bases and two tracks."""
    rng = np.random.default_rng(seed)
    x = np.zeros((batch, 6, length), np.float32)
    np.put_along_axis(x, rng.integers(0, 4, (batch, 1, length)), 1.0, axis=1)
    x[:, 4:] = rng.normal(size=(batch, 2, length))
    return torch.from_numpy(x)


def make_model(
    *,
    backbone: str = "conv",
    distribution: Literal["relaxed_bernoulli", "beta"] = "relaxed_bernoulli",
    length: int = LENGTH,
    resolution: int = RESOLUTION,
    mask_resolution: int | None = None,
    promoter: tuple[int, int] = PROMOTER,
    sparsity: float = 0.3,
    n_covariates: int = 1,
    n_outputs: int = 1,
    spread: float = 0.3,
) -> MaskedExpressionModel:
    """A model all of whose weights are random: nothing is zero because it starts at zero."""
    torch.manual_seed(0)
    read = SEQUENCE if distribution == "beta" else SEQUENCE + SIGNALS
    shape: dict[str, Any] = {
        "d_model": 8, "n_layers": 1, "dropout": 0.0, "resolution": resolution
    }  # fmt: skip
    n_tokens = -(-length // resolution)
    grain = mask_resolution or resolution
    generator = Generator(
        make_backbone(backbone, len(read) + 1, **shape),
        body_channels=read,
        signal_channels=SIGNALS,
        n_gates=-(-length // grain),
        distribution=distribution,
        finer=FinerGrain(8, Detail(len(read) + 1, 8, grain), resolution // grain)
        if grain < resolution
        else None,
    )
    readout = Readout(
        8, n_outputs, n_covariates, n_tokens=n_tokens, resolution=resolution, dropout=0.0
    )
    predictor = Predictor(make_backbone(backbone, 7, **shape), readout, SEQUENCE + SIGNALS)
    model = MaskedExpressionModel(
        generator, predictor, length=length, promoter=promoter, sparsity=sparsity
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=spread)
    return model.eval()


def covariates(batch: int, n: int = 1) -> Tensor:
    return torch.linspace(-1, 1, batch * n).view(batch, n)
