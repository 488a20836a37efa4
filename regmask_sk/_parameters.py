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
    "readout": ("learned", "center"),
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
    ("enrichment", 0.0, math.inf, "left"),
    ("target_weight", 0.0, math.inf, "left"),
    ("intervention_weight", 0.0, math.inf, "left"),
    ("uniform_weight", 0.0, math.inf, "left"),
)
_INTEGERS: tuple[tuple[str, int], ...] = (
    ("resolution", 1),
    ("d_model", 1),
    ("n_layers", 0),
    ("max_epochs", 1),
    ("patience", 1),
    ("batch_size", 1),
    ("n_workers", 0),
    ("generator_epochs", 1),
    ("finetune_epochs", 0),
    ("mask_resolution", 1),
    ("center_length", 1),
    ("max_elements", 1),
    ("max_distance", 0),
    ("n_filters", 8),
    ("bin_size", 1),
    ("n_heads", 1),
    ("key_width", 1),
    ("n_downsamples", 2),
    ("n_states", 0),
)
_OR_NONE = (
    "continuity_weight",
    "generator_epochs",
    "finetune_epochs",
    "mask_resolution",
    "center_length",
)


def check_parameters(estimator: Any) -> None:
    """Check every parameter of an estimator that has a range or a choice.

    Parameters
    ----------
    estimator : estimator
        Those of its parameters that ``RegMaskRegressor`` has too are checked.

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
    given = estimator.get_params(deep=False)
    for name, allowed in _CHOICES.items():
        if name in given and given[name] not in allowed:
            raise ValueError(f"{name}={given[name]!r} is not known; expected one of {allowed}.")
    if given.get("evidence", "learned") != "learned" and (
        given["training"] != "joint" or given["gate_distribution"] not in ("auto", "beta")
    ):
        raise ValueError(
            f"evidence={given['evidence']!r} is for jointly trained Beta gates; found training="
            f"{given['training']!r} and gate_distribution={given['gate_distribution']!r}. Set "
            "training='joint' and gate_distribution='beta', or evidence='learned'."
        )
    optional = (*_OR_NONE, *estimator._optional_parameters)
    for name, low, high, bounds in _REALS:
        value = given.get(name)
        if name not in given or (value is None and name in optional):
            continue
        check_scalar(value, name, Real, min_val=low, max_val=high, include_boundaries=bounds)
        if math.isnan(value):
            raise ValueError(f"{name} is NaN; expected a number from {low} to {high}.")
    for name, least in _INTEGERS:
        if name == "batch_size" and isinstance(given.get(name), str):
            if given[name] != "auto":
                raise ValueError(
                    f"batch_size={given[name]!r}; expected a whole number, 1 or more, or 'auto'."
                )
        elif name in given and not (given[name] is None and name in optional):
            check_scalar(given[name], name, Integral, min_val=least)
    mask_resolution = given.get("mask_resolution")
    if mask_resolution is not None and given["resolution"] % mask_resolution:
        raise ValueError(
            f"mask_resolution={mask_resolution} does not divide resolution="
            f"{given['resolution']}; a token must hold a whole number of gates. Set "
            "mask_resolution to a divisor of resolution, such as 1, or to None."
        )
    for name in ("checkpointing", "accelerate"):
        if not isinstance(given.get(name, False), bool):
            raise ValueError(f"{name}={given[name]!r}; expected True or False.")
    if given["amp"] != "auto" and not isinstance(given["amp"], bool):
        raise ValueError(f"amp={given['amp']!r}; expected True, False or 'auto'.")


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
    places = {"h3k27ac": 0, "dnase": 1, "dhs": 1, "hic": 2, "contact": 2}
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
