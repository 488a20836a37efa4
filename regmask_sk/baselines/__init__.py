"""Rivals to compare RegMask with, one a file, and the bases to make another one of."""

from __future__ import annotations

from regmask_sk._base import WindowEstimator
from regmask_sk.baselines._rival import RivalRegressor, WindowModel
from regmask_sk.baselines.backbone import BackboneRegressor
from regmask_sk.baselines.binned_signal import BinnedSignalRegressor

__all__ = [
    "BackboneRegressor",
    "BinnedSignalRegressor",
    "RivalRegressor",
    "WindowEstimator",
    "WindowModel",
]
