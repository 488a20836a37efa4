"""Rivals to compare RegMask with, one a file, and the bases to make another one of."""

from __future__ import annotations

from regmask_sk._base import WindowEstimator
from regmask_sk.baselines._rival import RivalRegressor, WindowModel
from regmask_sk.baselines.backbone import BackboneRegressor
from regmask_sk.baselines.binned_signal import BinnedSignalRegressor
from regmask_sk.baselines.enformer import EnformerRegressor
from regmask_sk.baselines.epinformer import EPInformerRegressor
from regmask_sk.baselines.graphreg import GraphRegRegressor
from regmask_sk.baselines.peak_mask import PeakMaskRegressor
from regmask_sk.baselines.position_mask import PositionMaskRegressor
from regmask_sk.baselines.prism import PrismRegressor

__all__ = [
    "BackboneRegressor",
    "BinnedSignalRegressor",
    "EPInformerRegressor",
    "EnformerRegressor",
    "GraphRegRegressor",
    "PeakMaskRegressor",
    "PositionMaskRegressor",
    "PrismRegressor",
    "RivalRegressor",
    "WindowEstimator",
    "WindowModel",
]
