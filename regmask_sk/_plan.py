"""The plan of a training: its stages, their schedules, and all that they need to know."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from regmask_sk.losses import Continuity, RegressionLoss
from regmask_sk.masking import MaskKind

StageName = Literal["predictor", "generator", "finetune", "joint", "regression"]


class Stage(NamedTuple):
    """One stage of training: its name and how many epochs it may take."""

    name: StageName
    n_epochs: int


class Schedule(NamedTuple):
    """Learning rates of a stage, as factors of `learning_rate`.

    Attributes
    ----------
    predictor, generator : float
        At the peak, for the weights of either.
    end : float
        At the end of the stage, as a factor of the peak.
    """

    predictor: float
    generator: float
    end: float


# The predictor's stage keeps stepping to its end, so that there is something to average.
SCHEDULES: dict[str, Schedule] = {
    "predictor": Schedule(predictor=1.0, generator=0.0, end=0.25),
    "generator": Schedule(predictor=0.0, generator=0.7, end=0.01),
    "finetune": Schedule(predictor=0.7, generator=0.3, end=0.01),
    "joint": Schedule(predictor=1.0, generator=1.0, end=0.01),
    "regression": Schedule(predictor=1.0, generator=0.0, end=0.01),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What any training needs to know; see the parameters of the estimators."""

    stages: tuple[Stage, ...]
    loss: RegressionLoss
    learning_rate: float
    weight_decay: float
    gradient_clip: float
    ema_decay: float
    patience: int
    constant_loss: float
    amp: bool


@dataclass(frozen=True, kw_only=True)
class MaskSettings(Settings):
    """What the stages that train masks need to know besides."""

    mask: MaskKind
    sparsity: float
    continuity_weight: float
    continuity: Continuity
    gate_correlation: float
    kl_weight: float
    prior_mean: float
    prior_concentration: float
    start_share: float = 0.5  # share of the bases that the generator's stage starts from


def learning_rate_factor(progress: float, *, end: float, warmup: float = 0.12) -> float:
    """Linear warm-up, then half a cosine down to `end`.

    Parameters
    ----------
    progress : float
        Share of the stage that is done; beyond 1 the factor stays at its end.
    end : float
        Factor at the end of the stage.
    warmup : float, default=0.12
        Share of the stage that the warm-up takes.

    Returns
    -------
    float
        In (0, 1].

    Examples
    --------
    >>> learning_rate_factor(0.12, end=0.25), learning_rate_factor(1.0, end=0.25)
    (1.0, 0.25)
    """
    if progress < warmup:
        return max(progress / warmup, 0.01)
    remaining = min((progress - warmup) / (1.0 - warmup), 1.0)
    return end + (1.0 - end) * 0.5 * (1.0 + math.cos(math.pi * remaining))


def moving_average(
    averaged: Tensor, current: Tensor, n_averaged: Tensor, *, decay: float
) -> Tensor:
    """Exponential moving average whose memory is short at first.

    Parameters
    ----------
    averaged, current : Tensor
        Average so far, and the new value.
    n_averaged : Tensor of shape ()
        How many values the average holds.
    decay : float
        Weight of the average once it holds many.

    Returns
    -------
    Tensor
        The new average. Counters, which are integers, are taken as they are.
    """
    if not averaged.is_floating_point():
        return current
    n = float(n_averaged)
    return torch.lerp(averaged, current, 1.0 - min(decay, (n + 1.0) / (n + 10.0)))
