"""Checks of an estimator's parameters, made when it is fitted."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.utils.validation import check_scalar

from regmask_sk._model import SEQUENCE_CHANNELS
from regmask_sk.ops.evidence import TRACKS
from regmask_sk.windows import Windows

_CHOICES: dict[str, tuple[str, ...]] = {
    "mask": ("soft", "hard", "topk"),
    "training": ("decoupled", "joint"),
    "gate_distribution": (
        "auto",
        "beta",
        "kumaraswamy",
        "hard_concrete",
        "relaxed_bernoulli",
    ),
    "evidence": ("learned", "seq2exp-soft", "seq2exp-hard"),
    "continuity": ("difference", "transitions"),
    "loss": ("squared_error", "huber"),
    "reverse_complement": ("none", "augment", "ph", "ps"),
}
# Name, least and largest value, and which of the two are allowed.
_REALS: tuple[tuple[str, float, float, str], ...] = (
    ("sparsity", 0.0, 1.0, "neither"),
    ("dropout", 0.0, 1.0, "left"),
    ("prior_mean", 0.0, 1.0, "neither"),
    ("prior_concentration", 0.0, math.inf, "neither"),
    ("continuity_weight", 0.0, math.inf, "left"),
    ("gate_correlation", 0.0, math.inf, "left"),
    ("kl_weight", 0.0, math.inf, "left"),
    ("learning_rate", 0.0, math.inf, "neither"),
    ("weight_decay", 0.0, math.inf, "left"),
    ("gradient_clip", 0.0, math.inf, "neither"),
    ("ema_decay", 0.0, 1.0, "left"),
    ("validation_fraction", 0.0, 1.0, "left"),
)
_OR_NONE = ("continuity_weight",)
_INTEGERS: tuple[tuple[str, int], ...] = (
    ("resolution", 1),
    ("d_model", 1),
    ("n_layers", 0),
    ("max_epochs", 1),
    ("patience", 1),
    ("batch_size", 1),
    ("n_workers", 0),
)
_INTEGERS_OR_NONE: tuple[tuple[str, int], ...] = (
    ("generator_epochs", 1),
    ("finetune_epochs", 0),
    ("mask_resolution", 1),
)


def check_parameters(estimator: Any) -> None:
    """Check every parameter of an estimator that has a range or a choice.

    Parameters
    ----------
    estimator : object
        With the parameters of ``RegMaskRegressor`` as attributes.

    Raises
    ------
    ValueError, TypeError
        If a parameter is out of range or of another type; the message names it, what was
        found and what was expected.

    Examples
    --------
    >>> from regmask_sk import RegMaskRegressor
    >>> check_parameters(RegMaskRegressor(mask="fuzzy"))
    Traceback (most recent call last):
    ...
    ValueError: mask='fuzzy' is not known; expected one of ('soft', 'hard', 'topk').
    """
    for name, allowed in _CHOICES.items():
        value = getattr(estimator, name)
        if value not in allowed:
            raise ValueError(f"{name}={value!r} is not known; expected one of {allowed}.")
    if estimator.evidence != "learned" and (
        estimator.training != "joint" or estimator.gate_distribution not in ("auto", "beta")
    ):
        raise ValueError(
            f"evidence={estimator.evidence!r} is for jointly trained Beta gates; found training="
            f"{estimator.training!r} and gate_distribution={estimator.gate_distribution!r}. Set "
            "training='joint' and gate_distribution='beta', or evidence='learned'."
        )
    for name, low, high, bounds in _REALS:
        if name in _OR_NONE and getattr(estimator, name) is None:
            continue
        check_scalar(
            getattr(estimator, name),
            name,
            Real,
            min_val=low,
            max_val=high,
            include_boundaries=bounds,
        )
        if math.isnan(getattr(estimator, name)):
            raise ValueError(f"{name} is NaN; expected a number from {low} to {high}.")
    for name, least in _INTEGERS:
        check_scalar(getattr(estimator, name), name, Integral, min_val=least)
    for name, least in _INTEGERS_OR_NONE:
        if getattr(estimator, name) is not None:
            check_scalar(getattr(estimator, name), name, Integral, min_val=least)
    if estimator.mask_resolution is not None and estimator.resolution % estimator.mask_resolution:
        raise ValueError(
            f"mask_resolution={estimator.mask_resolution} does not divide resolution="
            f"{estimator.resolution}; a token must hold a whole number of gates. Set "
            "mask_resolution to a divisor of resolution, such as 1, or to None."
        )
    if not isinstance(estimator.checkpointing, bool):
        raise ValueError(f"checkpointing={estimator.checkpointing!r}; expected True or False.")
    if estimator.amp != "auto" and not isinstance(estimator.amp, bool):
        raise ValueError(f"amp={estimator.amp!r}; expected True, False or 'auto'.")


def check_evidence_tracks(windows: Windows | np.ndarray) -> None:
    """Check that windows have the tracks that the published formulas of evidence read.

    Parameters
    ----------
    windows : Windows or ndarray of shape (n, channels, length)
        The windows.

    Raises
    ------
    ValueError
        If their tracks are not three, unscaled, and in the order of the formulas.

    Examples
    --------
    >>> import numpy as np
    >>> check_evidence_tracks(np.zeros((1, 7, 10)))
    Traceback (most recent call last):
    ...
    ValueError: evidence other than 'learned' needs to know which channels are tracks, ...
    """
    if not isinstance(windows, Windows):
        raise ValueError(
            "evidence other than 'learned' needs to know which channels are tracks, but X is an "
            "array. Pass Windows, or set evidence='learned'."
        )
    tracks = [name for name in windows.channel_names if name not in SEQUENCE_CHANNELS]
    places = {"h3k27ac": 0, "dnase": 1, "dhs": 1, "hic": 2}
    named = [places.get(name.lower().replace("-", "").replace("_", "")) for name in tracks]
    wrong = any(place not in (None, i) for i, place in enumerate(named))
    if len(tracks) != len(TRACKS) or wrong:
        raise ValueError(
            f"evidence other than 'learned' needs three tracks, {', '.join(TRACKS)}, in this "
            f"order; X has {tracks}. Give SignalChannels these tracks with missing='zero', or set "
            "evidence='learned'."
        )
    scaled = [source for source in windows.sources if getattr(source, "scales", None) is not None]
    if scaled:
        raise ValueError(
            "evidence other than 'learned' needs raw signals, and the tracks "
            f"{list(scaled[0].channel_names)} are scaled. Build X with "
            "SignalChannels(scaling='none'), or set evidence='learned'."
        )
