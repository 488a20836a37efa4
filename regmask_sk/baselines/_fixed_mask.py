"""A predictor under masks that are not learned: what the controls of a mask share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from regmask_sk._base import MaskTransformer, WindowArray
from regmask_sk._batches import Extras
from regmask_sk._model import build_predictor, check_symmetry, token_length
from regmask_sk.baselines._rival import RivalRegressor, WindowModel
from regmask_sk.predictor import Predictor
from regmask_sk.windows import Windows


class FixedMaskModel(WindowModel):
    """The predictor of ``RegMaskRegressor``, under a mask that comes with the window.

    Parameters
    ----------
    predictor : Predictor
        Predicts from the masked window.
    conjoined : tuple of int, optional
        As in ``WindowModel``.
    """

    def __init__(self, predictor: Predictor, *, conjoined: tuple[int, ...] | None = None) -> None:
        super().__init__(conjoined=conjoined)
        self.predictor = predictor

    def read(self, x: Tensor, covariates: Tensor, **extras: Tensor) -> Tensor:
        """Predict ``(batch, n_outputs)`` under ``extras["mask"]``, ``(batch, length)``."""
        predicted = self.predictor(x, extras["mask"], covariates, exact=not self.training)
        return cast(Tensor, predicted)


class FixedMaskRegressor(MaskTransformer, RivalRegressor):
    """Base of regressors that train the predictor of ``RegMaskRegressor`` under given masks.

    A subclass says in :meth:`_masks` which mask a window has. Parameters are those of
    ``RegMaskRegressor`` with the same names.
    """

    promoter_columns_: slice

    _shape_parameters: ClassVar[tuple[str, ...]] = (
        "backbone", "resolution", "d_model", "n_layers",
    )  # fmt: skip

    def __init__(
        self,
        *,
        backbone: str | type[nn.Module],
        resolution: int,
        d_model: int,
        n_layers: int,
        dropout: float,
        checkpointing: bool,
        covariates: Sequence[str],
        reverse_complement: Literal["none", "augment", "ph", "ps"],
        loss: Literal["squared_error", "huber"],
        max_epochs: int,
        patience: int,
        batch_size: int | Literal["auto"],
        learning_rate: float,
        weight_decay: float,
        gradient_clip: float,
        ema_decay: float,
        validation_chroms: Sequence[str] | None,
        validation_fraction: float,
        warm_start: bool,
        n_workers: int,
        device: str,
        amp: bool | Literal["auto"],
        accelerate: bool,
        random_state: int | np.random.RandomState | None,
        verbose: int,
    ) -> None:
        super().__init__(
            covariates=covariates,
            reverse_complement=reverse_complement,
            loss=loss,
            max_epochs=max_epochs,
            patience=patience,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            gradient_clip=gradient_clip,
            ema_decay=ema_decay,
            validation_chroms=validation_chroms,
            validation_fraction=validation_fraction,
            warm_start=warm_start,
            n_workers=n_workers,
            device=device,
            amp=amp,
            accelerate=accelerate,
            random_state=random_state,
            verbose=verbose,
        )
        self.backbone = backbone
        self.resolution = resolution
        self.d_model = d_model
        self.n_layers = n_layers
        self.dropout = dropout
        self.checkpointing = checkpointing

    def __sklearn_tags__(self) -> Tags:
        """Tell scikit-learn what the estimator can do."""
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def _masks(self, X: WindowArray) -> Extras:
        """Give what finds the masks of windows as they are read, under the name ``mask``."""
        raise NotImplementedError

    def _dataset_options(self, X: WindowArray) -> dict[str, Any]:
        return {"extras": self._masks(X)}

    def _make_module(self, n_outputs: int) -> FixedMaskModel:
        length, complement = self.n_features_in_, self._channel_complement
        promoter = (self.promoter_columns_.start, self.promoter_columns_.stop)
        if complement is not None and self.reverse_complement in ("ph", "ps"):
            grain = token_length(length, self.resolution)
            check_symmetry(length, grain, promoter, self.reverse_complement)
        predictor = build_predictor(
            self.backbone,
            channel_names=self.channel_names_in_,
            n_channels=self.n_channels_in_,
            length=length,
            n_outputs=n_outputs,
            n_covariates=len(self.covariate_mean_),
            resolution=self.resolution,
            d_model=self.d_model,
            n_layers=self.n_layers,
            dropout=self.dropout,
            checkpointing=self.checkpointing,
            complement=complement if self.reverse_complement == "ps" else None,
        )
        conjoined = complement if self.reverse_complement == "ph" else None
        return FixedMaskModel(predictor, conjoined=conjoined)

    # -- reading the fitted estimator --------------------------------------------------

    def transform(self, X: Windows | ArrayLike) -> NDArray[np.float32]:
        """Masks of the windows.

        Parameters
        ----------
        X : Windows, array of shape (n, channels, length) or of shape (n, length)
            Windows with the channels and the length of fit.

        Returns
        -------
        ndarray of shape (n, length), float32
            0 or 1, column by column as ``RegMaskRegressor.transform`` gives them.
        """
        check_is_fitted(self, "net_")
        windows = self._check_windows(X, reset=False)
        masks = np.empty((int(windows.shape[0]), self.n_features_in_), np.float32)
        start = 0
        for inputs in self.net_.batches(self._dataset(windows)):
            mask = inputs["mask"].cpu().numpy()
            masks[start : start + len(mask)] = mask
            start += len(mask)
        return masks
