"""Rivals to compare RegMask with; one a file."""

from __future__ import annotations

from regmask_sk.baselines.backbone import BackboneRegressor
from regmask_sk.baselines.binned_signal import BinnedSignalRegressor
from regmask_sk.baselines.epinformer import EPInformerRegressor
from regmask_sk.baselines.graphreg import GraphRegRegressor
from regmask_sk.baselines.peak_mask import PeakMaskRegressor
from regmask_sk.baselines.position_mask import PositionMaskRegressor

__all__ = [
    "BackboneRegressor",
    "BinnedSignalRegressor",
    "EPInformerRegressor",
    "GraphRegRegressor",
    "PeakMaskRegressor",
    "PositionMaskRegressor",
]
