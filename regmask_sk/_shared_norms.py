"""Batch norms whose batch lies in several processes.

Symbols
-------
``n_r``, ``m_r``, ``v_r``
    Number of values a channel, their mean and variance, in process ``r``.

The batch has the mean ``m = sum(n_r m_r) / sum(n_r)`` and the variance
``sum(n_r (v_r + (m_r - m)**2)) / sum(n_r)``. torch's SyncBatchNorm computes the same, on GPUs
alone.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from regmask_sk._processes import Processes


def share_norms(module: nn.Module, processes: Processes) -> None:
    """Let the batch norms of a module normalise over the rows of all processes, in training.

    Parameters
    ----------
    module : nn.Module
        Changed in place, until :func:`unshare_norms`.
    processes : Processes
        Alone, nothing is changed.
    """
    if processes.count == 1:
        return
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            vars(layer)["forward"] = partial(_normalised, layer, processes)


def unshare_norms(module: nn.Module) -> None:
    """Undo :func:`share_norms`, in a copy of the module as well."""
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            vars(layer).pop("forward", None)


def _normalised(layer: _BatchNorm, processes: Processes, input: Tensor) -> Tensor:
    """Normalise ``(batch, n_channels, ...)`` by the moments of the batch of all processes."""
    if not layer.training:
        result: Tensor = type(layer).forward(layer, input)
        return result
    axes = [axis for axis in range(input.ndim) if axis != 1]
    values = input.float()
    own_variance, own_mean = torch.var_mean(values, axes, correction=0)
    own_count = values.new_full((1,), values.numel() // values.shape[1])
    total = processes.sum(torch.cat([own_count * own_mean, own_count]))
    count, mean = total[-1], total[:-1] / total[-1]
    spread = own_variance + (own_mean - mean).square()
    variance = processes.sum(own_count * spread) / count
    _note_moments(layer, mean, variance * (count / (count - 1.0)))
    scale = torch.rsqrt(variance + layer.eps)
    if layer.affine:
        scale = scale * layer.weight
    shape = (1, -1, *[1] * (input.ndim - 2))
    # Not as a line through 0, in whose terms a small variance would be lost beside a large mean.
    result = (values - mean.view(shape)) * scale.view(shape)
    if layer.affine:
        result = result + layer.bias.view(shape)
    return result.to(input.dtype)


@torch.no_grad()
def _note_moments(layer: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Update the running statistics as the layer does by itself."""
    if layer.running_mean is None or layer.running_var is None:
        return
    share = 0.0 if layer.momentum is None else layer.momentum
    if layer.num_batches_tracked is not None:
        layer.num_batches_tracked.add_(1)
        if layer.momentum is None:
            share = 1.0 / float(layer.num_batches_tracked)
    layer.running_mean.lerp_(mean, share)
    layer.running_var.lerp_(variance, share)
