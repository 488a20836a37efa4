"""The estimators that ``regmask benchmark`` knows by a short name.

A new one is one line of `RIVALS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

# Options that are parameters of the estimators that have them, under the same name.
RIVAL_OPTIONS = (
    "covariates", "sparsity", "promoter_length", "resolution", "d_model", "n_layers",
    "reverse_complement", "max_epochs", "batch_size", "learning_rate", "weight_decay",
    "validation_chroms", "validation_fraction", "n_workers", "device",
)  # fmt: skip


class Rival(NamedTuple):
    """How an estimator is made.

    Attributes
    ----------
    path : str
        ``module:Class``, loaded when it is made.
    meaning : str
        What it is, for the documentation.
    own : mapping of str to object
        Parameters that make it what its name says; a `Rival` stands for what it makes.
    """

    path: str
    meaning: str
    own: Mapping[str, Any] = {}

    def kind(self) -> Any:
        """Load the class."""
        module, name = self.path.split(":")
        return getattr(import_module(module), name)

    def options(self, names: Iterable[str]) -> list[str]:
        """Those of the options that are parameters of the class and not decided by its name."""
        known = inspect.signature(self.kind()).parameters
        return [name for name in names if name in known and name not in self.own]

    def make(self, options: Mapping[str, Any]) -> Any:
        """Make the estimator, with those of the options that it has."""
        own = {k: v.make({}) if isinstance(v, Rival) else v for k, v in self.own.items()}
        return self.kind()(**own, **{name: options[name] for name in self.options(options)})


_BINNED = "regmask_sk.baselines.binned_signal:BinnedSignalRegressor"
_BODY = "regmask_sk.baselines.backbone:BackboneRegressor"
_REGMASK = "regmask_sk.regressor:RegMaskRegressor"

RIVALS: dict[str, Rival] = {
    "mean": Rival("sklearn.dummy:DummyRegressor", "the mean of the training genes"),
    "ridge": Rival(
        _BINNED, "ridge regression on the tracks in bins of 50 bp and 4-mer counts",
        {"kmer_size": 4},
    ),
    "random-forest": Rival(
        _BINNED, "a random forest on the same features",
        {
            "kmer_size": 4,
            "estimator": Rival(
                "sklearn.ensemble:RandomForestRegressor", "",
                {"n_estimators": 300, "max_features": 1 / 3, "min_samples_leaf": 3},
            ),
        },
    ),
    "boosting": Rival(
        _BINNED, "gradient boosting on the same features",
        {
            "kmer_size": 4,
            "estimator": Rival("sklearn.ensemble:HistGradientBoostingRegressor", ""),
        },
    ),
    "regmask-soft": Rival(_REGMASK, "`RegMaskRegressor`, soft mask", {"mask": "soft"}),
    "regmask-hard": Rival(_REGMASK, "`RegMaskRegressor`, hard mask", {"mask": "hard"}),
    "regmask-topk": Rival(_REGMASK, "`RegMaskRegressor`, top-k mask", {"mask": "topk"}),
    "conv": Rival(_BODY, "body `conv` without a mask", {"backbone": "conv"}),
    "codon": Rival(_BODY, "body `codon` without a mask", {"backbone": "codon"}),
    "transformer": Rival(_BODY, "body `transformer` without a mask", {"backbone": "transformer"}),
    "mamba": Rival(
        _BODY, "body `mamba`, read at the TSS as in the published baseline",
        {"backbone": "mamba", "readout": "center"},
    ),
    "caduceus": Rival(
        _BODY, "body `caduceus`, read at the TSS as in the published baseline",
        {"backbone": "caduceus", "readout": "center"},
    ),
    "hyena": Rival(
        _BODY, "body `hyena-causal` (HyenaDNA), read at the TSS as in the published baseline",
        {"backbone": "hyena-causal", "readout": "center"},
    ),
}  # fmt: skip


def make_rivals(
    names: Sequence[str], options: Mapping[str, Any], *, defaults: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Make estimators of windows by their short names.

    Parameters
    ----------
    names : sequence of str
        Of `RIVALS`.
    options : mapping of str to object
        Those of `RIVAL_OPTIONS` that were given.
    defaults : mapping of str to object, optional
        Others, for the estimators that have them.

    Returns
    -------
    dict of str to estimator
        In the order of the names.

    Raises
    ------
    ValueError
        If a name is unknown or given twice, or none of the estimators has one of the options.

    Examples
    --------
    >>> make_rivals(["mean"], {})
    {'mean': DummyRegressor()}
    """
    unknown = [name for name in names if name not in RIVALS]
    if unknown:
        raise ValueError(f"--estimators: no {', '.join(unknown)}; known are {', '.join(RIVALS)}")
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise ValueError(f"--estimators: {', '.join(twice)} is given twice; keep one")
    used = {option for name in names for option in RIVALS[name].options(options)}
    for option in options:
        if option not in used:
            word = "covariate" if option == "covariates" else option.replace("_", "-")
            raise ValueError(
                f"--{word}: none of {', '.join(names)} has this parameter; leave it out"
            )
    return {name: RIVALS[name].make({**(defaults or {}), **options}) for name in names}
