"""Rivals to compare RegMask with; one a file."""

from __future__ import annotations

from regmask_sk.baselines.backbone import BackboneRegressor
from regmask_sk.baselines.binned_signal import BinnedSignalRegressor
from regmask_sk.baselines.enformer import EnformerRegressor
from regmask_sk.baselines.prism import PrismRegressor

__all__ = [
    "BackboneRegressor",
    "BinnedSignalRegressor",
    "EnformerRegressor",
    "PrismRegressor",
]
