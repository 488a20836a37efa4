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
    "validation_chroms", "validation_fraction", "n_workers", "device", "track", "peaks",
)  # fmt: skip
# What the command calls them, where that is another word.
_WORDS = {"covariates": "covariate", "track": "accessibility"}


class Rival(NamedTuple):
    """How an estimator is made.

    Attributes
    ----------
    path : str
        ``module:Class``, loaded when it is made.
    meaning : str
        What it is, for the documentation.
    own : mapping of str to object
        Parameters that make it what its name says; a `Rival` stands for what it makes, which
        takes the options too where it is of this package.
    """

    path: str
    meaning: str
    own: Mapping[str, Any] = {}

    def kind(self) -> Any:
        """Load the class."""
        module, name = self.path.split(":")
        return getattr(import_module(module), name)

    def options(self, names: Iterable[str]) -> list[str]:
        """Those of the options that are parameters of what it makes, not decided by its name."""
        names = list(names)
        inner = {name for part in self._parts() for name in part.options(names)}
        return [name for name in names if name in inner or self._takes(name)]

    def make(self, options: Mapping[str, Any]) -> Any:
        """Make the estimator, with those of the options that it has."""
        parts = self._parts()
        own = {
            name: value.make(options if value in parts else {})
            if isinstance(value, Rival)
            else value
            for name, value in self.own.items()
        }
        return self.kind()(**own, **{n: v for n, v in options.items() if self._takes(n)})

    def _takes(self, name: str) -> bool:
        return name in inspect.signature(self.kind()).parameters and name not in self.own

    def _parts(self) -> list[Rival]:
        parts = [value for value in self.own.values() if isinstance(value, Rival)]
        return [part for part in parts if part.path.startswith("regmask_sk.")]


_BINNED = "regmask_sk.baselines.binned_signal:BinnedSignalRegressor"
_BODY = "regmask_sk.baselines.backbone:BackboneRegressor"
_REGMASK = "regmask_sk.regressor:RegMaskRegressor"
_BASELINES = "regmask_sk.baselines"

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
    "enformer": Rival(
        f"{_BASELINES}.enformer:EnformerRegressor", "`EnformerRegressor`, in its reduced size"
    ),
    "epinformer": Rival(
        f"{_BASELINES}.epinformer:EPInformerRegressor",
        "`EPInformerRegressor`, as published; `--accessibility` names its track",
    ),
    "graphreg": Rival(
        f"{_BASELINES}.graphreg:GraphRegRegressor",
        "`GraphRegRegressor`, contacts by distance, bins of 5 kb",
    ),
    "prism": Rival(f"{_BASELINES}.prism:PrismRegressor", "`PrismRegressor`"),
    "peak-mask": Rival(
        f"{_BASELINES}.peak_mask:PeakMaskRegressor",
        "`PeakMaskRegressor`, peaks of `--peaks` or called on the `--accessibility` track",
    ),
    "position-mask": Rival(
        f"{_BASELINES}.position_mask:PositionMaskRegressor",
        "`PositionMaskRegressor`, the mean learned mask by position",
        {"estimator": Rival(_REGMASK, "")},
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
            word = _WORDS.get(option, option).replace("_", "-")
            raise ValueError(
                f"--{word}: none of {', '.join(names)} has this parameter; leave it out"
            )
    return {name: RIVALS[name].make({**(defaults or {}), **options}) for name in names}
