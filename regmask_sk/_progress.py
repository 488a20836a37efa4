"""How far a stage of training has come, as plain values and tensors from which it can go on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from regmask_sk._checkpoint import Unfinished


@dataclass
class Progress:
    """What a stage has reached: all that changes between its steps but the weights."""

    epoch: int = 0
    step: int = 0
    best_loss: float = math.inf
    best_state: dict[str, Tensor] | None = None
    epochs_without_gain: int = 0
    average: AveragedModel | None = None


# Of these, what is no tensor.
_COUNTED = ("epoch", "step", "best_loss", "epochs_without_gain")


def taken_down(
    progress: Progress, module: nn.Module, optimizer: Optimizer, values: dict[str, Any]
) -> Unfinished:
    """Take down all that the next epoch of a stage depends on, and `values` beside it.

    Parameters
    ----------
    progress : Progress
        Of the stage, between two of its epochs.
    module : nn.Module
        In training.
    optimizer : Optimizer
        Of the module, for this stage.
    values : dict
        What else is kept, as plain values.
    """
    parts = {
        "module": module.state_dict(),
        "best": progress.best_state or {},
        "average": {} if progress.average is None else progress.average.state_dict(),
        "optimizer": {
            f"{number}.{name}": value
            for number, moments in optimizer.state_dict()["state"].items()
            for name, value in moments.items()
        },
    }
    tensors = {
        f"{part}.{name}": value for part, state in parts.items() for name, value in state.items()
    }
    return Unfinished({**values, **{name: getattr(progress, name) for name in _COUNTED}}, tensors)


def take_up(state: Unfinished, progress: Progress, optimizer: Optimizer) -> None:
    """Bring a stage that has just begun to where it was; its weights are :func:`weights`.

    Parameters
    ----------
    state : Unfinished
        Of :func:`taken_down`.
    progress : Progress
        Of the stage, with an average if it had one.
    optimizer : Optimizer
        Of the same module and settings.
    """
    for name in _COUNTED:
        setattr(progress, name, state.values[name])
    progress.best_state = _part(state, "best") or None
    if progress.average is not None:
        progress.average.load_state_dict(_part(state, "average"))
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in _part(state, "optimizer").items():
        number, _, kind = name.partition(".")
        moments.setdefault(int(number), {})[kind] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


def weights(state: Unfinished) -> dict[str, Tensor]:
    """State of the module that was in training."""
    return _part(state, "module")


def _part(state: Unfinished, part: str) -> dict[str, Tensor]:
    """Tensors of one part of a state, by their names in it."""
    start = f"{part}."
    return {
        name.removeprefix(start): tensor
        for name, tensor in state.tensors.items()
        if name.startswith(start)
    }
