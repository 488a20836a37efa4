"""What every estimator on windows shares: checks of X, y, weights and covariates."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.model_selection import GroupShuffleSplit, ShuffleSplit
from sklearn.utils import Tags
from sklearn.utils.validation import (
    check_array,
    check_consistent_length,
    check_is_fitted,
    validate_data,
)

from regmask_sk._model import SEQUENCE_CHANNELS
from regmask_sk.windows import Windows

WindowArray = Windows | NDArray[np.float32]


class WindowEstimator(BaseEstimator):
    """Base of estimators whose X is windows: lazy, or an array of 3 or 2 dimensions."""

    channel_names_in_: tuple[str, ...] | None
    n_channels_in_: int
    n_features_in_: int

    def __sklearn_tags__(self) -> Tags:
        """Tell scikit-learn what X may be."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.three_d_array = True
        tags.no_validation = False
        return tags

    def _check_windows(self, X: Any, *, reset: bool) -> WindowArray:
        """Check X and, in fit, note its channels and length.

        Returns
        -------
        Windows or ndarray of shape (n, channels, length), float32
            Lazy windows as they came; arrays converted.
        """
        names: tuple[str, ...] | None = None
        windows: WindowArray
        if reset and hasattr(self, "feature_names_in_"):
            del self.feature_names_in_  # of an earlier fit; a table sets it anew
        if isinstance(X, Windows):
            if len(X) == 0:
                raise ValueError(
                    "X has 0 windows (0 sample(s)), while a minimum of 1 is required. Check the "
                    "filters applied to the loci table."
                )
            if X.shape[1] == 0:
                raise ValueError(
                    "X has windows without channels. Put SequenceChannels or SignalChannels "
                    "after TSSWindows in the pipeline."
                )
            windows, names = X, tuple(X.channel_names)
        elif _n_dimensions(X) == 3:
            windows = check_array(X, allow_nd=True, dtype=np.float32, input_name="X")
        else:
            table = validate_data(self, X, reset=reset, dtype=np.float32)
            windows = table[:, np.newaxis, :]
        n_channels, length = int(windows.shape[1]), int(windows.shape[2])
        if reset:
            self.channel_names_in_ = names
            self.n_channels_in_ = n_channels
            self.n_features_in_ = length
            return windows
        if names is not None and self.channel_names_in_ not in (None, names):
            missing = [c for c in self.channel_names_in_ or () if c not in names]
            extra = [c for c in names if c not in (self.channel_names_in_ or ())]
            difference = (
                f"missing {missing}, unexpected {extra}"
                if missing or extra
                else "the same names in another order"
            )
            raise ValueError(
                f"X has channels {list(names)}, but {type(self).__name__} was fitted on "
                f"{list(self.channel_names_in_ or ())}: {difference}. Build X with the same "
                "transformers, in the same order, as in fit."
            )
        if n_channels != self.n_channels_in_:
            raise ValueError(
                f"X has {n_channels} channels, but {type(self).__name__} is expecting "
                f"{self.n_channels_in_} channels, as in fit."
            )
        if length != self.n_features_in_:
            raise ValueError(
                f"X has {length} features (bases), but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input: the window length of fit."
            )
        return windows

    def _check_targets(self, X: WindowArray, y: Any) -> NDArray[np.float64]:
        """Targets as ``(n, n_outputs)``; a missing one is an error that names its gene."""
        if y is None:
            raise ValueError(
                f"{type(self).__name__} requires y to be passed, but the target y is None."
            )
        numbers = check_array(
            y, ensure_2d=False, dtype=np.float64, ensure_all_finite=False, input_name="y"
        )
        check_consistent_length(X, numbers)
        if numbers.ndim not in (1, 2):
            raise ValueError(
                f"y has {numbers.ndim} dimensions; expected (n_samples,) or (n_samples, n_outputs)."
            )
        numbers = numbers.reshape(len(numbers), -1)
        bad = ~np.isfinite(numbers).all(axis=1)
        if bad.any():
            rows = X.loci.index[bad] if isinstance(X, Windows) else np.flatnonzero(bad)
            raise ValueError(
                f"Input y contains NaN or infinity in {int(bad.sum())} of {len(bad)} rows, first "
                f"{list(rows[:5])}. Leave those rows out of X and y."
            )
        return numbers

    def _check_weights(self, X: WindowArray, sample_weight: ArrayLike | None) -> NDArray:
        if sample_weight is None:
            return np.ones(int(X.shape[0]), np.float32)
        weight = check_array(
            sample_weight, ensure_2d=False, dtype=np.float32, input_name="sample_weight"
        )
        if weight.ndim != 1:
            raise ValueError("Sample weights must be 1D array or scalar")
        check_consistent_length(X, weight)
        if (weight < 0).any() or not (weight > 0).any():
            raise ValueError(
                "sample_weight must not be negative, and not all of them may be zero; found "
                f"{int((weight < 0).sum())} negative and {int((weight > 0).sum())} positive ones."
            )
        return weight

    def _covariate_table(self, X: WindowArray, covariates: Sequence[str]) -> NDArray[np.float64]:
        """Raw covariates ``(n, n_covariates)``, named columns of the loci table."""
        if isinstance(covariates, str):
            raise ValueError(f"covariates must be a sequence of names, got {covariates!r}.")
        names = list(covariates)
        if not names:
            return np.zeros((int(X.shape[0]), 0))
        if not isinstance(X, Windows):
            raise ValueError(
                f"covariates={names} are columns of the loci table, but X is an array. Pass "
                "Windows (from TSSWindows), or leave covariates out."
            )
        missing = [name for name in names if name not in X.loci.columns]
        if missing:
            raise ValueError(
                f"covariates {missing} are not among the columns of the loci table, "
                f"{list(X.loci.columns)}. Add them to the table, or leave them out of covariates."
            )
        table = X.loci[names].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
        bad = ~np.isfinite(table).all(axis=0)
        if bad.any():
            raise ValueError(
                f"covariates {[n for n, b in zip(names, bad, strict=True) if b]} hold missing or "
                "non-numeric values. Fill them in, or leave those genes out."
            )
        return table

    def _split_validation(
        self,
        X: WindowArray,
        *,
        validation_chroms: Sequence[str] | None,
        validation_fraction: float,
        groups: ArrayLike | None,
        seed: int,
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Rows of training and of validation: whole chromosomes (or groups) where known."""
        rows = np.arange(int(X.shape[0]))
        labels = None if groups is None else np.asarray(groups)
        check_consistent_length(rows, labels)
        if labels is None and isinstance(X, Windows):
            labels = X.loci["chrom"].to_numpy(dtype=str)
        if isinstance(validation_chroms, str):
            raise ValueError(
                f"validation_chroms must be a sequence of names, got {validation_chroms!r}. "
                f"Write [{validation_chroms!r}]."
            )
        if validation_chroms is not None:
            if labels is None:
                raise ValueError(
                    f"validation_chroms={list(validation_chroms)} needs to know each row's "
                    "chromosome, but X is an array. Pass Windows, or groups to fit."
                )
            unknown = sorted(set(validation_chroms) - set(labels))
            held_out = np.isin(labels, list(validation_chroms))
            if unknown or held_out.all():
                raise ValueError(
                    f"validation_chroms={list(validation_chroms)}: "
                    + (f"{unknown} have" if unknown else "all the rows lie on them, none has")
                    + f" no training rows; the chromosomes of X are {sorted(set(labels.tolist()))}."
                )
            return rows[~held_out], rows[held_out]
        if validation_fraction == 0.0 or validation_fraction * len(rows) < 1.0:
            return rows, rows[:0]
        if labels is None:
            splitter = ShuffleSplit(1, test_size=validation_fraction, random_state=seed)
            return next(splitter.split(rows))
        if len(set(labels)) < 2:
            warnings.warn(
                f"all {len(rows)} training rows lie on one chromosome, so none is held out for "
                "validation and early stopping is off. Set validation_fraction=0 to say so.",
                UserWarning,
                stacklevel=5,
            )
            return rows, rows[:0]
        grouped = GroupShuffleSplit(1, test_size=validation_fraction, random_state=seed)
        train, valid = next(grouped.split(rows, groups=labels))
        return train, valid

    def _complement(self, X: WindowArray) -> tuple[int, ...]:
        """Find the channel that holds each channel on the opposite strand."""
        names = X.channel_names if isinstance(X, Windows) else None
        if not isinstance(X, Windows) or not set(SEQUENCE_CHANNELS) <= set(X.channel_names):
            raise ValueError(
                "reverse_complement needs the channels A, C, G and T by name; X has "
                f"{'no channel names' if names is None else list(names)}. Build X with "
                "SequenceChannels, or set reverse_complement='none'."
            )
        return X.complement


class MaskTransformer(TransformerMixin):
    """Mixin of estimators whose ``transform`` gives masks of ``n_features_in_`` columns."""

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Names of the mask's columns: distance to the TSS in base pairs, ``tss-12``.

        Parameters
        ----------
        input_features : ignored
            For scikit-learn's interface.

        Returns
        -------
        ndarray of shape (length,) of str
            From ``tss-{length // 2}`` to ``tss+{...}``, in the gene's own direction.
        """
        check_is_fitted(self)
        length: int = self.n_features_in_
        offsets = np.arange(length) - length // 2
        return np.array([f"tss{offset:+d}" for offset in offsets], dtype=object)


def _n_dimensions(X: Any) -> int:
    """Count the dimensions of anything that numpy can read as an array."""
    return X.ndim if hasattr(X, "ndim") else np.asarray(X).ndim


def resolve_device(device: str) -> str:
    """Name of the torch device that ``device`` asks for.

    Parameters
    ----------
    device : str
        ``"auto"`` (CUDA where there is one, else CPU), or a torch device.

    Returns
    -------
    str
        For example ``"cpu"`` or ``"cuda"``.

    Raises
    ------
    ValueError
        If CUDA is asked for and there is none, or the name is no torch device.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"device={device!r} is no torch device; expected 'auto', 'cpu', 'cuda' or 'cuda:N'."
        ) from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device={device!r}, but torch {torch.__version__} sees no CUDA device here. "
            "Use device='auto' or 'cpu'."
        )
    return device
