"""Rivals to compare RegMask with; one a file."""

from __future__ import annotations

from regmask_sk.baselines.backbone import BackboneRegressor
from regmask_sk.baselines.binned_signal import BinnedSignalRegressor
from regmask_sk.baselines.graphreg import GraphRegRegressor

__all__ = ["BackboneRegressor", "BinnedSignalRegressor", "GraphRegRegressor"]
