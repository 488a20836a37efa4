"""Scores of bases by altering them: mutation of each base, occlusion of each stretch.

Symbols are those of :mod:`regmask_sk._explained`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from regmask_sk._explained import Channels, Held, Predict, repeated


@torch.no_grad()
def mutagenesis(
    predict: Predict,
    x: Tensor,
    held: Held,
    bases: tuple[int, ...],
    columns: range,
    batch_size: int,
) -> Tensor:
    """Change in the prediction when each base becomes each of the three others.

    Parameters
    ----------
    predict : callable
        From windows and what is held to predictions.
    x : Tensor of shape (batch, channel, length)
        Windows.
    held : dict of str to Tensor
        What else is read, one entry a window.
    bases : tuple of four int
        Channels A, C, G and T.
    columns : range
        Columns to mutate.
    batch_size : int
        Mutated windows to predict at once.

    Returns
    -------
    Tensor of shape (batch, channel, length)
        ``f(x with this base) - f(x)`` in the channels of the bases; 0 for the base that is
        there, for unknown bases, and in all other channels.
    """
    out = torch.zeros_like(x)
    index = torch.tensor(bases, device=x.device)
    now = predict(x, held)
    for row in range(len(x)):
        sequence = x[row, index]  # (4, length)
        # One base and no more: others have nothing to be changed into another.
        known = ((sequence == 1).sum(dim=0) == 1) & ((sequence != 0).sum(dim=0) == 1)
        chosen = torch.zeros_like(known)
        chosen[columns.start : columns.stop] = True
        letter, column = ((sequence == 0) & known & chosen).nonzero(as_tuple=True)
        for start in range(0, len(letter), batch_size):
            to, at = letter[start : start + batch_size], column[start : start + batch_size]
            n = len(to)
            mutated = x[row].expand(n, -1, -1).clone()
            each = torch.arange(n, device=x.device)
            mutated[each[:, None], index[None], at[:, None]] = 0.0
            mutated[each, index[to], at] = 1.0
            out[row, index[to], at] = predict(mutated, repeated(held, row, n)) - now[row]
    return out


@torch.no_grad()
def occlusion(
    predict: Predict,
    x: Tensor,
    held: Held,
    baseline: Tensor,
    groups: tuple[tuple[int, ...], ...],
    columns: range,
    width: int,
    step: int,
    batch_size: int,
) -> Tensor:
    """Change in the prediction when stretches of a window become the baseline's.

    Parameters
    ----------
    predict, x, held, columns, batch_size
        As in :func:`mutagenesis`.
    baseline : Tensor of shape (batch, channel, length)
        What stretches become.
    groups : tuple of tuples of int
        Channels that are occluded together, each group by itself.
    width, step : int
        Base pairs of a stretch, and from the start of one to that of the next.

    Returns
    -------
    Tensor of shape (batch, n_groups, length)
        ``f(x) - f(x without the stretch)``, the mean over the stretches that hold a base.
    """
    out = x.new_zeros(len(x), len(groups), x.shape[2])
    counts = x.new_zeros(x.shape[2])
    starts = list(range(columns.start, columns.stop, step))
    ends = [min(start + width, columns.stop) for start in starts]
    for start, end in zip(starts, ends, strict=True):
        counts[start:end] += 1.0
    now = predict(x, held)
    for row in range(len(x)):
        for number, group in enumerate(groups):
            channels = list(group)
            for first in range(0, len(starts), batch_size):
                some = slice(first, first + batch_size)
                stretches = list(zip(starts[some], ends[some], strict=True))
                without = x[row].expand(len(stretches), -1, -1).clone()
                for copy, (start, end) in zip(without, stretches, strict=True):
                    copy[channels, start:end] = baseline[row, channels, start:end]
                found = now[row] - predict(without, repeated(held, row, len(stretches)))
                for value, (start, end) in zip(found, stretches, strict=True):
                    out[row, number, start:end] += value
    return out / counts.clamp_min(1.0)


def occluded_groups(channels: Channels, *, per_channel: bool) -> tuple[tuple[int, ...], ...]:
    """Give the channels that are occluded together.

    Examples
    --------
    >>> channels = Channels(bases=(0, 1, 2, 3), coverage=(5,), signals=(4,))
    >>> occluded_groups(channels, per_channel=False)
    ((0, 1, 2, 3, 4, 5),)
    >>> occluded_groups(channels, per_channel=True)
    ((0, 1, 2, 3), (4,))
    """
    if not per_channel:
        return ((*channels.bases, *channels.signals, *channels.coverage),)
    bases = (channels.bases,) if channels.bases else ()
    return (*bases, *((signal,) for signal in channels.signals))
