"""The control that every mask must beat: one mask for all genes, the mean mask by position."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from regmask_sk._base import MaskTransformer, WindowArray
from regmask_sk._batches import Reading
from regmask_sk.baselines._fixed_mask import FixedMaskRegressor
from regmask_sk.ops.positions import open_positions, position_only_mask
from regmask_sk.regressor import RegMaskRegressor
from regmask_sk.windows import Windows

_ROWS = 256  # windows whose masks are held at once


class PositionMaskRegressor(MaskTransformer, RegressorMixin, BaseEstimator):
    """Predict expression under one mask for all genes, that of a learned mask's usual places.

    A ``RegMaskRegressor`` is fitted; the mean of its soft masks over the training windows says
    how often each position is kept; the positions kept most often are opened in every window. What
    a learned mask gains over this one is what it knows of the single gene.

    Parameters
    ----------
    estimator : RegMaskRegressor or None, default=None
        What learns the masks; None is a ``RegMaskRegressor()``.
    sparsity : float or None, default=None
        Share of the positions to open, promoter included. None is the share that the learned
        soft masks keep on average, so that both keep as much.
    refit : bool, default=False
        Whether a predictor is trained under the fixed mask, with the settings of `estimator`. By
        default the predictor of the fitted estimator reads it, by ``predict_masked``.

    Attributes
    ----------
    estimator_ : RegMaskRegressor
        The fitted estimator.
    predictor_ : PositionPredictor or None
        The predictor trained under the mask; None without `refit`.
    position_profile_ : ndarray of shape (length,), float64
        Mean soft mask of the training windows (all rows given to ``fit``).
    position_mask_ : ndarray of shape (length,), float32
        1 for exactly ``round(sparsity * length)`` positions: the promoter and the largest of the
        profile; of equal ones those nearer to the TSS, then those upstream.
    promoter_columns_ : slice
        Columns that every mask keeps.
    n_features_in_ : int
        Window length in base pairs.
    channel_names_in_ : tuple of str or None
        Channels of X at fit; None for arrays.
    history_ : DataFrame
        Epochs of `predictor_` with `refit`, else of `estimator_`.

    See Also
    --------
    regmask_sk.position_only_mask : The profile of any masks, to be scored as one.

    Examples
    --------
    >>> import numpy as np
    >>> from regmask_sk import PositionMaskRegressor, RegMaskRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(40, 2, 64)).astype("float32")
    >>> mask = RegMaskRegressor(resolution=8, max_epochs=2, random_state=0)
    >>> model = PositionMaskRegressor(mask, sparsity=0.25).fit(X, X[:, 0, :8].sum(axis=1))
    >>> model.predict(X).shape, int(model.position_mask_.sum())
    ((40,), 16)
    """

    estimator_: RegMaskRegressor
    predictor_: PositionPredictor | None

    def __init__(
        self,
        estimator: RegMaskRegressor | None = None,
        *,
        sparsity: float | None = None,
        refit: bool = False,
    ) -> None:
        self.estimator = estimator
        self.sparsity = sparsity
        self.refit = refit

    def __sklearn_tags__(self) -> Tags:
        """Tell scikit-learn what X and y may be: what ``RegMaskRegressor`` takes."""
        tags = super().__sklearn_tags__()
        learner = RegMaskRegressor().__sklearn_tags__()
        tags.input_tags, tags.target_tags = learner.input_tags, learner.target_tags
        tags.transformer_tags = learner.transformer_tags
        return tags

    # -- fitting -------------------------------------------------------------------

    def fit(
        self,
        X: Windows | ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> PositionMaskRegressor:
        """Fit the estimator, average its masks, and with `refit` train under the result.

        Parameters
        ----------
        X, y, sample_weight, groups
            As in ``RegMaskRegressor.fit``.

        Returns
        -------
        PositionMaskRegressor
            The fitted estimator.

        Raises
        ------
        TypeError
            If `estimator` is no ``RegMaskRegressor``.
        ValueError
            If `sparsity` is out of range or less than the promoter, or as
            ``RegMaskRegressor.fit``.
        """
        self._check_parameters()
        learner = self._new_learner()
        self.estimator_ = learner.fit(X, y, sample_weight=sample_weight, groups=groups)
        windows = learner._check_windows(X, reset=False)
        self.position_profile_ = position_only_mask(_soft_masks(learner, windows))
        self.position_mask_ = self._opened(self.position_profile_)
        self.predictor_ = None
        if self.refit:
            predictor = PositionPredictor.like(learner, self.position_mask_)
            self.predictor_ = predictor.fit(X, y, sample_weight=sample_weight, groups=groups)
        return self

    def _new_learner(self) -> RegMaskRegressor:
        return RegMaskRegressor() if self.estimator is None else clone(self.estimator)

    def _check_parameters(self) -> None:
        if self.estimator is not None and not isinstance(self.estimator, RegMaskRegressor):
            raise TypeError(
                f"estimator is a {type(self.estimator).__name__}; expected a RegMaskRegressor, "
                "whose masks are averaged, or None."
            )
        if not isinstance(self.refit, bool):
            raise ValueError(f"refit={self.refit!r}; expected True or False.")
        if self.sparsity is not None and not 0.0 < self.sparsity <= 1.0:
            raise ValueError(
                f"sparsity={self.sparsity!r}; expected a share above 0 and at most 1, or None."
            )

    def _opened(self, profile: NDArray[np.float64]) -> NDArray[np.float32]:
        length, promoter = len(profile), self.promoter_columns_
        share = float(profile.mean()) if self.sparsity is None else self.sparsity
        n_open, n_promoter = round(share * length), promoter.stop - promoter.start
        if n_open < n_promoter:
            raise ValueError(
                f"sparsity={self.sparsity!r} opens {n_open} of {length} positions, fewer than the "
                f"{n_promoter} of the promoter. Raise sparsity, or shorten promoter_length of "
                "estimator."
            )
        opened = open_positions(profile, n_open, (promoter.start, promoter.stop))
        return opened.astype(np.float32)

    def _get_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Give what is learned, as plain values and tensors; see ``regmask_sk.persistence``."""
        check_is_fitted(self, "position_mask_")
        state: dict[str, Any] = {
            "position_profile": self.position_profile_,
            "position_mask": self.position_mask_,
        }
        tensors: dict[str, Tensor] = {}
        for name, part in (("learner", self.estimator_), ("predictor", self.predictor_)):
            if part is not None:
                state[name], own = part._get_state()
                tensors |= {f"{name}/{key}": value for key, value in own.items()}
        return state, tensors

    def _set_state(self, state: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Rebuild the fitted estimator from what ``_get_state`` gave."""

        def own(name: str) -> dict[str, Tensor]:
            prefix = f"{name}/"
            named = {key: value for key, value in tensors.items() if key.startswith(prefix)}
            return {key.removeprefix(prefix): value for key, value in named.items()}

        self._check_parameters()
        self.position_profile_ = state["position_profile"]
        self.position_mask_ = state["position_mask"]
        self.estimator_ = self._new_learner()
        self.estimator_._set_state(state["learner"], own("learner"))
        self.predictor_ = None
        if "predictor" in state:
            self.predictor_ = PositionPredictor.like(self.estimator_, self.position_mask_)
            self.predictor_._set_state(state["predictor"], own("predictor"))

    # -- what is known of X, as the fitted estimator has it ----------------------------

    @property
    def n_features_in_(self) -> int:
        """Window length in base pairs."""
        return self.estimator_.n_features_in_

    @property
    def feature_names_in_(self) -> NDArray[np.object_]:
        """Names of the columns of X at fit, where X was a table that has them."""
        names: NDArray[np.object_] = self.estimator_.feature_names_in_
        return names

    @property
    def channel_names_in_(self) -> tuple[str, ...] | None:
        """Channels of X at fit."""
        return self.estimator_.channel_names_in_

    @property
    def promoter_columns_(self) -> slice:
        """Columns that every mask keeps."""
        return self.estimator_.promoter_columns_

    @property
    def history_(self) -> pd.DataFrame:
        """One row an epoch."""
        return (self.predictor_ or self.estimator_).history_

    # -- reading the fitted estimator --------------------------------------------------

    def predict(self, X: Windows | ArrayLike) -> NDArray[np.float64]:
        """Predict expression under the mask.

        Parameters
        ----------
        X : Windows, array of shape (n, channels, length) or of shape (n, length)
            Windows with the channels and the length of fit.

        Returns
        -------
        ndarray of shape (n,) or (n, n_outputs)
            In the unit of y.
        """
        check_is_fitted(self, "position_mask_")
        if self.predictor_ is not None:
            return self.predictor_.predict(X)
        return self.estimator_.predict_masked(X, self.position_mask_)

    def transform(self, X: Windows | ArrayLike) -> NDArray[np.float32]:
        """Masks of the windows: the same for every one.

        Parameters
        ----------
        X : Windows, array of shape (n, channels, length) or of shape (n, length)
            Windows with the channels and the length of fit.

        Returns
        -------
        ndarray of shape (n, length), float32
            0 or 1.
        """
        check_is_fitted(self, "position_mask_")
        windows = self.estimator_._check_windows(X, reset=False)
        return np.tile(self.position_mask_, (int(windows.shape[0]), 1))


def _soft_masks(learner: RegMaskRegressor, windows: WindowArray) -> Iterator[NDArray[np.float32]]:
    """Soft masks, whatever kind the estimator reads by itself, one by one."""
    reader = copy.copy(learner).set_params(mask="soft")
    for start in range(0, int(windows.shape[0]), _ROWS):
        yield from reader.transform(windows[start : start + _ROWS])


@dataclass(frozen=True, eq=False)
class OneMask:
    """Gives every window of a batch the same mask, for ``WindowDataset``.

    Parameters
    ----------
    mask : ndarray of shape (length,), float32
        The mask.
    """

    mask: NDArray[np.float32]

    def __call__(self, reading: Reading) -> dict[str, NDArray[np.generic]]:
        """Give ``mask``, of shape (batch, length)."""
        return {"mask": np.tile(self.mask, (len(reading.x), 1))}


class PositionPredictor(FixedMaskRegressor):
    """The predictor of ``RegMaskRegressor``, trained under one mask; made by :meth:`like`."""

    position_mask_: NDArray[np.float32]

    @classmethod
    def like(cls, learner: RegMaskRegressor, mask: NDArray[np.float32]) -> PositionPredictor:
        """Take the settings of a fitted estimator, and a mask for all windows."""
        settings = learner.get_params(deep=False)
        made = cls(**{name: settings[name] for name in cls._get_param_names()})
        made.position_mask_ = mask
        made.promoter_columns_ = learner.promoter_columns_
        return made

    def _masks(self, X: WindowArray) -> OneMask:
        return OneMask(self.position_mask_)
