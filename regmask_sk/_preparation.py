"""What a network is given: rows split by chromosome, standardised on those it is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from regmask_sk._base import WindowArray
from regmask_sk._batches import WindowDataset
from regmask_sk._processes import Processes
from regmask_sk._sizing import SizedEstimator
from regmask_sk.losses import RegressionLoss, regression_loss


class TrainingData:
    """Training and validation rows of a fit, and the processes that share it."""

    def __init__(
        self,
        train: WindowDataset,
        valid: WindowDataset | None,
        loss: RegressionLoss,
        processes: Processes,
    ) -> None:
        self.train = train
        self.valid = valid
        self.loss = loss
        self.processes = processes

    @property
    def parts(self) -> tuple[WindowDataset, WindowDataset | None]:
        """Both kinds of rows."""
        return self.train, self.valid

    @property
    def constant_loss(self) -> float:
        """Loss of predicting the training rows' mean for those that are judged."""
        judged = self.train if self.valid is None else self.valid
        target, weight = torch.from_numpy(judged.y), torch.from_numpy(judged.weight)
        return regression_loss(torch.zeros_like(target), target, weight, loss=self.loss).item()


class PreparedEstimator(SizedEstimator):
    """Base of estimators that hold out whole chromosomes and standardise what is left.

    What :meth:`_prepare` learns from the training rows, predictions are made with.
    """

    covariates: Sequence[str]
    reverse_complement: Literal["none", "augment", "ph", "ps"]
    loss: Literal["squared_error", "huber"]
    validation_chroms: Sequence[str] | None
    validation_fraction: float

    _seed: int
    _target_ndim: int

    def _dataset_options(self, X: WindowArray) -> dict[str, Any]:
        """Options of the datasets of a fit and of a prediction."""
        return {}

    def _check_training_rows(self, train: WindowDataset) -> None:
        """Refuse training rows with which the parameters do not go, before any training."""

    def _prepare(
        self,
        X: WindowArray,
        y: ArrayLike,
        sample_weight: ArrayLike | None,
        groups: ArrayLike | None,
        *,
        reset: bool,
        seed: int,
        processes: Processes,
    ) -> TrainingData:
        """Standardise and split what a fit is given."""
        targets = self._check_targets(X, y)
        weight = self._check_weights(X, sample_weight)
        covariates = self._covariate_table(X, self.covariates)
        train, valid = self._split_validation(
            X,
            validation_chroms=self.validation_chroms,
            validation_fraction=self.validation_fraction,
            groups=groups,
            seed=seed,
        )
        if reset:
            self._seed = seed
            self._target_ndim = np.asarray(y).ndim
            if not weight[train].any():
                raise ValueError(
                    "sample_weight is 0 for all the training rows; the others are held out for "
                    "validation. Hold out others, or set validation_fraction=0."
                )
            self.target_mean_ = np.average(targets[train], axis=0, weights=weight[train])
            self.target_scale_ = _scale(targets[train], weight[train])
            self.covariate_mean_ = covariates[train].mean(axis=0)
            self.covariate_scale_ = _scale(covariates[train])
        elif targets.shape[1] != len(self.target_mean_):
            raise ValueError(
                f"y has {targets.shape[1]} outputs, but the first call of partial_fit had "
                f"{len(self.target_mean_)}."
            )
        standard = ((targets - self.target_mean_) / self.target_scale_).astype(np.float32)
        known = self._standard_covariates(covariates)
        augmented = self.reverse_complement in ("augment", "ph")
        complement = self._complement(X) if self.reverse_complement != "none" else None
        self._channel_complement = complement
        options = self._dataset_options(X)
        parts = []
        for rows, augment in ((train, True), (valid, False)):
            parts.append(
                WindowDataset(
                    X[rows],
                    known[rows],
                    standard[rows],
                    weight[rows],
                    augment=augment,
                    complement=complement if augmented else None,
                    **options,
                )
            )
        self._check_training_rows(parts[0])
        return TrainingData(parts[0], parts[1] if len(valid) else None, self.loss, processes)

    def _standard_covariates(self, covariates: NDArray[np.float64]) -> NDArray[np.float32]:
        return ((covariates - self.covariate_mean_) / self.covariate_scale_).astype(np.float32)

    def _dataset(self, X: WindowArray, **options: Any) -> WindowDataset:
        """Rows to predict."""
        covariates = self._standard_covariates(self._covariate_table(X, self.covariates))
        return WindowDataset(X, covariates, **{**self._dataset_options(X), **options})

    def _to_target_unit(self, predictions: list[Tensor]) -> NDArray[np.float64]:
        standard = torch.cat(predictions).numpy().astype(np.float64)
        values = standard * self.target_scale_ + self.target_mean_
        return values[..., 0] if self._target_ndim == 1 else values


def _scale(values: NDArray[np.float64], weight: NDArray | None = None) -> NDArray[np.float64]:
    """Take the standard deviation of each column, 1 where it is 0 but for rounding."""
    share = np.ones(len(values)) if weight is None else weight.astype(np.float64)
    share /= share.sum()
    mean = share @ values
    scale = np.sqrt(share @ np.square(values - mean))
    return np.where(scale > 1e-12 * np.abs(mean), scale, 1.0)
