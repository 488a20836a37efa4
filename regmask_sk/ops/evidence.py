"""Evidence of signal tracks for Beta gates, as published: nothing in it is learned.

Symbols
-------
``l_alpha, l_beta``
    What a network gives for a gate, any real numbers.
``s``
    Raw signal of a track: H3K27ac, DNase, Hi-C, in this order.
``c, w``
    Offset and weight of a track.

References
----------
Su et al., "Learning to discover regulatory elements for gene expression prediction",
ICLR 2025, and the code released with it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor

EvidencePreset = Literal["seq2exp-soft", "seq2exp-hard"]

TRACKS = ("H3K27ac", "DNase", "Hi-C")
_OFFSETS = (1.5, 0.2, 1.0)
_WEIGHTS = (0.4, 0.4, 0.2)
_EPSILON = 1e-8


class _Constants(NamedTuple):
    beta_min: float  # added to what the network gives, and to signals and offsets
    scale: float  # of the tracks' parameters


_PRESETS: dict[str, _Constants] = {
    "seq2exp-soft": _Constants(beta_min=1.0, scale=10.0),
    "seq2exp-hard": _Constants(beta_min=0.0, scale=1.0),
}


def seq2exp_gates(
    l_alpha: Tensor, l_beta: Tensor, signals: Tensor, preset: EvidencePreset
) -> tuple[Tensor, Tensor]:
    """Compute the parameters of Beta gates from sequence and raw signals, as released.

    Parameters
    ----------
    l_alpha, l_beta : Tensor of shape (batch, T)
        What the network reads from the sequence.
    signals : Tensor of shape (batch, 3, T)
        H3K27ac, DNase and Hi-C, in this order: the values of the bigWig files, 0 where there is
        none, unscaled; of Hi-C ``log10(1 + contact)`` with the TSS.
    preset : {"seq2exp-soft", "seq2exp-hard"}
        Constants of the soft or of the hard variant.

    Returns
    -------
    a, b : Tensor of shape (batch, T)
        ``a = softplus(l_alpha) + m + e + sum(w * ((s + m) * k + e))`` and
        ``b = softplus(l_beta) + m + e + sum(w * (c + m) * k)``, with weights ``w`` of .4, .4
        and .2, offsets ``c`` of 1.5, .2 and 1, and ``e = 1e-8``; ``m`` is 1 and ``k`` 10 in the
        soft variant, 0 and 1 in the hard one.

    Raises
    ------
    ValueError
        If there are not three signals, or the preset is unknown.

    Notes
    -----
    The normalised product of the densities would have ``a1 + a2 - 1`` and ``b1 + b2 - 1`` (the
    paper's Proposition 2). The released code leaves out the -1, and so does this function;
    ``evidence="learned"`` of ``RegMaskRegressor`` keeps it.

    The published settings beside it: prior Beta(10, 90), which is ``prior_mean=0.1`` and
    ``prior_concentration=100``, for the soft variant; Beta(0.1, 0.122), which is
    ``prior_mean=0.45`` and ``prior_concentration=0.2222``, for the hard one; ``kl_weight=0.01``
    and ``loss="huber"`` for both.

    Examples
    --------
    >>> import torch
    >>> zero = torch.zeros(1, 1)
    >>> a, b = seq2exp_gates(zero, zero, torch.zeros(1, 3, 1), "seq2exp-soft")
    >>> round(float(a / (a + b)), 3)  # without any signal
    0.363
    """
    if preset not in _PRESETS:
        raise ValueError(f"preset={preset!r} is not known; expected one of {tuple(_PRESETS)}.")
    if signals.shape[1] != len(TRACKS):
        raise ValueError(
            f"signals has {signals.shape[1]} tracks; expected 3: {', '.join(TRACKS)}, in this "
            "order."
        )
    minimum, scale = _PRESETS[preset]
    weight = signals.new_tensor(_WEIGHTS)[:, None]
    a2 = (signals + minimum) * scale + _EPSILON
    b2 = (signals.new_tensor(_OFFSETS)[:, None] + minimum) * scale
    a1, b1 = (F.softplus(raw) + minimum + _EPSILON for raw in (l_alpha, l_beta))
    return a1 + (weight * a2).sum(1), b1 + (weight * b2).sum(0)
